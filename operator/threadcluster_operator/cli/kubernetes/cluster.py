"""A ThreadCluster on Kubernetes as the commands have it in hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiohttp
from kubernetes.aio import client

from threadcluster_operator.api import KubernetesSpec
from threadcluster_operator.cli.kubernetes.errors import ClusterUnreachable, sentence
from threadcluster_operator.cli.kubernetes.pod_workers import PodWorkers
from threadcluster_operator.cli.kubernetes.port_forward import tunnels
from threadcluster_operator.cli.kubernetes.rebalance import RebalanceClient, spec_of
from threadcluster_operator.cli.kubernetes.target import Place, find
from threadcluster_operator.kube.client import KubeApi, KubeError, discover
from threadcluster_operator.render import MANAGEMENT_PORT

_FIELD_MANAGER: Final = "threadcluster-command"


class Remote(NamedTuple):
    """A ThreadCluster that is there; whether anything of it runs is seen by asking."""

    namespace: str
    name: str
    spec: KubernetesSpec
    workers: PodWorkers
    planner: RebalanceClient


@asynccontextmanager
async def remote_cluster(place: Place, name: str | None) -> AsyncIterator[Remote]:
    """The ThreadCluster of that name, else the only one of the namespace.

    Raises `ClusterUnreachable` when the cluster cannot be reached, for whatever reason.
    """
    async with connection(place) as reached:
        found = await find(reached.kube, place.namespace, name)
        own_name, spec = found["metadata"]["name"], spec_of(found)
        async with reached.workers(own_name) as workers:
            planner = RebalanceClient(reached.kube, workers, workers.running, place.namespace, own_name)
            yield Remote(place.namespace, own_name, spec, workers, planner)


class Connection(NamedTuple):
    """The API server of a place, as a command asks it."""

    kube: KubeApi
    api: client.ApiClient
    namespace: str

    @asynccontextmanager
    async def workers(self, name: str) -> AsyncIterator[PodWorkers]:
        """The workers of a ThreadCluster, reached by port-forward for as long as this lasts."""
        async with (
            aiohttp.ClientSession() as session,
            tunnels(self.api, self.namespace, MANAGEMENT_PORT) as ways,
        ):
            yield PodWorkers(self.kube, ways, session, self.namespace, name)


@asynccontextmanager
async def connection(place: Place) -> AsyncIterator[Connection]:
    """The API server.  Raises `ClusterUnreachable` when it does not do what is asked within."""
    try:
        async with await _client(place) as api:
            yield Connection(KubeApi(await discover(api), _FIELD_MANAGER), api, place.namespace)
    except KubeError as error:
        raise ClusterUnreachable(sentence(error)) from error
    except aiohttp.ClientError as error:
        raise ClusterUnreachable(f"the API server does not answer: {error}") from error


async def _client(place: Place) -> client.ApiClient:
    """A client of the API server.  An `OSError` of its files is caught here alone: that of a body, as of a pipe
    without a reader, is no fault of the API server.
    """
    try:
        return client.ApiClient(await place.access.configuration())
    except OSError as error:
        raise ClusterUnreachable(f"the files of the kubeconfig cannot be read: {error}") from error
