-- Registers a runner if its proof is fresh and unused and its key is allowed. Each CTE selects from the one
-- before it, so a refused registration writes nothing but its audit entry.
WITH fresh AS (
    SELECT 1 WHERE abs(extract(epoch FROM now()) - $5) <= $6
), allowed AS (
    SELECT 1
      FROM allowlist a, fresh
     WHERE key_id = $1 AND kind = 'ed25519' AND allowlist_admits(a, $3)
), unspent AS (
    -- A proof is accepted from iat - $6 to iat + $6 seconds. The row is kept until iat + 4 * $6: a replay
    -- cache shorter than the accepted skew would let a proof in twice.
    INSERT INTO spent_proofs (key_id, jti, forget_at)
    SELECT $1, $4, to_timestamp($5) + 2 * make_interval(secs => 2 * $6) FROM allowed
    ON CONFLICT DO NOTHING
    RETURNING 1
), registered AS (
    INSERT INTO runners AS r (runner_id, public_key, key_id, hostname, process_id, effective_user, description,
                              vram_gb, quantizations, labels, status, registered_at, started_at, last_heartbeat)
    SELECT $3, $2, $1, $7, $8, $9, $10, $11, $12, $13, 'ACTIVE', now(), now(), now() FROM unspent
    ON CONFLICT (runner_id) DO UPDATE
       SET key_id = excluded.key_id, hostname = excluded.hostname, process_id = excluded.process_id,
           effective_user = excluded.effective_user,
           description = coalesce(excluded.description, r.description),
           vram_gb = excluded.vram_gb, quantizations = excluded.quantizations, labels = excluded.labels,
           status = 'ACTIVE', started_at = now(), last_heartbeat = now(),
           -- A token's renewal and a restart look the same and end no pause (release.sql). What the runner offers
           -- has to change: then its failures say little about the jobs that it will get.
           failures_in_a_row = CASE WHEN (r.vram_gb, r.quantizations, r.labels) IS NOT DISTINCT FROM
                                         (excluded.vram_gb, excluded.quantizations, excluded.labels)
                                    THEN r.failures_in_a_row ELSE 0 END,
           claims_paused_until = CASE WHEN (r.vram_gb, r.quantizations, r.labels) IS NOT DISTINCT FROM
                                           (excluded.vram_gb, excluded.quantizations, excluded.labels)
                                      THEN r.claims_paused_until END
     -- A runner_id belongs to the first key that registered it.
     WHERE r.public_key = excluded.public_key
    RETURNING 1
), refused AS (
    -- Anyone can make a fresh key, so what unknown keys write must be bounded: one entry an hour for each key,
    -- 100 for all of them. Transactions that run at the same time do not see each other's entry, so there may
    -- be as many more as there are connections. The function's metric counts every refusal.
    INSERT INTO audit_log (actor, action, subject)
    SELECT $1, 'register.key_not_allowed', $3
      FROM fresh
     WHERE NOT EXISTS (SELECT FROM allowed)
       AND (SELECT count(*) < 100 AND NOT coalesce(bool_or(actor = $1), false)
              FROM audit_log
             WHERE action = 'register.key_not_allowed' AND at > now() - interval '1 hour')
)
SELECT now() AS server_time,
       EXISTS (SELECT FROM fresh) AS fresh,
       EXISTS (SELECT FROM allowed) AS allowed,
       EXISTS (SELECT FROM unspent) AS unspent,
       EXISTS (SELECT FROM registered) AS registered,
       ARRAY(SELECT name FROM unnest($12::text[]) AS name
              WHERE name NOT IN (SELECT name FROM quantization_methods)) AS unknown_quantizations
