-- What the columns mean stands in spool/schema.rs.
ALTER TABLE messages
    ADD COLUMN priority BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN deliver_by TEXT,
    ADD COLUMN deadline_ms BIGINT;
CREATE INDEX messages_deadline ON messages (deadline_ms) WHERE deadline_ms IS NOT NULL;

ALTER TABLE recipients
    ADD COLUMN late_ms BIGINT,
    ADD COLUMN attempts_before BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN rank BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lane BIGINT NOT NULL DEFAULT 0;
DROP INDEX recipients_due;
CREATE INDEX recipients_turn ON recipients (hop, rank, lane, due_ms, seq) WHERE state = 1;

INSERT INTO meta (key, value) VALUES ('rest_ms', '0') ON CONFLICT DO NOTHING;
UPDATE recipients SET due_ms = c.value + least(due_ms - c.now, 14400000),
    tried_ms = CASE WHEN tried_ms IS NULL THEN NULL ELSE c.value END
    FROM (SELECT CAST(value AS BIGINT) AS value, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) AS now
          FROM meta WHERE key = 'clock_ms') AS c
    WHERE state IN (1, 5, 6);
UPDATE messages SET done_ms = c.value
    FROM (SELECT CAST(value AS BIGINT) AS value FROM meta WHERE key = 'clock_ms') AS c WHERE done_ms IS NOT NULL;
UPDATE requests SET created_ms = c.value FROM (SELECT CAST(value AS BIGINT) AS value FROM meta WHERE key = 'clock_ms') AS c;
UPDATE nodes SET seen_ms = c.value FROM (SELECT CAST(value AS BIGINT) AS value FROM meta WHERE key = 'clock_ms') AS c;

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
