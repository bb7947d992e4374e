-- One batch: rows whose lease ran out, or whose run took longer than it may, go back at once with one
-- attempt counted, or end FAILED when attempts are spent. A lapse is no fault of the job: no back-off,
-- no lower priority.
--
-- SKIP LOCKED and the recheck of the lease under the lock let a heartbeat or a submit that is under way
-- win, and two reapers share the work.
WITH lapsed AS (
    SELECT queue_id, claim_id, claimed_by,
           CASE WHEN lease_expires_at < now() THEN 'the lease of ' || claimed_by || ' ran out'
                ELSE claimed_by || ' took longer than max_runtime_s' END AS why
      FROM run_queue
     WHERE status IN ('CLAIMED', 'IN_PROGRESS')
       AND (lease_expires_at < now() OR claimed_at + make_interval(secs => max_runtime_s) < now())
     LIMIT $1
       FOR UPDATE SKIP LOCKED
), remembered AS (
    INSERT INTO past_claims (claim_id, queue_id, runner_id, ended_by)
    SELECT claim_id, queue_id, claimed_by, 'lapsed' FROM lapsed
), taken_back AS (
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
  FROM taken_back
