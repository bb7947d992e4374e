-- Each row of the audit log holds the SHA-256 of the row before it, so that a row that was changed or removed
-- shows: the row after it no longer fits. Whoever can rewrite the whole table can rewrite the chain with it, so the
-- reaper reports the last row's digest each minute, and its log stands elsewhere (shared/core/src/audit_chain.rs).

ALTER TABLE audit_log
    -- From 1, without gaps. Not audit_id: that is drawn before the row's turn, and never given back.
    ADD COLUMN chain_position  bigint,
    -- 32 zeros in the first row.
    ADD COLUMN previous_sha256 bytea CHECK (octet_length(previous_sha256) = 32);

-- A text by its length in bytes and its bytes, so that no two rows have the same fields in a row.
CREATE FUNCTION audit_log_field(p_text text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(octet_length(convert_to(p_text, 'UTF8')) || ':' || p_text, '-') || ','
$$;

CREATE FUNCTION audit_log_sha256(p_row audit_log) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(convert_to(
        audit_log_field(p_row.chain_position::text) || audit_log_field(encode(p_row.previous_sha256, 'hex'))
        || audit_log_field(p_row.audit_id::text)
        || audit_log_field((extract(epoch FROM p_row.at) * 1000000)::bigint::text)
        || audit_log_field(p_row.actor) || audit_log_field(p_row.action) || audit_log_field(p_row.subject)
        || audit_log_field(p_row.detail::text), 'UTF8'))
$$;

-- One writer at a time, until its commit: the next must see the row that it follows. Audit rows are rare, and every
-- statement that writes one does so last, so nobody waits for a lock while holding this one. At another isolation
-- level than READ COMMITTED the row before may not be visible; the unique index then refuses the fork.
CREATE FUNCTION audit_log_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_last audit_log;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('audit_log', 0));
    SELECT * INTO v_last FROM audit_log WHERE chain_position IS NOT NULL ORDER BY chain_position DESC LIMIT 1;
    NEW.chain_position := coalesce(v_last.chain_position, 0) + 1;
    NEW.previous_sha256 := CASE WHEN v_last.chain_position IS NULL THEN decode(repeat('00', 32), 'hex')
                                ELSE audit_log_sha256(v_last) END;
    RETURN NEW;
END $$;

-- The rows there are, in the order of their ids.
ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_append_only;
DO $$
DECLARE
    v_row      audit_log;
    v_position bigint := 0;
    v_previous bytea := decode(repeat('00', 32), 'hex');
BEGIN
    FOR v_row IN SELECT * FROM audit_log ORDER BY audit_id LOOP
        v_position := v_position + 1;
        UPDATE audit_log a SET chain_position = v_position, previous_sha256 = v_previous
         WHERE a.audit_id = v_row.audit_id
        RETURNING audit_log_sha256(a) INTO v_previous;
    END LOOP;
END $$;
ALTER TABLE audit_log ENABLE TRIGGER audit_log_is_append_only;

ALTER TABLE audit_log ALTER COLUMN chain_position SET NOT NULL, ALTER COLUMN previous_sha256 SET NOT NULL;
CREATE UNIQUE INDEX audit_log_chain_idx ON audit_log (chain_position);
CREATE TRIGGER audit_log_chain BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_log_chain();
