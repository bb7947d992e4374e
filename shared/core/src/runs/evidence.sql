-- A file of a run's evidence: the bytes from $4 on, at most $5 of them. Of a run with several submissions, $3 says
-- which.
SELECT s.submission_id, octet_length(f.content) AS size, encode(sha256(f.content), 'hex') AS sha256,
       substring(f.content FROM $4 FOR $5) AS content
  FROM submissions s
  JOIN submission_files f USING (submission_id)
 WHERE s.run_id = $1 AND f.name = $2 AND ($3::uuid IS NULL OR s.submission_id = $3)
 ORDER BY s.submitted_at, s.submission_id
 LIMIT 2
