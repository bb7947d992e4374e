-- The benchmark harness's own schema, exactly as its tools create it, so that a deployment can share a database
-- with them. Every statement is a no-op if the object exists. Nothing in this file may be renamed or dropped,
-- because the schema belongs to the harness.

CREATE TABLE IF NOT EXISTS source_types (
    source_type_id serial,
    name           text NOT NULL,
    CONSTRAINT source_types_pkey PRIMARY KEY (source_type_id),
    CONSTRAINT source_types_name_key UNIQUE (name)
);

CREATE TABLE IF NOT EXISTS quantization_methods (
    quantization_id serial,
    name            text NOT NULL,
    vram_multiplier numeric NOT NULL,
    description     text,
    CONSTRAINT quantization_methods_pkey PRIMARY KEY (quantization_id),
    CONSTRAINT quantization_methods_name_key UNIQUE (name)
);

CREATE TABLE IF NOT EXISTS model_architectures (
    architecture_id serial,
    name            text NOT NULL,
    description     text,
    CONSTRAINT model_architectures_pkey PRIMARY KEY (architecture_id),
    CONSTRAINT model_architectures_name_key UNIQUE (name)
);

CREATE TABLE IF NOT EXISTS model_file_formats (
    file_format_id serial,
    name           text NOT NULL,
    description    text,
    CONSTRAINT model_file_formats_pkey PRIMARY KEY (file_format_id),
    CONSTRAINT model_file_formats_name_key UNIQUE (name)
);

CREATE TABLE IF NOT EXISTS creators (
    creator_id          uuid NOT NULL,
    name                text NOT NULL,
    display_name        text,
    homepage            text,
    service_identifiers jsonb,
    provisional         boolean NOT NULL DEFAULT false,
    CONSTRAINT creators_pkey PRIMARY KEY (creator_id)
);

CREATE TABLE IF NOT EXISTS models (
    model_id                 uuid NOT NULL,
    name                     text NOT NULL,
    creator_id               uuid,
    model_hash               text,
    parameter_count_b        double precision,
    active_parameter_count_b double precision,
    architecture_id          integer,
    context_length_default   integer,
    context_length_min       integer,
    context_length_max       integer,
    file_format_id           integer,
    quantization_id          integer,
    model_source_mtime       timestamptz,
    model_source_size        bigint,
    release_date             date,
    version                  text,
    description              text,
    predecessor_model_id     uuid,
    provisional              boolean NOT NULL DEFAULT false,
    CONSTRAINT models_pkey PRIMARY KEY (model_id),
    CONSTRAINT models_model_hash_key UNIQUE (model_hash),
    CONSTRAINT models_architecture_id_fkey FOREIGN KEY (architecture_id) REFERENCES model_architectures(architecture_id),
    CONSTRAINT models_creator_id_fkey FOREIGN KEY (creator_id) REFERENCES creators(creator_id),
    CONSTRAINT models_file_format_id_fkey FOREIGN KEY (file_format_id) REFERENCES model_file_formats(file_format_id),
    CONSTRAINT models_predecessor_model_id_fkey FOREIGN KEY (predecessor_model_id) REFERENCES models(model_id),
    CONSTRAINT models_quantization_id_fkey FOREIGN KEY (quantization_id) REFERENCES quantization_methods(quantization_id)
);

CREATE TABLE IF NOT EXISTS model_sources (
    source_id       serial,
    model_id        uuid NOT NULL,
    source_type_id  integer NOT NULL,
    url             text NOT NULL,
    source_metadata jsonb,
    updated         timestamptz,
    CONSTRAINT model_sources_pkey PRIMARY KEY (source_id),
    CONSTRAINT model_sources_model_id_fkey FOREIGN KEY (model_id) REFERENCES models(model_id),
    CONSTRAINT model_sources_source_type_id_fkey FOREIGN KEY (source_type_id) REFERENCES source_types(source_type_id)
);

CREATE TABLE IF NOT EXISTS task_categories (
    category_id serial,
    name        text NOT NULL,
    description text,
    CONSTRAINT task_categories_pkey PRIMARY KEY (category_id),
    CONSTRAINT task_categories_name_key UNIQUE (name)
);

CREATE TABLE IF NOT EXISTS tasks (
    task_id                 serial,
    name                    text NOT NULL,
    category_id             integer,
    parent_id               integer,
    sort_order              integer NOT NULL DEFAULT 0,
    description             text,
    grader_script           text,
    grader_script_commit    text,
    natural_key_hash        text NOT NULL,
    uplift_baseline_task_id integer,
    CONSTRAINT tasks_pkey PRIMARY KEY (task_id),
    CONSTRAINT tasks_natural_key_hash_key UNIQUE (natural_key_hash),
    CONSTRAINT tasks_category_id_fkey FOREIGN KEY (category_id) REFERENCES task_categories(category_id),
    CONSTRAINT tasks_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES tasks(task_id),
    CONSTRAINT tasks_uplift_baseline_task_id_fkey FOREIGN KEY (uplift_baseline_task_id) REFERENCES tasks(task_id)
);

CREATE TABLE IF NOT EXISTS prompts (
    prompt_id            serial,
    task_id              integer NOT NULL,
    file_path            text NOT NULL,
    git_commit_hash      text NOT NULL,
    content_sha256       text,
    content_length_bytes integer,
    version              text,
    release_date         date,
    is_prerelease        boolean NOT NULL DEFAULT false,
    difficulty           integer NOT NULL DEFAULT 0,
    modified_at          timestamptz,
    CONSTRAINT prompts_pkey PRIMARY KEY (prompt_id),
    CONSTRAINT prompts_content_sha256_key UNIQUE (content_sha256),
    CONSTRAINT prompts_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(task_id)
);

CREATE TABLE IF NOT EXISTS runners (
    runner_id      text NOT NULL,
    public_key     text NOT NULL,
    hostname       text,
    process_id     integer,
    effective_user text,
    last_heartbeat timestamptz,
    status         text NOT NULL DEFAULT 'ACTIVE',
    registered_at  timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    description    text,
    CONSTRAINT runners_pkey PRIMARY KEY (runner_id),
    CONSTRAINT runners_status_check CHECK (status IN ('ACTIVE', 'IDLE', 'DEAD'))
);

CREATE TABLE IF NOT EXISTS runs (
    run_id          uuid NOT NULL,
    submitted_at    timestamptz NOT NULL,
    publisher_id    text NOT NULL,
    runner_version  text,
    prompt_git_hash text,
    runner_id       text,
    run_status      text,
    CONSTRAINT runs_pkey PRIMARY KEY (run_id),
    CONSTRAINT runs_run_status_check CHECK (run_status IN ('complete', 'incomplete', 'failed')),
    CONSTRAINT runs_runner_id_fkey FOREIGN KEY (runner_id) REFERENCES runners(runner_id)
);

CREATE TABLE IF NOT EXISTS run_queue (
    queue_id      uuid NOT NULL DEFAULT gen_random_uuid(),
    run_id        uuid NOT NULL,
    prompt_id     integer NOT NULL,
    priority      integer NOT NULL DEFAULT 100,
    status        text NOT NULL DEFAULT 'PENDING',
    attempt_count integer NOT NULL DEFAULT 0,
    max_attempts  integer NOT NULL DEFAULT 5,
    claimed_by    text,
    claimed_at    timestamptz,
    started_at    timestamptz,
    completed_at  timestamptz,
    error_detail  text,
    retry_after   timestamptz,
    source_file   text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT run_queue_pkey PRIMARY KEY (queue_id),
    CONSTRAINT run_queue_status_check CHECK (status IN ('PENDING', 'CLAIMED', 'IN_PROGRESS', 'COMPLETE', 'FAILED', 'CANCELLED')),
    CONSTRAINT run_queue_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts(prompt_id),
    CONSTRAINT run_queue_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE
);

CREATE INDEX IF NOT EXISTS run_queue_claim_idx ON run_queue USING btree (priority, created_at) WHERE status = 'PENDING';

CREATE TABLE IF NOT EXISTS agent_traces (
    trace_id          uuid NOT NULL DEFAULT gen_random_uuid(),
    run_id            uuid NOT NULL,
    prompt_id         integer NOT NULL,
    model_id          uuid NOT NULL,
    step_index        integer NOT NULL,
    action_type       text NOT NULL,
    action_payload    text,
    observation       text,
    boundary_violated boolean NOT NULL DEFAULT false,
    cost_tokens       integer,
    recorded_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_traces_pkey PRIMARY KEY (trace_id),
    CONSTRAINT agent_traces_run_id_prompt_id_model_id_step_index_key UNIQUE (run_id, prompt_id, model_id, step_index),
    CONSTRAINT agent_traces_model_id_fkey FOREIGN KEY (model_id) REFERENCES models(model_id),
    CONSTRAINT agent_traces_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts(prompt_id),
    CONSTRAINT agent_traces_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE
);

CREATE TABLE IF NOT EXISTS interface_type (
    interface_type_id serial,
    name              text NOT NULL,
    CONSTRAINT interface_type_pkey PRIMARY KEY (interface_type_id),
    CONSTRAINT interface_type_name_key UNIQUE (name)
);

CREATE TABLE IF NOT EXISTS system_hardware (
    system_hardware_id serial,
    cpu_model          text,
    cpu_cores          integer,
    cpu_threads        integer,
    ram_gb             double precision,
    motherboard        text,
    CONSTRAINT system_hardware_pkey PRIMARY KEY (system_hardware_id)
);

CREATE TABLE IF NOT EXISTS system_software (
    system_software_id serial,
    os_name            text,
    os_version         text,
    driver_version     text,
    runtime_version    text,
    CONSTRAINT system_software_pkey PRIMARY KEY (system_software_id)
);

CREATE TABLE IF NOT EXISTS gpu_hardware (
    gpu_hardware_id   serial,
    gpu_model         text NOT NULL,
    vram_mb           integer,
    interface_type_id integer,
    tflops_fp16       double precision,
    tflops_fp32       double precision,
    tflops_bf16       double precision,
    CONSTRAINT gpu_hardware_pkey PRIMARY KEY (gpu_hardware_id),
    CONSTRAINT gpu_hardware_interface_type_id_fkey FOREIGN KEY (interface_type_id) REFERENCES interface_type(interface_type_id)
);

CREATE TABLE IF NOT EXISTS system_gpu_link (
    system_hardware_id integer NOT NULL,
    gpu_hardware_id    integer NOT NULL,
    slot_index         integer NOT NULL DEFAULT 0,
    CONSTRAINT system_gpu_link_pkey PRIMARY KEY (system_hardware_id, gpu_hardware_id, slot_index),
    CONSTRAINT system_gpu_link_gpu_hardware_id_fkey FOREIGN KEY (gpu_hardware_id) REFERENCES gpu_hardware(gpu_hardware_id),
    CONSTRAINT system_gpu_link_system_hardware_id_fkey FOREIGN KEY (system_hardware_id) REFERENCES system_hardware(system_hardware_id)
);

CREATE TABLE IF NOT EXISTS run_hardware_metrics (
    run_id             uuid NOT NULL,
    system_hardware_id integer,
    system_software_id integer,
    gpu_hardware_id    integer,
    peak_vram_mb       integer,
    power_limit_w      double precision,
    measured_tflops    double precision,
    CONSTRAINT run_hardware_metrics_pkey PRIMARY KEY (run_id),
    CONSTRAINT run_hardware_metrics_gpu_hardware_id_fkey FOREIGN KEY (gpu_hardware_id) REFERENCES gpu_hardware(gpu_hardware_id),
    CONSTRAINT run_hardware_metrics_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id),
    CONSTRAINT run_hardware_metrics_system_hardware_id_fkey FOREIGN KEY (system_hardware_id) REFERENCES system_hardware(system_hardware_id),
    CONSTRAINT run_hardware_metrics_system_software_id_fkey FOREIGN KEY (system_software_id) REFERENCES system_software(system_software_id)
);

CREATE TABLE IF NOT EXISTS schema_versions (
    schema_version_id       integer NOT NULL,
    description             text,
    allow_migration         boolean NOT NULL DEFAULT false,
    schema_migration_script text,
    record_migration_script text,
    created_at              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schema_versions_pkey PRIMARY KEY (schema_version_id)
);

CREATE TABLE IF NOT EXISTS schema_tables (
    table_id           uuid NOT NULL DEFAULT gen_random_uuid(),
    table_name         text NOT NULL,
    uuid_namespace     uuid NOT NULL,
    initial_version_id integer NOT NULL,
    current_version_id integer NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    deprecated_at      timestamptz,
    CONSTRAINT schema_tables_pkey PRIMARY KEY (table_id),
    CONSTRAINT schema_tables_table_name_uuid_namespace_key UNIQUE (table_name, uuid_namespace),
    CONSTRAINT schema_tables_current_version_id_fkey FOREIGN KEY (current_version_id) REFERENCES schema_versions(schema_version_id),
    CONSTRAINT schema_tables_initial_version_id_fkey FOREIGN KEY (initial_version_id) REFERENCES schema_versions(schema_version_id)
);

CREATE TABLE IF NOT EXISTS schema_tables_join (
    src_table     uuid NOT NULL,
    dst_table     uuid NOT NULL,
    migrate_using integer NOT NULL,
    CONSTRAINT schema_tables_join_pkey PRIMARY KEY (src_table, dst_table),
    CONSTRAINT schema_tables_join_check CHECK (src_table <> dst_table),
    CONSTRAINT schema_tables_join_dst_table_fkey FOREIGN KEY (dst_table) REFERENCES schema_tables(table_id),
    CONSTRAINT schema_tables_join_migrate_using_fkey FOREIGN KEY (migrate_using) REFERENCES schema_versions(schema_version_id),
    CONSTRAINT schema_tables_join_src_table_fkey FOREIGN KEY (src_table) REFERENCES schema_tables(table_id)
);

CREATE TABLE IF NOT EXISTS run_model_metrics (
    run_id           uuid NOT NULL,
    prompt_id        integer NOT NULL,
    model_id         uuid NOT NULL,
    score            double precision,
    pass_fail        boolean,
    failure_reason   text,
    gflops_per_token double precision,
    failure_detail   text,
    trace_id         uuid,
    CONSTRAINT run_model_metrics_pkey PRIMARY KEY (run_id, prompt_id, model_id),
    CONSTRAINT run_model_metrics_model_id_fkey FOREIGN KEY (model_id) REFERENCES models(model_id),
    CONSTRAINT run_model_metrics_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts(prompt_id),
    CONSTRAINT run_model_metrics_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs(run_id),
    CONSTRAINT run_model_metrics_trace_id_fkey FOREIGN KEY (trace_id) REFERENCES agent_traces(trace_id)
);

-- Seed rows.

INSERT INTO source_types (name) VALUES
    ('direct_url'), ('huggingface'), ('local_file'), ('ollama')
ON CONFLICT (name) DO NOTHING;

INSERT INTO model_architectures (name) VALUES
    ('Dense'), ('Hybrid'), ('MoE'), ('SSM')
ON CONFLICT (name) DO NOTHING;

INSERT INTO model_file_formats (name) VALUES
    ('ExLlamaV2'), ('GGUF'), ('MLX'), ('ONNX'), ('PyTorch'), ('SafeTensors')
ON CONFLICT (name) DO NOTHING;

INSERT INTO task_categories (name) VALUES
    ('cyber_safety'), ('dumb_model')
ON CONFLICT (name) DO NOTHING;

INSERT INTO interface_type (name) VALUES
    ('NVLink 3'), ('NVLink 4'), ('PCIe 3.0 x16'), ('PCIe 4.0 x16'), ('PCIe 5.0 x16'), ('Thunderbolt 3'), ('Thunderbolt 4'), ('USB4'), ('eGPU'), ('integrated')
ON CONFLICT (name) DO NOTHING;

INSERT INTO quantization_methods (name, vram_multiplier) VALUES
    ('fp32', 4.000),
    ('fp16', 2.000),
    ('bf16', 2.000),
    ('q8_0', 1.063),
    ('q6_k', 0.820),
    ('q5_k_m', 0.684),
    ('q5_k_s', 0.664),
    ('q5_0', 0.688),
    ('q5_1', 0.750),
    ('q4_k_m', 0.563),
    ('q4_k_s', 0.545),
    ('q4_0', 0.563),
    ('q4_1', 0.625),
    ('q3_k_l', 0.461),
    ('q3_k_m', 0.465),
    ('q3_k_s', 0.410),
    ('q2_k', 0.352),
    ('iq4_xs', 0.534),
    ('iq4_nl', 0.563),
    ('iq3_m', 0.441),
    ('iq3_s', 0.394),
    ('iq3_xxs', 0.328),
    ('iq2_m', 0.289),
    ('iq2_xs', 0.274),
    ('iq2_xxs', 0.266),
    ('iq1_m', 0.219),
    ('iq1_s', 0.188)
ON CONFLICT (name) DO NOTHING;
