-- What the columns mean stands in spool/schema.rs.
ALTER TABLE messages
    ADD COLUMN priority BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN deliver_by TEXT,
    ADD COLUMN deadline_ms BIGINT;
CREATE INDEX messages_deadline ON messages (deadline_ms) WHERE deadline_ms IS NOT NULL;

ALTER TABLE recipients
    ADD COLUMN told_ms BIGINT,
    ADD COLUMN attempts_before BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN rank BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lane BIGINT NOT NULL DEFAULT 0;
CREATE INDEX recipients_turn ON recipients (hop, rank, lane, due_ms, seq) WHERE state = 1;

ALTER TABLE recipients
    ADD COLUMN settled_ms BIGINT,
    ADD COLUMN host TEXT NOT NULL DEFAULT '';
CREATE TABLE attempts (
    seq      BIGINT NOT NULL REFERENCES messages (seq) ON DELETE CASCADE,
    idx      BIGINT NOT NULL,
    number   BIGINT NOT NULL,
    at_ms    BIGINT NOT NULL,
    outcome  TEXT NOT NULL,
    host     TEXT NOT NULL,
    reply    TEXT NOT NULL,
    operator TEXT NOT NULL,
    PRIMARY KEY (seq, idx, number)
);
