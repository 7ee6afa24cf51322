"""Where a worker listens, and how its address is written: both families alike."""

import socket
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from shard_worker.contract import url_host
from shard_worker.gateway.public.server import listening_socket
from shard_worker.main import main


def loopbacks() -> list[str]:
    """The loopback addresses that this machine has."""
    found = ["127.0.0.1"]
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        try:
            probe.bind(("::1" if socket.has_ipv6 else "127.0.0.1", 0))
        except OSError:
            return found
    return [*found, "::1"] if socket.has_ipv6 else found


@pytest.mark.parametrize("address", loopbacks())
def test_all_addresses_means_both_families(address: str) -> None:
    """A pod's address may be of either; what runs beside the worker asks by loopback."""
    with listening_socket("::", 0) as bound:
        bound.listen()
        socket.create_connection((address, bound.getsockname()[1]), timeout=5).close()


@pytest.mark.parametrize("address", loopbacks())
def test_one_address_is_that_one(address: str) -> None:
    """Of either family."""
    with listening_socket(address, 0) as bound:
        assert bound.getsockname()[0] == address


def test_a_kernel_without_ipv6_gives_every_address_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting serves every pod; an address that does not exist is an error all the same."""
    real: Callable[..., socket.socket] = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError("Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr("shard_worker.gateway.public.server.socket.socket", without_ipv6)
    with listening_socket("::", 0) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"
    with pytest.raises(OSError, match="not supported"):
        listening_socket("::1", 0)


@pytest.mark.parametrize(
    ("host", "written"), [("10.0.0.1", "10.0.0.1"), ("fd00::7", "[fd00::7]"), ("chat-0.chat", "chat-0.chat")]
)
def test_before_a_port_an_ipv6_address_has_brackets(host: str, written: str) -> None:
    """Nothing else does."""
    assert url_host(host) == written


def test_a_worker_that_is_not_there_is_named_by_its_whole_address() -> None:
    """In the way in which it was given."""
    result = CliRunner().invoke(main, ["leave", "--address", "[::1]:9", "--secret", "sixteen-letters!"])
    assert "no worker answers at [::1]:9" in result.output
