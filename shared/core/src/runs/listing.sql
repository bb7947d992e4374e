-- Lists rows, newest first. Keyset pagination by (created_at, queue_id): rows inserted between two pages do not
-- shift the later page. The statement is planned with its values, so a filter that is null costs nothing.
--
-- One index serves every status and all of them together: it is read once for each status, until $4 rows of it pass
-- the filters, and the page is the newest of those. Without filters, a page of a million rows takes as long as one of
-- a thousand.
WITH page AS (
    SELECT entry.queue_id
      FROM unnest($1::text[]) AS s(status)
      JOIN LATERAL (
            SELECT q.queue_id, q.created_at
              FROM run_queue q
             WHERE q.status = s.status
               AND (q.created_at, q.queue_id)
                   < (least($2::timestamptz, now() - make_interval(secs => $9::bigint)), $3::uuid)
               AND ($5::text IS NULL
                    OR EXISTS (
                           SELECT FROM queue_jobs j
                            WHERE j.queue_id = q.queue_id
                              AND (j.models::jsonb @> jsonb_build_array(jsonb_build_object('id', $5))
                                   OR j.models::jsonb @> jsonb_build_array(jsonb_build_object('model_id', $5)))))
               AND ($6::text IS NULL
                    OR q.queue_id IN (
                           SELECT held.queue_id FROM run_queue held
                            WHERE held.claimed_by = $6 AND held.status IN ('CLAIMED', 'IN_PROGRESS')
                            UNION SELECT s.queue_id FROM submissions s WHERE s.runner_id = $6
                            UNION SELECT c.queue_id FROM past_claims c WHERE c.runner_id = $6))
               AND ($7::text IS NULL
                    OR EXISTS (SELECT FROM runs r WHERE r.run_id = q.run_id AND r.publisher_id = $7))
               AND ($8::bigint IS NULL OR q.created_at > now() - make_interval(secs => $8))
             ORDER BY q.created_at DESC, q.queue_id DESC
             LIMIT $4) entry ON true
     ORDER BY entry.created_at DESC, entry.queue_id DESC
     LIMIT $4
)
SELECT q.queue_id, q.run_id, q.prompt_id, q.status, q.priority, q.attempt_count, q.max_attempts, q.claimed_by,
       q.claimed_at, q.lease_expires_at, q.retry_after, q.completed_at, q.error_detail, q.created_at,
       l.required_vram_gb, named.quantizations, named.labels,
       (SELECT r.publisher_id FROM runs r WHERE r.run_id = q.run_id) AS publisher_id,
       ARRAY(SELECT e.value ->> 'id' FROM queue_jobs j, json_array_elements(j.models) AS e(value)
              WHERE j.queue_id = q.queue_id) AS models
  FROM page
  JOIN run_queue q USING (queue_id)
  JOIN queue_lanes l USING (lane_id)
 CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
 ORDER BY q.created_at DESC, q.queue_id DESC
