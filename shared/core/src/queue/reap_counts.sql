-- Adds up the changes to the rows' counts (run_queue_counts in V2__queue.sql): one row is left for each lane and
-- state. Two reapers at once share the rows: the second finds those of the first deleted and adds up the rest.
WITH changes AS (
    DELETE FROM run_queue_counts RETURNING lane_id, state, rows
)
INSERT INTO run_queue_counts (lane_id, state, rows)
SELECT lane_id, state, sum(rows) FROM changes GROUP BY lane_id, state HAVING sum(rows) <> 0
