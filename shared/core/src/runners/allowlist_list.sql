SELECT * FROM allowlist WHERE entry_id > $1 ORDER BY entry_id LIMIT $2
