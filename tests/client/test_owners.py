"""The owners of threads: the shard is the server's, and a map that is none is not used."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_client.owners import SLICES, owners_in, shard_of

from shard_worker.domain import ids

THREAD = "01KB0000000000000000000007"


@given(st.binary(min_size=16, max_size=16), st.integers(1, 4096))
def test_the_shard_of_a_thread_is_the_servers(raw: bytes, shards: int) -> None:
    """In either case of letters."""
    thread_id = ids.ThreadId(ids.ulid_text(raw))
    expected = ids.shard_of(thread_id, shards)
    assert shard_of(thread_id, shards) == shard_of(thread_id.lower(), shards) == expected
    assert SLICES == ids.SLICES


@pytest.mark.parametrize(
    "text", ["", "create", "8" + THREAD[1:], THREAD[1:], THREAD + "0", "01KB00000000000000000000İ"]
)
def test_a_text_that_is_no_id_has_no_shard(text: str) -> None:
    """Its call goes to the base address, which says what is wrong."""
    assert shard_of(text, 8) is None


def cluster(**more: Any) -> dict[str, Any]:
    """A map of two shards; shard 1 has no owner."""
    workers = [
        {"name": "a", "state": "ready", "address": "http://a:1"},
        {"name": "b", "state": "leaving", "address": "http://b:1"},
    ]
    return {"workers": workers, "shards": [{"id": 1, "owner": None}, {"id": 0, "owner": "a"}]} | more


def test_a_thread_has_the_address_of_its_owner() -> None:
    """Where there is one that is ready."""
    for owner, address in (("a", "http://a:1"), ("b", None), ("c", None), (None, None)):
        found = owners_in(json.dumps(cluster(shards=[{"id": 0, "owner": owner}])).encode())
        assert found is not None
        assert found.address_of(THREAD) == address
        assert found.address_of("create") is None
    found = owners_in(json.dumps(cluster()).encode())
    assert found is not None
    assert {found.address_of(ids.ulid_text(bytes([number]) * 16)) for number in range(64)} == {"http://a:1", None}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"workers":1,"shards":[]}',
        json.dumps(cluster(workers=[{"name": "a"}])).encode(),
        json.dumps(cluster(shards=[{"id": 1, "owner": "a"}])).encode(),
        json.dumps(cluster(shards=[{"id": "x", "owner": "a"}])).encode(),
        json.dumps(cluster(shards=[{"id": 0, "owner": ["a"]}])).encode(),
    ],
)
def test_an_answer_that_is_no_map_is_none(body: bytes) -> None:
    """Another program at the address, or a later release."""
    assert owners_in(body) is None


def test_a_map_without_shards_leads_nowhere() -> None:
    """As of a cluster that is just made."""
    found = owners_in(json.dumps(cluster(shards=[])).encode())
    assert found is not None
    assert found.address_of(THREAD) is None
