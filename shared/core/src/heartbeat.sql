-- Extends the lease of a live claim; the first heartbeat moves CLAIMED to IN_PROGRESS. After that only
-- columns that are in no index change, so the update stays HOT.
--
-- A lease that ran out but was not yet taken back revives: the row still carries the claim.
WITH allowed AS (
    SELECT 1
      FROM allowlist
     WHERE key_id = $3 AND kind = 'ed25519' AND revoked_at IS NULL
       AND (expires_at IS NULL OR expires_at > now())
       AND (runner_id IS NULL OR runner_id = $4)
), beat AS (
    UPDATE run_queue
       SET status = 'IN_PROGRESS', started_at = coalesce(started_at, now()),
           lease_expires_at = now() + make_interval(secs => $5),
           progress = coalesce($6, progress), updated_at = now()
     WHERE claim_id = $2 AND run_id = $1 AND claimed_by = $4
       AND status IN ('CLAIMED', 'IN_PROGRESS')
       AND EXISTS (SELECT FROM allowed)
    RETURNING lease_expires_at
), seen AS (
    UPDATE runners
       SET last_heartbeat = now(), status = 'ACTIVE'
     WHERE runner_id = $4 AND EXISTS (SELECT FROM beat)
)
SELECT now() AS server_time,
       EXISTS (SELECT FROM allowed) AS allowed,
       (SELECT lease_expires_at FROM beat) AS lease_expires_at,
       -- The run was cancelled, or somebody else's late result completed the row.
       EXISTS (SELECT FROM run_queue
                WHERE claim_id = $2 AND run_id = $1 AND claimed_by = $4 AND status = 'CANCELLED')
       OR EXISTS (SELECT FROM past_claims JOIN run_queue USING (queue_id)
                   WHERE past_claims.claim_id = $2 AND runner_id = $4 AND run_id = $1
                     AND (ended_by = 'superseded' OR status = 'CANCELLED')) AS cancelled
