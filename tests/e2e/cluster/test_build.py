"""Sources of Kubernetes' programs, and the error when they are missing."""

from pathlib import Path

import pytest

from tests.e2e.cluster import build
from tests.e2e.cluster.build import Missing


def _programs(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


def test_given_programs_go_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the variable is taken as it is."""
    given = _programs(tmp_path / "given", *build.CONTROL_PLANE)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    assert build.kubernetes() == given


def test_a_part_that_is_not_among_given_programs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Envtest has no controller manager."""
    given = _programs(tmp_path / "given", "etcd", "kube-apiserver", "kubectl")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    with pytest.raises(Missing, match="has no kube-controller-manager, kube-scheduler"):
        build.kubernetes()


def test_without_programs_the_error_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache is not searched for, it is filled by a command."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Missing, match="make test-cluster"):
        build.kubernetes()


def test_the_cache_is_the_users_and_keyed_by_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sources, another folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = build.cached()
    assert before.is_relative_to(tmp_path / "cache")
    changed = tmp_path / "sources"
    changed.mkdir()
    for name in ("go.mod", "go.sum", "main.go"):
        (changed / name).write_bytes((build.SOURCES / name).read_bytes() + b"// changed\n")
    monkeypatch.setattr(build, "SOURCES", changed)
    assert build.cached() != before


def test_all_modules_are_of_one_release() -> None:
    """The version that is built is written once; the modules beside it follow from it."""
    lines = (build.SOURCES / "go.mod").read_text().splitlines()
    replaced = [line.split() for line in lines if " => " in line]
    assert {line[-1] for line in replaced} == {build.version().replace("v1.", "v0.")}
