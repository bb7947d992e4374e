-- Cancels the rows of a run that have not ended. A live row loses its lease but keeps its claim_id, by which
-- the runner's next heartbeat finds the row and learns of the cancel.
WITH unended AS (
    SELECT queue_id
      FROM run_queue
     WHERE run_id = $1 AND status IN ('PENDING', 'CLAIMED', 'IN_PROGRESS')
     ORDER BY queue_id
       FOR UPDATE
), cancelled AS (
    UPDATE run_queue q
       SET status = 'CANCELLED', completed_at = now(), lease_expires_at = NULL, retry_after = NULL,
           error_detail = coalesce($3, q.error_detail), updated_at = now()
      FROM unended
     WHERE q.queue_id = unended.queue_id
    RETURNING q.queue_id
), audited AS (
    INSERT INTO audit_log (actor, action, subject, detail)
    SELECT $2, 'run.cancel', $1::text, jsonb_strip_nulls(jsonb_build_object('reason', $3, 'rows', count(*)))
      FROM cancelled
    HAVING count(*) > 0
)
SELECT EXISTS (SELECT FROM runs WHERE run_id = $1) AS exists,
       (SELECT count(*) FROM cancelled) AS cancelled,
       -- Read from the statement's snapshot, before its own update: true only after an earlier cancel.
       EXISTS (SELECT FROM run_queue WHERE run_id = $1 AND status = 'CANCELLED') AS cancelled_before
