-- Returns whether an allowlist entry is in force for a runner: not revoked, not expired, and bound to no runner
-- or to this one. Every statement that acts for a runner or a signer calls this function. Entries of keyless
-- signers are bound to no runner, so p_runner_id is null for them.
--
-- A single expression, STABLE because of now(): Postgres inlines such a function into the calling statement, so
-- the partial index on unrevoked entries is used and the call costs nothing (test
-- `the_allowlist_predicate_is_inlined`).
CREATE OR REPLACE FUNCTION allowlist_admits(entry allowlist, p_runner_id text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT entry.revoked_at IS NULL AND (entry.expires_at IS NULL OR entry.expires_at > now())
       AND (entry.runner_id IS NULL OR entry.runner_id = p_runner_id)
$$;
