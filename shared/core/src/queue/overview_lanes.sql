-- Rows of each requirement by state, and since when the oldest ready one waits. Counts come from
-- run_queue_counts, so they take as long with a million rows as with ten. The oldest ready row of a lane is found
-- through the heads of its priorities in run_queue_lane_idx, at most 10,000 of them.
--
-- A function for its settings: a plan from wrong statistics would read all ready rows, or compile itself.
CREATE OR REPLACE FUNCTION queue_overview_lanes() RETURNS TABLE (
    required_vram_gb integer,
    quantizations    text[],
    labels           jsonb,
    ready            bigint,
    deferred         bigint,
    claimed          bigint,
    in_progress      bigint,
    complete         bigint,
    failed           bigint,
    cancelled        bigint,
    oldest_ready_at  timestamptz
) LANGUAGE sql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    WITH RECURSIVE heads AS (
        (SELECT q.lane_id, q.priority, q.created_at
           FROM run_queue q
          WHERE q.status = 'PENDING' AND q.retry_after IS NULL
          ORDER BY q.lane_id, q.priority, q.created_at
          LIMIT 1)
        UNION ALL
        SELECT next.*
          FROM heads
         CROSS JOIN LATERAL (SELECT q.lane_id, q.priority, q.created_at
                               FROM run_queue q
                              WHERE q.status = 'PENDING' AND q.retry_after IS NULL
                                AND (q.lane_id, q.priority) > (heads.lane_id, heads.priority)
                              ORDER BY q.lane_id, q.priority, q.created_at
                              LIMIT 1) next
    ), oldest AS (
        SELECT h.lane_id, min(h.created_at) AS ready_at
          FROM (SELECT * FROM heads LIMIT 10000) h
         GROUP BY h.lane_id
    ), counted AS (
        SELECT c.lane_id,
               coalesce(sum(c.rows) FILTER (WHERE c.state = 'TOTAL'), 0)::bigint AS total,
               coalesce(sum(c.rows) FILTER (WHERE c.state = 'DEFERRED'), 0)::bigint AS deferred,
               coalesce(sum(c.rows) FILTER (WHERE c.state = 'COMPLETE'), 0)::bigint AS complete,
               coalesce(sum(c.rows) FILTER (WHERE c.state = 'FAILED'), 0)::bigint AS failed,
               coalesce(sum(c.rows) FILTER (WHERE c.state = 'CANCELLED'), 0)::bigint AS cancelled
          FROM run_queue_counts c
         GROUP BY c.lane_id
    ), live AS (
        SELECT q.lane_id, count(*) FILTER (WHERE q.status = 'CLAIMED') AS claimed,
               count(*) FILTER (WHERE q.status = 'IN_PROGRESS') AS in_progress
          FROM run_queue q
         WHERE q.status IN ('CLAIMED', 'IN_PROGRESS')
         GROUP BY q.lane_id
    )
    SELECT l.required_vram_gb, named.quantizations, named.labels,
           c.total - c.deferred - c.complete - c.failed - c.cancelled
               - coalesce(live.claimed + live.in_progress, 0),
           c.deferred, coalesce(live.claimed, 0), coalesce(live.in_progress, 0), c.complete, c.failed, c.cancelled,
           o.ready_at
      FROM counted c
      JOIN queue_lanes l USING (lane_id)
     CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
      LEFT JOIN live USING (lane_id)
      LEFT JOIN oldest o USING (lane_id)
     WHERE c.total > 0
     ORDER BY l.required_vram_gb, l.lane_id
$$;
