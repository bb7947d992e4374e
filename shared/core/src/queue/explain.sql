-- Counts rows by the requirement that excludes them for a runner. Uses index-only counts per lane and takes no
-- row locks, so claims are not delayed.
WITH fit AS MATERIALIZED (
    SELECT coalesce($3, r.vram_gb) AS vram_gb,
           ARRAY(SELECT m.quantization_id FROM quantization_methods m
                  WHERE m.name = ANY (coalesce($4, r.quantizations))
                  UNION ALL
                 SELECT t.label_id FROM queue_labels t WHERE queue_label_fits(t, $2, r.labels)) AS quantization_ids
      FROM allowlist a
      JOIN runners r ON r.runner_id = $2 AND r.key_id = a.key_id
     WHERE a.key_id = $1 AND allowlist_admits(a, $2)
), lanes AS MATERIALIZED (
    SELECT l.lane_id, l.required_vram_gb <= fit.vram_gb AS vram_fits,
           l.quantization_ids <@ fit.quantization_ids AS quantization_fits
      FROM queue_lanes l, fit
), ready AS (
    SELECT lane_id, count(*) AS rows
      FROM run_queue
     WHERE status = 'PENDING' AND retry_after IS NULL
     GROUP BY lane_id
), counted AS (
    SELECT coalesce(sum(rows) FILTER (WHERE NOT vram_fits), 0)::bigint AS vram,
           coalesce(sum(rows) FILTER (WHERE NOT quantization_fits), 0)::bigint AS quantization,
           coalesce(sum(rows) FILTER (WHERE vram_fits AND quantization_fits), 0)::bigint AS eligible
      FROM ready JOIN lanes USING (lane_id)
)
SELECT EXISTS (SELECT FROM fit) AS allowed, counted.*,
       (SELECT count(*) FROM run_queue q JOIN lanes USING (lane_id)
         WHERE q.status = 'PENDING' AND q.retry_after IS NOT NULL AND vram_fits AND quantization_fits) AS deferred,
       (SELECT count(*) FROM run_queue q JOIN lanes USING (lane_id)
         WHERE q.status IN ('CLAIMED', 'IN_PROGRESS') AND q.claimed_by <> $2
           AND vram_fits AND quantization_fits) AS held_by_others
  FROM counted
