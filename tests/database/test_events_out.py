"""Events for readers outside of the cluster: the views' names, ULIDs and texts, and the role that may read them."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import msgspec
import pytest
from ulid import ULID

from shard_worker.database.migration import migrate
from shard_worker.domain.events import Event, MessagesAdded, ThreadCreated
from shard_worker.domain.ids import ulid_text, ulid_uuid
from shard_worker.journal.codec import EVENT_NAMES, EVENT_VERSIONS, encode
from tests.support.journal_writer import SHARDS, JournalWriter, created, new_thread, whole_life

LOGIN = "a_reader"
SECRET = "a text for few"


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The login that migrated."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def reader(dsn: str, admin: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A login with the reader's role alone."""
    await admin.execute(
        f"DO $$ BEGIN CREATE ROLE {LOGIN} LOGIN PASSWORD 'it'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        f" GRANT threadcluster_reader TO {LOGIN}"
    )
    parts = urlsplit(dsn)
    connection = await asyncpg.connect(urlunsplit(parts._replace(netloc=f"{LOGIN}:it@127.0.0.1:{parts.port}")))
    yield connection
    await connection.close()


def secret_life() -> list[Event]:
    """One event of every type, each of its texts `SECRET`."""
    events: list[Event] = []
    for event in whole_life():
        if isinstance(event, ThreadCreated):
            event = msgspec.structs.replace(event, title=SECRET, remarks=SECRET)
        elif isinstance(event, MessagesAdded):
            posted = tuple([msgspec.structs.replace(each, text=SECRET) for each in event.messages])
            event = msgspec.structs.replace(event, messages=posted)
        events.append(event)
    return events


def without_texts(event: Event) -> Any:
    """The payload of an event whose texts are all null."""
    payload = json.loads(encode(event)[2])
    if isinstance(event, ThreadCreated):
        return payload | {"title": None, "remarks": None}
    if isinstance(event, MessagesAdded):
        return payload | {"messages": [each | {"text": None} for each in payload["messages"]]}
    return payload


async def test_the_views_show_every_event_by_its_name_with_ids_as_ulids(
    admin: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    """Every type; the one view without texts, the other with the whole payload."""
    thread, events = new_thread(3), secret_life()
    await JournalWriter(admin).write(thread, *events)
    for connection, view, payload_of in (
        (reader, "journal_event", without_texts),
        (admin, "journal_event_text", lambda event: json.loads(encode(event)[2])),
    ):
        rows = await connection.fetch(f"SELECT * FROM {view} ORDER BY shard_seq")
        assert [row["event"] for row in rows] == [type(event).__name__ for event in events]
        assert {row["event"] for row in rows} == set(EVENT_NAMES.values())
        assert [json.loads(row["payload"]) for row in rows] == [payload_of(event) for event in events]
        assert {(row["thread_id"], row["thread_uuid"]) for row in rows} == {(thread, ulid_uuid(thread))}
        assert [row["at"].timestamp() * 1000 for row in rows] == [event.at for event in events]
        assert [row["account_id"] for row in rows] == [getattr(event, event.__struct_fields__[0]) for event in events]
        assert all(row["version"] == 1 and len(row["command_id"]) == 32 for row in rows)


def test_a_new_version_of_an_event_needs_new_views() -> None:
    """`event_json_without_texts` shows nothing of a version that it does not know: a migration teaches it."""
    assert set(EVENT_VERSIONS.values()) == {1}


async def test_ulids_are_those_of_the_domain(reader: asyncpg.Connection) -> None:
    """Every bit of an id has its place, both ways, in either case."""
    ids = [UUID(int=1 << bit) for bit in range(128)] + [UUID(int=0), UUID(int=(1 << 128) - 1), ULID().to_uuid4()]
    texts = await reader.fetchval(
        "SELECT array_agg(ulid_text(id) ORDER BY n) FROM unnest($1::uuid[]) WITH ORDINALITY AS t (id, n)", ids
    )
    assert texts == [ulid_text(id.bytes) for id in ids]
    for write in (str.upper, str.lower):
        back = await reader.fetchval(
            "SELECT array_agg(ulid_uuid(t) ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY AS t (t, n)",
            [write(text) for text in texts],
        )
        assert back == ids
    for text in ("", "8" + "0" * 25, "0" * 25, "0" * 27, "0" * 25 + "U", "0" * 25 + " "):
        with pytest.raises(asyncpg.InvalidTextRepresentationError, match="is no ULID"):
            await reader.fetchval("SELECT ulid_uuid($1)", text)


@pytest.mark.parametrize(
    "damage",
    [
        "payload = '\\xff'",
        "payload = '{{'",
        "payload = '[\"{secret}\"]'",
        "payload = '\"{secret}\"'",
        "payload = convert_to(repeat('[', 100000), 'UTF8')",
        'payload = \'{{"messages":"{secret}","at":"{secret}","words":"{secret}"}}\'',
        'payload = \'{{"messages":["{secret}"],"at":1}}\'',
        "event_type = 99",
        "event_version = 2",
        "metadata = '\\xff'",
    ],
)
async def test_a_damaged_event_fails_no_query_and_shows_no_text(
    admin: asyncpg.Connection, reader: asyncpg.Connection, damage: str
) -> None:
    """The others are shown as ever; what nothing knows is null."""
    await JournalWriter(admin).write(new_thread(3), *secret_life())
    await admin.execute(f"UPDATE journal SET {damage.format(secret=SECRET)} WHERE event_type = 7")
    rows = await reader.fetch("SELECT * FROM journal_event ORDER BY shard_seq")
    assert len(rows) == len(whole_life())
    assert sum(row["payload"] is None for row in rows) <= 1
    assert SECRET not in repr([{name: row[name] for name in row.keys() if name != "at"} for row in rows])  # noqa: SIM118
    assert len(await admin.fetch("SELECT * FROM journal_event_text")) == len(rows)


READABLE = {
    "journal_event": "*",
    "schema_migration": "*",
    "meta": "cluster_id shards system_identifier timeline generation generation_at",
}


async def test_the_reader_may_read_the_view_without_texts_and_no_more(reader: asyncpg.Connection) -> None:
    """Every table and view of every schema, every column, every privilege."""
    columns = await reader.fetch(
        "SELECT c.relname, a.attname, p.name FROM pg_class c"
        "  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
        "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS p (name)"
        " WHERE c.relkind IN ('r', 'p', 'v') AND has_column_privilege(c.oid, a.attnum, p.name)"
    )
    wrong = [
        (table, column, right)
        for table, column, right in columns
        if right != "SELECT" or not (READABLE.get(table) == "*" or column in READABLE.get(table, "").split())
    ]
    assert wrong == []
    assert {row["relname"] for row in columns} == set(READABLE)
    for statement in (
        "SELECT 1 FROM journal", "SELECT 1 FROM journal_event_text", "SELECT 1 FROM journal_json",
        "SELECT id_salt FROM meta", "DELETE FROM journal_event", "UPDATE journal_event SET epoch = 9",
        "CREATE TABLE mine (id int)",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(statement)


async def test_the_right_to_see_texts_is_granted_apart_and_stays(
    dsn: str, admin: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    """To a login, or to the role; a migration neither gives nor takes it."""
    await JournalWriter(admin).write(new_thread(3), *secret_life())
    await admin.execute("GRANT SELECT ON journal_event_text TO threadcluster_reader")
    await migrate(dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
    assert SECRET in await reader.fetchval(
        "SELECT payload FROM journal_event_text WHERE shard_seq = 1 AND shard_id = 3"
    )
    await admin.execute("REVOKE SELECT ON journal_event_text FROM threadcluster_reader")
    await migrate(dsn, cluster_id="test", shards=SHARDS, say=lambda _: None)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.fetchval("SELECT count(*) FROM journal_event_text")


async def test_a_reader_cannot_lead_the_views_to_functions_of_their_own(
    admin: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    """A function of the reader's that the view called would be given the texts."""
    await JournalWriter(admin).write(new_thread(3), *secret_life())
    await admin.execute(f"CREATE SCHEMA theirs AUTHORIZATION {LOGIN}")
    for function, result in (
        ("convert_from(bytea, name)", "text"),
        ("event_json(bytea)", "jsonb"),
        ("jsonb_each(jsonb, OUT key text, OUT value jsonb)", "SETOF record"),
        ("jsonb_typeof(jsonb)", "text"),
    ):
        await reader.execute(
            f"CREATE FUNCTION theirs.{function} RETURNS {result} LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'leaked %', $1; END $$"
        )
    await reader.execute("SET search_path = theirs, pg_catalog, public")
    rows = await reader.fetch("SELECT * FROM public.journal_event ORDER BY shard_seq")
    assert json.loads(rows[0]["payload"])["title"] is None


async def test_a_shards_range_and_a_thread_are_read_by_an_index(
    admin: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    """As docs/events.md asks for them, and as the export does."""
    thread = new_thread(3)
    await JournalWriter(admin).write(thread, created())
    await admin.execute("SET enable_seqscan = off")
    for question in (
        "SELECT payload FROM journal_event WHERE shard_id = 3 AND shard_seq > 5 ORDER BY shard_seq LIMIT 100",
        "SELECT max(shard_seq) FROM journal_event WHERE shard_id = 3",
        "SELECT payload FROM journal_event WHERE thread_uuid = ulid_uuid('{thread}')"
        " AND shard_id = (SELECT shard_of(ulid_uuid('{thread}'), shards) FROM meta) ORDER BY seq_nr",
    ):
        plan = "\n".join([row[0] for row in await admin.fetch(f"EXPLAIN {question.format(thread=thread)}")])
        assert "Index" in plan, plan
        assert "Seq Scan on journal" not in plan, plan
    rows = await reader.fetch(question.format(thread=thread))
    assert len(rows) == 1
