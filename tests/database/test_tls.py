"""TLS towards Postgres: what is asked for is what happens, or the connection does not come about."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from threadcluster_operator.local.postgres import EmbeddedPostgres

from shard_worker.database.connection import DatabaseAuthFailed, DatabaseTLSFailed, open_connection
from shard_worker.database.tls import Tls
from tests.support.tls_proxy import CA_FILE, TlsFront


@pytest.fixture
async def front(postgres: EmbeddedPostgres) -> AsyncIterator[TlsFront]:
    """The server, behind TLS."""
    async with TlsFront(postgres.port) as front:
        yield front


def at(front: TlsFront, dsn: str, host: str = "localhost") -> str:
    """The same database, through the front."""
    return dsn.rpartition("@")[0] + f"@{host}:{front.port}/" + dsn.rpartition("/")[2]


@pytest.mark.parametrize(
    ("tls", "host", "encrypted"),
    [
        pytest.param(Tls(), "localhost", 1, id="unset: where it is offered"),
        pytest.param(Tls("disable"), "localhost", 0, id="disable"),
        pytest.param(Tls("require"), "localhost", 1, id="require: any server"),
        pytest.param(Tls("require", CA_FILE), "127.0.0.1", 1, id="require, CA: whatever its name"),
        pytest.param(Tls("verify-full", CA_FILE), "localhost", 1, id="verify-full"),
    ],
)
async def test_each_mode_connects_as_it_says(front: TlsFront, dsn: str, tls: Tls, host: str, encrypted: int) -> None:
    """And with TLS where it says so."""
    connection = await open_connection(at(front, dsn, host), "me", tls=tls)
    assert await connection.fetchval("SELECT 1") == 1
    assert front.encrypted == encrypted
    connection.terminate()


@pytest.mark.parametrize(
    ("tls", "host", "reason"),
    [
        pytest.param(Tls("verify-full", CA_FILE), "127.0.0.1", "certificate verify failed", id="another name"),
        pytest.param(Tls("verify-full"), "localhost", "certificate verify failed", id="unknown authority"),
        pytest.param(Tls("require", Path(__file__)), "localhost", "CA file", id="no certificates in the CA file"),
        pytest.param(Tls("require", Path("/nowhere")), "localhost", "CA file", id="no CA file"),
    ],
)
async def test_who_is_not_believed_is_not_talked_to(
    front: TlsFront, dsn: str, tls: Tls, host: str, reason: str
) -> None:
    """A password is never sent to it."""
    with pytest.raises(DatabaseTLSFailed, match=reason):
        await open_connection(at(front, dsn, host), "me", tls=tls)


async def test_a_server_without_tls_is_refused_where_it_is_required(dsn: str) -> None:
    """Nothing falls back."""
    with pytest.raises(DatabaseTLSFailed, match="does not offer TLS"):
        await open_connection(dsn, "me", tls=Tls("require"))


async def test_tls_that_is_fine_does_not_hide_a_wrong_password(front: TlsFront, dsn: str) -> None:
    """The login is refused, not the encryption."""
    with pytest.raises(DatabaseAuthFailed):
        await open_connection(at(front, dsn.replace("@", "wrong@")), "me", tls=Tls("require"))
