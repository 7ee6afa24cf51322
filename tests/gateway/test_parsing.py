"""Properties of what turns bytes into values: decoding, bodies, parameters, cursors, new ids."""

import asyncio
import json
import unicodedata
from base64 import urlsafe_b64encode

from hypothesis import given
from hypothesis import strategies as st

from shard_worker.domain.commands import AddMessages, CreateThread
from shard_worker.domain.ids import AccountId, ThreadId, canonical, ulid_text
from shard_worker.gateway.http.failures import Failure
from shard_worker.gateway.http.json_decoding import decode
from shard_worker.gateway.http.problems import ProblemCode, ProblemRaised
from shard_worker.gateway.http.turn_budget import Piece, TurnBudget
from shard_worker.gateway.public import query_params
from shard_worker.gateway.public.cursors import Cursors
from shard_worker.gateway.public.id_generator import IdGenerator, RandomBytes
from shard_worker.gateway.public.query_params import read_parameters
from shard_worker.gateway.public.request_models import (
    AddMessagesBody,
    CommandBody,
    CreateThreadBody,
    LeaveAdministratorIdsBody,
)
from shard_worker.gateway.public.validation import Body, fast_validate, validate
from tests.gateway.serving import ADA, BOB, THREAD

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
ids = st.binary(min_size=16, max_size=16).map(ulid_text)
any_case_ids = st.builds(lambda ulid, lower: ulid.lower() if lower else ulid, ids, st.booleans())
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | any_case_ids,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_RUNNER = asyncio.Runner()


def validated(body: type[Body], value: object) -> tuple[Body | None, list[Failure]]:
    """Run `validate`, from a test that is not on a loop."""

    async def work() -> tuple[Body | None, list[Failure]]:
        with Piece(TurnBudget()) as piece:
            return await validate(body, value, piece)

    return _RUNNER.run(work())


numbers = st.integers(0, 2**63 - 1)
positions = st.one_of(
    st.tuples(ids, numbers), st.tuples(numbers, st.integers(0, 99), numbers), st.tuples(numbers, ids, numbers, numbers)
)


@given(value=anything)
def test_json_comes_out_as_it_went_in(value: object) -> None:
    """With or without escapes."""
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert decode(text.encode("utf-8", "surrogatepass")) == (value, [])


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_problem(raw: bytes) -> None:
    """Nothing else comes out, whatever comes in."""
    code = None
    try:
        decode(raw)
    except ProblemRaised as raised:
        code = raised.problem.code
    assert code in (None, ProblemCode.MALFORMED_JSON)


@given(names=st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_names_given_twice_are_found(names: list[str]) -> None:
    """Every one of them, at any depth, once."""
    inner = "{" + ",".join(f'"{name}": 1' for name in names) + "}"
    _, failures = decode(f'[{{"outer": {inner}}}]'.encode())
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    assert sorted(failure.sentence for failure in failures) == [f"{name}: duplicate field" for name in twice]
    assert sorted(failure.pointer for failure in failures) == [f"/0/outer/{name}" for name in twice]


@given(value=anything)
def test_any_value_is_a_body_or_failures(value: object) -> None:
    """Validation is total."""
    body, failures = validated(AddMessagesBody, value)
    assert (body is None) == bool(failures)


_FRAGMENTS = [
    f'"{ADA}"', f'"{BOB.lower()}"', f'["{ADA}"]', f'["{ADA}", "{BOB}"]', "[]", "null", "0", "1700000000000", "-0", "1.0",
    "1e3", "01", "9007199254740992", "1" * 5_000, "NaN", "Infinity", "true", '"a"', '""', '"a: b"', r'"\u003a"', r'"\u0000"',
    r'"\ud83d\ude00"', r'"\ud83d"', '"e\u0301"', '"\t"', '"' + "x" * 4_001 + '"', '[{"text":"a"}]', '[{"text":"a","text":"b"}]',
    f'[{{"text":"a","messageId":"{THREAD}"}}]', f'[{{"text":"a","messageId":"{THREAD}"}},{{"text":"b","messageId":"{THREAD}"}}]',
    '[{"text":"a","what":1}]', '[{"text":"a"},{"text":"b"}]', "[" * 3_000,
]  # fmt: skip
_NAMES = ["accountId", "account_id", "messages", "title", "administratorIds", "accountIds", "createAt", "threadId", "x"]
_PLAIN = [
    (AddMessagesBody, [("accountId", f'"{ADA}"'), ("messages", '[{"text":"a"}]')]),
    (CreateThreadBody, [("accountId", f'"{ADA}"'), ("title", '"a"'), ("administratorIds", f'["{ADA}"]'), ("memberIds", "[]")]),
    (LeaveAdministratorIdsBody, [("accountId", f'"{ADA}"'), ("administratorIds", f'["{ADA}"]')]),
]  # fmt: skip


@given(
    plain=st.sampled_from(_PLAIN),
    more=st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(_FRAGMENTS)), max_size=2),
    colon=st.sampled_from([":", " : ", "\n:\t", "::", ""]) | st.just(":"),
    cut=st.integers(0, 6) | st.just(0),
    tail=st.sampled_from([b"", b" ", b"x", b"\xff", b"\0"]) | st.just(b""),
    head=st.sampled_from([b"", b"\n", b"\xef\xbb\xbf"]) | st.just(b""),
)
def test_the_short_cut_finds_nothing_that_the_long_way_refuses(
    plain: tuple[type[CommandBody], list[tuple[str, str]]],
    more: list[tuple[str, str]],
    colon: str,
    cut: int,
    tail: bytes,
    head: bytes,
) -> None:
    """Bodies that are right, nearly right and not JSON at all; names given twice."""
    body, fields = plain
    text = "{" + ",".join(f'"{name}"{colon}{value}' for name, value in fields + more) + "}"
    raw = head + text.encode()[: len(text) - cut] + tail
    found = fast_validate(body, raw)
    if found is not None:
        value, twice = decode(raw)
        assert twice == []
        assert validated(body, value) == (found, [])
    elif not more and colon == ":" and not cut and not tail and not head:
        assert body is LeaveAdministratorIdsBody, "the usual body takes the short cut"


@given(title=texts, account=any_case_ids, administrators=st.lists(any_case_ids, min_size=1, max_size=5))
def test_a_create_is_canonical(title: str, account: str, administrators: list[str]) -> None:
    """Ids in upper case and distinct in the order given, the title in NFC."""
    value = {
        "accountId": account,
        "title": title,
        "administratorIds": administrators,
        "memberIds": administrators[::-1],
    }
    body, failures = validated(CreateThreadBody, value)
    assert failures == []
    assert body is not None
    command = body.command(ThreadId(THREAD), 5, IdGenerator())
    assert isinstance(command, CreateThread)
    assert command.title == unicodedata.normalize("NFC", title)
    assert command.account_id == account.upper()
    assert list(command.administrator_ids) == list(dict.fromkeys(each.upper() for each in administrators))
    assert command.create_at == 5


@given(given_ids=st.lists(st.none() | any_case_ids, min_size=1, max_size=6))
def test_message_ids_are_given_once(given_ids: list[str | None]) -> None:
    """A repetition, in whatever case, is refused; otherwise every message has an id of its own."""
    value = {"accountId": ADA, "messages": [{"text": "a", "messageId": each} for each in given_ids]}
    chosen = [each.upper() for each in given_ids if each is not None]
    body, failures = validated(AddMessagesBody, value)
    assert len(failures) == len(chosen) - len(set(chosen))
    if body is not None:
        command = body.command(ThreadId(THREAD), 5, IdGenerator())
        assert isinstance(command, AddMessages)
        assert len({message.message_id for message in command.messages}) == len(given_ids)


@given(query=st.text(max_size=80))
def test_any_query_string_is_values_or_failures(query: str) -> None:
    """Reading parameters is total."""
    values, failures = read_parameters(query, query_params.OF_A_PAGE)
    assert (values is None) == bool(failures)


@given(limit=st.integers(-5, 1_005), offset=st.integers(-5, 2**64))
def test_numbers_are_taken_within_their_range(limit: int, offset: int) -> None:
    """Exactly there."""
    values, failures = read_parameters(f"account_id={ADA}&limit={limit}&offset={offset}", query_params.OF_A_PAGE)
    good = [1 <= limit <= 1_000, 0 <= offset < 2**63]
    assert len(failures) == good.count(False)
    if values is not None:
        assert (values.limit, values.offset) == (limit, offset)


@given(position=positions, key=st.binary(max_size=100))
def test_a_cursor_gives_its_position_back(position: tuple[int | str, ...], key: bytes) -> None:
    """Where it was made, and nowhere else."""
    cursors = Cursors(key)
    cursor = cursors.write("getMessages", ThreadId(THREAD), AccountId(ADA), position)
    assert cursors.read("getMessages", ThreadId(THREAD), AccountId(ADA), cursor) == position
    assert cursors.read("getMessages", ThreadId(THREAD), AccountId(BOB), cursor) is None
    assert (
        Cursors(b"another").read("getMessages", ThreadId(THREAD), AccountId(ADA), cursor) is None or key == b"another"
    )


@given(cursor=st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_made_up_cursors_are_refused(cursor: str) -> None:
    """Any text."""
    assert Cursors(b"key").read("getMessages", ThreadId(THREAD), AccountId(ADA), cursor) is None


@given(at_ms=st.integers(0, 2**48 - 1))
def test_minted_ids_are_ulids_of_their_millisecond(at_ms: int) -> None:
    """The time part is the instant; two of one millisecond differ."""
    mint = IdGenerator()
    one, two = mint.ulid(at_ms), mint.ulid(at_ms)
    assert canonical(one) == one
    assert one != two
    assert one[:10] == two[:10] == ulid_text(at_ms.to_bytes(6, "big") + bytes(10))[:10]


@given(counts=st.lists(st.integers(1, 4_096), max_size=20))
def test_random_bytes_come_as_many_as_asked(counts: list[int]) -> None:
    """Across the ends of blocks too."""
    source = RandomBytes()
    assert [len(source.take(count)) for count in counts] == counts


def test_names_given_twice_in_a_deep_object_make_no_long_answer() -> None:
    """Nine hundred objects under names of ninety characters: the failures point to the body, none to a place of 80 kB."""
    twice = b",".join(b'"a%d":1,"a%d":2' % (n, n) for n in range(100))
    raw = b"".join(b'{"%s":' % (b"k" * 90) for _ in range(900)) + b"{" + twice + b"}" * 901
    _, failures = decode(raw)
    assert len(failures) == 100
    assert {failure.pointer for failure in failures} == {""}
