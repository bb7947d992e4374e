-- Lists rows, newest first. Keyset pagination by (created_at, queue_id): rows inserted between two pages do not
-- shift the later page.
SELECT q.queue_id, q.run_id, q.prompt_id, q.status, q.priority, q.attempt_count, q.max_attempts, q.claimed_by,
       q.claimed_at, q.lease_expires_at, q.retry_after, q.completed_at, q.error_detail, q.created_at,
       l.required_vram_gb,
       ARRAY(SELECT m.name FROM quantization_methods m
              WHERE m.quantization_id = ANY (l.quantization_ids) ORDER BY m.name) AS quantizations
  FROM run_queue q
  JOIN queue_lanes l USING (lane_id)
 WHERE ($1::text IS NULL OR q.status = $1)
   AND ($2::timestamptz IS NULL OR (q.created_at, q.queue_id) < ($2, $3::uuid))
 ORDER BY q.created_at DESC, q.queue_id DESC
 LIMIT $4
