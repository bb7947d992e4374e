-- What a lane's ids stand for: quantizations, and labels (negative ids). Postgres inlines both functions where a FROM
-- clause names them, so they cost nothing beside their queries.

-- Ids of what a runner offers: its quantizations; of the strings among its labels those that a job has asked for; and
-- its name, as the label runner_id, which a registered label of that key cannot replace.
CREATE OR REPLACE FUNCTION queue_class_ids(p_runner_id text, p_labels jsonb, p_quantizations text[])
RETURNS SETOF integer LANGUAGE sql STABLE AS $$
    SELECT m.quantization_id FROM quantization_methods m WHERE m.name = ANY (p_quantizations)
     UNION ALL
    SELECT asked.label_id
      FROM (SELECT 'runner_id' AS key, p_runner_id AS value
             UNION ALL
            SELECT e.key, e.value #>> '{}'
              FROM jsonb_each(CASE jsonb_typeof(p_labels) WHEN 'object' THEN p_labels END) e
             WHERE jsonb_typeof(e.value) = 'string' AND e.key <> 'runner_id') has
     -- OFFSET 0: one look into the index per label of the runner, however many labels jobs have asked for.
     CROSS JOIN LATERAL (SELECT t.label_id FROM queue_labels t
                          WHERE t.key = has.key AND t.value = has.value OFFSET 0) asked
$$;

-- The names of a lane's ids, which are sorted.
CREATE OR REPLACE FUNCTION queue_lane_names(p_ids integer[]) RETURNS TABLE (quantizations text[], labels jsonb)
LANGUAGE sql STABLE AS $$
    SELECT ARRAY(SELECT m.name FROM quantization_methods m WHERE m.quantization_id = ANY (p_ids) ORDER BY m.name),
           CASE WHEN p_ids[1] < 0
                THEN (SELECT jsonb_object_agg(t.key, t.value) FROM queue_labels t WHERE t.label_id = ANY (p_ids))
                ELSE '{}' END
$$;
