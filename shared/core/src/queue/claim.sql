-- Claims a row in one call, one round trip, one commit. claim.md explains the protocol, its invariant and its races;
-- class, position, cursor, reset, walk and merge are its terms.
--
-- PL/pgSQL keeps its plans in the backend; the same work as one unnamed statement takes twice the server CPU. The
-- planner settings are part of the protocol: a kept plan may date from an empty or never analysed table.
CREATE OR REPLACE FUNCTION queue_claim(
    p_runner_id     text,
    p_key_id        text,
    p_claim_id      uuid,             -- null: made here
    p_vram_gb       double precision, -- null: as registered
    p_quantizations text[],           -- null: as registered
    p_lease_s       integer,
    OUT outcome               text,   -- claimed, empty, paused, key_not_allowed, claim_lost, claim_id_taken
    OUT server_time           timestamptz,
    OUT run_id                uuid,
    OUT queue_id              uuid,
    OUT claim_id              uuid,
    OUT nonce                 uuid,
    OUT attempt               integer,
    OUT max_attempts          integer,
    OUT priority              integer,
    OUT lease_expires_at      timestamptz,
    OUT unknown_quantizations text[],
    OUT paused_s              integer, -- with paused: seconds until claims get jobs again
    OUT model                 json,
    OUT models                json,
    OUT prompts               json,
    OUT tasks                 json,
    OUT config                json
) LANGUAGE plpgsql
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_incremental_sort = off AS $$
#variable_conflict use_column
DECLARE
    v_fit  record;
    v_from record; -- a position in the order
    v_row  record;
    v_limit integer;
BEGIN
    server_time := now();

    -- Shared by all claims of a key, exclusive in its revocation (revoke.sql). Without it: T1 (claim) reads the
    -- allowlist; T2 revokes the key, returns its jobs and commits; T1 commits and keeps its job. In an IF,
    -- because a statement of its own costs a tenth of a claim.
    IF pg_advisory_xact_lock_shared(hashtextextended(p_key_id, 0)) IS NULL THEN
        RETURN; -- Never: void is not null.
    END IF;
    -- Reads everything the claim needs in one statement: seven separate ones cost 0.1 ms.
    SELECT can.*, position.*,
           -- 200 ms: few dead index entries gather behind the cursor, and advancing it costs nothing measurable.
           cursor.advanced_at IS NULL OR cursor.advanced_at < now() - interval '200 ms' AS may_advance
      INTO v_fit
      FROM (SELECT coalesce(floor(least(coalesce(p_vram_gb, r.vram_gb), 2147483647))::integer, -1) AS vram_gb,
                   coalesce(p_quantizations, r.quantizations, '{}') AS quantizations,
                   ARRAY(SELECT id FROM queue_class_ids(r.label_names, coalesce(p_quantizations, r.quantizations)) id
                          ORDER BY id) AS quantization_ids,
                   ceil(extract(epoch FROM r.claims_paused_until - now()))::integer AS paused_s,
                   r.status = 'ACTIVE' AND r.last_heartbeat >= now() - interval '15 s' AS recently_seen,
                   EXISTS (SELECT FROM run_queue q
                            WHERE q.status = 'PENDING' AND q.retry_after IS NOT NULL
                              AND q.retry_after <= now()) AS has_due_rows
              FROM allowlist a
              JOIN runners r ON r.runner_id = p_runner_id AND r.key_id = a.key_id
             WHERE a.key_id = p_key_id AND allowlist_admits(a, p_runner_id)
            OFFSET 0) can
      LEFT JOIN claim_cursors cursor ON cursor.vram_gb = can.vram_gb AND cursor.quantization_ids = can.quantization_ids
     CROSS JOIN LATERAL (SELECT coalesce(cursor.priority, -2147483648) AS priority,
                                coalesce(cursor.created_at, '-infinity') AS created_at,
                                coalesce(cursor.lane_id, 0) AS lane_id
                          UNION ALL
                         SELECT o.priority, o.created_at, o.lane_id
                           FROM claim_cursor_resets o JOIN queue_lanes l USING (lane_id)
                          WHERE l.required_vram_gb <= can.vram_gb AND l.quantization_ids <@ can.quantization_ids
                          ORDER BY 1, 2, 3
                          LIMIT 1) position;
    IF NOT FOUND THEN
        outcome := 'key_not_allowed';
        RETURN;
    END IF;
    unknown_quantizations := '{}';
    -- A negative id is a label's.
    IF cardinality(v_fit.quantization_ids) < cardinality(v_fit.quantizations) OR v_fit.quantization_ids[1] < 0 THEN
        unknown_quantizations := ARRAY(SELECT n.name FROM unnest(v_fit.quantizations) AS n(name)
                                        WHERE NOT EXISTS (SELECT FROM quantization_methods m WHERE m.name = n.name));
    END IF;

    IF p_claim_id IS NOT NULL THEN
        -- The same request sent twice at the same time must not claim two rows.
        PERFORM pg_advisory_xact_lock(hashtextextended(p_claim_id::text, 0));
        SELECT q.* INTO v_row FROM run_queue q WHERE q.claim_id = p_claim_id;
        IF NOT FOUND THEN
            SELECT c.runner_id AS claimed_by, 'PENDING' AS status INTO v_row
              FROM past_claims c WHERE c.claim_id = p_claim_id;
        END IF;
        IF FOUND THEN
            outcome := CASE WHEN v_row.claimed_by IS DISTINCT FROM p_runner_id THEN 'claim_id_taken'
                            WHEN v_row.status NOT IN ('CLAIMED', 'IN_PROGRESS') THEN 'claim_lost'
                            ELSE 'claimed' END;
        END IF;
        IF outcome <> 'claimed' THEN
            RETURN;
        END IF;
    END IF;

    IF outcome IS NULL THEN
        -- Skips the update if the runner was seen in the last 15 s: an idle poll should not write.
        IF v_fit.recently_seen IS NOT TRUE THEN
            UPDATE runners r SET last_heartbeat = now(), status = 'ACTIVE' WHERE r.runner_id = p_runner_id;
        END IF;
        IF v_fit.paused_s > 0 THEN -- After failed releases in a row (release.sql); null: not paused.
            outcome := 'paused';
            paused_s := v_fit.paused_s;
            RETURN;
        END IF;

        -- Makes rows ready whose retry_after has passed: 4 at most, because the claim pays for them (16 cost
        -- 3 ms). The reaper does the rest.
        v_from := v_fit;
        IF v_fit.has_due_rows THEN
            WITH back AS (
                UPDATE run_queue q
                   SET retry_after = NULL
                 WHERE q.queue_id IN (SELECT d.queue_id FROM run_queue d
                                       WHERE d.status = 'PENDING' AND d.retry_after IS NOT NULL
                                         AND d.retry_after <= now()
                                       ORDER BY d.retry_after
                                       LIMIT 4
                                         FOR UPDATE SKIP LOCKED)
                RETURNING q.priority, q.created_at, q.lane_id)
            SELECT position.* INTO v_from
              FROM (TABLE back UNION ALL SELECT v_fit.priority, v_fit.created_at, v_fit.lane_id) position
             ORDER BY position.priority, position.created_at, position.lane_id LIMIT 1;
        END IF;

        -- Not earlier: the cursor lock, held until the commit, blocks every transaction that makes a row ready,
        -- so nothing after it may wait.
        IF v_fit.may_advance THEN
            SELECT * INTO v_row FROM queue_advance_claim_cursor(v_fit.vram_gb, v_fit.quantization_ids);
            IF v_row.priority IS NOT NULL THEN
                v_from := v_row;
            END IF;
        END IF;

        -- Walk the claim order. One candidate is locked at a time, in order, and only the one that is taken.
        SELECT q.ctid AS tid
          INTO v_row
          FROM (SELECT r.ctid AS tid, r.lane_id
                  FROM run_queue r
                 WHERE r.status = 'PENDING' AND r.retry_after IS NULL
                   AND (r.priority, r.created_at, r.lane_id)
                       >= (v_from.priority, v_from.created_at, v_from.lane_id)
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
        IF NOT FOUND THEN
            SELECT 64 INTO v_limit -- Null: no row is ready.
              FROM run_queue r
             WHERE r.status = 'PENDING' AND r.retry_after IS NULL
               AND (r.priority, r.created_at, r.lane_id) >= (v_from.priority, v_from.created_at, v_from.lane_id)
             ORDER BY r.priority, r.created_at, r.lane_id
             LIMIT 1;
        END IF;
        -- Merge the fitting lanes: 64 rows, then 512, and so on, while other claims lock them all.
        WHILE v_limit IS NOT NULL LOOP
            WITH merged AS MATERIALIZED (
                SELECT m.tid
                  FROM queue_merge_lanes(v_fit.vram_gb, v_fit.quantization_ids, v_from.priority,
                                         v_from.created_at, v_from.lane_id, v_limit) m)
            SELECT q.ctid AS tid, CASE WHEN merged_rows.count = v_limit THEN v_limit * 8 END AS next_limit
              INTO v_row
              FROM (SELECT count(*) FROM merged) merged_rows
              LEFT JOIN LATERAL (
                    SELECT q.ctid
                      FROM merged
                      JOIN LATERAL (SELECT r.ctid
                                      FROM run_queue r
                                     WHERE r.ctid = merged.tid AND r.status = 'PENDING' AND r.retry_after IS NULL
                                       FOR UPDATE SKIP LOCKED) q ON true
                     LIMIT 1) q ON true;
            EXIT WHEN v_row.tid IS NOT NULL;
            v_limit := v_row.next_limit;
        END LOOP;

        IF v_row.tid IS NULL THEN
            outcome := 'empty';
            RETURN;
        END IF;

        UPDATE run_queue q
           SET status = 'CLAIMED', claimed_by = p_runner_id, claimed_at = now(), started_at = NULL,
               claim_id = coalesce(p_claim_id, gen_random_uuid()), claim_nonce = gen_random_uuid(),
               lease_expires_at = now() + make_interval(secs => p_lease_s), updated_at = now()
         WHERE q.ctid = v_row.tid
        RETURNING q.* INTO v_row;
        outcome := 'claimed';
    END IF;

    SELECT v_row.run_id, v_row.queue_id, v_row.claim_id, v_row.claim_nonce, v_row.attempt_count + 1,
           v_row.max_attempts, v_row.priority, v_row.lease_expires_at, j.model, j.models, j.prompts, j.tasks, j.config
      INTO run_id, queue_id, claim_id, nonce, attempt,
           max_attempts, priority, lease_expires_at, model, models, prompts, tasks, config
      FROM (SELECT) AS always LEFT JOIN queue_jobs j ON j.queue_id = v_row.queue_id;
    IF models IS NULL THEN
        -- A foreign tool inserted the row: it names a prompt and nothing else.
        SELECT '[]', '[]', '{}', json_build_array(json_build_object(
                   'id', regexp_replace(p.file_path, '^.*/|\.[^./]*$', '', 'g'), 'prompt_id', p.prompt_id))
          INTO models, tasks, config, prompts
          FROM prompts p
         WHERE p.prompt_id = v_row.prompt_id;
    END IF;
END $$;

-- Returns the first p_limit ready rows at or behind a position that a class can take, in the claim order: a merge
-- of the fitting lanes. Called by the functions here, and planned under their settings.
-- Cost: an index descent per fitting lane, and about the rows returned. The first rows of each lane, an eighth of
-- p_limit, bound what else is read: the p_limit-th of them is at or behind the p_limit-th row of the merge.
CREATE OR REPLACE FUNCTION queue_merge_lanes(
    p_vram_gb          integer,
    p_quantization_ids integer[],
    p_priority         integer,
    p_created_at       timestamptz,
    p_lane_id          integer,
    p_limit            integer
) RETURNS TABLE (tid tid, priority integer, created_at timestamptz, lane_id integer) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH head AS MATERIALIZED (
        SELECT l.lane_id, l.first_at, r.priority, r.created_at
          FROM (SELECT l.lane_id,
                       -- Of rows with one priority and time, those in the lanes before stand before the position.
                       CASE WHEN l.lane_id >= p_lane_id THEN p_created_at
                            ELSE p_created_at + interval '1 us' END AS first_at
                  FROM queue_lanes l
                 WHERE l.required_vram_gb <= p_vram_gb AND l.quantization_ids <@ p_quantization_ids) l
          JOIN LATERAL (SELECT r.priority, r.created_at
                          FROM run_queue r
                         WHERE (r.lane_id, r.priority, r.created_at) >= (l.lane_id, p_priority, l.first_at)
                           -- A range, and the order of its index: no planner, however wrong its statistics,
                           -- can read anything else.
                           AND r.lane_id <= l.lane_id
                           AND r.status = 'PENDING' AND r.retry_after IS NULL
                         ORDER BY r.lane_id, r.priority, r.created_at
                         LIMIT (p_limit + 7) / 8) r ON true
    ), bound AS MATERIALIZED (
        (SELECT h.priority, h.created_at, h.lane_id FROM head h
          ORDER BY h.priority, h.created_at, h.lane_id OFFSET p_limit - 1 LIMIT 1)
         UNION ALL
        SELECT 2147483647, 'infinity', 2147483647
         ORDER BY priority, created_at, lane_id LIMIT 1
    )
    SELECT r.tid, r.priority, r.created_at, r.lane_id
      FROM (SELECT DISTINCT h.lane_id, h.first_at, bound.priority, bound.created_at
              FROM head h JOIN bound ON (h.priority, h.created_at, h.lane_id)
                                        <= (bound.priority, bound.created_at, bound.lane_id)) l
      JOIN LATERAL (SELECT r.ctid AS tid, r.priority, r.created_at, r.lane_id
                      FROM run_queue r
                     WHERE (r.lane_id, r.priority, r.created_at) >= (l.lane_id, p_priority, l.first_at)
                       AND (r.lane_id, r.priority, r.created_at) <= (l.lane_id, l.priority, l.created_at)
                       AND r.status = 'PENDING' AND r.retry_after IS NULL
                     ORDER BY r.lane_id, r.priority, r.created_at
                     LIMIT p_limit) r ON true
     ORDER BY r.priority, r.created_at, r.lane_id
     LIMIT p_limit;
END $$;

-- Folds all resets into the cursors, advances the cursor of a class to the first ready row that it can take, and
-- returns that position. Returns null without the cursor lock, which it only tries to get: a later claim advances.
CREATE OR REPLACE FUNCTION queue_advance_claim_cursor(
    p_vram_gb          integer,
    p_quantization_ids integer[],
    OUT priority       integer,
    OUT created_at     timestamptz,
    OUT lane_id        integer
) LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_incremental_sort = off AS $$
#variable_conflict use_column
DECLARE
    v_cursor record;
BEGIN
    -- A snapshot from before the lock would not show the rows that became ready in between.
    IF current_setting('transaction_isolation') <> 'read committed'
       OR NOT pg_try_advisory_xact_lock(hashtextextended('claim_cursors', 0)) THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM claim_cursor_resets) THEN
        UPDATE claim_cursors m
           SET priority = first.priority, created_at = first.created_at, lane_id = first.lane_id
          FROM (SELECT DISTINCT ON (c.vram_gb, c.quantization_ids)
                       c.vram_gb, c.quantization_ids, o.priority, o.created_at, o.lane_id
                  FROM claim_cursor_resets o
                  JOIN queue_lanes l USING (lane_id)
                  JOIN claim_cursors c ON l.required_vram_gb <= c.vram_gb
                                    AND l.quantization_ids <@ c.quantization_ids
                 ORDER BY c.vram_gb, c.quantization_ids, o.priority, o.created_at, o.lane_id) first
         WHERE (m.vram_gb, m.quantization_ids) = (first.vram_gb, first.quantization_ids)
           AND (m.priority, m.created_at, m.lane_id) > (first.priority, first.created_at, first.lane_id);
        DELETE FROM claim_cursor_resets;
    END IF;

    SELECT m.priority, m.created_at, m.lane_id INTO v_cursor
      FROM claim_cursors m WHERE m.vram_gb = p_vram_gb AND m.quantization_ids = p_quantization_ids;
    IF NOT FOUND THEN
        SELECT -2147483648 AS priority, '-infinity'::timestamptz AS created_at, 0 AS lane_id INTO v_cursor;
    END IF;
    SELECT walk.priority, walk.created_at, walk.lane_id
      INTO priority, created_at, lane_id
      FROM (SELECT r.priority, r.created_at, r.lane_id
              FROM run_queue r
             WHERE r.status = 'PENDING' AND r.retry_after IS NULL
               AND (r.priority, r.created_at, r.lane_id) >= (v_cursor.priority, v_cursor.created_at, v_cursor.lane_id)
             ORDER BY r.priority, r.created_at, r.lane_id
             LIMIT 100) walk
      JOIN LATERAL (SELECT FROM queue_lanes l
                     WHERE l.lane_id = walk.lane_id AND l.required_vram_gb <= p_vram_gb
                       AND l.quantization_ids <@ p_quantization_ids OFFSET 0) fits ON true
     LIMIT 1;
    IF NOT FOUND THEN
        SELECT next.priority, next.created_at, next.lane_id
          INTO priority, created_at, lane_id
          FROM queue_merge_lanes(p_vram_gb, p_quantization_ids,
                                 v_cursor.priority, v_cursor.created_at, v_cursor.lane_id, 1) next;
    END IF;
    IF NOT FOUND THEN
        -- The end of the order: every row that becomes ready from now on makes a reset.
        SELECT 2147483647, 'infinity', 2147483647 INTO priority, created_at, lane_id;
    END IF;
    INSERT INTO claim_cursors AS m (vram_gb, quantization_ids, priority, created_at, lane_id)
    VALUES (p_vram_gb, p_quantization_ids, priority, created_at, lane_id)
    ON CONFLICT (vram_gb, quantization_ids) DO UPDATE
       SET priority = excluded.priority, created_at = excluded.created_at, lane_id = excluded.lane_id,
           advanced_at = excluded.advanced_at;
END $$;

-- Makes a reset for a row that became ready before a cursor. Called by the triggers of run_queue (V2__queue.sql).
CREATE OR REPLACE FUNCTION queue_reset_claim_cursors(p_lane_id integer, p_priority integer, p_created_at timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- The INSERT sees every cursor that was advanced before this lock was granted, unless the snapshot is older
    -- (repeatable read, serializable): then the reset is made in any case.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('claim_cursors', 0));
    INSERT INTO claim_cursor_resets (lane_id, priority, created_at)
    SELECT p_lane_id, p_priority, p_created_at
     WHERE current_setting('transaction_isolation') <> 'read committed'
        OR (EXISTS (SELECT FROM claim_cursors m
                     WHERE (m.priority, m.created_at, m.lane_id) > (p_priority, p_created_at, p_lane_id))
            AND NOT EXISTS (SELECT FROM claim_cursor_resets o
                             WHERE o.lane_id = p_lane_id
                               AND (o.priority, o.created_at) <= (p_priority, p_created_at)));
END $$;
