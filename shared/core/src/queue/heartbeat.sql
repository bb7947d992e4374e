-- Renews the lease of a live claim. The first heartbeat moves the row from CLAIMED to IN_PROGRESS; later ones
-- change no indexed column, so their updates are HOT.
--
-- An expired lease is renewed too if the reaper has not taken the row back yet: the row still holds the claim.
--
-- A function, because a PL/pgSQL function caches its plans and the heartbeat is the most frequent request. A plan
-- may be cached while the table is nearly empty; the settings keep it from being a sequential scan.
CREATE OR REPLACE FUNCTION queue_heartbeat(
    p_run_id    uuid,
    p_claim_id  uuid,
    p_key_id    text,
    p_runner_id text,
    p_lease_s   integer,
    p_progress  jsonb, -- null: keep the previous one
    OUT outcome          text, -- continue, cancel, claim_lost, key_not_allowed
    OUT server_time      timestamptz,
    OUT lease_expires_at timestamptz
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
    server_time := now();
    IF NOT EXISTS (SELECT FROM allowlist a
                    WHERE a.key_id = p_key_id AND a.kind = 'ed25519'
                      AND allowlist_admits(a, p_runner_id)) THEN
        outcome := 'key_not_allowed';
        RETURN;
    END IF;

    UPDATE run_queue q
       SET status = 'IN_PROGRESS', started_at = coalesce(q.started_at, now()),
           lease_expires_at = now() + make_interval(secs => p_lease_s),
           progress = coalesce(p_progress, q.progress), updated_at = now()
     WHERE q.claim_id = p_claim_id AND q.run_id = p_run_id AND q.claimed_by = p_runner_id
       AND q.status IN ('CLAIMED', 'IN_PROGRESS')
    RETURNING q.lease_expires_at INTO lease_expires_at;
    IF FOUND THEN
        UPDATE runners r SET last_heartbeat = now(), status = 'ACTIVE' WHERE r.runner_id = p_runner_id;
        outcome := 'continue';
        RETURN;
    END IF;

    -- The run was cancelled, or another runner's late result completed the row. If that transaction was still
    -- open, the update above waited for its commit; this statement has a newer snapshot and sees its changes.
    IF EXISTS (SELECT FROM run_queue q
                WHERE q.claim_id = p_claim_id AND q.run_id = p_run_id AND q.claimed_by = p_runner_id
                  AND q.status = 'CANCELLED')
       OR EXISTS (SELECT FROM past_claims c JOIN run_queue q USING (queue_id)
                   WHERE c.claim_id = p_claim_id AND c.runner_id = p_runner_id AND q.run_id = p_run_id
                     AND (c.ended_by = 'superseded' OR q.status = 'CANCELLED')) THEN
        outcome := 'cancel';
    ELSE
        outcome := 'claim_lost';
    END IF;
END $$;
