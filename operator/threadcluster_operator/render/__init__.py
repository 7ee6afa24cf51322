"""The Kubernetes objects that the operator creates for a ThreadCluster, as plain dicts, from values alone.

Nothing here knows of an API server, a clock or a random number: the same `RenderInput` gives the same objects, byte for byte,
in every release (tests/operator/render/golden), because a changed pod template restarts every worker of every cluster.

* `RenderInput`: the input, and the names and ports that follow from it.
* `migration_job(wanted)`: the Job that brings the schema to the image's release, before any pod changes; `migrated` says
  whether that is done.
* `internal_secrets(wanted, …)`: the Secrets by which workers, operator and users know each other.
* `children(wanted)`: everything else, in the order in which it is to be applied.
* `stateful_set(wanted)`: the workers' StatefulSet alone.
* `to_prune(wanted, live, kept)`: which of the live children are wanted no more.
* `differences(wanted, live)`, `is_applied(wanted, live)`: what of a wanted object the live one does not have.
"""

from threadcluster_operator.render.children import KINDS, Kind, children, kind_of, to_prune
from threadcluster_operator.render.diff import differences, is_applied
from threadcluster_operator.render.inputs import (
    MANAGEMENT_PORT,
    PUBLIC_PORT,
    RenderInput,
    client_secret_of,
    is_worker_of,
    secret_of,
)
from threadcluster_operator.render.migration_job import migrated, migration_job
from threadcluster_operator.render.objects import APPLIED, Object, digest, selector_of
from threadcluster_operator.render.pod import MIGRATION_CONTAINER, SECRET_KEY
from threadcluster_operator.render.secret import (
    CLIENT_SECRET_KEY,
    OperatorKeys,
    SecretState,
    SecretValue,
    internal_secrets,
    key_fingerprint,
    next_values,
    secret_text,
)
from threadcluster_operator.render.stateful_set import TEMPLATE, stateful_set

__all__ = [
    "APPLIED",
    "CLIENT_SECRET_KEY",
    "KINDS",
    "MANAGEMENT_PORT",
    "MIGRATION_CONTAINER",
    "PUBLIC_PORT",
    "SECRET_KEY",
    "TEMPLATE",
    "Kind",
    "Object",
    "OperatorKeys",
    "RenderInput",
    "SecretState",
    "SecretValue",
    "children",
    "client_secret_of",
    "differences",
    "digest",
    "internal_secrets",
    "is_applied",
    "is_worker_of",
    "key_fingerprint",
    "kind_of",
    "migrated",
    "migration_job",
    "next_values",
    "secret_of",
    "secret_text",
    "selector_of",
    "stateful_set",
    "to_prune",
]
