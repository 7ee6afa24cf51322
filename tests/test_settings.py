"""Settings are refused early, all at once, by their own names; and their reference is true."""

from pathlib import Path

import pytest

from shard_worker.settings import SettingsRefused, load_settings, reference

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
    assert settings.cluster_secret() == b"0123456789abcdef"
    assert "0123456789abcdef" not in repr(settings)


def test_all_failures_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by the variable's own name."""
    environment(monkeypatch, PUBLIC_PORT="99999", LEASE_SECONDS="5", NAME=None, LOG_LEVEL="loud")
    with pytest.raises(SettingsRefused) as caught:
        load_settings()
    for name in ("PUBLIC_PORT", "LEASE_SECONDS", "NAME", "LOG_LEVEL"):
        assert f"SHARD_WORKER_{name}: " in str(caught.value)


@pytest.mark.parametrize("pair", ["DSN", "SECRET"])
def test_exactly_one_of_a_value_and_its_file(monkeypatch: pytest.MonkeyPatch, pair: str) -> None:
    """Both or none is refused with both names."""
    for changes in ({f"{pair}_FILE": "/x"}, {pair: None, f"{pair}_FILE": None}):
        environment(monkeypatch, **changes)
        with pytest.raises(SettingsRefused, match=f"exactly one of SHARD_WORKER_{pair} and SHARD_WORKER_{pair}_FILE"):
            load_settings()


def test_the_reference_is_what_the_code_says() -> None:
    """docs/configuration.md is generated: `make docs`."""
    assert Path("docs/configuration.md").read_text() == reference()
