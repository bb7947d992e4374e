-- The requirements of ready rows, and what the runner can do.
SELECT l.required_vram_gb, named.quantizations, named.labels, r.labels AS runner_labels,
       coalesce($2, r.vram_gb) AS vram_gb, coalesce($3, r.quantizations, '{}') AS supported
  FROM queue_lanes l
 CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
  JOIN runners r ON r.runner_id = $1
 WHERE EXISTS (SELECT FROM run_queue q
                WHERE q.lane_id = l.lane_id AND q.status = 'PENDING' AND q.retry_after IS NULL)
