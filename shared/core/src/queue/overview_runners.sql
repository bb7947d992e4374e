-- Runners seen within a week, the last seen first: what they can do, what they hold, and how their claims ended
-- within a day.
WITH seen AS (
    SELECT r.runner_id, r.hostname, r.status, r.last_heartbeat, r.vram_gb, r.quantizations, r.labels,
           CASE WHEN r.claims_paused_until > now() THEN r.claims_paused_until END AS paused_until,
           EXISTS (SELECT FROM allowlist a
                    WHERE a.key_id = r.key_id AND a.kind = 'ed25519' AND allowlist_admits(a, r.runner_id)) AS allowed
      FROM runners r
     WHERE r.last_heartbeat > now() - interval '7 days' AND r.key_id IS NOT NULL
     ORDER BY r.last_heartbeat DESC, r.runner_id
     LIMIT $1
), completed AS (
    SELECT runner_id, count(*) AS jobs
      FROM submissions
     WHERE submitted_at > now() - interval '1 day'
     GROUP BY runner_id
), ended AS (
    SELECT runner_id, count(*) FILTER (WHERE ended_by = 'failed') AS failed,
           count(*) FILTER (WHERE ended_by = 'lapsed') AS lapsed
      FROM past_claims
     WHERE ended_at > now() - interval '1 day'
     GROUP BY runner_id
), held AS (
    SELECT claimed_by AS runner_id, count(*) AS jobs
      FROM run_queue
     WHERE status IN ('CLAIMED', 'IN_PROGRESS')
     GROUP BY claimed_by
)
SELECT s.*, coalesce(held.jobs, 0) AS holds, coalesce(c.jobs, 0) AS completed,
       coalesce(e.failed, 0) AS failed, coalesce(e.lapsed, 0) AS lapsed
  FROM seen s
  LEFT JOIN completed c USING (runner_id)
  LEFT JOIN ended e USING (runner_id)
  LEFT JOIN held USING (runner_id)
 ORDER BY s.last_heartbeat DESC, s.runner_id
