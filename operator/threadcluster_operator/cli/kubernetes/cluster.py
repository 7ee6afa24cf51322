"""A ThreadCluster on Kubernetes as the commands have it in hand."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.dynamic import DynamicClient

from threadcluster_operator.api import KubernetesSpec
from threadcluster_operator.cli.kubernetes.errors import ClusterUnreachable, sentence
from threadcluster_operator.cli.kubernetes.pod_workers import PodWorkers
from threadcluster_operator.cli.kubernetes.port_forward import tunnels
from threadcluster_operator.cli.kubernetes.rebalance import RebalanceClient, spec_of
from threadcluster_operator.cli.kubernetes.target import ClusterSelector, find, place_of
from threadcluster_operator.kube.client import KubeApi, KubeError
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
async def remote_cluster(where: ClusterSelector) -> AsyncIterator[Remote]:
    """The selected ThreadCluster.  Raises `ClusterUnreachable` when the cluster cannot be reached, for whatever reason."""
    place = place_of(where, os.environ)
    try:
        settings = await place.access.configuration()
        async with client.ApiClient(settings) as api, aiohttp.ClientSession() as session:
            dynamic = await DynamicClient(api)  # type: ignore[no-untyped-call]  # theirs
            kube = KubeApi(dynamic, _FIELD_MANAGER)
            found = await find(kube, place.namespace, where.name)
            name, spec = found["metadata"]["name"], spec_of(found)
            async with tunnels(api, place.namespace, MANAGEMENT_PORT) as ways:
                workers = PodWorkers(kube, ways, session, place.namespace, name)
                planner = RebalanceClient(kube, workers, workers.running, place.namespace, name)
                yield Remote(place.namespace, name, spec, workers, planner)
    except KubeError as error:
        raise ClusterUnreachable(sentence(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise ClusterUnreachable(f"the API server does not answer: {error}") from error
