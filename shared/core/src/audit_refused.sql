-- Records a refused submission. An allowed runner can send as many as it likes, so what they write is bounded: 20
-- entries an hour for each key and kind, whatever the key's runners are called. The twentieth says that there may be
-- more. Transactions that run at the same time do not see each other's entry, so there may be as many more as there are
-- connections. The function's metric counts every refusal.
INSERT INTO audit_log (actor, action, subject, detail)
SELECT $1, $2, $3,
       jsonb_build_object('why', $4, 'key_id', $5)
       || CASE WHEN earlier.entries = 19 THEN jsonb_build_object('further_refusals', 'not recorded for an hour')
               ELSE '{}' END
  FROM (SELECT count(*) AS entries
          FROM audit_log
         WHERE action = $2 AND action LIKE 'submit.%' AND detail ->> 'key_id' = $5
           AND at > now() - interval '1 hour') earlier
 WHERE earlier.entries < 20
