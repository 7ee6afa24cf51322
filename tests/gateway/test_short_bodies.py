"""The short way of a body refuses what it likes, and accepts nothing that the long way refuses or understands otherwise."""

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shard_worker.domain.commands import Command
from shard_worker.domain.ids import ThreadId
from shard_worker.gateway.http import json_decoding
from shard_worker.gateway.http.problems import ProblemRaised
from shard_worker.gateway.public.id_generator import IdGenerator
from shard_worker.gateway.public.request_models import CommandBody, SetReadMarkerBody
from shard_worker.gateway.public.routes import COMMANDS
from shard_worker.gateway.public.short_bodies import short_body

_THREAD = ThreadId("01HZX3V9Q4M8N7C2K5T6B1D0EF")
_ID = "01HZX3V9Q4M8N7C2K5T6B1D0EG"
_OTHER = "01HZX3V9Q4M8N7C2K5T6B1D0EH"
_BODIES: Final = {route.operation_id: route.body for route in COMMANDS}

_PLAIN: Final[dict[str, dict[str, Any]]] = {
    "createThread": {"accountId": _ID, "title": "hello", "administratorIds": [_ID], "memberIds": [_OTHER]},
    "destroyThread": {"accountId": _ID},
    "joinAdministratorIds": {"accountId": _ID, "accountIds": [_OTHER]},
    "leaveAdministratorIds": {"accountId": _ID, "administratorIds": [_OTHER]},
    "joinMemberIds": {"accountId": _ID, "accountIds": [_OTHER]},
    "leaveMemberIds": {"accountId": _ID, "accountIds": []},
    "addMessages": {"accountId": _ID, "messages": [{"text": "hello"}]},
    "removeMessages": {"accountId": _ID, "messageIds": [_OTHER]},
}
_MORE: Final[dict[str, dict[str, Any]]] = {
    "createThread": {"remarks": "a: b", "threadId": _OTHER, "parentThreadId": _ID},
    "addMessages": {
        "messages": [{"text": "a: b", "messageId": _ID}, {"text": "\u00e4\n\u65e5", "toAccountIds": [_ID]}]
    },
}

_ids = st.sampled_from(
    (_ID, _OTHER, _ID.lower(), _ID + "\n", _ID[:25], "8" + _ID[1:], _ID.replace("X", "U"), "0" * 26, "", None, 7)
)
_lists = st.lists(_ids, max_size=3) | st.sampled_from(([_ID] * 1_000, [_ID] * 1_001))
_texts = (
    st.sampled_from(("hello", "a: b", "::", "", "x" * 255, "x" * 256, "x" * 4_000, "x" * 4_001, "a\0b", "a\nb", "\x7f"))
    | st.sampled_from(("e\u0301", "e\u0301" * 4_000, "\u1f82" * 4_000, "e" + "\u0301" * 31, "\u037e\ufe55", None))
    | st.text()
)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_times = st.sampled_from((0, -1, 5, 2**53 - 1, 2**53, 1.0, None, "1", True))
_messages = st.fixed_dictionaries(
    {"text": _texts}, optional={"messageId": _ids, "replyMessageId": _ids, "toAccountIds": _lists, "more": _anything}
)
_FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "accountId": _ids,
    "createAt": _times,
    "parentThreadId": _ids,
    "threadId": _ids,
    "title": _texts,
    "remarks": _texts,
    "administratorIds": _lists,
    "memberIds": _lists,
    "accountIds": _lists,
    "messageIds": _lists,
    "messages": st.lists(_messages, max_size=3) | _anything,
    "more": _anything,
}


class _Mint(IdGenerator):
    """Makes one id, so that two commands can be compared."""

    def ulid(self, at_ms: int) -> str:
        return _ID[:-1] + "0"


def _long_way(body: type[CommandBody], raw: bytes) -> tuple[Command, bytes] | None:
    """The command that the judge of a body gives, and what is compared of it."""
    try:
        value, twice = json_decoding.decode(raw)
    except ProblemRaised:
        return None
    if twice or not isinstance(value, dict) or body.cross_field_errors(value):
        return None
    try:
        valid = body.model_validate(value)
    except ValueError:
        return None
    return valid.command(_THREAD, 5, _Mint()), valid.compared()


def _check(operation: str, raw: bytes) -> bool:
    """Fail when the short way accepts what it must not; whether it accepts."""
    body = _BODIES[operation]
    short = short_body(body, raw)
    if short is None:
        return False
    assert (short.command(_THREAD, 5, _Mint()), short.compared()) == _long_way(body, raw)
    return True


def _raw(value: Any, *, ascii_only: bool = False, indent: Any = None) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")


@given(st.data(), st.sampled_from(sorted(_BODIES)), st.booleans(), st.sampled_from((None, 1, "\t")))
def test_a_value_that_is_accepted_is_what_the_long_way_makes_of_it(
    data: st.DataObject, operation: str, ascii_only: bool, indent: Any
) -> None:
    """A good body with a few fields in place of its own, or any JSON value."""
    changed = data.draw(st.lists(st.sampled_from(sorted(_FIELDS)), max_size=3))
    value = _PLAIN[operation] | {name: data.draw(_FIELDS[name]) for name in changed}
    for name in data.draw(st.lists(st.sampled_from(sorted(value)), max_size=1)):
        del value[name]
    _check(operation, _raw(value, ascii_only=ascii_only, indent=indent))
    _check(operation, _raw(data.draw(_anything), ascii_only=ascii_only, indent=indent))


@given(
    st.sampled_from(sorted(_BODIES)),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3)), max_size=3),
)
@example("addMessages", False, [(0, 0, b"\xef\xbb\xbf")])
@example("addMessages", False, [(73, 2, b"\n")])
@example("addMessages", False, [(73, 2, b"\xff")])
@example("addMessages", False, [(73, 2, b"\\u0000")])
@example("addMessages", False, [(73, 2, b"\\u003a")])
@example("addMessages", False, [(1, 0, b'"accountId":1,')])
@example("addMessages", False, [(1, 0, b'"accountId":1,'), (90, 2, b"\\u003A")])
def test_bytes_that_are_accepted_are_what_the_long_way_makes_of_them(
    operation: str, more: bool, edits: list[tuple[int, int, bytes]]
) -> None:
    """After whatever was cut out of a good body and put into it."""
    raw = _raw(_PLAIN[operation] | (_MORE.get(operation, {}) if more else {}))
    for at, cut, put in edits:
        raw = raw[:at] + put + raw[at + cut :]
    _check(operation, raw)


_TWICE: Final = (
    b'{"accountId":"%b","messages":[{"text":"a","text":"b"}]}',
    b'{"accountId":"%b","messages":[{"text":"a","text":"b:"}]}',
    b'{"accountId":"%b","messages":[{"text":"a","text":"\\u003a"}]}',
    b'{"accountId":"%b","messages":[{"text":"a","text":"\\u003A"}]}',
    b'{"accountId":"%b","messages":[{"text":"\\u003a","text":"b"}]}',
    b'{"accountId":"%b","messages":[{"text":"\\u003a","\\u0074ext":"b"}]}',
    b'{"accountId":1,"messages":[{"text":"\\u003a"}],"accountId":"%b"}',
    b'{"accountId":"%b","messages":[],"messages":[{"text":"\\u003a"}]}',
    b'{"accountId":"%b","createAt":1,"createAt":2,"messages":[{"text":"\\u003a"}]}',
)


@pytest.mark.parametrize("raw", _TWICE)
def test_a_name_that_came_twice_is_left_to_the_judge(raw: bytes) -> None:
    """Also where an escaped colon would make up for the name's own."""
    assert not _check("addMessages", raw % _ID.encode())


@pytest.mark.parametrize("operation", sorted(_BODIES))
@pytest.mark.parametrize("more", [{}, {"createAt": 5}], ids=["plain", "with createAt"])
def test_a_body_as_clients_send_it_takes_the_short_way(operation: str, more: Mapping[str, Any]) -> None:
    """Else nothing of all this would be of use."""
    for value in (_PLAIN[operation], _PLAIN[operation] | _MORE.get(operation, {})):
        for ascii_only in (True, False):
            assert _check(operation, _raw({**value, **more}, ascii_only=ascii_only))


def test_a_body_of_another_kind_has_no_short_way() -> None:
    """A read marker's is not a command's."""
    assert short_body(SetReadMarkerBody, _raw({"accountId": _ID, "messageId": _ID})) is None
