-- Gives a run's rows another priority: those that wait, and those that are held, for when they come back. A trigger
-- resets the claim cursors that stand behind a row's new position.
WITH moved AS (
    SELECT queue_id, priority
      FROM run_queue
     WHERE run_id = $1 AND status IN ('PENDING', 'CLAIMED', 'IN_PROGRESS')
     -- As cancel.sql and requeue.sql lock: in another order two of them might wait for each other.
     ORDER BY queue_id
       FOR UPDATE
), changed AS (
    UPDATE run_queue q
       SET priority = $3, updated_at = now()
      FROM moved
     WHERE q.queue_id = moved.queue_id AND q.priority <> $3
    RETURNING moved.priority
), noted AS (
    INSERT INTO audit_log (actor, action, subject, detail)
    SELECT $2, 'run.priority', $1::text,
           jsonb_build_object('priority', $3, 'before', min(priority), 'rows', count(*))
      FROM changed
    HAVING count(*) > 0
)
SELECT EXISTS (SELECT FROM runs WHERE run_id = $1) AS known,
       (SELECT count(*) FROM moved) AS unended,
       (SELECT count(*) FROM changed) AS changed
