-- Measures the queue. Compares each runner with each lane instead of each row, and counts rows by index-only scans
-- of the lane index.
WITH served AS MATERIALIZED (
    SELECT r.vram_gb, ARRAY(SELECT id FROM queue_class_ids(r.label_names, r.quantizations) id) AS class_ids
      FROM runners r
     WHERE r.last_heartbeat > now() - interval '7 days'
       AND EXISTS (SELECT FROM allowlist a
                    WHERE a.key_id = r.key_id AND allowlist_admits(a, r.runner_id))
), pending AS MATERIALIZED (
    SELECT lane_id, count(*) AS rows, min(created_at) AS eligible_since
      FROM run_queue WHERE status = 'PENDING' AND retry_after IS NULL GROUP BY lane_id
    UNION ALL
    SELECT lane_id, count(*), NULL
      FROM run_queue WHERE status = 'PENDING' AND retry_after IS NOT NULL GROUP BY lane_id
)
SELECT coalesce(sum(p.rows), 0)::bigint AS depth,
       coalesce(extract(epoch FROM now() - min(p.eligible_since)), 0)::double precision AS oldest_eligible_age_s,
       (SELECT count(*) FROM run_queue WHERE status IN ('CLAIMED', 'IN_PROGRESS')) AS live_claims,
       (SELECT count(*) FROM runners WHERE claims_paused_until > now()) AS failing_runners,
       coalesce(sum(p.rows) FILTER (
           WHERE NOT EXISTS (SELECT FROM served s
                              WHERE s.vram_gb >= l.required_vram_gb
                                AND l.quantization_ids <@ s.class_ids)), 0)::bigint AS unsatisfiable
  FROM pending p
  JOIN queue_lanes l USING (lane_id)
