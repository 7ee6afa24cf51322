-- The journal, the ownership of shards, and what the workers know of each other.
-- Additive only: a later migration may add, never change the meaning of a table or a column.

CREATE TABLE meta (
    singleton      boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    cluster_id     text    NOT NULL,
    shards         integer NOT NULL CHECK (shards BETWEEN 1 AND 4096),
    -- The key of thread ids derived from idempotency keys: 244 random bits, made once and never changed.
    id_salt        bytea   NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                           CHECK (octet_length(id_salt) >= 16),
    -- The history that the database continues, stored by the first worker of a timeline; null before any came.
    system_identifier bigint,
    timeline       integer,
    generation     text,
    generation_at  timestamptz                   -- of a fail-over; null for the first history
);

CREATE TABLE worker (
    id             text    PRIMARY KEY,
    incarnation    text    NOT NULL,
    attempt        integer NOT NULL DEFAULT 0,   -- the session lock's key is (incarnation, attempt); only ever grows
    host           text    NOT NULL,
    public_port    integer NOT NULL,
    management_port integer NOT NULL,
    fenced         boolean NOT NULL DEFAULT false,
    leaving        boolean NOT NULL DEFAULT false,
    cordoned       boolean NOT NULL DEFAULT false,
    capabilities   jsonb   NOT NULL DEFAULT '{}' CHECK (
        coalesce(jsonb_typeof(capabilities -> 'reads'), 'number') = 'number'
        AND coalesce(jsonb_typeof(capabilities -> 'writes'), 'number') = 'number'
    )
) WITH (fillfactor = 50);

-- Only append and ownership statements lock these rows; what the planner writes lives in shard_target.
CREATE TABLE shard (
    id             integer PRIMARY KEY,
    epoch          bigint  NOT NULL DEFAULT 0,
    owner          text,
    incarnation    text,
    database       smallint NOT NULL DEFAULT 0,
    format         integer NOT NULL DEFAULT 1 CHECK (format > 0),  -- the newest that its events may be written in
    changed_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((owner IS NULL) = (incarnation IS NULL))
) WITH (fillfactor = 50);

CREATE TABLE shard_target (
    shard_id       integer PRIMARY KEY REFERENCES shard (id),
    target         text,
    reason         text    NOT NULL DEFAULT '',
    plan_version   bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE plan (
    singleton      boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version        bigint  NOT NULL DEFAULT 0,
    hash           text    NOT NULL DEFAULT '',
    made_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- One row a claim: with the journal it proves one owner an epoch.
CREATE TABLE shard_epoch (
    shard_id       integer NOT NULL REFERENCES shard (id),
    epoch          bigint  NOT NULL,
    worker         text,
    incarnation    text,
    from_seq       bigint,
    claimed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard_id, epoch)
);

CREATE TABLE journal (
    shard_id       integer  NOT NULL,
    shard_seq      bigint   NOT NULL CHECK (shard_seq > 0),
    thread_id      uuid     NOT NULL,
    seq_nr         bigint   NOT NULL CHECK (seq_nr > 0),
    event_type     smallint NOT NULL,
    event_version  smallint NOT NULL,
    payload        bytea    NOT NULL,
    metadata       bytea    NOT NULL,
    key_hash       bytea    CHECK (octet_length(key_hash) = 16),
    body_hash      bytea    CHECK (octet_length(body_hash) = 16),
    epoch          bigint   NOT NULL,
    written_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard_id, thread_id, seq_nr),
    CHECK ((key_hash IS NULL) = (body_hash IS NULL))
) WITH (
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_freeze_min_age = 0
);
CREATE UNIQUE INDEX journal_shard_seq ON journal (shard_id, shard_seq);
CREATE UNIQUE INDEX journal_key ON journal (shard_id, thread_id, key_hash) WHERE key_hash IS NOT NULL;

-- A cache of the fold; workers of two releases keep their own.  Believed only while the journal has the event at
-- seq_nr with this metadata, which holds the random id of its command.
CREATE TABLE snapshot (
    shard_id       integer NOT NULL,
    thread_id      uuid    NOT NULL,
    state_version  smallint NOT NULL,
    seq_nr         bigint  NOT NULL,
    event_metadata bytea   NOT NULL,
    state          bytea   NOT NULL,
    PRIMARY KEY (shard_id, thread_id, state_version)
) WITH (fillfactor = 80);

-- What a slice is, in SQL as in shard_worker.domain.ids: the first 14 bits of SHA-256 of the id's 16 bytes.
CREATE FUNCTION shard_of(thread_id uuid, shards integer) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((get_byte(sha256(uuid_send(thread_id)), 0) << 6) | (get_byte(sha256(uuid_send(thread_id)), 1) >> 2))
           * shards / 16384;

-- For people.
CREATE VIEW journal_json AS
    SELECT shard_id, shard_seq, thread_id, seq_nr, event_type, event_version,
           convert_from(payload, 'UTF8')::jsonb AS payload, convert_from(metadata, 'UTF8')::jsonb AS metadata,
           epoch, written_at
      FROM journal;
