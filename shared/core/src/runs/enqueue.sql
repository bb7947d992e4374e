-- Enqueues a run in one transaction: finds or creates its models, its prompts and its lane, and inserts the
-- run, its rows and its jobs.
--
-- p_spec: {run_id, publisher_id, priority, max_attempts, max_runtime_s, labels: {key: value},
--   models:  [{id, model_id, quantization, active_parameter_count_b, …descriptor columns, creator, sources}
--             or {id, model_id, by_id: true}],
--   prompts: [{id, file_path, git_commit_hash, …} or {id, prompt_id}],
--   rows:    [[index into prompts, …], …]}
-- p_tasks and p_configs are JSON texts as received, with one config for each row.
CREATE OR REPLACE FUNCTION queue_enqueue(
    p_admin   text,
    p_spec    jsonb,
    p_tasks   json,
    p_configs json[]
) RETURNS TABLE (
    outcome           text, -- enqueued, run_exists
    subject           text, -- with run_exists: the run's id
    new_queue_id      uuid,
    first_prompt_id   integer,
    needed_vram_gb    integer,
    needed_quantizations text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_run_id      uuid := (p_spec ->> 'run_id')::uuid;
    v_model       jsonb;
    v_model_id    uuid;
    v_prompt      jsonb;
    v_prompt_id   integer;
    v_task_id     integer;
    v_row         jsonb;
    v_row_number  integer := 0;
    v_models      json;
    v_first_model json;
    v_model_ids   uuid[] := '{}';
    v_needs       record;
    v_all_vram_gb integer := 0;
    v_all_quantization_ids integer[] := '{}';
    v_all_quantizations    text[] := '{}';
    v_lane_id     integer;
    v_prompt_ids  integer[] := '{}';
    v_queue_id    uuid;
BEGIN
    INSERT INTO runs (run_id, submitted_at, publisher_id)
    VALUES (v_run_id, now(), p_spec ->> 'publisher_id')
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'run_exists', v_run_id::text, NULL::uuid, NULL::integer, NULL::integer, NULL::text[];
        RETURN;
    END IF;

    PERFORM queue_enqueue_lock(ARRAY[p_spec]);

    FOR v_model IN SELECT * FROM jsonb_array_elements(p_spec -> 'models') LOOP
        IF v_model -> 'by_id' = 'true' THEN
            SELECT m.model_id INTO v_model_id FROM models m WHERE m.model_id = (v_model ->> 'model_id')::uuid;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'model_unknown', DETAIL = v_model ->> 'id';
            END IF;
        ELSE
            v_model_id := queue_find_or_create_model(v_model);
        END IF;
        IF v_model_id = ANY (v_model_ids) THEN
            RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'model_duplicate', DETAIL = v_model ->> 'id';
        END IF;
        v_model_ids := v_model_ids || v_model_id;

        -- The request's quantization and parameter count take precedence over those stored with the model.
        SELECT q.quantization_id, q.name,
               ceil(coalesce((v_model ->> 'active_parameter_count_b')::numeric, m.active_parameter_count_b::numeric)
                    * q.vram_multiplier * 1.15)::integer AS vram_gb
          INTO v_needs
          FROM models m
          LEFT JOIN quantization_methods requested ON requested.name = v_model ->> 'quantization'
          JOIN quantization_methods q ON q.quantization_id = coalesce(requested.quantization_id, m.quantization_id)
         WHERE m.model_id = v_model_id;
        IF v_needs.vram_gb IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'model_incomplete', DETAIL = v_model ->> 'id';
        END IF;
        v_all_vram_gb := greatest(v_all_vram_gb, v_needs.vram_gb);
        v_all_quantization_ids := v_all_quantization_ids || v_needs.quantization_id;
        v_all_quantizations := v_all_quantizations || v_needs.name;
        IF v_first_model IS NULL THEN
            SELECT json_build_object(
                       'model_id', m.model_id, 'name', m.name, 'quantization', v_needs.name,
                       'required_vram_gb', v_needs.vram_gb,
                       'sources', coalesce((SELECT json_agg(json_build_object('source_type', t.name, 'url', s.url)
                                                            ORDER BY s.source_id)
                                              FROM model_sources s JOIN source_types t USING (source_type_id)
                                             WHERE s.model_id = m.model_id), '[]'))
              INTO v_first_model
              FROM models m
             WHERE m.model_id = v_model_id;
        END IF;
    END LOOP;
    SELECT coalesce(json_agg(json_build_object('id', m.spec ->> 'id', 'model_id', v_model_ids[m.n]) ORDER BY m.n), '[]')
      INTO v_models
      FROM jsonb_array_elements(p_spec -> 'models') WITH ORDINALITY AS m(spec, n);
    v_all_quantizations := ARRAY(SELECT DISTINCT unnest(v_all_quantizations) ORDER BY 1);

    FOR v_prompt IN SELECT * FROM jsonb_array_elements(p_spec -> 'prompts') LOOP
        IF v_prompt ? 'prompt_id' THEN
            SELECT p.prompt_id INTO v_prompt_id FROM prompts p WHERE p.prompt_id = (v_prompt ->> 'prompt_id')::integer;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'prompt_unknown', DETAIL = v_prompt ->> 'id';
            END IF;
        ELSE
            v_prompt_id := queue_find_or_create_prompt(v_prompt ->> 'file_path', v_prompt ->> 'git_commit_hash');
        END IF;
        IF v_prompt_id = ANY (v_prompt_ids) THEN
            RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'prompt_duplicate', DETAIL = v_prompt ->> 'id';
        END IF;
        v_prompt_ids := v_prompt_ids || v_prompt_id;
    END LOOP;

    v_lane_id := queue_find_or_create_lane(v_all_vram_gb, v_all_quantization_ids, coalesce(p_spec -> 'labels', '{}'));

    FOR v_row IN SELECT * FROM jsonb_array_elements(p_spec -> 'rows') LOOP
        v_row_number := v_row_number + 1;
        INSERT INTO run_queue AS q (run_id, prompt_id, priority, max_attempts, max_runtime_s, lane_id)
        VALUES (v_run_id, v_prompt_ids[(v_row ->> 0)::integer + 1], (p_spec ->> 'priority')::integer,
                (p_spec ->> 'max_attempts')::integer, (p_spec ->> 'max_runtime_s')::integer, v_lane_id)
        RETURNING q.queue_id INTO v_queue_id;
        INSERT INTO queue_jobs (queue_id, model, models, prompts, tasks, config)
        SELECT v_queue_id, coalesce(v_first_model, 'null'), v_models,
               (SELECT json_agg(json_build_object('id', p_spec -> 'prompts' -> (i.value::integer) ->> 'id',
                                                  'prompt_id', v_prompt_ids[i.value::integer + 1]) ORDER BY i.n)
                  FROM jsonb_array_elements_text(v_row) WITH ORDINALITY AS i(value, n)),
               p_tasks, p_configs[v_row_number];
        RETURN QUERY SELECT 'enqueued', NULL::text, v_queue_id, v_prompt_ids[(v_row ->> 0)::integer + 1],
                            v_all_vram_gb, v_all_quantizations;
    END LOOP;

    INSERT INTO audit_log (actor, action, subject, detail)
    VALUES (p_admin, 'run.enqueue', v_run_id::text, jsonb_build_object('rows', v_row_number));
END $$;

-- Locks every model, creator and prompt that these runs may create, in one global order. Without it, T1 creating
-- model A then B and T2 creating B then A would deadlock on the unique indexes.
CREATE OR REPLACE FUNCTION queue_enqueue_lock(p_specs jsonb[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(created.key, 0))
       FROM (SELECT 'model:' || (m.value ->> 'model_id') AS key
               FROM unnest(p_specs) AS spec, jsonb_array_elements(spec -> 'models') AS m(value)
              WHERE m.value -> 'by_id' IS NULL
              UNION
             SELECT 'creator:' || (m.value -> 'creator' ->> 'creator_id')
               FROM unnest(p_specs) AS spec, jsonb_array_elements(spec -> 'models') AS m(value)
              WHERE m.value -> 'creator' ->> 'creator_id' IS NOT NULL
              UNION
             SELECT 'prompt:' || (p.value ->> 'file_path')
               FROM unnest(p_specs) AS spec, jsonb_array_elements(spec -> 'prompts') AS p(value)
              WHERE p.value ? 'file_path'
              ORDER BY key) created;
END $$;

-- Returns the lane of a requirement, and creates it and its labels if there are none. The first to create one holds a
-- lock until its commit. Without it, T1 creating lane A then B and T2 creating B then A would deadlock.
CREATE OR REPLACE FUNCTION queue_find_or_create_lane(p_vram_gb integer, p_quantization_ids integer[], p_labels jsonb)
RETURNS integer LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_lane_id integer;
BEGIN
    FOR attempt IN 1..2 LOOP
        SELECT l.lane_id INTO v_lane_id
          FROM queue_lanes l
         WHERE l.required_vram_gb = p_vram_gb
           AND l.quantization_ids = ARRAY(SELECT unnest(p_quantization_ids)
                                           UNION
                                          -- Null for a label that does not exist: no lane has it.
                                          SELECT t.label_id FROM jsonb_each_text(p_labels) asked
                                            LEFT JOIN queue_labels t ON t.name = asked.key || E'\x1f' || asked.value
                                           ORDER BY 1);
        EXIT WHEN FOUND;
        PERFORM pg_advisory_xact_lock(hashtextextended('queue_lanes', 0));
        INSERT INTO queue_labels (key, value)
        SELECT asked.key, asked.value FROM jsonb_each_text(p_labels) asked
        ON CONFLICT DO NOTHING;
        INSERT INTO queue_lanes (required_vram_gb, quantization_ids)
        SELECT p_vram_gb, ARRAY(SELECT unnest(p_quantization_ids)
                                 UNION
                                SELECT t.label_id FROM jsonb_each_text(p_labels) asked
                                  JOIN queue_labels t ON t.name = asked.key || E'\x1f' || asked.value
                                 ORDER BY 1)
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN v_lane_id;
END $$;

-- Returns the model with the descriptor's hash or id, and creates it if there is none. queue_enqueue's lock
-- serializes two runs that create the same model.
CREATE OR REPLACE FUNCTION queue_find_or_create_model(p_model jsonb) RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_model_id   uuid;
    v_creator_id uuid := (p_model -> 'creator' ->> 'creator_id')::uuid;
BEGIN
    SELECT m.model_id INTO v_model_id FROM models m WHERE m.model_hash = p_model ->> 'model_hash';
    IF FOUND THEN
        RETURN v_model_id;
    END IF;

    INSERT INTO creators (creator_id, name, display_name, homepage, service_identifiers, provisional)
    SELECT v_creator_id, c.name, c.display_name, c.homepage, c.service_identifiers, coalesce(c.provisional, false)
      FROM jsonb_populate_record(NULL::creators, p_model -> 'creator') c
     WHERE v_creator_id IS NOT NULL
    ON CONFLICT DO NOTHING;

    v_model_id := (p_model ->> 'model_id')::uuid;
    INSERT INTO models (model_id, name, creator_id, model_hash, parameter_count_b, active_parameter_count_b,
                        architecture_id, context_length_default, context_length_min, context_length_max,
                        file_format_id, quantization_id, model_source_size, version, description, provisional)
    SELECT v_model_id, m.name, v_creator_id, m.model_hash, m.parameter_count_b, m.active_parameter_count_b,
           (SELECT a.architecture_id FROM model_architectures a WHERE a.name = p_model ->> 'architecture'),
           m.context_length_default, m.context_length_min, m.context_length_max,
           (SELECT f.file_format_id FROM model_file_formats f WHERE f.name = p_model ->> 'file_format'),
           (SELECT q.quantization_id FROM quantization_methods q WHERE q.name = p_model ->> 'quantization'),
           m.model_source_size, m.version, m.description, m.model_hash IS NULL
      FROM jsonb_populate_record(NULL::models, p_model) m
    ON CONFLICT (model_id) DO NOTHING;
    IF FOUND THEN
        INSERT INTO model_sources (model_id, source_type_id, url, source_metadata, updated)
        SELECT v_model_id, t.source_type_id, s.value ->> 'url', nullif(s.value -> 'source_metadata', 'null'), now()
          FROM jsonb_array_elements(coalesce(p_model -> 'sources', '[]')) AS s(value)
          JOIN source_types t ON t.name = s.value ->> 'source_type';
    END IF;
    RETURN v_model_id;
END $$;

-- Returns the prompt with this path and commit, and creates it if there is none. The harness's schema has no
-- unique constraint on the pair; queue_enqueue's lock prevents duplicates.
CREATE OR REPLACE FUNCTION queue_find_or_create_prompt(p_file_path text, p_git_commit_hash text)
RETURNS integer LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_prompt_id integer;
    v_task_id   integer;
    v_key       text := 'prompt:' || p_file_path;
BEGIN
    SELECT p.prompt_id INTO v_prompt_id
      FROM prompts p
     WHERE p.file_path = p_file_path AND p.git_commit_hash = p_git_commit_hash
     ORDER BY p.prompt_id
     LIMIT 1;
    IF FOUND THEN
        RETURN v_prompt_id;
    END IF;
    -- All versions of a file belong to one task.
    SELECT p.task_id INTO v_task_id FROM prompts p WHERE p.file_path = p_file_path ORDER BY p.prompt_id LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO tasks AS t (name, natural_key_hash)
        VALUES (regexp_replace(p_file_path, '^.*/|\.[^./]*$', '', 'g'),
                encode(sha256(convert_to(v_key, 'UTF8')), 'hex'))
        ON CONFLICT (natural_key_hash) DO UPDATE SET name = t.name
        RETURNING t.task_id INTO v_task_id;
    END IF;
    INSERT INTO prompts AS p (task_id, file_path, git_commit_hash)
    VALUES (v_task_id, p_file_path, p_git_commit_hash)
    RETURNING p.prompt_id INTO v_prompt_id;
    RETURN v_prompt_id;
END $$;
