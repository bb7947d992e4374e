-- Whether an allowlist entry is in force for a runner: not revoked, not expired, and bound to no runner or to
-- this one. The one definition of that rule; every statement that acts for a runner or a signer asks it.
-- Entries of keyless signers are bound to no runner, so they pass with p_runner_id null.
--
-- One expression, and STABLE like now() in it: Postgres inlines such a function into the statement that calls it,
-- so the partial index on unrevoked entries still serves and the call costs nothing
-- (test `the_allowlist_rule_is_inlined`).
CREATE OR REPLACE FUNCTION allowlist_admits(entry allowlist, p_runner_id text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT entry.revoked_at IS NULL AND (entry.expires_at IS NULL OR entry.expires_at > now())
       AND (entry.runner_id IS NULL OR entry.runner_id = p_runner_id)
$$;
