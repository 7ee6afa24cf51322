"""The depth of JSON documents, against a decoder that counts."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.kube.nesting import DEPTH, flatten, is_deep, path_of_cut, shallow

TEXTS = st.text(st.sampled_from('a\\"{}[]\n\x00é,:'), max_size=6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    """The number of objects and lists around the innermost value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((depth_of(each) for each in inner), default=0)


def wrapped(value: Any, times: int, within: str) -> Any:
    """A value within objects and lists."""
    for _ in range(times):
        value = {within: value} if len(within) % 2 else [value, within]
    return value


@given(value=VALUES, times=st.integers(0, DEPTH + 3), within=TEXTS, ascii_only=st.booleans())
def test_depth_is_judged_as_a_decoder_counts_it(value: Any, times: int, within: str, ascii_only: bool) -> None:
    """Whatever texts hold: brackets, quotes and escapes in them count for nothing."""
    given_value = wrapped(value, times, within)
    document = json.dumps(given_value, ensure_ascii=ascii_only).encode()
    assert is_deep(document) == (depth_of(given_value) > DEPTH)
    read = msgspec.json.decode(flatten(document))
    assert depth_of(read) <= DEPTH + 1
    assert shallow(document) == (flatten(document) if depth_of(given_value) > DEPTH else document)
    if depth_of(given_value) <= DEPTH:
        assert read == given_value
        assert path_of_cut(read) is None
    else:
        assert path_of_cut(read) is not None


def test_a_document_may_be_as_wide_as_it_likes() -> None:
    """Depth alone counts, not the number of objects."""
    wide = json.dumps([{"a": [{}, [], {"b": '"]}'}]}] * 200).encode()
    assert not is_deep(wide)
    assert shallow(wide) is wide


def object_with(affinity: str) -> bytes:
    """A ThreadCluster, with JSON in place of its affinity."""
    return (
        b'{"type":"ADDED","object":{"metadata":{"name":"chat","uid":"1"},"spec":{"image":"a","list":[1,{"x":[]}],'
        b'"affinity":' + affinity.encode() + b'},"status":{"replicas":2}}}'
    )


@pytest.mark.parametrize("depth", [DEPTH, 900, 1_200, 9_990], ids=str)
@pytest.mark.parametrize("one", ['{"a":', "["], ids=["objects", "lists"])
def test_what_is_around_a_deep_value_is_kept(one: str, depth: int) -> None:
    """Names, uids and versions are read, whatever the depth; what came after the deep value too."""
    close = "}" if one.startswith("{") else "]"
    document = object_with(one * depth + "1" + close * depth)
    assert is_deep(document)
    read = msgspec.json.decode(shallow(document))
    assert read["object"]["metadata"] == {"name": "chat", "uid": "1"}
    assert (read["object"]["spec"]["image"], read["object"]["status"]) == ("a", {"replicas": 2})
    path = path_of_cut(read["object"]["spec"], "spec")
    assert path is not None
    assert path.startswith("spec.affinity")


def test_documents_that_are_not_json_do_no_harm() -> None:
    """The decoder that reads them next says so."""
    for document in (b"", b"{" * 100, b"}" * 100, b'"' * 101, b'{"a": "' + b"[" * 100, b"\\" * 99 + b"[" * 99):
        assert isinstance(shallow(document), bytes)
