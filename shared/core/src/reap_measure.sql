-- Counted lane by lane, on the lane index: what a lane asks is looked at once, not once a row.
WITH lanes AS (
    SELECT l.lane_id, ready.rows, oldest.created_at,
           EXISTS (SELECT FROM runners r
                    WHERE r.last_heartbeat > now() - interval '7 days'
                      AND r.vram_gb >= l.required_vram_gb
                      AND l.quantization_ids <@ ARRAY(SELECT m.quantization_id FROM quantization_methods m
                                                       WHERE m.name = ANY (r.quantizations))) AS satisfiable
      FROM queue_lanes l
      JOIN LATERAL (SELECT count(*) AS rows FROM run_queue q
                     WHERE q.lane_id = l.lane_id AND q.status = 'PENDING' AND q.retry_after IS NULL) ready ON true
      LEFT JOIN LATERAL (SELECT min(q.created_at) AS created_at FROM run_queue q
                          WHERE q.lane_id = l.lane_id AND q.status = 'PENDING' AND q.retry_after IS NULL) oldest ON true
)
SELECT coalesce(sum(rows), 0)::bigint
         + (SELECT count(*) FROM run_queue WHERE status = 'PENDING' AND retry_after IS NOT NULL) AS depth,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::double precision AS oldest_eligible_age_s,
       (SELECT count(*) FROM run_queue WHERE status IN ('CLAIMED', 'IN_PROGRESS')) AS live_claims,
       coalesce(sum(rows) FILTER (WHERE NOT satisfiable), 0)::bigint AS unsatisfiable
  FROM lanes
