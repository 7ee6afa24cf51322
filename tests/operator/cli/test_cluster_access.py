"""A command finds its cluster, and reports errors with their causes."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from threadcluster_operator.cli.kubernetes.errors import sentence
from threadcluster_operator.kube.client import Forbidden, KubeError, NotFound, Rejected, Unreachable
from threadcluster_operator.main import main

VERBS = (
    "status",
    "logs",
    "fsck",
    "shards",
    "cordon",
    "uncordon",
    "drain",
    "pin",
    "unpin",
    "plan",
    "rebalance",
    "history",
)


def run(*words: str) -> tuple[int, str]:
    """Exit code, and the whole output."""
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_the_same_options(verb: str) -> None:
    """A cluster here and one on Kubernetes are one habit."""
    code, output = run(verb, "--help")
    assert code == 0
    for option in ("--data-dir", "--context", "-n, --namespace", "--name", "--kubeconfig"):
        assert option in output


def test_the_options_name_the_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    """Nothing is asked of anybody."""
    code, output = run("history", "--kubeconfig", str(tmp_path / "none"))
    assert code == 1
    assert f"there is no kubeconfig {tmp_path / 'none'}" in output


@pytest.mark.parametrize(
    ("error", "output"),
    [
        (Forbidden(403, "Forbidden", "you cannot list pods"), "you cannot list pods; manifests/users has what"),
        (NotFound(404, "NotFound", "page not found"), "no ThreadClusters (page not found); `kubectl apply -k"),
        (Rejected(422, "Invalid", "spec.replicas: no."), "the API server refuses it: spec.replicas: no"),
        (Unreachable(401, "Unauthorized", "Unauthorized"), "does not know you (Unauthorized)"),
        (KubeError(0, "", "the API server does not answer: it is away"), "the API server does not answer: it is away"),
    ],
    ids=["forbidden", "no CRD", "rejected", "unauthorized", "away"],
)
def test_a_refusal_says_what_helps(error: KubeError, output: str) -> None:
    """In one sentence."""
    assert output in sentence(error)
