//! Invariants of the rows alone. Each is a statement that returns a line of text for each violation.

use tokio_postgres::Client;

use super::Checked;
use crate::error::{ErrorContext, Result};

/// An invariant, how many things it is about, and the statement that finds what violates it.
struct Rule {
    invariant: &'static str,
    of: &'static str,
    violations: &'static str,
}

const RULES: [Rule; 10] = [
    Rule {
        invariant: "every job ended",
        of: "SELECT count(*) FROM run_queue",
        violations: "SELECT format('row %s is %s', queue_id, status) FROM run_queue \
                     WHERE status NOT IN ('COMPLETE', 'FAILED', 'CANCELLED')",
    },
    Rule {
        invariant: "a failed job has spent its attempts",
        of: "SELECT count(*) FROM run_queue WHERE status = 'FAILED'",
        violations: "SELECT format('row %s failed after %s of %s attempts', queue_id, attempt_count, max_attempts) \
                     FROM run_queue WHERE status = 'FAILED' AND attempt_count <> max_attempts",
    },
    Rule {
        invariant: "a cancelled job was cancelled last",
        of: "SELECT count(*) FROM run_queue WHERE status = 'CANCELLED'",
        violations: "SELECT format('row %s is cancelled, but the last word on its run is %s', q.queue_id, \
                                   coalesce(last.action, 'none')) \
                     FROM run_queue q LEFT JOIN LATERAL ( \
                         SELECT a.action FROM audit_log a \
                          WHERE a.subject = q.run_id::text AND a.action IN ('run.cancel', 'run.requeue') \
                          ORDER BY a.at DESC, a.audit_id DESC LIMIT 1) last ON true \
                     WHERE q.status = 'CANCELLED' AND last.action IS DISTINCT FROM 'run.cancel'",
    },
    Rule {
        invariant: "a job is completed once, by its submission's claim",
        of: "SELECT count(*) FROM run_queue WHERE status = 'COMPLETE'",
        violations: "SELECT format('row %s is %s and has %s submissions', q.queue_id, q.status, count(s.*)) \
                     FROM run_queue q LEFT JOIN submissions s USING (queue_id) \
                     GROUP BY q.queue_id, q.status \
                     HAVING count(s.*) <> CASE q.status WHEN 'COMPLETE' THEN 1 ELSE 0 END \
                     UNION ALL \
                     SELECT format('row %s was completed by another claim than that of submission %s', \
                                   q.queue_id, s.submission_id) \
                     FROM submissions s JOIN run_queue q USING (queue_id) \
                     WHERE (q.claim_id, q.claimed_by, q.run_id) IS DISTINCT FROM (s.claim_id, s.runner_id, s.run_id)",
    },
    Rule {
        invariant: "a submission has evidence, metrics, hardware and receipt",
        of: "SELECT count(*) FROM submissions",
        violations: "SELECT format('submission %s lacks %s', s.submission_id, lack.what) \
                     FROM submissions s CROSS JOIN LATERAL ( \
                         SELECT 'evidence' AS what WHERE NOT EXISTS ( \
                             SELECT FROM submission_files f WHERE f.submission_id = s.submission_id \
                                AND f.name = CASE s.signer_kind WHEN 'envelope' THEN 'envelope.json' \
                                                                ELSE 'result.json' END) \
                         UNION ALL SELECT 'metrics' WHERE json_array_length(s.metrics) = 0 \
                         UNION ALL SELECT 'hardware' WHERE NOT EXISTS ( \
                             SELECT FROM run_hardware_metrics h WHERE h.run_id = s.run_id) \
                         UNION ALL SELECT 'a receipt' WHERE s.receipt = '') lack",
    },
    Rule {
        invariant: "the metrics are those of the submission",
        of: "SELECT count(*) FROM run_model_metrics",
        violations: "SELECT format('run %s, prompt %s: score %s, but %s in the submission', s.run_id, m.prompt_id, \
                                   coalesce(x.score::text, 'none'), coalesce(m.score::text, 'none')) \
                     FROM submissions s \
                     CROSS JOIN LATERAL json_to_recordset(s.metrics) \
                         AS m(prompt_id integer, model_id uuid, score double precision) \
                     LEFT JOIN run_model_metrics x \
                       ON (x.run_id, x.prompt_id, x.model_id) = (s.run_id, m.prompt_id, m.model_id) \
                     WHERE x.run_id IS NULL OR x.score IS DISTINCT FROM m.score",
    },
    Rule {
        invariant: "a run is as good as its worst submission",
        of: "SELECT count(DISTINCT run_id) FROM submissions",
        violations: "SELECT format('run %s is %s, its worst submission %s', r.run_id, \
                                   coalesce(r.run_status, 'nothing'), worst.run_status) \
                     FROM runs r JOIN LATERAL ( \
                         SELECT s.run_status FROM submissions s WHERE s.run_id = r.run_id \
                          ORDER BY array_position(ARRAY['failed', 'incomplete', 'complete'], s.run_status) \
                          LIMIT 1) worst ON true \
                     WHERE r.run_status IS DISTINCT FROM worst.run_status",
    },
    Rule {
        invariant: "no claim is both past and present",
        of: "SELECT (SELECT count(*) FROM past_claims) + (SELECT count(*) FROM run_queue WHERE claim_id IS NOT NULL)",
        violations: "SELECT format('claim %s is past, and still that of row %s', c.claim_id, q.queue_id) \
                     FROM past_claims c JOIN run_queue q USING (claim_id)",
    },
    // A claim that brought a late result is past no more: it may have counted as an attempt. Times near a requeue
    // may belong to either side of it, for a transaction's time is that of its begin.
    Rule {
        invariant: "attempts add up",
        of: "SELECT count(*) FROM run_queue",
        violations: "WITH requeued AS ( \
                         SELECT subject, max(at) AS at FROM audit_log WHERE action = 'run.requeue' GROUP BY subject \
                     ), counted AS ( \
                         SELECT q.queue_id, q.attempt_count, q.max_attempts, coalesce(s.late, false) AS late, \
                                count(c.*) FILTER (WHERE r.at IS NULL \
                                                      OR c.ended_at > r.at + interval '50 ms') AS surely, \
                                count(c.*) FILTER (WHERE r.at IS NULL \
                                                      OR c.ended_at > r.at - interval '50 ms') AS perhaps \
                           FROM run_queue q \
                           LEFT JOIN past_claims c ON c.queue_id = q.queue_id AND c.ended_by IN ('lapsed', 'failed') \
                           LEFT JOIN requeued r ON r.subject = q.run_id::text \
                           LEFT JOIN submissions s ON s.queue_id = q.queue_id \
                          GROUP BY q.queue_id, s.late) \
                     SELECT format('row %s counts %s attempts of %s, its past claims %s to %s', queue_id, \
                                   attempt_count, max_attempts, surely, perhaps + late::integer) \
                     FROM counted \
                     WHERE attempt_count NOT BETWEEN least(surely, max_attempts) \
                                                 AND least(perhaps + late::integer, max_attempts)",
    },
    Rule {
        invariant: "what a revocation returned is among the past claims",
        of: "SELECT count(*) FROM audit_log WHERE action = 'key.revoke'",
        // A late result of a revoked claim takes it out of the past ones.
        violations: "SELECT format('the audit log says %s claims were returned, %s are among the past ones, and %s \
                                   results came late', told.claims, past.claims, late.results) \
                     FROM (SELECT coalesce(sum((detail ->> 'claims_returned')::bigint), 0) AS claims \
                             FROM audit_log WHERE action = 'key.revoke') told, \
                          (SELECT count(*) AS claims FROM past_claims WHERE ended_by = 'revoked') past, \
                          (SELECT count(*) AS results FROM submissions WHERE late) late \
                     WHERE told.claims NOT BETWEEN past.claims AND past.claims + late.results",
    },
];

/// Checks them all.
///
/// # Errors
/// When the database cannot be read.
pub async fn check(client: &Client) -> Result<Vec<Checked>> {
    let mut checked = Vec::new();
    for rule in RULES {
        let doing = || format!("check that {}", rule.invariant);
        let of: i64 = client.query_one(rule.of, &[]).await.context(doing())?.get(0);
        let rows = client.query(rule.violations, &[]).await.context(doing())?;
        checked.push(Checked {
            invariant: rule.invariant,
            of: of as usize,
            violations: rows.iter().map(|row| row.get(0)).collect(),
        });
    }
    Ok(checked)
}
