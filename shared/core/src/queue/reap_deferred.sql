-- Makes one batch of rows ready whose retry_after has passed.
WITH ended AS (
    UPDATE run_queue
       SET retry_after = NULL
     WHERE queue_id IN (SELECT queue_id
                          FROM run_queue
                         WHERE status = 'PENDING' AND retry_after IS NOT NULL AND retry_after <= now()
                         ORDER BY retry_after
                         LIMIT $1
                           FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS backoffs_ended FROM ended
