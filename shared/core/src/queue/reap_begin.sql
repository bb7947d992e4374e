-- Housekeeping before the batches, and the grace after an outage of our own: if the reaper itself was
-- away for longer than a lease lasts after a heartbeat that did not come through, runners may have called
-- in vain, so nobody loses a lease before one heartbeat interval has given them the time to speak.
--
-- A run right after one with grace has none: on a schedule slower than the leases every pause looks like
-- an outage, and nothing would ever be taken back.
WITH away AS (
    UPDATE reaper_state
       SET last_run_at = now(),
           grace_until = CASE WHEN now() - last_run_at > make_interval(secs => $1 - $2)
                               AND (grace_until IS NULL OR grace_until <= last_run_at)
                              THEN now() + make_interval(secs => $2)
                              ELSE grace_until END
    RETURNING grace_until
), forgotten AS (
    DELETE FROM spent_proofs WHERE forget_at < now() RETURNING 1
), old_marks AS (
    DELETE FROM claim_cursors WHERE started_at < now() - interval '1 hour'
), silent AS (
    UPDATE runners
       SET status = 'DEAD'
     WHERE status <> 'DEAD' AND key_id IS NOT NULL
       AND last_heartbeat < now() - make_interval(secs => $3)
    RETURNING 1
)
SELECT (SELECT grace_until FROM away WHERE grace_until > now()) AS grace_until,
       (SELECT count(*) FROM forgotten) AS forgotten_proofs,
       (SELECT count(*) FROM silent) AS silent_runners
