SELECT *
  FROM allowlist
 WHERE kind = 'oidc' AND issuer = $1 AND subject = $2
   AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
