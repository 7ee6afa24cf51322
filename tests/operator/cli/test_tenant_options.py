"""The flags that bound ThreadClusters, as they reach the operator."""

import click
import pytest
from click.testing import CliRunner
from threadcluster_operator.cli.operator import run
from threadcluster_operator.cli.tenant_options import tenant_options
from threadcluster_operator.controller.tenant_policy import TenantPolicy

GIVEN: list[TenantPolicy] = []


@click.command()
@tenant_options
def command(tenants: TenantPolicy) -> None:
    """A command that only takes the flags."""
    GIVEN.append(tenants)


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ([], TenantPolicy()),
        (["--allow-image", "a/", "--allow-image", "b/"], TenantPolicy(images=("a/", "b/"))),
        (["--allow-service-type", "ClusterIP"], TenantPolicy(service_types=("ClusterIP",))),
        (["--allow-annotation", "a/*", "--allow-annotation", ""], TenantPolicy(annotations=("a/*", ""))),
        (["--allow-priority-class", "low"], TenantPolicy(priority_classes=("low",))),
        (["--pod-security", "privileged"], TenantPolicy(privileged=True)),
    ],
)
def test_each_flag_is_a_part_of_the_policy(words: list[str], policy: TenantPolicy) -> None:
    """In the order in which they are given."""
    assert CliRunner().invoke(command, words).exit_code == 0
    assert GIVEN.pop() == policy


def test_the_operator_has_them() -> None:
    """And no other word for pod security."""
    assert {"images", "service_types", "annotations", "priority_classes", "pod_security"} <= {
        parameter.name for parameter in run.params
    }
    assert CliRunner().invoke(command, ["--pod-security", "baseline"]).exit_code == 2
