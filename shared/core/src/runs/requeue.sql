-- Makes rows that ended without a result, or have a retry_after, claimable at once: at their priority and age,
-- with attempt_count 0. Live and complete rows stay as they are.
WITH ended AS (
    SELECT queue_id, claim_id, claimed_by, claimed_at
      FROM run_queue
     WHERE run_id = $1 AND (status IN ('FAILED', 'CANCELLED') OR status = 'PENDING' AND retry_after IS NOT NULL)
     ORDER BY queue_id
       FOR UPDATE
), archived AS (
    INSERT INTO past_claims (claim_id, queue_id, runner_id, claimed_at, ended_by)
    SELECT claim_id, queue_id, claimed_by, claimed_at, 'superseded' FROM ended WHERE claim_id IS NOT NULL
), requeued AS (
    UPDATE run_queue q
       SET status = 'PENDING', attempt_count = 0, retry_after = NULL, completed_at = NULL, claim_id = NULL,
           claimed_by = NULL, claimed_at = NULL, started_at = NULL, lease_expires_at = NULL, progress = NULL,
           updated_at = now()
      FROM ended
     WHERE q.queue_id = ended.queue_id
    RETURNING 1
), audited AS (
    INSERT INTO audit_log (actor, action, subject, detail)
    SELECT $2, 'run.requeue', $1::text, jsonb_strip_nulls(jsonb_build_object('reason', $3, 'rows', count(*)))
      FROM requeued
    HAVING count(*) > 0
)
SELECT EXISTS (SELECT FROM runs WHERE run_id = $1) AS exists,
       (SELECT count(*) FROM requeued) AS requeued,
       EXISTS (SELECT FROM run_queue WHERE run_id = $1 AND status <> 'COMPLETE') AS unfinished
