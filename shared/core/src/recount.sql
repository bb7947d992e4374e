-- Corrects run_queue_counts (V2__queue.sql) where rows were written without triggers: by a data-only restore, by logical
-- replication. One statement, so it sees rows and counts of one moment, and writes beside it are not held up. Of two at
-- once each would correct the same error: migrate.rs holds a lock.
WITH counted AS (
    SELECT q.lane_id, s.state, count(*) AS rows
      FROM run_queue q
     CROSS JOIN LATERAL (VALUES ('TOTAL'), (queue_counted_state(q.status, q.retry_after))) AS s(state)
     WHERE s.state IS NOT NULL
     GROUP BY q.lane_id, s.state
), kept AS (
    SELECT lane_id, state, sum(rows)::bigint AS rows FROM run_queue_counts GROUP BY lane_id, state
)
INSERT INTO run_queue_counts (lane_id, state, rows)
SELECT lane_id, state, coalesce(counted.rows, 0) - coalesce(kept.rows, 0)
  FROM counted FULL JOIN kept USING (lane_id, state)
 WHERE coalesce(counted.rows, 0) <> coalesce(kept.rows, 0)
