-- The row of a run that is the next to be claimed, and how many ready rows stand before it in the claim order: at
-- most 10,000 are counted.
SELECT q.priority, q.created_at, q.retry_after, q.error_detail, l.required_vram_gb,
       named.quantizations, named.labels,
       (SELECT count(*)
          FROM (SELECT FROM run_queue other
                 WHERE other.status = 'PENDING' AND other.retry_after IS NULL
                   AND (other.priority, other.created_at, other.lane_id) < (q.priority, q.created_at, q.lane_id)
                 LIMIT 10000) before) AS jobs_before,
       q.retry_after > now() AS deferred
  FROM (SELECT * FROM run_queue
         WHERE run_id = $1 AND status = 'PENDING'
         ORDER BY retry_after NULLS FIRST, priority, created_at, lane_id
         LIMIT 1) q
  JOIN queue_lanes l USING (lane_id)
 CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
