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

-- What only replicas need. The window of the cycle that receives over a link; see spool/windows.rs.
CREATE TABLE windows (
    cycle BYTEA PRIMARY KEY,
    link  TEXT COLLATE "C" NOT NULL,
    trace TEXT NOT NULL,                 -- the window's span, as a traceparent
    lease TEXT COLLATE "C" NOT NULL,     -- under which it is open
    token BIGINT NOT NULL
);
CREATE INDEX windows_link ON windows (link);
-- What came in it by a replica that does not keep the link; only grows, but for what is open.
CREATE TABLE arrivals (
    cycle    BYTEA NOT NULL REFERENCES windows (cycle) ON DELETE CASCADE,
    owner    TEXT NOT NULL,
    messages BIGINT NOT NULL,
    bytes    BIGINT NOT NULL,
    open     BIGINT NOT NULL,            -- transactions under way
    stirs    BIGINT NOT NULL,            -- so often something happened
    at_ms    BIGINT NOT NULL,            -- written at, by the server's clock
    PRIMARY KEY (cycle, owner)
);
CREATE INDEX messages_cycle ON messages (cycle) WHERE cycle IS NOT NULL;

-- A call for a cycle that the link's keeper is to take; see spool/calls.rs.
CREATE TABLE calls (
    id       BYTEA PRIMARY KEY,
    link     TEXT COLLATE "C" NOT NULL,
    trigger  TEXT NOT NULL,
    request  BYTEA,                      -- the request id; NULL: none
    digest   BYTEA,
    caller   TEXT NOT NULL,              -- the span of the call, as a traceparent
    asked_ms BIGINT NOT NULL,            -- by the server's clock
    answer   TEXT,                       -- NULL: none yet
    cycle    BYTEA,                      -- that was started, or is running
    reason   TEXT NOT NULL DEFAULT ''
);
CREATE INDEX calls_open ON calls (link, asked_ms) WHERE answer IS NULL;

-- A link as its keeper sees it.
CREATE TABLE link_views (
    link  TEXT COLLATE "C" PRIMARY KEY,
    view  TEXT NOT NULL,                 -- JSON of cycle::LinkView
    lease TEXT COLLATE "C" NOT NULL,     -- under which it was shown
    token BIGINT NOT NULL
);

-- Who wants a lease that another has, and when he last said so; see spool/leases.rs.
ALTER TABLE leases
    ADD COLUMN wanted_by TEXT NOT NULL DEFAULT '',
    ADD COLUMN wanted_ms BIGINT NOT NULL DEFAULT 0;
