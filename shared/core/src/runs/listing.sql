-- Lists rows, newest first. Keyset pagination by (created_at, queue_id): rows inserted between two pages do not
-- shift the later page.
--
-- One index serves every status and all of them together: it is read once for each status, at most $4 entries
-- each, and the page is the newest of those. A page of a million rows takes as long as one of a thousand.
WITH page AS (
    SELECT entry.queue_id
      FROM unnest($1::text[]) AS s(status)
      JOIN LATERAL (SELECT q.queue_id, q.created_at
                      FROM run_queue q
                     WHERE q.status = s.status
                       AND (q.created_at, q.queue_id) < ($2::timestamptz, $3::uuid)
                     ORDER BY q.created_at DESC, q.queue_id DESC
                     LIMIT $4) entry ON true
     ORDER BY entry.created_at DESC, entry.queue_id DESC
     LIMIT $4
)
SELECT q.queue_id, q.run_id, q.prompt_id, q.status, q.priority, q.attempt_count, q.max_attempts, q.claimed_by,
       q.claimed_at, q.lease_expires_at, q.retry_after, q.completed_at, q.error_detail, q.created_at,
       l.required_vram_gb,
       ARRAY(SELECT m.name FROM quantization_methods m
              WHERE m.quantization_id = ANY (l.quantization_ids) ORDER BY m.name) AS quantizations
  FROM page
  JOIN run_queue q USING (queue_id)
  JOIN queue_lanes l USING (lane_id)
 ORDER BY q.created_at DESC, q.queue_id DESC
