-- What a lane's ids stand for: quantizations, and labels (negative ids). Postgres inlines both functions where a FROM
-- clause names them, so they cost nothing beside their queries.

-- Ids of what a runner offers: its quantizations, and those of its labels that a job has asked for.
CREATE OR REPLACE FUNCTION queue_class_ids(p_label_names text[], p_quantizations text[])
RETURNS SETOF integer LANGUAGE sql STABLE AS $$
    SELECT m.quantization_id FROM quantization_methods m WHERE m.name = ANY (p_quantizations)
     UNION ALL
    SELECT t.label_id FROM queue_labels t WHERE t.name = ANY (p_label_names)
$$;

-- The names of a lane's ids, which are sorted.
CREATE OR REPLACE FUNCTION queue_lane_names(p_ids integer[]) RETURNS TABLE (quantizations text[], labels jsonb)
LANGUAGE sql STABLE AS $$
    SELECT ARRAY(SELECT m.name FROM quantization_methods m WHERE m.quantization_id = ANY (p_ids) ORDER BY m.name),
           CASE WHEN p_ids[1] < 0
                THEN (SELECT jsonb_object_agg(t.key, t.value) FROM queue_labels t WHERE t.label_id = ANY (p_ids))
                ELSE '{}' END
$$;
