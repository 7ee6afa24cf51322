"""Idempotency keys, from the header to what the owner is asked."""

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker.domain.ids import AccountId, canonical, ulid_text
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.public.idempotency import body_hash, key_failure, key_hash, thread_id_of
from shard_worker.gateway.public.request_models import AddMessagesBody, CommandBody, CreateThreadBody, DestroyThreadBody
from tests.fakes.memory_threads import MemoryThreads
from tests.gateway.serving import ADA, BOB, THREAD, Served, serving
from tests.support.problem_checks import check

BASE = f"/v1/threads/{THREAD}"
KEY = ("Idempotency-Key", "k-1")


@pytest.fixture(params=[True, False], ids=["lane", "long way"])
def lane(request: pytest.FixtureRequest) -> bool:
    """Commands are answered alike, whichever way they take."""
    return bool(request.param)


async def test_a_retry_gets_the_first_answer(api: Served, threads: MemoryThreads) -> None:
    """One effect, one answer: even the minted message ids are those of the first time."""
    await api.create()
    body = {"accountId": BOB, "messages": [{"text": "a"}]}
    first = await api.post(BASE + "/messages/add", body, KEY)
    again = await api.post(BASE + "/messages/add", body | {"createAt": 7}, KEY)
    assert first.json == again.json
    assert len(threads.texts) == 1
    other = await api.post(BASE + "/messages/add", {"accountId": BOB, "messages": [{"text": "b"}]}, KEY)
    check(other, 409, "idempotency-key-reused")


async def test_the_same_key_on_another_path_is_another_request(api: Served) -> None:
    """The path counts as much as the body does."""
    await api.create()
    body = {"accountId": ADA, "accountIds": ["01ARZ3NDEKTSV4RRFFQ69G5FAX"]}
    assert (await api.post(BASE + "/member-ids/join", body, KEY)).status == 200
    check(await api.post(BASE + "/administrator-ids/join", body, KEY), 409, "idempotency-key-reused")


async def test_a_keyed_create_reaches_the_same_thread(api: Served) -> None:
    """Its id comes from salt, account and key: time part 0, then the first 80 bits of their HMAC."""
    first = await api.create(threadId=None)
    keyed = {"accountId": ADA, "title": "t", "administratorIds": [ADA], "memberIds": []}
    answers = [await api.post("/v1/threads/create", keyed, KEY) for _ in range(2)]
    assert answers[0].json == answers[1].json
    thread_id = answers[0].json["threadId"]
    assert thread_id != first.json["threadId"]
    assert thread_id.startswith("0" * 10)
    salt = api.gateway.options.id_salt
    digest = hmac.new(salt, f"{ADA}:k-1".encode(), sha256).digest()
    assert thread_id == thread_id_of(salt, AccountId(ADA), "k-1") == ulid_text(bytes(6) + digest[:10])


async def test_a_derived_id_cannot_be_computed_or_chosen(threads: MemoryThreads) -> None:
    """Another account gets another id for the same key, another salt too, and no client may choose such an id."""
    account = AccountId(ADA)
    derived = thread_id_of(b"salt", account, "k-1")
    assert len({derived, thread_id_of(b"salt", AccountId(BOB), "k-1"), thread_id_of(b"other", account, "k-1")}) == 3
    async with serving(threads, GatewayOptions(id_salt=b"salt")) as api:
        for chosen in (derived, "0" * 26, "0" * 10 + "Z" * 16, derived.lower()):
            check(await api.create(threadId=chosen, accountId=BOB), 400, "validation-failed")
        assert (await api.create(threadId="0" * 9 + "1" + "0" * 16)).status == 200
        body = {"accountId": ADA, "title": "t", "administratorIds": [ADA], "memberIds": []}
        assert (await api.post("/v1/threads/create", body, KEY)).json["threadId"] == derived


async def test_the_thread_derived_from_a_key_belongs_to_the_key(api: Served) -> None:
    """The same key of the same account on that thread is another request; another account's is its own."""
    body = {"accountId": ADA, "title": "t", "administratorIds": [ADA], "memberIds": [BOB]}
    thread_id = (await api.post("/v1/threads/create", body, KEY)).json["threadId"]
    path = f"/v1/threads/{thread_id}/messages/add"
    for account, status in ((ADA, 409), (BOB, 200)):
        answered = await api.post(path, {"accountId": account, "messages": [{"text": "a"}]}, KEY)
        assert answered.status == status
    check(await api.post("/v1/threads/create", body | {"title": "u"}, KEY), 409, "idempotency-key-reused")


async def test_a_recognised_retry_is_marked(api: Served) -> None:
    """By its key or by its chosen ids; no first answer, no change that changes nothing and no refusal is."""
    chosen = "01BX5ZZKBKACTAV9WEVGEMMVR1"
    add = {"accountId": ADA, "messages": [{"text": "a", "messageId": chosen}]}
    join = {"accountId": ADA, "accountIds": [BOB]}
    marked = []
    for path, body, headers in (
        ("/v1/threads/create", None, ()),
        ("/v1/threads/create", None, ()),
        (BASE + "/messages/add", add, ()),
        (BASE + "/messages/add", add, ()),
        (BASE + "/messages/add", {"accountId": ADA, "messages": [{"text": "b"}]}, (KEY,)),
        (BASE + "/messages/add", {"accountId": ADA, "messages": [{"text": "b"}]}, (KEY,)),
        (BASE + "/messages/add", {"accountId": ADA, "messages": [{"text": "c"}]}, (KEY,)),
        (BASE + "/member-ids/join", join, ()),
        (BASE + "/messages/remove", {"accountId": ADA, "messageIds": []}, ()),
    ):
        answered = await (api.create() if body is None else api.post(path, body, *headers))
        marked.append((answered.status, answered.headers.get("idempotent-replayed")))
    assert marked == [
        (200, None), (200, "true"), (200, None), (200, "true"), (200, None), (200, "true"), (409, None), (200, None), (200, None),
    ]  # fmt: skip


async def test_the_owner_is_asked_by_hashes(api: Served, threads: MemoryThreads) -> None:
    """The key itself goes nowhere; without one there is nothing to compare."""
    await api.create()
    assert (threads.last_command.key_hash, threads.last_command.body_hash) == (None, None)
    await api.post(BASE + "/destroy", {"accountId": ADA.lower()}, KEY)
    asked = threads.last_command
    assert asked.key_hash == sha256(f"{ADA}:k-1".encode()).digest()[:16]
    assert asked.body_hash == hash_of(DestroyThreadBody, {"accountId": ADA}, BASE + "/destroy")


@pytest.mark.parametrize("keys", [("",), ("a b",), ("a" * 129,), ("é",), ("a", "a")], ids=repr)
async def test_a_bad_key_is_refused(api: Served, keys: tuple[str, ...]) -> None:
    """1 to 128 visible ASCII characters, once."""
    answered = await api.post(BASE + "/destroy", {"accountId": ADA}, *[("Idempotency-Key", key) for key in keys])
    messages = check(answered, 400, "validation-failed").json["error_messages"]
    assert [message.partition(":")[0] for message in messages] == ["Idempotency-Key"]


@given(key=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128))
def test_every_visible_key_is_good(key: str) -> None:
    """And makes a thread id that is a ULID, and a hash of 16 bytes."""
    assert key_failure([key]) is None
    thread_id = thread_id_of(b"salt", AccountId(ADA), key)
    assert canonical(thread_id) == thread_id
    assert len(key_hash(AccountId(ADA), key)) == 16


def hash_of(body: type[CommandBody], value: dict[str, object], path: str = "/p") -> bytes:
    """The hash of a body's JSON value."""
    return body_hash(path, body.model_validate_json(json.dumps(value)).compared())


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "M"]), min_size=1, max_size=20)
ids = st.binary(min_size=16, max_size=16).map(ulid_text)
messages = st.fixed_dictionaries(
    {"text": texts}, optional={"messageId": ids, "replyMessageId": ids, "toAccountIds": st.lists(ids, max_size=3)}
)
adds = st.fixed_dictionaries({"accountId": ids, "messages": st.lists(messages, min_size=1, max_size=3)})


@given(value=adds, create_at=st.integers(0, 2**53 - 1), data=st.data())
def test_bodies_are_compared_as_values(value: dict[str, Any], create_at: int, data: st.DataObject) -> None:
    """Neither ``createAt`` nor the order of names nor a ``null`` nor the case of an id makes a body another one."""

    def otherwise(given: dict[str, Any], *optional: str) -> dict[str, Any]:
        names = data.draw(st.permutations([*given, *(name for name in optional if name not in given)]))
        changed = {name: given.get(name) for name in names}
        return {name: each.lower() if name.endswith("Id") and each else each for name, each in changed.items()}

    other = otherwise(value | {"createAt": create_at})
    other["messages"] = [
        otherwise(message, "messageId", "replyMessageId", "toAccountIds") for message in value["messages"]
    ]
    assert hash_of(AddMessagesBody, value) == hash_of(AddMessagesBody, other)


@given(value=adds, other=adds)
def test_different_bodies_have_different_hashes(value: dict[str, Any], other: dict[str, Any]) -> None:
    """As far as the values differ by more than what is not compared; the path counts as well."""
    assert (value == other) == (hash_of(AddMessagesBody, value) == hash_of(AddMessagesBody, other))
    assert hash_of(AddMessagesBody, value) != hash_of(AddMessagesBody, value, "/q")


def test_the_hash_of_a_body_never_changes() -> None:
    """Keys do not expire: another order of names, or another form, would refuse every retry after an upgrade."""
    create: dict[str, object] = {
        "memberIds": [BOB],
        "administratorIds": [ADA],
        "title": "é",
        "accountId": ADA,
        "createAt": 5,
    }
    add: dict[str, object] = {
        "accountId": ADA,
        "messages": [{"text": "a", "toAccountIds": [BOB], "messageId": THREAD}],
    }
    for body, value, hashed in (
        (CreateThreadBody, create, "9dfb65985cd693c9fdd858572980c3bf"),
        (AddMessagesBody, add, "c07c40efede29f813d25b309fcc8d720"),
    ):
        assert hash_of(body, value).hex() == hashed
