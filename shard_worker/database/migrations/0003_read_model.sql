-- The read model: a fold of the journal, from which lists over threads are answered.
-- Its tables exist once a generation, in a schema of their own, so that a rebuild fills new ones beside those in use.

-- The transaction that wrote an event: an account's stream finds what became visible since a snapshot.  Null: before all.
ALTER TABLE journal ADD COLUMN xid xid8;
ALTER TABLE journal ALTER COLUMN xid SET DEFAULT pg_current_xact_id();

CREATE TABLE readmodel_generation (
    generation     integer PRIMARY KEY CHECK (generation > 0),
    version        integer NOT NULL,             -- of the projection that fills it
    live           boolean NOT NULL DEFAULT false, -- queries are answered from it
    was_live       boolean NOT NULL DEFAULT false, -- or were
    made_at        timestamptz NOT NULL DEFAULT now()
);
-- A number is never used again: a worker that feeds a generation may not have seen yet that it was dropped.
CREATE SEQUENCE readmodel_generation_number AS integer START 2;
CREATE UNIQUE INDEX readmodel_generation_live ON readmodel_generation (live) WHERE live;

-- How far a generation is: every event of the shard up to seq is in its tables, or its thread is in dead_letter.
CREATE TABLE projection_offset (
    generation     integer NOT NULL REFERENCES readmodel_generation (generation) ON DELETE CASCADE,
    shard_id       integer NOT NULL,
    seq            bigint  NOT NULL DEFAULT 0 CHECK (seq >= 0),
    PRIMARY KEY (generation, shard_id)
) WITH (fillfactor = 50);

-- Threads whose projection has stopped at an event that no worker could read so far: the first of them.
CREATE TABLE dead_letter (
    generation     integer NOT NULL REFERENCES readmodel_generation (generation) ON DELETE CASCADE,
    shard_id       integer NOT NULL,
    thread_id      uuid    NOT NULL,
    seq_nr         bigint  NOT NULL,
    event_type     smallint NOT NULL,
    event_version  smallint NOT NULL,
    reason         text    NOT NULL,
    noted_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (generation, thread_id)
);
CREATE INDEX dead_letter_shard ON dead_letter (generation, shard_id);

-- How far an account has read a thread.  No part of a fold: a rebuild keeps it.
CREATE TABLE read_marker (
    thread_id      uuid    NOT NULL,
    account_id     uuid    NOT NULL,
    sequence_nr    bigint  NOT NULL,
    index          smallint NOT NULL,
    message_id     uuid    NOT NULL,
    PRIMARY KEY (thread_id, account_id)
) WITH (fillfactor = 70);

-- Makes the tables of one generation, as version 1 of the projection fills them.
CREATE FUNCTION make_readmodel_v1(generation integer) RETURNS void LANGUAGE plpgsql AS $make$
DECLARE
    place text := format('readmodel_%s', generation);
BEGIN
    EXECUTE format('CREATE SCHEMA %I', place);
    EXECUTE format($table$
        CREATE TABLE %I.thread (
            thread_id        uuid    NOT NULL,
            -- Of five minutes, of activity_at; null once destroyed.  An index of the instant would be written with every message.
            activity_slot    integer GENERATED ALWAYS AS (
                CASE WHEN destroyed_at IS NULL THEN (activity_at / 300000)::integer END) STORED,
            shard_id         integer NOT NULL,
            sequence_nr      bigint  NOT NULL,
            epoch            bigint  NOT NULL,    -- of the event with sequence_nr
            creator_id       uuid    NOT NULL,
            parent_thread_id uuid,
            title            text,
            remarks          text,
            created_at       bigint  NOT NULL,    -- epoch milliseconds, as all instants here
            updated_at       bigint  NOT NULL,
            activity_at      bigint  NOT NULL,    -- of the creation or the newest messages/add
            destroyed_at     bigint,
            newest_xid       xid8,                -- of the event with sequence_nr
            PRIMARY KEY (thread_id) INCLUDE (activity_slot)
        ) WITH (fillfactor = 60)$table$, place);
    -- Threads by their newest slot of activity: those of an account with many are found among them.
    EXECUTE format('CREATE INDEX thread_activity ON %I.thread (activity_slot, thread_id)', place);
    -- Both roles of an account in a thread; a row without either is an access that ended with the event until_nr.
    EXECUTE format($table$
        CREATE TABLE %I.thread_account (
            account_id       uuid    NOT NULL,
            thread_id        uuid    NOT NULL,
            administrator    boolean NOT NULL,
            member           boolean NOT NULL,
            until_nr         bigint,
            PRIMARY KEY (account_id, thread_id)
        )$table$, place);
    EXECUTE format('CREATE INDEX thread_account_thread ON %I.thread_account (thread_id, account_id)', place);
    -- The threads of an account, without looking at its rows; and the few administrators among many accounts.
    EXECUTE format(
        'CREATE INDEX thread_account_reader ON %I.thread_account (account_id, thread_id) WHERE until_nr IS NULL', place);
    EXECUTE format(
        'CREATE INDEX thread_account_administrator ON %I.thread_account (thread_id, account_id) WHERE administrator',
        place);
    EXECUTE format($table$
        CREATE TABLE %I.thread_message (
            thread_id        uuid    NOT NULL,
            sequence_nr      bigint  NOT NULL,
            index            smallint NOT NULL,
            message_id       uuid    NOT NULL,
            sender_id        uuid    NOT NULL,
            body             text,
            reply_message_id uuid,
            to_account_ids   uuid[],               -- null: none
            created_at       bigint  NOT NULL,
            removed          boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 95)$table$, place);
    -- A thread has few live messages, however many it had: what is listed, counted and looked up is read from this index alone.
    -- One by the message's id would cost each message as much, and spare the seldom look-up of an id a millisecond.
    EXECUTE format(
        'CREATE UNIQUE INDEX thread_message_live ON %I.thread_message (thread_id, sequence_nr, index)'
        ' INCLUDE (sender_id, message_id) WHERE NOT removed', place);
    -- Not unique: an id that was removed long ago may be given to another message, and that removed too.
    EXECUTE format(
        'CREATE INDEX thread_message_removed ON %I.thread_message (thread_id, message_id) WHERE removed', place);
    EXECUTE format($table$
        CREATE TABLE %I.thread_mention (
            account_id       uuid    NOT NULL,
            created_at       bigint  NOT NULL,
            thread_id        uuid    NOT NULL,
            sequence_nr      bigint  NOT NULL,
            index            smallint NOT NULL,
            message_id       uuid    NOT NULL,
            PRIMARY KEY (account_id, created_at, thread_id, sequence_nr, index)
        )$table$, place);
    EXECUTE format('CREATE INDEX thread_mention_thread ON %I.thread_mention (thread_id)', place);
END
$make$;
SELECT make_readmodel_v1(1);
INSERT INTO readmodel_generation (generation, version, live, was_live) VALUES (1, 1, true, true);
