"""The input of the render functions, and the names that follow from it."""

from typing import Final, NamedTuple

from threadcluster_operator.api import KubernetesSpec

PUBLIC_PORT: Final = 8080
"""Where every worker serves the HTTP API."""
MANAGEMENT_PORT: Final = 8081
"""Where every worker serves probes, metrics, the internal API, and its peers."""


class RenderInput(NamedTuple):
    """One cluster as it should be now.

    ``replicas`` and ``partition`` are the planner's present step, not the user's wish: pods from ordinal ``partition`` on
    run the newest template, the others the one that they were made with.
    """

    name: str
    namespace: str
    uid: str
    spec: KubernetesSpec
    replicas: int
    partition: int
    operator_namespace: str
    """Where the operator runs: from there it may reach the workers' management port."""
    service_monitors: bool = False
    """Whether the Kubernetes cluster knows ServiceMonitors."""
    site: str = ""
    """The uid of the Kubernetes cluster, for the database's claim."""
    restricted: bool = True
    """Whether the restricted Pod Security Standard wins over the user's security context."""

    @property
    def cluster_id(self) -> str:
        """The name under which the database is claimed."""
        return self.spec.database.cluster_id or f"{self.namespace}.{self.name}"

    @property
    def gateway_service(self) -> str:
        """The Service in front of all workers, for clients."""
        return self.name

    @property
    def headless_service(self) -> str:
        """The Service that gives each worker a name."""
        return f"{self.name}-workers"

    @property
    def secret(self) -> str:
        """The Secret by which workers and operator know each other."""
        return secret_of(self.name)


def is_worker_of(cluster: str, worker: str) -> bool:
    """Whether a worker's name is one that the StatefulSet of a cluster gives."""
    name, _, ordinal = worker.rpartition("-")
    return name == cluster and ordinal.isdecimal()


def client_secret_of(name: str) -> str:
    """The name of the Secret of users of the internal API; no cluster's own name has a dot, so that no two names meet."""
    return f"{name}.client-internal"


def secret_of(name: str) -> str:
    """The name of the Secret by which the workers of the cluster ``name`` and the operator know each other."""
    return f"{name}-internal"
