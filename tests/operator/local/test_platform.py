"""Protected parts of the local platform: passwords, the superuser, its control port."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from threadcluster_operator.cli.local import local
from threadcluster_operator.local.postgres import EmbeddedPostgres

from tests.support.local_cluster import LocalCluster


async def test_a_password_that_is_refused_ends_up_at_once(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    """It does not pass by itself, so the command does not wait for it."""
    wrong = f"postgresql://threadcluster:wrong@127.0.0.1:{postgres.port}/threadcluster"
    cluster = LocalCluster(data_dir, database_url=wrong)
    with pytest.raises(AssertionError, match="password authentication failed"):
        await cluster.up(1)
    log_text = (data_dir / "logs" / "supervisor.log").read_text()
    assert "waiting for Postgres" not in log_text


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://user:password@127.0.0.1/x", "postgresql://user@127.0.0.1/x?password=password"],
    ids=["login", "parameter"],
)
def test_a_password_in_an_argument_is_refused(tmp_path: Path, dsn: str) -> None:
    """With what to do instead."""
    done = CliRunner().invoke(local, ["up", "--data-dir", str(tmp_path), "--database-url", dsn])
    assert done.exit_code == 2
    assert "--database-url-file" in done.output
    assert "user:password" not in done.output
