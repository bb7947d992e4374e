-- What happens on claim.
--
-- One call, one round trip, one commit. A PL/pgSQL function keeps its plans in the backend, where one
-- long unnamed statement would be planned anew each time (about twice the server CPU).
--
-- The row comes from the first of two steps that has one; both are exact in (priority, created_at):
--   1. walk the ready order over at most 100 rows and take the first that fits: the usual case;
--   2. compare the heads of the lanes that fit: what stands ahead and does not fit is never visited.
-- Neither depends on how long the queue is. Both start at marks (V2__queue.sql), so that neither depends on
-- how many dead index entries an old snapshot keeps at the head.
--
-- The planner's settings are part of it: a plan is made once a connection, perhaps while the table is empty
-- or was never analysed, and must not turn a walk into a sort of what is there an hour later.
--
-- Rejected, medians of one claim with the first N rows not fitting (floor 0.3 to 0.4 ms):
--   the schema's own index, the filter in the query: 2.0 ms at 10k, 334 ms at 1M, 1,348 ms at 3M;
--   the head of every fitting lane, 12,000 lanes, no walk and no marks: 4.0 to 4.4 ms;
--   five partial indexes by quantization and VRAM tier: 0.79 to 0.85 ms, for twice the writes;
--   a narrow table of ready rows: as flat, 35 to 55% more CPU a cycle.
CREATE OR REPLACE FUNCTION queue_claim(
    p_runner_id     text,
    p_key_id        text,
    p_claim_id      uuid,             -- null: made here
    p_vram_gb       double precision, -- null: as registered
    p_quantizations text[],           -- null: as registered
    p_lease_s       integer,
    OUT outcome               text,   -- claimed, empty, key_not_allowed, claim_lost, claim_id_taken
    OUT server_time           timestamptz,
    OUT run_id                uuid,
    OUT queue_id              uuid,
    OUT claim_id              uuid,
    OUT attempt               integer,
    OUT max_attempts          integer,
    OUT priority              integer,
    OUT lease_expires_at      timestamptz,
    OUT unknown_quantizations text[],
    OUT model                 json,
    OUT models                json,
    OUT prompts               json,
    OUT tasks                 json,
    OUT config                json
) LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_incremental_sort = off
AS $$
#variable_conflict use_column
DECLARE
    v_fit              record;
    v_mark             record;
    v_row              record;
    v_lanes            record;
    v_candidates       tid[];
    v_stale            boolean := false;
    v_depth            integer;
    v_take             integer;
    v_bound            record;
BEGIN
    server_time := now();

    -- Shared by all claims of the key, taken alone by its revocation (revoke.sql): without it a claim
    -- that read the allowlist just before the revocation could commit just after, and keep its job.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_key_id, 0));
    -- Whatever else is to be known before: one statement instead of five.
    SELECT coalesce(p_vram_gb, r.vram_gb) AS vram_gb,
           coalesce(p_quantizations, r.quantizations, '{}') AS quantizations,
           ARRAY(SELECT m.quantization_id FROM quantization_methods m
                  WHERE m.name = ANY (coalesce(p_quantizations, r.quantizations))) AS quantization_ids,
           r.status = 'ACTIVE' AND r.last_heartbeat >= now() - interval '15 s' AS seen,
           EXISTS (SELECT FROM run_queue q
                    WHERE q.status = 'PENDING' AND q.retry_after IS NOT NULL AND q.retry_after <= now()) AS due,
           m.raised_at < now() - interval '200 ms' AS may_raise
      INTO v_fit
      FROM queue_mark m, allowlist a
      JOIN runners r ON r.runner_id = p_runner_id AND r.key_id = a.key_id
     WHERE a.key_id = p_key_id AND a.revoked_at IS NULL
       AND (a.expires_at IS NULL OR a.expires_at > now())
       AND (a.runner_id IS NULL OR a.runner_id = p_runner_id);
    IF NOT FOUND THEN
        outcome := 'key_not_allowed';
        RETURN;
    END IF;
    unknown_quantizations := '{}';
    IF cardinality(v_fit.quantization_ids) < cardinality(v_fit.quantizations) THEN
        unknown_quantizations := ARRAY(SELECT n.name FROM unnest(v_fit.quantizations) AS n(name)
                                        WHERE NOT EXISTS (SELECT FROM quantization_methods m WHERE m.name = n.name));
    END IF;

    IF p_claim_id IS NOT NULL THEN
        -- The same request sent twice at once must not claim two rows.
        PERFORM pg_advisory_xact_lock(hashtextextended(p_claim_id::text, 0));
        SELECT q.claimed_by, q.status, q.run_id, q.queue_id, q.claim_id, q.attempt_count, q.max_attempts,
               q.priority, q.lease_expires_at, q.prompt_id
          INTO v_row
          FROM run_queue q
         WHERE q.claim_id = p_claim_id;
        IF NOT FOUND THEN
            SELECT c.runner_id AS claimed_by, 'PENDING' AS status
              INTO v_row
              FROM past_claims c
             WHERE c.claim_id = p_claim_id;
        END IF;
        IF FOUND AND v_row.claimed_by IS DISTINCT FROM p_runner_id THEN
            outcome := 'claim_id_taken';
            RETURN;
        ELSIF FOUND AND v_row.status NOT IN ('CLAIMED', 'IN_PROGRESS') THEN
            outcome := 'claim_lost';
            RETURN;
        ELSIF FOUND THEN
            outcome := 'claimed';
        END IF;
    END IF;

    IF outcome IS NULL THEN
        -- A poll is not worth a write each time.
        IF v_fit.seen IS NOT TRUE THEN
            UPDATE runners r SET last_heartbeat = now(), status = 'ACTIVE' WHERE r.runner_id = p_runner_id;
        END IF;

        -- Rows whose `retry_after` has passed step back into the ready order: few, for a claim pays for
        -- it (sixteen cost 3 ms); the reaper brings back the bulk.
        IF v_fit.due THEN
            UPDATE run_queue q
               SET retry_after = NULL
             WHERE q.queue_id IN (SELECT d.queue_id FROM run_queue d
                                   WHERE d.status = 'PENDING' AND d.retry_after IS NOT NULL
                                     AND d.retry_after <= now()
                                   ORDER BY d.retry_after
                                   LIMIT 4
                                     FOR UPDATE SKIP LOCKED);
        END IF;

        -- Often enough that few dead entries gather behind the mark, and seldom enough to cost nothing.
        IF v_fit.may_raise THEN
            PERFORM queue_raise_mark(NULL);
        END IF;
        SELECT m.priority, m.created_at, lowered.priority AS lowered_priority,
               lowered.created_at AS lowered_created_at
          INTO v_mark
          FROM queue_mark m
          LEFT JOIN LATERAL (SELECT o.priority, o.created_at FROM queue_lowered o
                              ORDER BY o.priority, o.created_at LIMIT 1) lowered ON true;
        IF (v_mark.lowered_priority, v_mark.lowered_created_at) < (v_mark.priority, v_mark.created_at) THEN
            v_mark.priority := v_mark.lowered_priority;
            v_mark.created_at := v_mark.lowered_created_at;
        END IF;

        -- Step 1. One candidate is locked at a time, in order, and only the one that is taken.
        SELECT q.ctid AS tid
          INTO v_row
          FROM (SELECT r.ctid AS tid, r.lane_id
                  FROM run_queue r
                 WHERE r.status = 'PENDING' AND r.retry_after IS NULL
                   AND (r.priority, r.created_at) >= (v_mark.priority, v_mark.created_at)
                 ORDER BY r.priority, r.created_at, r.lane_id
                 LIMIT 100) walk
          JOIN LATERAL (SELECT FROM queue_lanes l
                         WHERE l.lane_id = walk.lane_id AND l.required_vram_gb <= v_fit.vram_gb
                           AND l.quantization_ids <@ v_fit.quantization_ids OFFSET 0) fits ON true
          JOIN LATERAL (SELECT r.ctid
                          FROM run_queue r
                         WHERE r.ctid = walk.tid AND r.status = 'PENDING' AND r.retry_after IS NULL
                           FOR UPDATE SKIP LOCKED) q ON true
         LIMIT 1;

        -- Step 2. Lanes are asked for their heads in the order of their marks: no lane holds a row before its
        -- mark, so rows that stand before the mark of the first lane not asked are the first of all. More
        -- lanes, and more of their rows, are looked at only while other claimers hold all of these.
        --
        -- A lane is asked for by a range and in the order of its index: no planner, however wrong its
        -- statistics, can read anything else.
        IF v_row.tid IS NULL THEN
            FOREACH v_depth IN ARRAY ARRAY[16, 128, 1024, 1000000] LOOP
                -- Rows to choose from: more than there are claimers at work, as a rule.
                v_take := CASE v_depth WHEN 16 THEN 16 WHEN 128 THEN 32 WHEN 1024 THEN 64 ELSE 1024 END;
                SELECT array_agg(l.lane_id) AS ids, array_agg(l.priority) AS priorities,
                       array_agg(l.created_at) AS times
                  INTO v_lanes
                  FROM (SELECT l.lane_id,
                               -- A noted lane holds a row before its mark, somewhere.
                               CASE WHEN noted.lane_id IS NULL THEN l.mark_priority
                                    ELSE -2147483648 END AS priority,
                               l.mark_created_at AS created_at
                          FROM queue_lanes l
                          LEFT JOIN (SELECT DISTINCT o.lane_id FROM queue_lowered o) noted USING (lane_id)
                         WHERE l.required_vram_gb <= v_fit.vram_gb
                           AND l.quantization_ids <@ v_fit.quantization_ids
                         ORDER BY 2, 3
                         LIMIT v_depth + 1) l;
                SELECT coalesce(v_lanes.priorities[v_depth + 1], 2147483647) AS priority,
                       coalesce(v_lanes.times[v_depth + 1], 'infinity') AS created_at
                  INTO v_bound;
                SELECT array_agg(best.tid ORDER BY best.priority, best.created_at)
                  INTO v_candidates
                  FROM (SELECT ready.*
                          FROM (SELECT l.*
                                  FROM unnest(v_lanes.ids[:v_depth], v_lanes.priorities[:v_depth],
                                              v_lanes.times[:v_depth]) AS l(lane_id, priority, created_at)
                                  JOIN LATERAL (SELECT r.priority, r.created_at
                                                  FROM run_queue r
                                                 WHERE (r.lane_id, r.priority, r.created_at)
                                                       >= (l.lane_id, l.priority, l.created_at)
                                                   AND r.lane_id <= l.lane_id
                                                   AND r.status = 'PENDING' AND r.retry_after IS NULL
                                                 ORDER BY r.lane_id, r.priority, r.created_at
                                                 LIMIT 1) head ON true
                                 ORDER BY head.priority, head.created_at
                                 LIMIT v_take) lane
                          JOIN LATERAL (SELECT r.ctid AS tid, r.priority, r.created_at
                                          FROM run_queue r
                                         WHERE (r.lane_id, r.priority, r.created_at)
                                               >= (lane.lane_id, lane.priority, lane.created_at)
                                           AND (r.lane_id, r.priority, r.created_at)
                                               <= (lane.lane_id, v_bound.priority, v_bound.created_at)
                                           AND r.status = 'PENDING' AND r.retry_after IS NULL
                                         ORDER BY r.lane_id, r.priority, r.created_at
                                         LIMIT v_take) ready ON true
                         ORDER BY ready.priority, ready.created_at
                         LIMIT v_take) best;
                -- Nothing before the next mark: these marks stand behind the heads of their lanes.
                v_stale := v_stale OR v_candidates IS NULL;
                SELECT q.ctid AS tid
                  INTO v_row
                  FROM unnest(v_candidates) AS best(tid)
                  JOIN LATERAL (SELECT r.ctid
                                  FROM run_queue r
                                 WHERE r.ctid = best.tid AND r.status = 'PENDING' AND r.retry_after IS NULL
                                   FOR UPDATE SKIP LOCKED) q ON true
                 LIMIT 1;
                EXIT WHEN v_row.tid IS NOT NULL
                       OR coalesce(cardinality(v_lanes.ids), 0) <= v_depth
                          AND coalesce(cardinality(v_candidates), 0) < v_take;
            END LOOP;
            -- The next claim finds them nearer.
            IF v_stale AND v_row.tid IS NOT NULL THEN
                PERFORM queue_raise_mark(v_lanes.ids);
            END IF;
        END IF;

        IF v_row.tid IS NULL THEN
            outcome := 'empty';
            RETURN;
        END IF;

        UPDATE run_queue q
           SET status = 'CLAIMED', claimed_by = p_runner_id, claimed_at = now(), started_at = NULL,
               claim_id = coalesce(p_claim_id, gen_random_uuid()),
               lease_expires_at = now() + make_interval(secs => p_lease_s), updated_at = now()
         WHERE q.ctid = v_row.tid
        RETURNING q.run_id, q.queue_id, q.claim_id, q.attempt_count, q.max_attempts, q.priority,
                  q.lease_expires_at, q.prompt_id
          INTO v_row;
        outcome := 'claimed';
    END IF;

    run_id := v_row.run_id;
    queue_id := v_row.queue_id;
    claim_id := v_row.claim_id;
    attempt := v_row.attempt_count + 1;
    max_attempts := v_row.max_attempts;
    priority := v_row.priority;
    lease_expires_at := v_row.lease_expires_at;

    SELECT j.model, j.models, j.prompts, j.tasks, j.config
      INTO model, models, prompts, tasks, config
      FROM queue_jobs j
     WHERE j.queue_id = v_row.queue_id;
    IF NOT FOUND THEN
        -- Inserted by a foreign tool: it says which prompt, and nothing else.
        models := '[]';
        tasks := '[]';
        config := '{}';
        SELECT json_build_array(json_build_object(
                   'id', regexp_replace(p.file_path, '^.*/|\.[^./]*$', '', 'g'), 'prompt_id', p.prompt_id))
          INTO prompts
          FROM prompts p
         WHERE p.prompt_id = v_row.prompt_id;
    END IF;
END $$;

-- Takes in what was noted as lowered, and moves the mark of the whole order (null), or of some lanes, up to the
-- first ready row. Only who is alone may: a row on its way, uncommitted, cannot be seen, and would be lost before
-- the mark. Nobody waits for that: another will do it. Who has the lock never waits for anybody.
CREATE OR REPLACE FUNCTION queue_raise_mark(p_lane_ids integer[]) RETURNS void LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_incremental_sort = off
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('queue_marks', 0)) THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM queue_lowered) THEN
        UPDATE queue_mark m
           SET priority = o.priority, created_at = o.created_at
          FROM (SELECT priority, created_at FROM queue_lowered ORDER BY priority, created_at LIMIT 1) o
         WHERE (m.priority, m.created_at) > (o.priority, o.created_at);
        UPDATE queue_lanes l
           SET mark_priority = o.priority, mark_created_at = o.created_at
          FROM (SELECT DISTINCT ON (lane_id) lane_id, priority, created_at
                  FROM queue_lowered ORDER BY lane_id, priority, created_at) o
         WHERE l.lane_id = o.lane_id AND (l.mark_priority, l.mark_created_at) > (o.priority, o.created_at);
        DELETE FROM queue_lowered;
    END IF;
    IF p_lane_ids IS NULL THEN
        UPDATE queue_mark m
           SET priority = coalesce(first.priority, m.priority),
               created_at = coalesce(first.created_at, m.created_at), raised_at = now()
          FROM queue_mark old
          LEFT JOIN LATERAL (SELECT r.priority, r.created_at
                               FROM run_queue r
                              WHERE r.status = 'PENDING' AND r.retry_after IS NULL
                                AND (r.priority, r.created_at) >= (old.priority, old.created_at)
                              ORDER BY r.priority, r.created_at, r.lane_id
                              LIMIT 1) first ON true;
    ELSE
        UPDATE queue_lanes l
           SET mark_priority = first.priority, mark_created_at = first.created_at
          FROM (SELECT old.lane_id, coalesce(r.priority, 2147483647) AS priority,
                       coalesce(r.created_at, 'infinity') AS created_at
                  FROM queue_lanes old
                  LEFT JOIN LATERAL (SELECT r.priority, r.created_at
                                       FROM run_queue r
                                      WHERE (r.lane_id, r.priority, r.created_at)
                                            >= (old.lane_id, old.mark_priority, old.mark_created_at)
                                        AND r.lane_id <= old.lane_id
                                        AND r.status = 'PENDING' AND r.retry_after IS NULL
                                      ORDER BY r.lane_id, r.priority, r.created_at
                                      LIMIT 1) r ON true
                 WHERE old.lane_id = ANY (p_lane_ids)) first
         WHERE l.lane_id = first.lane_id
           AND (first.priority, first.created_at) > (l.mark_priority, l.mark_created_at);
    END IF;
END $$;
