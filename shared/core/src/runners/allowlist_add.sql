-- Adds an allowlist entry. An expired entry of the same key is revoked first. An active one stays as it is,
-- and `same_terms` tells whether it has the requested runner_id and expiry.
WITH expired AS (
    UPDATE allowlist
       SET revoked_at = now(), revoked_by = $10, revoked_reason = 'expired'
     WHERE key_id = $1 AND revoked_at IS NULL AND expires_at <= now()
    RETURNING 1
), active AS (
    SELECT * FROM allowlist a
     WHERE key_id = $1 AND allowlist_admits(a, runner_id)
), added AS (
    INSERT INTO allowlist (key_id, kind, public_key, issuer, subject, repository, workflow, runner_id, label,
                           added_by, expires_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
     -- Reading `expired` makes Postgres run its update before this insert. Otherwise the expired entry would
     -- still be in the partial unique index, and the insert would conflict with it.
     WHERE NOT EXISTS (SELECT FROM active) AND (SELECT count(*) FROM expired) >= 0
       AND ($11 IS NULL OR $11 > now())
    ON CONFLICT (key_id) WHERE revoked_at IS NULL DO NOTHING
    RETURNING *
), audited AS (
    INSERT INTO audit_log (actor, action, subject, detail)
    SELECT $10, 'key.add', $1, jsonb_strip_nulls(jsonb_build_object(
               'kind', $2, 'label', $9, 'runner_id', $8, 'issuer', $4, 'subject', $5, 'expires_at', $11))
      FROM added
)
SELECT $11 <= now() AS expires_in_past, entry.*
  FROM (SELECT) AS one_row
  LEFT JOIN (
    SELECT true AS created, true AS same_terms, * FROM added
    UNION ALL
    SELECT false, runner_id IS NOT DISTINCT FROM $8 AND expires_at IS NOT DISTINCT FROM $11, * FROM active
  ) entry ON true
