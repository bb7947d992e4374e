-- A run with its rows, and for each row every claim ever made of it and the accepted submission with its evidence.
SELECT r.run_id, r.publisher_id, r.run_status, now() AS server_time,
       (SELECT json_build_object('by', a.actor, 'at', a.at)
          FROM audit_log a
         WHERE a.subject = r.run_id::text AND a.action = 'run.enqueue'
         ORDER BY a.audit_id LIMIT 1) AS enqueued,
       (SELECT coalesce(json_agg(row ORDER BY row.created_at, row.queue_id), '[]') FROM (
           SELECT q.queue_id, q.prompt_id, p.file_path AS prompt_path, p.git_commit_hash AS prompt_commit, q.status,
                  q.priority, q.attempt_count, q.max_attempts, q.max_runtime_s, l.required_vram_gb,
                  named.quantizations, named.labels,
                  coalesce(j.models, '[]') AS models, coalesce(j.prompts, '[]') AS prompts,
                  q.created_at, q.retry_after, q.completed_at, q.error_detail, q.progress, q.source_file,
                  (SELECT coalesce(json_agg(claim ORDER BY claim.claimed_at NULLS FIRST, claim.ended_at), '[]') FROM (
                      SELECT c.claim_id, c.runner_id, c.claimed_at, c.ended_at, c.ended_by AS state, c.detail,
                             NULL::timestamptz AS lease_expires_at
                        FROM past_claims c WHERE c.queue_id = q.queue_id
                      UNION ALL
                      SELECT q.claim_id, q.claimed_by, q.claimed_at, q.completed_at,
                             CASE q.status WHEN 'COMPLETE' THEN 'completed' WHEN 'CANCELLED' THEN 'cancelled'
                                           ELSE 'live' END, NULL, q.lease_expires_at
                       WHERE q.claimed_by IS NOT NULL) claim) AS claims,
                  (SELECT json_build_object(
                              'submission_id', s.submission_id, 'claim_id', s.claim_id, 'runner_id', s.runner_id,
                              'sha256', encode(s.sha256, 'hex'),
                              'signer', json_build_object('kind', s.signer_kind, 'id', s.signer,
                                                          'issuer', s.signer_issuer),
                              'run_status', s.run_status, 'late', s.late, 'submitted_at', s.submitted_at,
                              'receipt', s.receipt,
                              'files', (SELECT coalesce(json_agg(json_build_object(
                                                   'name', f.name, 'size', octet_length(f.content),
                                                   'sha256', encode(sha256(f.content), 'hex')) ORDER BY f.name), '[]')
                                          FROM submission_files f WHERE f.submission_id = s.submission_id))
                     FROM submissions s WHERE s.queue_id = q.queue_id) AS submission
             FROM run_queue q
             JOIN queue_lanes l USING (lane_id)
            CROSS JOIN LATERAL queue_lane_names(l.quantization_ids) named
             JOIN prompts p USING (prompt_id)
             LEFT JOIN queue_jobs j USING (queue_id)
            WHERE q.run_id = r.run_id) row) AS rows,
       (SELECT coalesce(json_agg(metric ORDER BY metric.prompt_id, metric.model), '[]') FROM (
           SELECT x.prompt_id, x.model_id, m.name AS model, x.score, x.pass_fail, x.failure_reason, x.failure_detail,
                  x.gflops_per_token
             FROM run_model_metrics x JOIN models m USING (model_id)
            WHERE x.run_id = r.run_id) metric) AS metrics,
       (SELECT json_build_object(
                   'gpu_model', g.gpu_model, 'gpu_vram_mb', g.vram_mb, 'cpu_model', s.cpu_model, 'ram_gb', s.ram_gb,
                   'os_name', o.os_name, 'os_version', o.os_version, 'driver_version', o.driver_version,
                   'peak_vram_mb', h.peak_vram_mb, 'power_limit_w', h.power_limit_w,
                   'measured_tflops', h.measured_tflops)
          FROM run_hardware_metrics h
          LEFT JOIN gpu_hardware g USING (gpu_hardware_id)
          LEFT JOIN system_hardware s USING (system_hardware_id)
          LEFT JOIN system_software o USING (system_software_id)
         WHERE h.run_id = r.run_id) AS hardware
  FROM runs r
 WHERE r.run_id = $1
