-- What planned moves and takeovers add: draining workers, the history of moves, the load of shards.

ALTER TABLE worker ADD COLUMN draining boolean NOT NULL DEFAULT false;

-- shard_epoch has a row for each change of owner, so it is the history as well.
ALTER TABLE shard_epoch
    ADD COLUMN kind     text NOT NULL DEFAULT 'claim',
    ADD COLUMN source   text,                          -- the owner before
    ADD COLUMN reason   text NOT NULL DEFAULT '',
    ADD COLUMN pause_ms real;                          -- of a handoff: from the last admission to the next
CREATE INDEX CONCURRENTLY shard_epoch_claimed_at ON shard_epoch (claimed_at);

-- How busy a shard is, written by its owner now and then.
CREATE TABLE shard_load (
    shard_id       integer PRIMARY KEY REFERENCES shard (id),
    commands_s     real    NOT NULL,
    append_ms      real    NOT NULL,
    measured_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
