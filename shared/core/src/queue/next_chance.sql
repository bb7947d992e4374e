-- When a runner whose claim found nothing may find something: the seconds until the first row that it could take
-- ends its back-off (of the first 1,000 that do), and whether others hold rows that it could take.
WITH fit AS MATERIALIZED (
    SELECT coalesce($2, r.vram_gb) AS vram_gb,
           ARRAY(SELECT id FROM queue_class_ids(r.label_names, coalesce($3, r.quantizations)) id) AS class_ids
      FROM runners r
     WHERE r.runner_id = $1
), lanes AS MATERIALIZED (
    SELECT l.lane_id
      FROM queue_lanes l, fit
     WHERE l.required_vram_gb <= floor(fit.vram_gb) AND l.quantization_ids <@ fit.class_ids
)
SELECT (SELECT ceil(extract(epoch FROM min(d.retry_after) - now()))::integer
          FROM (SELECT retry_after, lane_id FROM run_queue
                 WHERE status = 'PENDING' AND retry_after IS NOT NULL
                 ORDER BY retry_after
                 LIMIT 1000) d
          JOIN lanes USING (lane_id)) AS deferred_for_s,
       EXISTS (SELECT FROM run_queue q JOIN lanes USING (lane_id)
                WHERE q.status IN ('CLAIMED', 'IN_PROGRESS') AND q.claimed_by <> $1) AS held_by_others
