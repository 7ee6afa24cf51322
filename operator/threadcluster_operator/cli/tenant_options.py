"""The options of `threadcluster operator run` that bound what authors of ThreadClusters may ask for."""

import functools
from collections.abc import Callable

import click

_OPTIONS = (
    click.option(
        "--allow-image",
        "images",
        metavar="PREFIX",
        multiple=True,
        help="Allow images below PREFIX; may be given several times [default: any image].",
    ),
    click.option(
        "--allow-service-type",
        "service_types",
        metavar="TYPE",
        multiple=True,
        help="Allow Services of TYPE [default: of any].",
    ),
    click.option(
        "--allow-annotation",
        "annotations",
        metavar="NAME",
        multiple=True,
        help="Allow the annotation NAME, or with NAME* all that begin so [default: any]; '' allows none.",
    ),
    click.option(
        "--allow-priority-class",
        "priority_classes",
        metavar="NAME",
        multiple=True,
        help="Allow the priority class NAME [default: any]; '' allows none.",
    ),
    click.option(
        "--pod-security",
        type=click.Choice(["restricted", "privileged"]),
        default="restricted",
        show_default=True,
        help="How much a security context in a ThreadCluster may ask for, by the Pod Security Standards.",
    ),
)


def tenant_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command these options; it gets them as ``tenants``."""

    @functools.wraps(command)
    def run(
        images: tuple[str, ...],
        service_types: tuple[str, ...],
        annotations: tuple[str, ...],
        priority_classes: tuple[str, ...],
        pod_security: str,
        **others: object,
    ) -> object:
        from threadcluster_operator.controller.tenant_policy import TenantPolicy

        privileged = pod_security == "privileged"
        tenants = TenantPolicy(images, service_types, annotations, priority_classes, privileged)
        return command(tenants=tenants, **others)

    wrapped: Callable[..., object] = run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
