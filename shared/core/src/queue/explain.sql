-- Counts rows by the requirement that excludes them for a runner. Uses index-only counts per lane and takes no
-- row locks, so claims are not delayed.
WITH fit AS MATERIALIZED (
    SELECT coalesce($3, r.vram_gb) AS vram_gb, r.failures_in_a_row,
           CASE WHEN r.claims_paused_until > now() THEN r.claims_paused_until END AS paused_until,
           ARRAY(SELECT id FROM queue_class_ids(r.label_names, coalesce($4, r.quantizations)) id) AS class_ids
      FROM allowlist a
      JOIN runners r ON r.runner_id = $2 AND r.key_id = a.key_id
     WHERE a.key_id = $1 AND allowlist_admits(a, $2)
), lanes AS MATERIALIZED (
    SELECT l.lane_id, l.required_vram_gb <= fit.vram_gb AS vram_fits,
           ARRAY(SELECT id FROM unnest(l.quantization_ids) id WHERE id > 0) <@ fit.class_ids AS quantization_fits,
           ARRAY(SELECT id FROM unnest(l.quantization_ids) id WHERE id < 0) <@ fit.class_ids AS label_fits
      FROM queue_lanes l, fit
), ready AS (
    SELECT lane_id, count(*) AS rows
      FROM run_queue
     WHERE status = 'PENDING' AND retry_after IS NULL
     GROUP BY lane_id
), counted AS (
    SELECT coalesce(sum(rows) FILTER (WHERE NOT vram_fits), 0)::bigint AS vram,
           coalesce(sum(rows) FILTER (WHERE NOT quantization_fits), 0)::bigint AS quantization,
           coalesce(sum(rows) FILTER (WHERE NOT label_fits), 0)::bigint AS label,
           coalesce(sum(rows) FILTER (WHERE vram_fits AND quantization_fits AND label_fits), 0)::bigint AS eligible
      FROM ready JOIN lanes USING (lane_id)
)
SELECT EXISTS (SELECT FROM fit) AS allowed, counted.*,
       (SELECT failures_in_a_row FROM fit), (SELECT paused_until FROM fit),
       (SELECT count(*) FROM run_queue q JOIN lanes USING (lane_id)
         WHERE q.status = 'PENDING' AND q.retry_after IS NOT NULL
           AND vram_fits AND quantization_fits AND label_fits) AS deferred,
       (SELECT count(*) FROM run_queue q JOIN lanes USING (lane_id)
         WHERE q.status IN ('CLAIMED', 'IN_PROGRESS') AND q.claimed_by <> $2
           AND vram_fits AND quantization_fits AND label_fits) AS held_by_others
  FROM counted
