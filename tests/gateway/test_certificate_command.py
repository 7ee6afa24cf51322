"""`shard-worker certificate`: a client certificate for programs that are not ours."""

import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner

from shard_worker.contract_tls import fingerprint, internal_key
from shard_worker.gateway.management.server import ManagementPort
from shard_worker.main import main
from tests.fakes.management_view import MemoryView
from tests.support.management_port import serving
from tests.support.wire import Api

SECRET = b"sixteen-letters!"


async def test_the_certificate_that_is_written_is_let_in(tmp_path: Path) -> None:
    """With two values in the file, too; the key is its user's alone."""
    (tmp_path / "secret").write_bytes(SECRET + b"\nanother secret of 24 b.\n")
    words = ["certificate", "--secret-file", str(tmp_path / "secret"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [fingerprint(SECRET), fingerprint(b"another secret of 24 b.")]
    client = tmp_path / "out" / "client.pem"
    assert client.stat().st_mode & 0o777 == 0o600
    assert SECRET not in client.read_bytes()
    context = ssl.create_default_context(cafile=tmp_path / "out" / "ca.pem")
    context.load_cert_chain(client)
    with serving(ManagementPort(MemoryView()), SECRET) as port:
        assert (await Api(port, context).get("/internal/v1/ownership")).json["planVersion"] == 4


async def test_a_users_key_is_let_in_as_well(tmp_path: Path) -> None:
    """With the Secret of users there is no value of the cluster's secret to be lost."""
    (tmp_path / "key").write_bytes(internal_key(SECRET))
    words = ["certificate", "--secret-file", str(tmp_path / "key"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, result.output) == (0, fingerprint(SECRET) + "\n")
    context = ssl.create_default_context(cafile=tmp_path / "out" / "ca.pem")
    context.load_cert_chain(tmp_path / "out" / "client.pem")
    with serving(ManagementPort(MemoryView()), SECRET) as port:
        assert (await Api(port, context).get("/internal/v1/ownership")).json["planVersion"] == 4


@pytest.mark.parametrize("content", ["", "short", "1\n2\n3"])
def test_exit_2_without_a_secret(tmp_path: Path, content: str) -> None:
    """The error names the file's fault, not its content."""
    (tmp_path / "secret").write_text(content)
    result = CliRunner().invoke(main, ["certificate", "--secret-file", str(tmp_path / "secret"), "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "must hold at " in result.output
