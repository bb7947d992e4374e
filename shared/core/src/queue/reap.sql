-- Takes back one batch of rows whose lease expired or whose max_runtime_s is exceeded. Each counts one attempt and
-- returns to PENDING at once, or ends FAILED if no attempts are left. No back-off and no lower priority, because
-- an expired lease says nothing about the job.
--
-- A concurrent heartbeat or submit wins: SKIP LOCKED skips a row that it has locked, and FOR UPDATE rechecks the
-- lease of a row that it has just renewed. Two concurrent reapers take different rows.
WITH lapsed AS (
    SELECT queue_id, claim_id, claimed_by, claimed_at,
           CASE WHEN lease_expires_at < now() THEN 'the lease of ' || claimed_by || ' expired'
                ELSE claimed_by || ' exceeded max_runtime_s' END AS why
      FROM run_queue
     WHERE status IN ('CLAIMED', 'IN_PROGRESS')
       AND (lease_expires_at < now() OR claimed_at + make_interval(secs => max_runtime_s) < now())
     LIMIT $1
       FOR UPDATE SKIP LOCKED
), archived AS (
    INSERT INTO past_claims (claim_id, queue_id, runner_id, claimed_at, ended_by, detail)
    SELECT claim_id, queue_id, claimed_by, claimed_at, 'lapsed', why FROM lapsed
), reaped AS (
    UPDATE run_queue q
       SET status = CASE WHEN q.attempt_count < q.max_attempts THEN 'PENDING' ELSE 'FAILED' END,
           attempt_count = least(q.attempt_count + 1, q.max_attempts),
           retry_after = NULL,
           completed_at = CASE WHEN q.attempt_count < q.max_attempts THEN NULL ELSE now() END,
           error_detail = lapsed.why,
           claim_id = NULL, claimed_by = NULL, claimed_at = NULL, started_at = NULL,
           lease_expires_at = NULL, progress = NULL, updated_at = now()
      FROM lapsed
     WHERE q.queue_id = lapsed.queue_id
    RETURNING q.status
)
SELECT count(*) FILTER (WHERE status = 'PENDING') AS returned,
       count(*) FILTER (WHERE status = 'FAILED') AS failed
  FROM reaped
