"""The tables of the embedded store's file, and the migrations of files of earlier releases."""

from __future__ import annotations

from raiden.history import durables, stream_rows

# Times are microseconds since 1970, by the store's clock.
SCHEMA = """
CREATE TABLE channels (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    next INTEGER NOT NULL,       -- the offset that the next message gets
    first INTEGER NOT NULL,      -- offsets below are hidden
    removed INTEGER NOT NULL,    -- offsets below are removed
    fades INTEGER NOT NULL,      -- when the last message expires as soon as another follows; 0: no other time
    ends INTEGER NOT NULL,       -- when it is forgotten, if no messages are left
    proof TEXT NOT NULL DEFAULT '',  -- of the last message
    life TEXT NOT NULL DEFAULT '',   -- of the file, in which the last message was appended
    past TEXT NOT NULL DEFAULT '',   -- the epochs before, and where each ended
    ended INTEGER NOT NULL DEFAULT 0, -- whether the last message is its end; 2: one that says nothing besides
    kinds INTEGER NOT NULL DEFAULT 0, -- of a stream: the kinds of its messages, as bits
    lapses INTEGER NOT NULL DEFAULT 0 -- of a stream: when its time is over; 0: never; 1: it is gone
);
CREATE INDEX channels_by_end ON channels (ends);
CREATE TABLE life (
    name TEXT NOT NULL           -- of the one that began when the file was opened last
);
INSERT INTO life VALUES ('');
CREATE TABLE messages (
    channel INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    published INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    payload BLOB NOT NULL,
    proof TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (channel, position)
) WITHOUT ROWID;
CREATE INDEX messages_by_age ON messages (expires);
CREATE TABLE keys (
    channel INTEGER NOT NULL,
    key TEXT NOT NULL,
    epoch TEXT NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    chain TEXT NOT NULL DEFAULT '',  -- the proof before the first message, and theirs
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE INDEX keys_by_age ON keys (expires);
CREATE TABLE kept (
    name TEXT PRIMARY KEY,
    expires INTEGER NOT NULL,
    value BLOB NOT NULL          -- its holder, NUL, and what is kept
);
CREATE INDEX kept_by_age ON kept (expires);
"""
# The scripts from one schema to the next.
MIGRATIONS = {
    1: """
ALTER TABLE channels ADD COLUMN proof TEXT NOT NULL DEFAULT '';
ALTER TABLE channels ADD COLUMN life TEXT NOT NULL DEFAULT '';
ALTER TABLE channels ADD COLUMN past TEXT NOT NULL DEFAULT '';
ALTER TABLE messages ADD COLUMN proof TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN chain TEXT NOT NULL DEFAULT '';
CREATE TABLE life (name TEXT NOT NULL);
INSERT INTO life VALUES ('');
""",
    2: durables.COUNTERS,
    3: "ALTER TABLE channels ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;",
    4: stream_rows.MIGRATION,
}

# The table of the clock, also for files that were made without it.
CLOCK = "CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 1), now INTEGER NOT NULL)"
