-- The role that the functions connect as. It can do what their statements do and nothing else: no DDL, no change of
-- the audit log, of evidence, or of what identifies a row. Applied after every migration, by the schema's owner.

DO $$
DECLARE
    v_owned regclass;
    v_kind  "char";
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bakeoff_functions') THEN
        BEGIN
            -- Without a password: nobody can connect as it until one is set (`functions_role::set_password`).
            CREATE ROLE bakeoff_functions LOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- Roles belong to the server: a migration of another database was a moment faster.
        END;
    END IF;

    -- Starts from nothing, so that a privilege that is no longer listed below is gone. In one transaction with the
    -- grants: no function notices. Tables of others (an extension's, in this schema) are left alone.
    FOR v_owned, v_kind IN
        SELECT c.oid, c.relkind
          FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM bakeoff_functions',
                       CASE v_kind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, v_owned);
    END LOOP;
    -- By default everyone may create temporary tables, which hide those of the schema from later statements.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;

GRANT USAGE ON SCHEMA public TO bakeoff_functions;
-- Before PostgreSQL 15 everyone may create tables there.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- The audit log and evidence: written once. Id, time and place in the chain are not the writer's to choose.
GRANT SELECT, INSERT (actor, action, subject, detail) ON audit_log TO bakeoff_functions;
GRANT SELECT, INSERT ON submissions, submission_files TO bakeoff_functions;

-- The queue. A row stays of its run, its prompt, its lane and its limits.
GRANT SELECT, INSERT,
      UPDATE (status, priority, attempt_count, retry_after, claim_id, claim_nonce, claimed_by, claimed_at, started_at,
              lease_expires_at, progress, completed_at, error_detail, updated_at)
   ON run_queue TO bakeoff_functions;
GRANT SELECT, INSERT ON queue_jobs, queue_lanes, queue_labels, enqueue_requests TO bakeoff_functions;
GRANT SELECT, INSERT, DELETE ON past_claims, claim_cursor_resets, run_queue_counts TO bakeoff_functions;
GRANT SELECT, INSERT, UPDATE, DELETE ON claim_cursors TO bakeoff_functions;
GRANT SELECT, UPDATE ON reaper_state TO bakeoff_functions;

-- Runners and the allowlist. A runner_id stays with its first key, and an entry can only be revoked.
GRANT SELECT, INSERT,
      UPDATE (key_id, hostname, process_id, effective_user, last_heartbeat, status, started_at, description, vram_gb,
              quantizations, labels, failures_in_a_row, claims_paused_until)
   ON runners TO bakeoff_functions;
GRANT SELECT, INSERT, UPDATE (revoked_at, revoked_by, revoked_reason) ON allowlist TO bakeoff_functions;
GRANT SELECT (forget_at), INSERT, DELETE ON spent_proofs TO bakeoff_functions;

-- The harness's tables: what enqueue looks up or creates, and what a result writes.
GRANT SELECT ON source_types, quantization_methods, model_architectures, model_file_formats TO bakeoff_functions;
GRANT SELECT, INSERT ON models, model_sources, prompts TO bakeoff_functions;
GRANT INSERT ON creators TO bakeoff_functions;
GRANT SELECT (task_id, name, natural_key_hash), INSERT, UPDATE (name) ON tasks TO bakeoff_functions;
GRANT SELECT, INSERT, UPDATE (runner_id, submitted_at, prompt_git_hash, run_status) ON runs TO bakeoff_functions;
GRANT SELECT, INSERT, UPDATE (score, pass_fail, failure_reason, failure_detail, gflops_per_token)
   ON run_model_metrics TO bakeoff_functions;
GRANT SELECT, INSERT,
      UPDATE (system_hardware_id, system_software_id, gpu_hardware_id, peak_vram_mb, power_limit_w, measured_tflops)
   ON run_hardware_metrics TO bakeoff_functions;
GRANT SELECT, INSERT ON system_hardware, system_software, gpu_hardware TO bakeoff_functions;
GRANT INSERT ON system_gpu_link TO bakeoff_functions;

-- The sequences of the serial columns that they insert into. An identity column needs no privilege.
DO $$
DECLARE
    v_sequence regclass;
BEGIN
    FOR v_sequence IN
        SELECT d.objid
          FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
           AND c.relkind = 'S' AND has_table_privilege('bakeoff_functions', d.refobjid, 'INSERT')
    LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO bakeoff_functions', v_sequence);
    END LOOP;
END $$;
