-- Enqueues several runs, all or none. Sent again it returns what it made the first time: enqueue_requests keeps a
-- digest of each run as received. A run that exists otherwise ends the whole request.
--
-- Two requests that name the same new things in opposite orders would wait for each other, so everything that may
-- have to be made is locked first, in one order, and the runs are inserted in the order of their ids.
CREATE OR REPLACE FUNCTION queue_enqueue_many(
    p_admin   text,
    p_specs   jsonb[],
    p_tasks   json[],
    p_configs json[], -- of each run an array: one config per row
    p_sha256s bytea[]
) RETURNS TABLE (
    run_number           integer, -- from 1, as in the request
    created              boolean,
    new_queue_id         uuid,
    first_prompt_id      integer,
    needed_vram_gb       integer,
    needed_quantizations text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_run   record;
    v_row   record;
    v_known bigint;
BEGIN
    SELECT count(*) INTO v_known
      FROM unnest(p_specs, p_sha256s) AS asked(spec, sha256)
      JOIN enqueue_requests e ON e.run_id = (asked.spec ->> 'run_id')::uuid AND e.sha256 = asked.sha256;
    IF v_known = cardinality(p_specs) THEN
        RETURN QUERY
        SELECT asked.n::integer, false, q.queue_id, q.prompt_id, l.required_vram_gb, named.quantizations
          FROM unnest(p_specs) WITH ORDINALITY AS asked(spec, n)
          JOIN run_queue q ON q.run_id = (asked.spec ->> 'run_id')::uuid
          JOIN queue_lanes l USING (lane_id)
         CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
          JOIN queue_jobs j USING (queue_id)
         ORDER BY asked.n, array_position(ARRAY(SELECT p.value ->> 'id'
                                                  FROM jsonb_array_elements(asked.spec -> 'prompts') AS p(value)),
                                          j.prompts -> 0 ->> 'id');
        RETURN;
    END IF;

    -- Names the run that differs from what was sent before, if there is one.
    SELECT asked.n, asked.spec INTO v_run
      FROM unnest(p_specs, p_sha256s) WITH ORDINALITY AS asked(spec, sha256, n)
      JOIN runs r ON r.run_id = (asked.spec ->> 'run_id')::uuid
      LEFT JOIN enqueue_requests e ON e.run_id = r.run_id
     ORDER BY e.sha256 IS NOT DISTINCT FROM asked.sha256, asked.n
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'run_exists', DETAIL = v_run.spec ->> 'run_id',
                              HINT = v_run.n::text;
    END IF;

    PERFORM queue_enqueue_lock(p_specs);
    FOR v_run IN SELECT asked.*
                   FROM unnest(p_specs, p_tasks, p_configs, p_sha256s)
                        WITH ORDINALITY AS asked(spec, tasks, configs, sha256, n)
                  ORDER BY asked.spec ->> 'run_id' LOOP
        BEGIN
            FOR v_row IN SELECT * FROM queue_enqueue(p_admin, v_run.spec, v_run.tasks,
                                                     ARRAY(SELECT json_array_elements(v_run.configs))) LOOP
                IF v_row.outcome = 'run_exists' THEN
                    RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = 'run_exists', DETAIL = v_row.subject;
                END IF;
                run_number := v_run.n;
                created := true;
                new_queue_id := v_row.new_queue_id;
                first_prompt_id := v_row.first_prompt_id;
                needed_vram_gb := v_row.needed_vram_gb;
                needed_quantizations := v_row.needed_quantizations;
                RETURN NEXT;
            END LOOP;
        EXCEPTION WHEN SQLSTATE 'BQ001' THEN
            -- Which run of the request it was: the ids of models and prompts are unique within one run only.
            DECLARE
                v_message text;
                v_detail  text;
            BEGIN
                GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
                RAISE EXCEPTION USING ERRCODE = 'BQ001', MESSAGE = v_message, DETAIL = v_detail,
                                      HINT = v_run.n::text;
            END;
        END;
        INSERT INTO enqueue_requests (run_id, sha256) VALUES ((v_run.spec ->> 'run_id')::uuid, v_run.sha256);
    END LOOP;
END $$;
