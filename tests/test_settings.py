"""Settings are refused early, all at once, by their own names; and their reference is true."""

from pathlib import Path

import pytest

from shard_worker.contract_tls import internal_key
from shard_worker.settings import InvalidSettings, WorkerSettings, load_settings, reference
from tests.support.paths import ROOT

GOOD = {"NAME": "w", "CLUSTER": "c", "DSN": "postgresql://h/d", "SECRET": "0123456789abcdef"}


def environment(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    """A worker's environment, changed."""
    for name, value in {**GOOD, **changes}.items():
        if value is None:
            monkeypatch.delenv(f"SHARD_WORKER_{name}", raising=False)
        else:
            monkeypatch.setenv(f"SHARD_WORKER_{name}", value)


def test_the_least_environment_makes_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four variables, and nothing secret in its text."""
    environment(monkeypatch)
    settings = load_settings()
    assert settings.database == "postgresql://h/d"
    assert settings.cluster_secrets() == (b"0123456789abcdef",)
    assert "0123456789abcdef" not in repr(settings)


def test_all_failures_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by the variable's own name."""
    environment(monkeypatch, PUBLIC_PORT="99999", LEASE_SECONDS="5", NAME=None, LOG_LEVEL="loud")
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    for name in ("PUBLIC_PORT", "LEASE_SECONDS", "NAME", "LOG_LEVEL"):
        assert f"SHARD_WORKER_{name}: " in str(caught.value)


def test_failures_across_settings_are_reported_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing pair does not hide a bad port, nor the other way round."""
    environment(monkeypatch, PUBLIC_PORT="99999", SECRET=None)
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 2


def test_no_refusal_shows_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refused value may be a password in the wrong variable."""
    environment(monkeypatch, DSN="mysql://u:hunter2@h/d", SECRET="hunter2", CORS_ORIGINS="hunter2", SHARDS="hunter2")
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 4
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"too-short\n"], ids=["empty", "blank", "short"])
def test_a_secret_file_that_protects_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    """Any client would have an empty secret."""
    (tmp_path / "secret").write_bytes(content)
    environment(monkeypatch, SECRET=None, SECRET_FILE=str(tmp_path / "secret"))
    with pytest.raises(InvalidSettings, match=r"SHARD_WORKER_SECRET_FILE: .* at least 16 bytes"):
        load_settings()


def test_a_users_key_makes_no_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It proves a client of the internal API, and no peer."""
    (tmp_path / "secret").write_bytes(internal_key(b"the secret of a cluster"))
    environment(monkeypatch, SECRET=None, SECRET_FILE=str(tmp_path / "secret"))
    with pytest.raises(InvalidSettings, match=r"SHARD_WORKER_SECRET_FILE: .* the key of a client of /internal/v1"):
        load_settings()


def test_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the line end that editors put there; a secret file that vanishes later is refused by name."""
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    (tmp_path / "dsn").write_text("postgresql://h/d\n")
    environment(
        monkeypatch, SECRET=None, SECRET_FILE=str(tmp_path / "secret"), DSN=None, DSN_FILE=str(tmp_path / "dsn")
    )
    settings = load_settings()
    assert settings.cluster_secrets() == (b"0123456789abcdef",)
    assert settings.database == tmp_path / "dsn"
    (tmp_path / "secret").unlink()
    with pytest.raises(InvalidSettings, match=r"SHARD_WORKER_SECRET_FILE: .* cannot be read"):
        settings.cluster_secrets()


def test_a_dsn_file_is_looked_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is missing or holds something else is found before the first connection."""
    (tmp_path / "dsn").write_text("host=h dbname=d")
    for path, reason in ((tmp_path / "dsn", "must begin with"), (tmp_path / "none", "cannot be read")):
        environment(monkeypatch, DSN=None, DSN_FILE=str(path))
        with pytest.raises(InvalidSettings, match=f"SHARD_WORKER_DSN_FILE: .*{reason}"):
            load_settings()


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates leave empty ones behind."""
    environment(monkeypatch, DSN_FILE="", SHARDS="", PUBLIC_PORT="")
    settings = load_settings()
    assert (settings.dsn_file, settings.shards, settings.public_port) == (None, None, 8080)


def test_a_lease_outlasts_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every read would find the lease over."""
    environment(monkeypatch, BEAT_SECONDS="0.3", LEASE_SECONDS="0.3")
    with pytest.raises(
        InvalidSettings, match="SHARD_WORKER_LEASE_SECONDS: must be more than SHARD_WORKER_BEAT_SECONDS"
    ):
        load_settings()


def test_origins_are_a_json_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is none is refused by the variable's name."""
    environment(monkeypatch, CORS_ORIGINS='["https://chat.example"]')
    assert load_settings().cors_origins == ("https://chat.example",)
    for wrong in ("https://chat.example", '{"a": 1}', "[1]"):
        environment(monkeypatch, CORS_ORIGINS=wrong)
        with pytest.raises(InvalidSettings, match="SHARD_WORKER_CORS_ORIGINS"):
            load_settings()


def test_a_ca_file_is_for_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is refused where it would change nothing, and where it is not there."""
    (tmp_path / "ca.crt").touch()
    for mode in ("require", "verify-full"):
        environment(monkeypatch, DATABASE_TLS=mode, DATABASE_CA_FILE=str(tmp_path / "ca.crt"))
        assert load_settings().database_tls == mode
    for refused, file in (("disable", "ca.crt"), (None, "ca.crt"), ("require", "none")):
        environment(monkeypatch, DATABASE_TLS=refused, DATABASE_CA_FILE=str(tmp_path / file))
        with pytest.raises(InvalidSettings, match="SHARD_WORKER_DATABASE_CA_FILE: "):
            load_settings()


@pytest.mark.parametrize("pair", ["DSN", "SECRET"])
def test_exactly_one_of_a_value_and_its_file(monkeypatch: pytest.MonkeyPatch, pair: str) -> None:
    """Both or none is refused with both names."""
    for changes in ({f"{pair}_FILE": "/x"}, {pair: None, f"{pair}_FILE": None}):
        environment(monkeypatch, **changes)
        with pytest.raises(InvalidSettings, match=f"exactly one of SHARD_WORKER_{pair} and SHARD_WORKER_{pair}_FILE"):
            load_settings()


def test_the_reference_is_what_the_code_says() -> None:
    """docs/configuration.md is generated: `make docs`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == reference()


def test_every_setting_is_documented() -> None:
    """A setting without a description has no place in the reference."""
    assert [name for name, field in WorkerSettings.model_fields.items() if not field.description] == []
