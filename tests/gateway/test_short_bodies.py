"""The short way of a body refuses what it likes, and accepts nothing that the long way refuses or understands otherwise."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shard_worker.domain.commands import AddMessages
from shard_worker.domain.ids import ThreadId
from shard_worker.gateway.http import json_decoding
from shard_worker.gateway.http.problems import ProblemRaised
from shard_worker.gateway.public.id_generator import IdGenerator
from shard_worker.gateway.public.request_models import AddMessagesBody
from shard_worker.gateway.public.short_bodies import plain_message

_THREAD = ThreadId("01HZX3V9Q4M8N7C2K5T6B1D0EF")
_ID = "01HZX3V9Q4M8N7C2K5T6B1D0EG"
_PLAIN = b'{"accountId":"%b","messages":[{"text":"hello"}]}' % _ID.encode()

_ids = st.sampled_from((_ID, _ID.lower(), _ID + "\n", _ID[:25], "8" + _ID[1:], _ID.replace("X", "U"), "", None, 7))
_texts = (
    st.sampled_from(("hello", "a: b", "", "x" * 4_000, "x" * 4_001, "a\0b", "a\nb", "\x7f", "e\u0301", None))
    | st.text()
)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_messages = st.fixed_dictionaries(
    {"text": _texts}, optional={"messageId": _ids, "replyMessageId": _ids, "toAccountIds": _anything, "more": _anything}
)
_bodies = st.fixed_dictionaries(
    {"accountId": _ids, "messages": st.lists(_messages | _anything, max_size=2) | _anything},
    optional={"createAt": _anything, "more": _anything},
)


class _Mint(IdGenerator):
    """Makes one id, so that two commands can be compared."""

    def ulid(self, at_ms: int) -> str:
        return _ID[:-1] + "0"


def _long_way(raw: bytes) -> AddMessages | None:
    """The command that the judge of a body gives."""
    try:
        value, twice = json_decoding.decode(raw)
    except ProblemRaised:
        return None
    if twice or not isinstance(value, dict) or AddMessagesBody.cross_field_errors(value):
        return None
    try:
        return AddMessagesBody.model_validate(value).command(_THREAD, 5, _Mint())
    except ValueError:
        return None


def _check(raw: bytes) -> None:
    short = plain_message(raw)
    if short is not None:
        assert short.command(_THREAD, 5, _Mint()) == _long_way(raw)


@given(_bodies | _anything, st.booleans(), st.sampled_from((None, 1, "\t")))
def test_a_value_that_is_accepted_is_what_the_long_way_makes_of_it(value: Any, ascii_only: bool, indent: Any) -> None:
    """Any JSON value, and many that are nearly a plain message."""
    _check(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass"))


@given(
    st.sampled_from((_PLAIN, _PLAIN.replace(b'"text"', b'"messageId":"%b","text"' % _ID.encode()))),
    st.lists(st.tuples(st.integers(0, 130), st.integers(0, 3), st.binary(max_size=3)), max_size=3),
)
@example(_PLAIN, [(0, 0, b"\xef\xbb\xbf")])
@example(_PLAIN, [(70, 2, b"\n")])
@example(_PLAIN, [(70, 2, b"\xff")])
@example(_PLAIN, [(70, 2, b"\\u0000")])
@example(_PLAIN, [(1, 0, b'"accountId":1,')])
def test_bytes_that_are_accepted_are_what_the_long_way_makes_of_them(
    raw: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    """After whatever was cut out of a good body and put into it."""
    for at, cut, put in edits:
        raw = raw[:at] + put + raw[at + cut :]
    _check(raw)


@pytest.mark.parametrize("chosen", [b"", b'"messageId":"%b",' % _ID.encode()])
def test_a_plain_message_takes_the_short_way(chosen: bytes) -> None:
    """Else nothing of all this would be of use."""
    raw = _PLAIN.replace(b'{"text"', b"{" + chosen + b'"text"')
    assert plain_message(raw) is not None
    _check(raw)
