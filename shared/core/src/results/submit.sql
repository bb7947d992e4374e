-- Returns whether a claim may complete its row. A claim that lapsed, or that a revocation ended, may do so as long as
-- no other result has.
--
-- Returns a table, because Postgres inlines only such a function into its caller's plan. Planning it at each call
-- takes longer than the rest of a lookup.
CREATE OR REPLACE FUNCTION queue_claim_state(p_run_id uuid, p_claim_id uuid, p_runner_id text)
RETURNS TABLE (
    claim_state text, -- on_time, late, claim_lost, run_finished, cancelled
    queue_id uuid,
    nonce    uuid
) LANGUAGE sql STABLE AS $$
    SELECT CASE
               WHEN c.status = 'COMPLETE' THEN 'run_finished'
               WHEN c.status = 'CANCELLED' THEN 'cancelled'
               WHEN c.ended_by IS NULL AND c.status IN ('CLAIMED', 'IN_PROGRESS') THEN 'on_time'
               WHEN c.ended_by IN ('lapsed', 'revoked') THEN 'late'
               ELSE 'claim_lost'
           END,
           c.queue_id, c.nonce
      FROM (SELECT) AS always
      LEFT JOIN (
        SELECT q.queue_id, q.status, NULL AS ended_by, q.claim_nonce AS nonce
          FROM run_queue q
         WHERE q.claim_id = p_claim_id AND q.run_id = p_run_id AND q.claimed_by = p_runner_id
        UNION ALL
        SELECT q.queue_id, q.status, p.ended_by, p.nonce
          FROM past_claims p JOIN run_queue q ON q.queue_id = p.queue_id
         WHERE p.claim_id = p_claim_id AND q.run_id = p_run_id AND p.runner_id = p_runner_id
      ) c ON true
$$;

-- Reads what a submit needs: whether the same result was accepted before, whether the claim may complete its row, and
-- the job's models and prompts with their database ids.
--
-- The settings here and below: a kept plan may date from a time when the tables were small, and planning each
-- statement anew takes longer than executing it.
CREATE OR REPLACE FUNCTION queue_submit_lookup(
    p_run_id    uuid,
    p_claim_id  uuid,
    p_runner_id text,
    p_key_id    text,
    p_sha256    bytea,
    OUT server_time        timestamptz,
    OUT allowed            boolean,
    OUT claim_state        text,
    OUT queue_id           uuid,
    OUT nonce              uuid,
    OUT models             json,
    OUT prompts            json,
    OUT submission_id      uuid, -- this and the following: of the same result, accepted before
    OUT submitted_queue_id uuid,
    OUT signer_kind        text,
    OUT signer             text,
    OUT signer_issuer      text,
    OUT own                boolean, -- submitted by this runner
    OUT late               boolean,
    OUT bound              boolean,
    OUT metrics            json,
    OUT receipt            text
) LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    SELECT now(),
           EXISTS (SELECT FROM allowlist a
                    WHERE key_id = p_key_id AND kind = 'ed25519' AND allowlist_admits(a, p_runner_id)),
           s.claim_state, s.queue_id, s.nonce, j.models, j.prompts,
           b.submission_id, b.queue_id, b.signer_kind, b.signer, b.signer_issuer, b.runner_id = p_runner_id,
           b.late, b.bound, b.metrics, b.receipt
      INTO server_time, allowed, claim_state, queue_id, nonce, models, prompts,
           submission_id, submitted_queue_id, signer_kind, signer, signer_issuer, own,
           late, bound, metrics, receipt
      FROM queue_claim_state(p_run_id, p_claim_id, p_runner_id) s
      LEFT JOIN queue_jobs j ON j.queue_id = s.queue_id
      LEFT JOIN submissions b ON b.run_id = p_run_id AND b.sha256 = p_sha256;
END $$;

-- Completes the row: writes evidence, metrics, run and row in one transaction. Checks again, under the row's lock,
-- what queue_submit_lookup returned to the caller.
CREATE OR REPLACE FUNCTION queue_submit(
    p_run_id            uuid,
    p_queue_id          uuid,
    p_claim_id          uuid,
    p_runner_id         text,
    p_key_id            text,
    p_late              boolean,
    p_bound             boolean,
    p_submission_id     uuid,
    p_sha256            bytea,
    p_signer_kind       text,
    p_signer            text,
    p_signer_issuer     text,
    p_signer_key_id     text, -- the allowlist's entry for a keyless signer
    p_verified_times    timestamptz[],
    p_trust_root_sha256 bytea,
    p_run_status        text,
    p_prompt_git_hash   text,
    p_metrics           json,
    p_hardware          json,
    p_receipt           text,
    p_submitted_at      timestamptz,
    p_file_names        text[],
    p_file_contents     bytea[]
) RETURNS text -- accepted, moved (the state changed: repeat the lookup), key_not_allowed, signer_not_allowed
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_holder      record;
    v_nonce       uuid;
    v_claim_state text;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_key_id, 0));
    IF NOT EXISTS (SELECT FROM allowlist a
                    WHERE a.key_id = p_key_id AND allowlist_admits(a, p_runner_id)) THEN
        RETURN 'key_not_allowed';
    END IF;
    IF p_signer_key_id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_signer_key_id, 0));
        IF NOT EXISTS (SELECT FROM allowlist a
                        WHERE a.key_id = p_signer_key_id AND allowlist_admits(a, NULL)) THEN
            RETURN 'signer_not_allowed';
        END IF;
    END IF;

    -- Waits for a reaper, another submit or a cancel that holds the row; the next statement sees what it did.
    SELECT q.claim_id, q.claimed_by, q.claimed_at, q.status INTO v_holder
      FROM run_queue q WHERE q.queue_id = p_queue_id FOR UPDATE;
    SELECT s.claim_state INTO v_claim_state FROM queue_claim_state(p_run_id, p_claim_id, p_runner_id) s;
    IF v_claim_state IS DISTINCT FROM (CASE WHEN p_late THEN 'late' ELSE 'on_time' END) THEN
        RETURN 'moved';
    END IF;

    IF p_late THEN
        -- The claim that holds the row now is superseded: its runner is told to cancel at its next heartbeat.
        INSERT INTO past_claims (claim_id, queue_id, runner_id, claimed_at, ended_by)
        SELECT v_holder.claim_id, p_queue_id, v_holder.claimed_by, v_holder.claimed_at, 'superseded'
         WHERE v_holder.status IN ('CLAIMED', 'IN_PROGRESS');
        -- The late claim becomes the row's claim again.
        DELETE FROM past_claims c WHERE c.claim_id = p_claim_id RETURNING c.nonce INTO v_nonce;
    END IF;

    UPDATE run_queue q
       SET status = 'COMPLETE', claim_id = p_claim_id, claimed_by = p_runner_id,
           claim_nonce = CASE WHEN p_late THEN v_nonce ELSE q.claim_nonce END,
           claimed_at = CASE WHEN p_late THEN NULL ELSE q.claimed_at END,
           lease_expires_at = NULL, retry_after = NULL, completed_at = now(), error_detail = NULL,
           progress = NULL, updated_at = now()
     WHERE q.queue_id = p_queue_id;

    INSERT INTO submissions (submission_id, queue_id, run_id, claim_id, runner_id, sha256, signer_kind, signer,
                             signer_issuer, verified_times, trust_root_sha256, run_status, late, bound,
                             metrics, receipt, submitted_at)
    VALUES (p_submission_id, p_queue_id, p_run_id, p_claim_id, p_runner_id, p_sha256, p_signer_kind, p_signer,
            p_signer_issuer, p_verified_times, p_trust_root_sha256, p_run_status, p_late, p_bound,
            p_metrics, p_receipt, p_submitted_at);
    -- By subscript, because unnest copies every file once more, into a tuplestore.
    INSERT INTO submission_files (submission_id, name, content)
    SELECT p_submission_id, p_file_names[i], p_file_contents[i] FROM generate_subscripts(p_file_names, 1) AS i;

    INSERT INTO run_model_metrics AS x (run_id, prompt_id, model_id, score, pass_fail, failure_reason,
                                        gflops_per_token, failure_detail)
    SELECT p_run_id, m.prompt_id, m.model_id, m.score, m.pass_fail, m.failure_reason, m.gflops_per_token,
           m.failure_detail
      FROM json_to_recordset(p_metrics) AS m(prompt_id integer, model_id uuid, score double precision,
               pass_fail boolean, failure_reason text, gflops_per_token double precision, failure_detail text)
    ON CONFLICT (run_id, prompt_id, model_id) DO UPDATE
       SET score = excluded.score, pass_fail = excluded.pass_fail, failure_reason = excluded.failure_reason,
           gflops_per_token = excluded.gflops_per_token, failure_detail = excluded.failure_detail;

    PERFORM queue_write_hardware(p_run_id, p_hardware);

    -- The status of a run of several rows is the worst of theirs.
    UPDATE runs r
       SET runner_id = p_runner_id, submitted_at = p_submitted_at, prompt_git_hash = p_prompt_git_hash,
           run_status = (SELECT s.run_status FROM submissions s WHERE s.run_id = p_run_id
                          ORDER BY array_position(ARRAY['failed', 'incomplete', 'complete'], s.run_status)
                          LIMIT 1)
     WHERE r.run_id = p_run_id;
    -- A success ends the pause of a runner that failed before (release.sql).
    UPDATE runners r SET failures_in_a_row = 0, claims_paused_until = NULL
     WHERE r.runner_id = p_runner_id AND r.failures_in_a_row > 0;
    RETURN 'accepted';
END $$;

-- Finds the rows of hardware and software by value, or inserts them. The harness's schema does not make them unique,
-- and a database may hold duplicates already: a lock per value prevents more, and the oldest is used. Each is first
-- looked for without its lock, which is held until the commit: results of equal machines would otherwise commit one at
-- a time.
CREATE OR REPLACE FUNCTION queue_write_hardware(p_run_id uuid, p_hardware json)
RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    h             record;
    v_hardware_id integer;
    v_software_id integer;
    v_gpu_id      integer;
BEGIN
    SELECT * INTO h
      FROM json_to_record(p_hardware -> 'system_hardware') AS s(
               cpu_model text, cpu_cores integer, cpu_threads integer, ram_gb double precision),
           json_to_record(p_hardware -> 'system_software') AS o(
               os_name text, os_version text, driver_version text),
           json_to_record(coalesce(nullif(p_hardware ->> 'gpu_hardware', '')::json, '{}')) AS g(
               gpu_model text, vram_mb integer),
           json_to_record(p_hardware) AS m(
               peak_vram_mb integer, power_limit_w double precision, measured_tflops double precision);

    IF num_nonnulls(h.cpu_model, h.cpu_cores, h.cpu_threads, h.ram_gb) > 0 THEN
        FOR v_attempt IN 1..2 LOOP
            SELECT s.system_hardware_id INTO v_hardware_id
              FROM system_hardware s
             WHERE s.cpu_model IS NOT DISTINCT FROM h.cpu_model AND s.cpu_cores IS NOT DISTINCT FROM h.cpu_cores
               AND s.cpu_threads IS NOT DISTINCT FROM h.cpu_threads AND s.ram_gb IS NOT DISTINCT FROM h.ram_gb
               AND s.motherboard IS NULL
             ORDER BY s.system_hardware_id
             LIMIT 1;
            EXIT WHEN FOUND OR v_attempt = 2;
            PERFORM pg_advisory_xact_lock(hashtextextended('hardware:' || json_build_array(
                h.cpu_model, h.cpu_cores, h.cpu_threads, h.ram_gb), 0));
        END LOOP;
        IF v_hardware_id IS NULL THEN
            INSERT INTO system_hardware AS s (cpu_model, cpu_cores, cpu_threads, ram_gb)
            VALUES (h.cpu_model, h.cpu_cores, h.cpu_threads, h.ram_gb)
            RETURNING s.system_hardware_id INTO v_hardware_id;
        END IF;
    END IF;

    IF num_nonnulls(h.os_name, h.os_version, h.driver_version) > 0 THEN
        FOR v_attempt IN 1..2 LOOP
            SELECT s.system_software_id INTO v_software_id
              FROM system_software s
             WHERE s.os_name IS NOT DISTINCT FROM h.os_name AND s.os_version IS NOT DISTINCT FROM h.os_version
               AND s.driver_version IS NOT DISTINCT FROM h.driver_version AND s.runtime_version IS NULL
             ORDER BY s.system_software_id
             LIMIT 1;
            EXIT WHEN FOUND OR v_attempt = 2;
            PERFORM pg_advisory_xact_lock(hashtextextended('software:' || json_build_array(
                h.os_name, h.os_version, h.driver_version), 0));
        END LOOP;
        IF v_software_id IS NULL THEN
            INSERT INTO system_software AS s (os_name, os_version, driver_version)
            VALUES (h.os_name, h.os_version, h.driver_version)
            RETURNING s.system_software_id INTO v_software_id;
        END IF;
    END IF;

    IF h.gpu_model IS NOT NULL THEN
        FOR v_attempt IN 1..2 LOOP
            SELECT g.gpu_hardware_id INTO v_gpu_id
              FROM gpu_hardware g
             WHERE g.gpu_model = h.gpu_model AND g.vram_mb IS NOT DISTINCT FROM h.vram_mb
             ORDER BY g.gpu_hardware_id
             LIMIT 1;
            EXIT WHEN FOUND OR v_attempt = 2;
            PERFORM pg_advisory_xact_lock(hashtextextended('gpu:' || json_build_array(h.gpu_model, h.vram_mb), 0));
        END LOOP;
        IF v_gpu_id IS NULL THEN
            INSERT INTO gpu_hardware AS g (gpu_model, vram_mb) VALUES (h.gpu_model, h.vram_mb)
            RETURNING g.gpu_hardware_id INTO v_gpu_id;
        END IF;
        INSERT INTO system_gpu_link (system_hardware_id, gpu_hardware_id)
        SELECT v_hardware_id, v_gpu_id WHERE v_hardware_id IS NOT NULL
        ON CONFLICT DO NOTHING;
    END IF;

    -- Another row of the same run may come from another machine: the last machine is kept, and the highest peak.
    INSERT INTO run_hardware_metrics AS m (run_id, system_hardware_id, system_software_id, gpu_hardware_id,
                                           peak_vram_mb, power_limit_w, measured_tflops)
    VALUES (p_run_id, v_hardware_id, v_software_id, v_gpu_id, h.peak_vram_mb, h.power_limit_w, h.measured_tflops)
    ON CONFLICT (run_id) DO UPDATE
       SET system_hardware_id = excluded.system_hardware_id, system_software_id = excluded.system_software_id,
           gpu_hardware_id = excluded.gpu_hardware_id,
           peak_vram_mb = greatest(m.peak_vram_mb, excluded.peak_vram_mb),
           power_limit_w = excluded.power_limit_w,
           measured_tflops = coalesce(excluded.measured_tflops, m.measured_tflops);
END $$;
