-- Adds an entry. An expired one of the same key makes way first; an active one is left as it is, and
-- `same_terms` says whether it grants what was asked.
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
     -- The expired entry leaves the unique index only when its update is done: order, not just logic.
     WHERE NOT EXISTS (SELECT FROM active) AND (SELECT count(*) FROM expired) >= 0
    ON CONFLICT (key_id) WHERE revoked_at IS NULL DO NOTHING
    RETURNING *
), noted AS (
    INSERT INTO audit_log (actor, action, subject, detail)
    SELECT $10, 'key.add', $1, jsonb_strip_nulls(jsonb_build_object(
               'kind', $2, 'label', $9, 'runner_id', $8, 'issuer', $4, 'subject', $5, 'expires_at', $11))
      FROM added
)
SELECT true AS created, true AS same_terms, * FROM added
UNION ALL
SELECT false, runner_id IS NOT DISTINCT FROM $8 AND expires_at IS NOT DISTINCT FROM $11, * FROM active
