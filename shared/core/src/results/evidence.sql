-- One submission as it is stored, with what is needed to verify it again: the files, the public key of its signer,
-- the ids that its job's names stand for, and the metrics that were written.
SELECT s.submission_id, s.queue_id, s.run_id, s.claim_id, s.runner_id, s.sha256, s.signer_kind, s.signer,
       s.signer_issuer, s.run_status, s.late, s.bound, s.metrics, s.receipt, s.submitted_at,
       j.models, j.prompts, q.claim_nonce,
       -- Entries of the allowlist are never deleted, and all entries of a key_id have one key.
       (SELECT a.public_key FROM allowlist a WHERE a.key_id = s.signer AND a.kind = 'ed25519' LIMIT 1) AS public_key,
       ARRAY(SELECT f.name FROM submission_files f WHERE f.submission_id = s.submission_id ORDER BY f.name) AS names,
       ARRAY(SELECT f.content FROM submission_files f WHERE f.submission_id = s.submission_id
              ORDER BY f.name) AS contents,
       coalesce((SELECT json_agg(json_build_object(
                            'prompt_id', x.prompt_id, 'model_id', x.model_id, 'score', x.score,
                            'pass_fail', x.pass_fail, 'failure_reason', x.failure_reason,
                            'failure_detail', x.failure_detail, 'gflops_per_token', x.gflops_per_token))
                   FROM run_model_metrics x WHERE x.run_id = s.run_id), '[]') AS written
  FROM submissions s
  JOIN run_queue q USING (queue_id)
  LEFT JOIN queue_jobs j USING (queue_id)
 WHERE s.submission_id = $1
