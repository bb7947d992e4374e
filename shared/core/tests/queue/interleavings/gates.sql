-- Gates: points inside a statement at which a test lets it wait, and lets it pass one at a time.
--
-- A session that names itself an actor (gate.actor) stops at each gate it comes to until the test, which holds the
-- gates' locks, lets go of that one. Other sessions pass. Locks of two integers are gates; the service's own
-- advisory locks are of one bigint.
CREATE FUNCTION gate() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_actor  integer := nullif(current_setting('gate.actor', true), '')::integer;
    v_number integer := coalesce(nullif(current_setting('gate.number', true), ''), '0')::integer;
BEGIN
    IF v_actor IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('gate.number', (v_number + 1)::text, false);
    PERFORM pg_advisory_lock_shared(v_actor, v_number);
    PERFORM pg_advisory_unlock_shared(v_actor, v_number);
END $$;

-- A row of the queue that is about to be written: its lock is held, and what the statement read is past.
-- And one that has been written: uncommitted, whatever else the statement does.
CREATE FUNCTION gate_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM gate();
    RETURN NEW;
END $$;
CREATE TRIGGER a_gate_locked BEFORE UPDATE ON run_queue FOR EACH ROW EXECUTE FUNCTION gate_row();
CREATE TRIGGER a_gate_written AFTER UPDATE ON run_queue FOR EACH ROW EXECUTE FUNCTION gate_row();

-- Puts a gate before the line of a function that begins with a text, which must stand in it once.
CREATE FUNCTION put_gate(p_function regproc, p_before text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_source text := pg_get_functiondef(p_function);
    v_parts  text[] := string_to_array(v_source, p_before);
BEGIN
    IF cardinality(v_parts) <> 2 THEN
        RAISE EXCEPTION '% has % times: %', p_function, cardinality(v_parts) - 1, p_before;
    END IF;
    EXECUTE v_parts[1] || E'PERFORM gate();\n    ' || p_before || v_parts[2];
END $$;
