-- Revokes a key and gives its live claims back, in one transaction. A late result of such a claim is
-- still welcome if the key is ever allowed again.
--
-- queue_revoke takes alone the lock that every claim of the key shares (claim.sql): once it has it, no
-- claim is under way that read the allowlist before, and the update below sees all there are.
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
        -- Revoked before: the answer to the request whose reply was lost.
        SELECT max(a.revoked_at) INTO revoked_at FROM allowlist a WHERE a.key_id = p_key_id;
        claims_returned := 0;
        RETURN;
    END IF;

    WITH held AS (
        SELECT q.queue_id, q.claim_id, q.claimed_by
          FROM run_queue q
         WHERE q.status IN ('CLAIMED', 'IN_PROGRESS')
           AND q.claimed_by IN (SELECT r.runner_id FROM runners r WHERE r.key_id = p_key_id)
         -- As cancel.sql and requeue.sql lock: in another order we might wait for each other.
         ORDER BY q.queue_id
           FOR UPDATE
    ), remembered AS (
        INSERT INTO past_claims (claim_id, queue_id, runner_id, ended_by)
        -- A row that a tool of the harness claimed, before there were claim ids, has none.
        SELECT claim_id, queue_id, claimed_by, 'revoked' FROM held WHERE claim_id IS NOT NULL
    ), returned AS (
        UPDATE run_queue q
           SET status = 'PENDING', claim_id = NULL, claimed_by = NULL, claimed_at = NULL, started_at = NULL,
               lease_expires_at = NULL, progress = NULL, updated_at = now()
          FROM held
         WHERE q.queue_id = held.queue_id
        RETURNING 1
    )
    SELECT count(*) INTO claims_returned FROM returned;

    INSERT INTO audit_log (actor, action, subject, detail)
    VALUES (p_admin, 'key.revoke', p_key_id,
            jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'claims_returned', claims_returned)));
END $$;
