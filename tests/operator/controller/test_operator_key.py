"""The operator's key: made once, made again as it was, read again, and never replaced by content that cannot be used."""

import base64

import pytest
from threadcluster_operator.controller.operator_key import KEY_FIELD, KEY_SECRET_NAME, OperatorKey, parse_keys
from threadcluster_operator.kube.client import Conflict, KubeError, Object
from threadcluster_operator.render import key_fingerprint

from tests.fakes.kube import InMemoryKube

OLD, NEW = b"o" * 32, b"n" * 40


def secret(content: bytes) -> Object:
    """The Secret with this content."""
    data = {KEY_FIELD: base64.b64encode(content).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEY_SECRET_NAME}, "data": data}


async def test_a_missing_key_is_made_once() -> None:
    """Of enough random bytes; another operator reads the same one."""
    kube = InMemoryKube()
    first, second = OperatorKey(kube, "system"), OperatorKey(kube, "system")
    await first.load()
    await second.load()
    assert first.keys == second.keys
    [(name, key)] = first.keys.items()
    assert name == key_fingerprint(key)
    assert len(key) >= 32
    assert kube.writes() == [("create", "Secret", KEY_SECRET_NAME)]


async def test_a_deleted_key_is_made_again_with_all_its_values() -> None:
    """By an operator that holds it."""
    kube = InMemoryKube(secret(NEW + b"\n" + OLD + b"\n"))
    key = OperatorKey(kube, "system")
    await key.load()
    kube.objects.clear()
    await key.load()
    assert list(parse_keys(kube.objects["Secret", KEY_SECRET_NAME]).values()) == [NEW, OLD]


async def test_of_two_operators_that_make_it_at_once_the_second_takes_the_firsts() -> None:
    """One that led until a moment ago was sooner."""
    kube = InMemoryKube()

    def another_is_sooner(verb: str, _: str) -> KubeError | None:
        if verb == "create":
            kube.put(secret(OLD))
            return Conflict(409, "AlreadyExists", "it exists")
        return None

    kube.fault = another_is_sooner
    key = OperatorKey(kube, "system")
    await key.load()
    assert list(key.keys.values()) == [OLD]


async def test_a_new_key_is_read_into_the_dict_that_others_hold() -> None:
    """In its order: the first makes new values."""
    kube = InMemoryKube(secret(OLD))
    key = OperatorKey(kube, "system")
    await key.load()
    held = key.keys
    kube.put(secret(NEW + b"\n" + OLD))
    await key.load()
    assert list(held.values()) == [NEW, OLD]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "1 to 4 keys"),
        (b"\n \n", "1 to 4 keys"),
        (b"\n".join([OLD] * 5), "1 to 4 keys"),
        (b"too short", "at least 32 bytes"),
        (OLD + b"\nshort", "at least 32 bytes"),
    ],
)
async def test_content_that_cannot_be_used_changes_nothing(content: bytes, fault: str) -> None:
    """And the error shows none of it."""
    kube = InMemoryKube(secret(OLD))
    key = OperatorKey(kube, "system")
    await key.load()
    kube.put(secret(content))
    with pytest.raises(ValueError, match=fault) as refused:
        await key.load()
    assert "oooo" not in str(refused.value)
    assert list(key.keys.values()) == [OLD]


@pytest.mark.parametrize("data", [None, {}, {"other": "eA=="}, {KEY_FIELD: "%"}], ids=str)
def test_a_secret_without_the_key_is_named(data: object) -> None:
    """By its name and its field."""
    with pytest.raises(ValueError, match=f"Secret {KEY_SECRET_NAME} has no key {KEY_FIELD}"):
        parse_keys({**secret(OLD), "data": data})
