-- Ends a claim without a result. With $5 null the row returns to the queue at its old position, and no attempt is
-- counted. With $5 set the attempt failed, and the harness's retry rule applies: attempt_count + 1, a longer
-- back-off and a lower priority each time, FAILED if no attempts are left.
WITH allowed AS (
    SELECT 1
      FROM allowlist a
     WHERE key_id = $3 AND kind = 'ed25519' AND allowlist_admits(a, $4)
), ended AS (
    UPDATE run_queue
       SET status = CASE WHEN $5::text IS NULL OR attempt_count < max_attempts THEN 'PENDING' ELSE 'FAILED' END,
           attempt_count = CASE WHEN $5 IS NOT NULL AND attempt_count < max_attempts
                                THEN attempt_count + 1 ELSE attempt_count END,
           retry_after = CASE WHEN $5 IS NOT NULL AND attempt_count < max_attempts
                              THEN now() + interval '5 minutes' * (attempt_count + 1) END,
           priority = CASE WHEN $5 IS NOT NULL AND attempt_count < max_attempts
                           THEN least(priority::bigint + 5 * (attempt_count + 1), 2147483647)::integer
                           ELSE priority END,
           completed_at = CASE WHEN $5 IS NOT NULL AND attempt_count >= max_attempts THEN now() END,
           error_detail = coalesce($5 || coalesce(': ' || $6, ''), error_detail),
           claim_id = NULL, claimed_by = NULL, claimed_at = NULL, started_at = NULL,
           lease_expires_at = NULL, progress = NULL, updated_at = now()
     WHERE claim_id = $2 AND run_id = $1 AND claimed_by = $4
       AND status IN ('CLAIMED', 'IN_PROGRESS')
       AND EXISTS (SELECT FROM allowed)
    RETURNING queue_id, status, attempt_count, retry_after
), archived AS (
    INSERT INTO past_claims (claim_id, queue_id, runner_id, claimed_at, ended_by, detail)
    SELECT $2, e.queue_id, $4, q.claimed_at, CASE WHEN $5 IS NULL THEN 'released' ELSE 'failed' END,
           $5 || coalesce(': ' || $6, '')
      -- This statement's snapshot still holds the row as it was claimed.
      FROM ended e JOIN run_queue q USING (queue_id)
)
SELECT EXISTS (SELECT FROM allowed) AS allowed, e.*
  FROM (SELECT) AS one_row
  LEFT JOIN (
    SELECT * FROM ended
    UNION ALL
    -- A retry of this release after a lost reply: returns the row as it is now.
    SELECT q.queue_id, q.status, q.attempt_count, q.retry_after
      FROM past_claims c JOIN run_queue q USING (queue_id)
     WHERE c.claim_id = $2 AND c.runner_id = $4 AND q.run_id = $1
       AND c.ended_by = CASE WHEN $5 IS NULL THEN 'released' ELSE 'failed' END
  ) e ON true
