-- Prunes spent proofs, old cursors and silent runners, and sets the grace period after an outage of the service:
-- if the reaper has not run for longer than a lease lasts after one missed heartbeat (ttl - interval), runners'
-- heartbeats may have failed too. No lease is then ended for one heartbeat interval, so that runners can renew theirs.
--
-- A grace period is never followed directly by another: on a schedule slower than the leases every pause looks
-- like an outage, and no lease would ever be ended.
WITH grace AS (
    UPDATE reaper_state
       SET last_run_at = now(),
           grace_until = CASE WHEN now() - last_run_at > make_interval(secs => $1 - $2)
                               AND (grace_until IS NULL OR grace_until <= last_run_at)
                              THEN now() + make_interval(secs => $2)
                              ELSE grace_until END
    RETURNING grace_until
), deleted_proofs AS (
    DELETE FROM spent_proofs WHERE forget_at < now() RETURNING 1
), deleted_cursors AS (
    DELETE FROM claim_cursors WHERE started_at < now() - interval '1 hour'
), dead AS (
    UPDATE runners
       SET status = 'DEAD'
     WHERE status <> 'DEAD' AND key_id IS NOT NULL
       AND last_heartbeat < now() - make_interval(secs => $3)
    RETURNING 1
)
SELECT (SELECT grace_until FROM grace WHERE grace_until > now()) AS grace_until,
       (SELECT count(*) FROM deleted_proofs) AS forgotten_proofs,
       (SELECT count(*) FROM dead) AS silent_runners
