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
    ), known AS (
        SELECT c.lane_id, c.state, c.rows, NULL::timestamptz AS ready_at
          FROM run_queue_counts c
        UNION ALL
        SELECT q.lane_id, q.status, count(*), NULL
          FROM run_queue q
         WHERE q.status IN ('CLAIMED', 'IN_PROGRESS')
         GROUP BY q.lane_id, q.status
        UNION ALL
        SELECT h.lane_id, NULL, 0, h.created_at
          FROM (SELECT * FROM heads LIMIT 10000) h
    ), counted AS (
        SELECT k.lane_id,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'TOTAL'), 0)::bigint AS total,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'DEFERRED'), 0)::bigint AS deferred,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'CLAIMED'), 0)::bigint AS claimed,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'IN_PROGRESS'), 0)::bigint AS in_progress,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'COMPLETE'), 0)::bigint AS complete,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'FAILED'), 0)::bigint AS failed,
               coalesce(sum(k.rows) FILTER (WHERE k.state = 'CANCELLED'), 0)::bigint AS cancelled,
               min(k.ready_at) AS ready_at
          FROM known k
         GROUP BY k.lane_id
    )
    SELECT l.required_vram_gb, named.quantizations, named.labels,
           c.total - c.deferred - c.claimed - c.in_progress - c.complete - c.failed - c.cancelled,
           c.deferred, c.claimed, c.in_progress, c.complete, c.failed, c.cancelled, c.ready_at
      FROM counted c
     -- OFFSET 0: a look into the index for each. As joins, lanes and counts were compared each with each.
     CROSS JOIN LATERAL (SELECT l.required_vram_gb, l.quantization_ids
                           FROM queue_lanes l
                          WHERE l.lane_id = c.lane_id OFFSET 0) l
     CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
     WHERE c.total > 0
     ORDER BY l.required_vram_gb, c.lane_id
$$;
