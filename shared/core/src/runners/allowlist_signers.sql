SELECT *
  FROM allowlist a
 WHERE kind = 'oidc' AND issuer = $1 AND subject = $2
   AND allowlist_admits(a, NULL)
