-- What happens on claim.
--
-- One call, one round trip, one commit. A PL/pgSQL function keeps its plans in the backend, where one
-- long unnamed statement would be planned anew each time (about twice the server CPU).
--
-- A place in the order of claiming is (priority, created_at, lane_id). From the place where what a runner can
-- take begins, a claim walks over at most 100 ready rows and takes the first that fits and that nobody else
-- has locked: exact. If there is none it jumps to the first ready row that fits behind those, by comparing the
-- heads of the lanes that fit, and walks on from there. So rows that do not fit are stepped over 100 at most,
-- however many they are.
--
-- Where to begin is remembered for each class of runners, the mark (V3__class_marks.sql). Without it every claim
-- would have to jump over what stands ahead and does not fit, and would walk over every dead entry that an old
-- snapshot elsewhere keeps in the index: 50,000 of them take a claim from 0.4 to 12 ms.
--
-- It is safe because a lock has two sides. Who makes a row ready holds it shared until the commit, and notes
-- in claim_cursor_resets a row that stands before a mark (queue_reset_claim_cursors). Who raises a mark holds it alone, so
-- that no row is on its way unseen, and looks only then (queue_advance_claim_cursor). Notes are inserts, because two
-- that lower the same mark must not wait for each other's commit.
--
-- The planner's settings are part of it: a plan is made once a connection, perhaps while the table is empty
-- or was never analysed, and must not turn a walk into a sort of what is there an hour later.
--
-- Rejected, medians of one claim with the first N rows not fitting (floor 0.3 to 0.4 ms):
--   the schema's own index, the filter in the query: 2.0 ms at 10k, 334 ms at 1M, 1,348 ms at 3M;
--   the head of every fitting lane each time, 12,000 lanes: 4.0 to 4.4 ms;
--   a mark for each lane, heads asked in the order of the marks: 1.1 to 1.6 ms with 500 lanes, 9 ms with
--     12,000, and eight claimers hindered each other (7 to 10 ms);
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
    v_fit  record;
    v_from record; -- a position in the order
    v_row  record;
    v_most integer;
BEGIN
    server_time := now();

    -- Shared by all claims of the key, taken alone by its revocation (revoke.sql): without it a claim
    -- that read the allowlist just before the revocation could commit just after, and keep its job.
    -- In an expression, because a statement of its own costs a tenth of a claim.
    IF pg_advisory_xact_lock_shared(hashtextextended(p_key_id, 0)) IS NULL THEN
        RETURN; -- Never: void is not null.
    END IF;
    -- Whatever else is to be known before: one statement instead of seven.
    SELECT can.*, position.*,
           -- Often enough that few dead entries gather behind the mark, and seldom enough to cost nothing.
           cursor.advanced_at IS NULL OR cursor.advanced_at < now() - interval '200 ms' AS may_advance
      INTO v_fit
      FROM (SELECT coalesce(floor(least(coalesce(p_vram_gb, r.vram_gb), 2147483647))::integer, -1) AS vram_gb,
                   coalesce(p_quantizations, r.quantizations, '{}') AS quantizations,
                   ARRAY(SELECT m.quantization_id FROM quantization_methods m
                          WHERE m.name = ANY (coalesce(p_quantizations, r.quantizations))
                          ORDER BY m.quantization_id) AS quantization_ids,
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
        IF v_fit.recently_seen IS NOT TRUE THEN
            UPDATE runners r SET last_heartbeat = now(), status = 'ACTIVE' WHERE r.runner_id = p_runner_id;
        END IF;

        -- Rows whose `retry_after` has passed step back into the ready order: few, for a claim pays for
        -- it (sixteen cost 3 ms); the reaper brings back the bulk.
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
            SELECT position.*
              INTO v_from
              FROM (SELECT back.* FROM back
                     UNION ALL
                    SELECT v_fit.priority, v_fit.created_at, v_fit.lane_id) position
             ORDER BY position.priority, position.created_at, position.lane_id
             LIMIT 1;
        END IF;

        -- Not before here: who raises a mark holds up whoever makes a row ready, and must wait for nobody.
        IF v_fit.may_advance THEN
            SELECT * INTO v_row FROM queue_advance_claim_cursor(v_fit.vram_gb, v_fit.quantization_ids);
            IF v_row.priority IS NOT NULL THEN
                v_from := v_row;
            END IF;
        END IF;

        -- Longer walks come into it only while other claimers hold all that fits in the shorter ones.
        FOREACH v_most IN ARRAY ARRAY[100, 1000, 10000, 100000, 1000000] LOOP
            -- One candidate is locked at a time, in order, and only the one that is taken.
            SELECT q.ctid AS tid
              INTO v_row
              FROM (SELECT r.ctid AS tid, r.lane_id
                      FROM run_queue r
                     WHERE r.status = 'PENDING' AND r.retry_after IS NULL
                       AND (r.priority, r.created_at, r.lane_id)
                           >= (v_from.priority, v_from.created_at, v_from.lane_id)
                     ORDER BY r.priority, r.created_at, r.lane_id
                     LIMIT v_most) walk
              JOIN LATERAL (SELECT FROM queue_lanes l
                             WHERE l.lane_id = walk.lane_id AND l.required_vram_gb <= v_fit.vram_gb
                               AND l.quantization_ids <@ v_fit.quantization_ids OFFSET 0) fits ON true
              JOIN LATERAL (SELECT r.ctid
                              FROM run_queue r
                             WHERE r.ctid = walk.tid AND r.status = 'PENDING' AND r.retry_after IS NULL
                               FOR UPDATE SKIP LOCKED) q ON true
             LIMIT 1;
            EXIT WHEN FOUND;
            SELECT r.priority, r.created_at, r.lane_id
              INTO v_from
              FROM run_queue r
             WHERE r.status = 'PENDING' AND r.retry_after IS NULL
               AND (r.priority, r.created_at, r.lane_id) >= (v_from.priority, v_from.created_at, v_from.lane_id)
             ORDER BY r.priority, r.created_at, r.lane_id
            OFFSET v_most - 1 LIMIT 1;
            EXIT WHEN NOT FOUND;
            SELECT * INTO v_from
              FROM queue_next_ready(v_fit.vram_gb, v_fit.quantization_ids,
                                    v_from.priority, v_from.created_at, v_from.lane_id);
            EXIT WHEN NOT FOUND;
        END LOOP;

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

-- The first ready row, at this place or behind it, that such a runner can take: the best of the heads of the
-- lanes that fit. Runs within the functions here, and is planned under their settings.
CREATE OR REPLACE FUNCTION queue_next_ready(
    p_vram_gb          integer,
    p_quantization_ids integer[],
    p_priority         integer,
    p_created_at       timestamptz,
    p_lane_id          integer
) RETURNS TABLE (priority integer, created_at timestamptz, lane_id integer) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT head.priority, head.created_at, l.lane_id
      FROM queue_lanes l
      JOIN LATERAL (SELECT r.priority, r.created_at
                      FROM run_queue r
                     WHERE (r.lane_id, r.priority, r.created_at)
                           -- Of rows enqueued at one time, those in the lanes before stand before the place.
                           >= (l.lane_id, p_priority, CASE WHEN l.lane_id >= p_lane_id THEN p_created_at
                                                           ELSE p_created_at + interval '1 us' END)
                       -- A range, and the order of its index: no planner, however wrong its statistics, can
                       -- read anything else.
                       AND r.lane_id <= l.lane_id
                       AND r.status = 'PENDING' AND r.retry_after IS NULL
                     ORDER BY r.lane_id, r.priority, r.created_at
                     LIMIT 1) head ON true
     WHERE l.required_vram_gb <= p_vram_gb AND l.quantization_ids <@ p_quantization_ids
     ORDER BY head.priority, head.created_at, l.lane_id
     LIMIT 1;
END $$;

-- Takes in what was noted as lowered, and moves the mark of a class up to the first ready row that it can take;
-- says where that is, or nothing if it may not. Only who is alone may: a row on its way, uncommitted, cannot be
-- seen, and would be lost before the mark. Nobody waits for that: another will do it.
CREATE OR REPLACE FUNCTION queue_advance_claim_cursor(
    p_vram_gb          integer,
    p_quantization_ids integer[],
    OUT priority       integer,
    OUT created_at     timestamptz,
    OUT lane_id        integer
) LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_incremental_sort = off
AS $$
#variable_conflict use_column
DECLARE
    v_cursor record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('claim_cursors', 0)) THEN
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

    SELECT coalesce(m.priority, -2147483648) AS priority, coalesce(m.created_at, '-infinity') AS created_at,
           coalesce(m.lane_id, 0) AS lane_id
      INTO v_cursor
      FROM (SELECT) AS always
      LEFT JOIN claim_cursors m ON m.vram_gb = p_vram_gb AND m.quantization_ids = p_quantization_ids;
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
          FROM queue_next_ready(p_vram_gb, p_quantization_ids,
                                v_cursor.priority, v_cursor.created_at, v_cursor.lane_id) next;
    END IF;
    IF NOT FOUND THEN
        -- The end of the order: whatever comes is noted.
        priority := 2147483647;
        created_at := 'infinity';
        lane_id := 2147483647;
    END IF;
    INSERT INTO claim_cursors AS m (vram_gb, quantization_ids, priority, created_at, lane_id)
    VALUES (p_vram_gb, p_quantization_ids, priority, created_at, lane_id)
    ON CONFLICT (vram_gb, quantization_ids) DO UPDATE
       SET priority = excluded.priority, created_at = excluded.created_at, lane_id = excluded.lane_id,
           advanced_at = excluded.advanced_at;
END $$;

-- Called by the triggers of run_queue for each row that becomes ready (V2__queue.sql).
CREATE OR REPLACE FUNCTION queue_reset_claim_cursors(p_lane_id integer, p_priority integer, p_created_at timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- The next statement sees every mark raised before this lock was got: unless its snapshot is older,
    -- and then the note is made in any case.
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
