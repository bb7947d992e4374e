-- The role that the functions connect as. It can do what their statements do and nothing else: no DDL, no
-- changes of the audit log or of evidence. Applied after every migration, by the role that owns the schema.

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
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S')
           AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        IF v_kind = 'S' THEN
            EXECUTE format('REVOKE ALL ON SEQUENCE %s FROM bakeoff_functions', v_owned);
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO bakeoff_functions', v_owned);
        ELSE
            EXECUTE format('REVOKE ALL ON %s FROM bakeoff_functions', v_owned);
            EXECUTE format('GRANT SELECT ON %s TO bakeoff_functions', v_owned);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA public TO bakeoff_functions;
-- Before PostgreSQL 15 everybody may create tables there.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- Evidence and the audit log: written once.
GRANT INSERT ON audit_log, submissions, submission_files TO bakeoff_functions;

-- The queue.
GRANT INSERT, UPDATE ON run_queue TO bakeoff_functions;
GRANT INSERT ON queue_jobs, queue_lanes TO bakeoff_functions;
GRANT INSERT, UPDATE, DELETE ON claim_cursors TO bakeoff_functions;
GRANT INSERT, DELETE ON claim_cursor_resets, past_claims TO bakeoff_functions;
GRANT UPDATE ON reaper_state TO bakeoff_functions;

-- Runners and the allowlist: an entry is revoked, and never changed otherwise.
GRANT INSERT, UPDATE ON runners TO bakeoff_functions;
GRANT INSERT, UPDATE (revoked_at, revoked_by, revoked_reason) ON allowlist TO bakeoff_functions;
GRANT INSERT, DELETE ON spent_proofs TO bakeoff_functions;

-- The harness's tables: what enqueue finds or makes, and what a result writes.
GRANT INSERT ON creators, models, model_sources, prompts TO bakeoff_functions;
GRANT INSERT, UPDATE (name) ON tasks TO bakeoff_functions;
GRANT INSERT, UPDATE (runner_id, submitted_at, prompt_git_hash, run_status) ON runs TO bakeoff_functions;
GRANT INSERT, UPDATE ON run_model_metrics, run_hardware_metrics TO bakeoff_functions;
GRANT INSERT ON system_hardware, system_software, gpu_hardware, system_gpu_link TO bakeoff_functions;
