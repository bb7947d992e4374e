-- Revokes a key and returns its live claims to the queue, in one transaction. A late result of such a claim
-- is still accepted if the key is allowed again later.
--
-- Every claim takes the key's advisory lock in shared mode (claim.sql); queue_revoke takes it exclusively.
-- Without the lock: T1 (claim) reads the allowlist, T2 (revoke) commits, T1 commits and keeps its job. With
-- it, T2 waits for T1's commit, and the update below sees T1's claim.
CREATE OR REPLACE FUNCTION queue_revoke(
    p_key_id text,
    p_admin  text,
    p_reason text,
    OUT revoked_at      timestamptz, -- null: no such key
    OUT claims_returned bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_key_id, 0));

    UPDATE allowlist a
       SET revoked_at = now(), revoked_by = p_admin, revoked_reason = p_reason
     WHERE a.key_id = p_key_id AND a.revoked_at IS NULL
    RETURNING a.revoked_at INTO revoked_at;
    IF NOT FOUND THEN
        -- Revoked already: answer a retry whose first reply was lost.
        SELECT max(a.revoked_at) INTO revoked_at FROM allowlist a WHERE a.key_id = p_key_id;
        claims_returned := 0;
        RETURN;
    END IF;

    WITH held AS (
        SELECT q.queue_id, q.claim_id, q.claimed_by, q.claimed_at
          FROM run_queue q
         WHERE q.status IN ('CLAIMED', 'IN_PROGRESS')
           AND q.claimed_by IN (SELECT r.runner_id FROM runners r WHERE r.key_id = p_key_id)
         -- The same lock order as cancel.sql and requeue.sql, which prevents a deadlock with them.
         ORDER BY q.queue_id
           FOR UPDATE
    ), archived AS (
        INSERT INTO past_claims (claim_id, queue_id, runner_id, claimed_at, ended_by)
        -- Rows claimed by the harness's own tools, before claim ids existed, have none.
        SELECT claim_id, queue_id, claimed_by, claimed_at, 'revoked' FROM held WHERE claim_id IS NOT NULL
    ), requeued AS (
        UPDATE run_queue q
           SET status = 'PENDING', claim_id = NULL, claimed_by = NULL, claimed_at = NULL, started_at = NULL,
               lease_expires_at = NULL, progress = NULL, updated_at = now()
          FROM held
         WHERE q.queue_id = held.queue_id
        RETURNING 1
    )
    SELECT count(*) INTO claims_returned FROM requeued;

    INSERT INTO audit_log (actor, action, subject, detail)
    VALUES (p_admin, 'key.revoke', p_key_id,
            jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'claims_returned', claims_returned)));
END $$;
