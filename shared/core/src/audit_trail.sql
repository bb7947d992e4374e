-- Entries of the audit log, newest first. The cursor is an audit_id, which no later insert moves.
SELECT audit_id, at, actor, action, subject, detail
  FROM audit_log
 WHERE ($1::bigint IS NULL OR audit_id < $1)
   AND ($2::text IS NULL OR subject = $2)
   AND ($3::text IS NULL OR action = $3)
   AND ($4::text IS NULL OR actor = $4)
 ORDER BY audit_id DESC
 LIMIT $5
