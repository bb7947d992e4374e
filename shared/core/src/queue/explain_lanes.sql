-- The requirements of ready rows, and what the runner can do.
SELECT l.required_vram_gb,
       ARRAY(SELECT m.name FROM quantization_methods m
              WHERE m.quantization_id = ANY (l.quantization_ids) ORDER BY m.name) AS quantizations,
       queue_label_names(l.quantization_ids) AS labels, r.labels AS runner_labels,
       coalesce($2, r.vram_gb) AS vram_gb, coalesce($3, r.quantizations, '{}') AS supported
  FROM queue_lanes l
  JOIN runners r ON r.runner_id = $1
 WHERE EXISTS (SELECT FROM run_queue q
                WHERE q.lane_id = l.lane_id AND q.status = 'PENDING' AND q.retry_after IS NULL)
