-- Live claims, those that were made first before the others.
SELECT q.run_id, q.queue_id, q.claim_id, q.claimed_by AS runner_id, q.status, q.priority, q.attempt_count + 1 AS attempt,
       q.claimed_at, q.lease_expires_at, q.progress, now() AS server_time,
       ARRAY(SELECT e.value ->> 'id' FROM json_array_elements(j.models) AS e(value)) AS models,
       ARRAY(SELECT e.value ->> 'id' FROM json_array_elements(j.prompts) AS e(value)) AS prompts
  FROM (SELECT * FROM run_queue
         WHERE status IN ('CLAIMED', 'IN_PROGRESS')
         ORDER BY claimed_at, queue_id
         LIMIT $1) q
  LEFT JOIN queue_jobs j USING (queue_id)
 ORDER BY q.claimed_at, q.queue_id
