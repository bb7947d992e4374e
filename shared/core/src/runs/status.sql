-- Returns a run's rows to any allowed runner. A submission is returned only to the runner that made it.
SELECT a.allowed, q.queue_id, q.prompt_id, q.status, q.attempt_count, q.max_attempts,
       coalesce(q.claimed_by = $3, false) AS own, q.lease_expires_at, q.retry_after, q.completed_at,
       q.progress, s.submission_id, s.receipt, s.late, s.submitted_at, encode(s.sha256, 'hex') AS sha256
  FROM (SELECT EXISTS (SELECT FROM allowlist e
                        WHERE key_id = $2 AND allowlist_admits(e, $3)) AS allowed) a
  LEFT JOIN run_queue q ON a.allowed AND q.run_id = $1
  LEFT JOIN submissions s ON s.queue_id = q.queue_id AND s.runner_id = $3
 ORDER BY q.created_at, q.queue_id
