"""`threadcluster operator`: the program that the operator's pods run."""

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from threadcluster_operator.cli.groups import Group
from threadcluster_operator.cli.tenant_options import tenant_options

if TYPE_CHECKING:
    from threadcluster_operator.controller.tenant_policy import TenantPolicy

OWN_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@click.group(cls=Group)
def operator() -> None:
    """The Kubernetes operator: makes ThreadClusters real, and keeps them so."""


@operator.command()
@click.option("--namespace", metavar="NAME", help="Look after the clusters of this namespace alone [default: of all].")
@click.option("--context", metavar="NAME", help="A context of the kubeconfig, when not run in a pod.")
@click.option(
    "--identity-namespace",
    metavar="NAME",
    default="kube-system",
    show_default=True,
    help="The namespace whose uid tells this Kubernetes cluster from others, in the claims of databases.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Of health and metrics.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least level that is logged.",
)
@tenant_options
def run(
    namespace: str | None,
    context: str | None,
    identity_namespace: str,
    port: int,
    log_level: str,
    tenants: "TenantPolicy",
) -> None:
    """Run until SIGTERM.  Of several that run, one leads and the others stand by.

    In a pod it uses the service account; elsewhere $KUBECONFIG, which is how to try it from a checkout:

    \b
      kubectl apply -k crds
      threadcluster operator run --port 9090

    Exit codes: 0 ended in order, 1 a fault.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    from shard_worker.logs import configure_logging
    from threadcluster_operator.controller.runtime import OperatorFailed, Options, identity
    from threadcluster_operator.controller.runtime import run as run_operator
    from threadcluster_operator.kube.client import KubeAccess, KubeError

    configure_logging(log_level, "auto")
    own = os.environ.get("POD_NAMESPACE") or namespace or "default"
    options = Options(
        namespace,
        own,
        identity(),
        port,
        KubeAccess(context=context),
        identity_namespace=identity_namespace,
        tenants=tenants,
    )
    try:
        asyncio.run(run_operator(options))
    except (OperatorFailed, KubeError, OSError) as error:
        logging.getLogger("threadcluster_operator").critical("the operator cannot go on", extra={"cause": str(error)})
        sys.exit(1)
