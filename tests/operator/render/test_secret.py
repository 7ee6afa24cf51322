"""The secrets of clusters: derived, so that what was lost comes back the same, and rotated in steps that never split a cluster."""

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadcluster_operator.controller.secret_keeper import client_text
from threadcluster_operator.render import (
    SecretValue,
    internal_secrets,
    key_fingerprint,
    next_values,
    secret_text,
)
from threadcluster_operator.render.secret import derive

from shard_worker.contract_tls import Authority, Purpose, fingerprint, internal_client_context, parse_secrets
from tests.support.rendered_clusters import cluster

KEYS = {key_fingerprint(key): key for key in (b"k" * 32, b"l" * 32)}
ONE, OTHER = KEYS


def test_a_value_follows_from_key_uid_and_generation_alone() -> None:
    """And from each of the three."""
    made = {
        derive(key, uid, generation)
        for key, uid, generation in itertools.product(KEYS.values(), ("uid-1", "uid-2"), (1, 2, 11))
    }
    assert len(made) == 12
    assert derive(b"k" * 32, "uid-1", 1) == derive(b"k" * 32, "uid-1", 1)
    assert derive(b"k" * 32, "uid-1", 11) != derive(b"k" * 32, "uid-11", 1)
    assert min(map(len, made)) >= 43, "256 bits"


def test_every_release_derives_the_same() -> None:
    """Another value of a cluster's secret, or another name of a key, would split the cluster while it is upgraded."""
    assert key_fingerprint(b"k" * 32) == "a7473f6f8ea4e688"
    assert derive(b"k" * 32, "uid-1", 1) == "egADvNTc90U1KciJsqTEhOkfDFAUFgfQgOofhE950b4"


def test_the_text_is_what_a_worker_reads() -> None:
    """A line each, the first signs; nothing without one of the keys."""
    values = (SecretValue(1, ONE), SecretValue(2, OTHER))
    text = secret_text(KEYS, "uid-1", values)
    assert text is not None
    assert [value.decode() for value in parse_secrets(text.encode())] == [
        derive(KEYS[each.operator_key], "uid-1", each.generation) for each in values
    ]
    assert secret_text({ONE: KEYS[ONE]}, "uid-1", values) is None


def test_users_get_the_internal_keys_of_all_values() -> None:
    """By which they are believed, and believe, whichever value signs; a worker they cannot be."""
    text = secret_text(KEYS, "uid-1", (SecretValue(1, ONE), SecretValue(2, ONE)))
    assert text is not None
    workers, users = internal_secrets(cluster(), text, client_text(text))
    assert [each["metadata"]["name"] for each in (workers, users)] == ["chat-internal", "chat.client-internal"]
    assert [each["type"] for each in (workers, users)] == ["Opaque", "Opaque"]
    assert [list(each["data"]) for each in (workers, users)] == [["secret"], ["internal"]]
    given = parse_secrets(base64.b64decode(users["data"]["internal"]))
    held = parse_secrets(text.encode())
    assert [fingerprint(line) for line in given] == [fingerprint(value) for value in held]
    for line, value in zip(given, held, strict=True):
        assert Authority(line, Purpose.INTERNAL).certificate == Authority(value, Purpose.INTERNAL).certificate
        with pytest.raises(ValueError, match="holds the key of a client"):
            Authority(line, Purpose.PEER)
    assert internal_client_context(given).signed_by == fingerprint(held[0])


GENERATIONS = st.integers(1, 3)
VALUES = st.builds(SecretValue, GENERATIONS, st.sampled_from([ONE, OTHER]))


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_whatever_is_wanted_meanwhile_no_step_splits_the_cluster(wishes: list[SecretValue]) -> None:
    """Workers read a step one by one; each must believe what every other one signs with at that time."""
    values = next_values((), wishes[0], confirmed=False)
    assert values == (wishes[0],)
    for wish in [*wishes, *[wishes[-1]] * 5]:
        assert next_values(values, wish, confirmed=False) == values, "each step waits for all workers"
        following = next_values(values, wish, confirmed=True)
        for one, two in itertools.product((values, following), repeat=2):
            assert one[0] in two, "what one worker signs with, every other one verifies"
        assert 1 <= len(following) <= 2
        values = following
    assert values == (wishes[-1],)
