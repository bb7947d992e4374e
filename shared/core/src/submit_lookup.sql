-- What a submit needs to know before it can compute anything: whether this very result was accepted
-- before, what the claim entitles to, and which database ids the job's own names stand for.
SELECT now() AS server_time,
       EXISTS (SELECT FROM allowlist
                WHERE key_id = $4 AND kind = 'ed25519' AND revoked_at IS NULL
                  AND (expires_at IS NULL OR expires_at > now())
                  AND (runner_id IS NULL OR runner_id = $3)) AS allowed,
       s.standing, s.queue_id, j.models, j.prompts,
       b.submission_id, b.queue_id AS submitted_queue_id, b.signer_kind, b.signer, b.signer_issuer, b.late,
       b.metrics, b.receipt
  FROM queue_submission_standing($1, $2, $3) s
  LEFT JOIN queue_jobs j ON j.queue_id = s.queue_id
  LEFT JOIN submissions b ON b.run_id = $1 AND b.sha256 = $5
