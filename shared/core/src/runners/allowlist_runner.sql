-- Returns whether the allowlist admits a runner's key.
SELECT EXISTS (SELECT FROM allowlist a
                WHERE a.key_id = $1 AND a.kind = 'ed25519' AND allowlist_admits(a, $2)) AS allowed
