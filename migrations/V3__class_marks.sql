-- One mark for each class of runners in place of one for the whole order and one for each lane: a claim that
-- starts at its own class's mark has behind it all that it cannot take, as well as all that is dead.

-- Runners that can take the same lanes: as much VRAM in whole GB, and the same quantizations.
CREATE TABLE queue_marks (
    -- -1: unknown, which no lane asks for.
    vram_gb          integer     NOT NULL,
    -- Sorted and distinct, so that equal sets are equal values.
    quantization_ids integer[]   NOT NULL,
    -- A place in the order (claim.sql). Nothing that the class can take is ready before it, but for what is
    -- noted in queue_lowered.
    priority         integer     NOT NULL,
    created_at       timestamptz NOT NULL,
    lane_id          integer     NOT NULL,
    raised_at        timestamptz NOT NULL DEFAULT now(),
    -- After an hour the reaper forgets a mark, and the next claim finds its place anew: rows that came past the
    -- triggers (a restore, a replica's apply) are not missed for longer, and classes that are gone leave nothing.
    begun_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (vram_gb, quantization_ids)
) WITH (fillfactor = 50);

-- queue_mark and the marks of queue_lanes serve nobody from now on. They stay until no code is in use that was
-- deployed before this: migrations only expand.
COMMENT ON TABLE queue_mark IS 'Unused since V3.';
COMMENT ON COLUMN queue_lanes.mark_priority IS 'Unused since V3.';
COMMENT ON COLUMN queue_lanes.mark_created_at IS 'Unused since V3.';
