"""Kubernetes, as the operator uses it: plain dicts in and out, one closed set of errors, one field manager.

Everything that is written to the API server goes through here, so that what the operator may do can be read off one file
and held against its Role.  Objects are made by POST and changed by server-side apply with the uid of the one that was
seen: an apply alone would make again an object that was just deleted, and would silently take over another owner's.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes.aio import client, config
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError

from threadcluster_operator.kube.managed_fields import merge_manager_entries

FIELD_MANAGER: Final = "threadcluster-operator"
_PAGE: Final = 100
_REQUEST_S: Final = 10.0

Object = dict[str, Any]  # a Kubernetes object; JSON has no narrower type


class Kind(NamedTuple):
    """A kind of object, and where it is served."""

    group_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """The path of one object, or of all; in one namespace, or in all."""
        prefix = f"/api/{self.group_version}" if "/" not in self.group_version else f"/apis/{self.group_version}"
        where = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
        return f"{prefix}{where}/{self.plural}" + ("" if name is None else f"/{quote(name, safe='')}")


THREAD_CLUSTER: Final = Kind("threadcluster.io/v1alpha1", "ThreadCluster", "threadclusters")
NAMESPACE: Final = Kind("v1", "Namespace", "namespaces")
STATEFUL_SET: Final = Kind("apps/v1", "StatefulSet", "statefulsets")
POD: Final = Kind("v1", "Pod", "pods")
SERVICE: Final = Kind("v1", "Service", "services")
SECRET: Final = Kind("v1", "Secret", "secrets")
EVENT: Final = Kind("v1", "Event", "events")
JOB: Final = Kind("batch/v1", "Job", "jobs")
POD_DISRUPTION_BUDGET: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
INGRESS: Final = Kind("networking.k8s.io/v1", "Ingress", "ingresses")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
SERVICE_MONITOR: Final = Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors")

KINDS: Final[Mapping[str, Kind]] = {
    each.kind: each
    for each in (
        THREAD_CLUSTER,
        NAMESPACE,
        STATEFUL_SET,
        POD,
        SERVICE,
        SECRET,
        EVENT,
        JOB,
        POD_DISRUPTION_BUDGET,
        NETWORK_POLICY,
        INGRESS,
        LEASE,
        SERVICE_MONITOR,
    )
}
"""By the name of the kind."""


class KubeError(Exception):
    """The API server did not do what was asked; ``reason`` is its own word, or empty when it did not answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(KubeError):
    """404: there is no such object, or no such kind."""


class Conflict(KubeError):
    """409: it exists already, or is another than the one that was seen; look again."""


class Forbidden(KubeError):
    """403: not by our Role, or refused by a quota or an admission plugin; the message says which."""


class Rejected(KubeError):
    """400 or 422: the object is invalid, with any credentials; the message names the field."""


class Unreachable(KubeError):
    """No answer, or one that blames the server: ask again later."""


_BY_STATUS: Final[Mapping[int, type[KubeError]]] = {
    HTTPStatus.BAD_REQUEST: Rejected,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.UNPROCESSABLE_ENTITY: Rejected,
}


class ListResult(NamedTuple):
    """All objects of a kind, as of a version."""

    items: list[Object]
    version: str


class Kube(Protocol):
    """The API server; every method raises `KubeError`."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """One object, or None when it is not there; ``namespace`` is None for a kind without namespaces."""

    async def list(
        self, kind: Kind, namespace: str | None, labels: str = "", keep: Callable[[Object], Object] = dict
    ) -> ListResult:
        """All objects with these labels (``a=b,c``), in one namespace or in all; of each what ``keep`` makes of it."""

    async def create(self, kind: Kind, body: Object) -> Object:
        """Make an object.  Raises `Conflict` when one of that name is there."""

    async def expect_creatable(self, kind: Kind, body: Object) -> None:
        """Raise what `create` would raise now, and make nothing."""

    async def apply(self, kind: Kind, body: Object, uid: str) -> Object:
        """Make the fields of ``body`` ours and so, on just the object with that uid.  Raises `Conflict` for another."""

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        """Merge a patch into an object, or into a part of it."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None) -> None:
        """Delete just the object with that uid, what hangs on it after it; nothing when it is gone or another.

        With None as uid: whichever object has the name.
        """


class KubeApi:
    """`Kube` over the dynamic client of the `kubernetes` package; made by `connect`."""

    def __init__(self, dynamic: DynamicClient, manager: str = FIELD_MANAGER) -> None:
        self._dynamic = dynamic
        self._manager = manager

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """See `Kube`."""
        try:
            found = await self._ask("get", kind.path(namespace, name))
        except NotFound:
            return None
        return {"apiVersion": kind.group_version, "kind": kind.kind} | found

    async def list(
        self, kind: Kind, namespace: str | None, labels: str = "", keep: Callable[[Object], Object] = dict
    ) -> ListResult:
        """See `Kube`; reads page by page, so that other tasks run in between, and to bound the memory."""
        head = {"apiVersion": kind.group_version, "kind": kind.kind}
        items: list[Object] = []
        query: dict[str, str] = {"label_selector": labels} if labels else {}
        while True:
            found = await self._ask("get", kind.path(namespace), None, limit=_PAGE, **query)
            items += [keep(head | item) for item in found["items"]]
            following = found["metadata"].get("continue")
            if not following:
                return ListResult(items, found["metadata"]["resourceVersion"])
            query["_continue"] = following

    async def create(self, kind: Kind, body: Object) -> Object:
        """See `Kube`."""
        return await self._ask("post", kind.path(body["metadata"]["namespace"]), body, field_manager=self._manager)

    async def expect_creatable(self, kind: Kind, body: Object) -> None:
        """See `Kube`."""
        path = kind.path(body["metadata"]["namespace"])
        await self._ask("post", path, body, field_manager=self._manager, dry_run="All")

    async def apply(self, kind: Kind, body: Object, uid: str) -> Object:
        """See `Kube`."""
        meta = body["metadata"]
        await self._manage_all(kind, meta["namespace"], meta["name"])
        return await self._ask(
            "patch",
            kind.path(meta["namespace"], meta["name"]),
            body | {"metadata": meta | {"uid": uid}},
            field_manager=self._manager,
            force_conflicts=True,
            content_type="application/apply-patch+yaml",
        )

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        """See `Kube`."""
        return await self._ask(
            "patch",
            kind.path(namespace, name) + (f"/{subresource}" if subresource else ""),
            patch,
            field_manager=self._manager,
            content_type="application/merge-patch+json",
        )

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None) -> None:
        """See `Kube`."""
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._ask("delete", kind.path(namespace, name), body)
        except (NotFound, Conflict):
            return

    async def _manage_all(self, kind: Kind, namespace: str, name: str) -> None:
        """Have what is applied next take out what was ours and is in it no more, however it became ours."""
        found = await self.get(kind, namespace, name)
        meta = found["metadata"] if found is not None else {}
        entries = merge_manager_entries(meta.get("managedFields", ()), self._manager)
        if entries is not None:
            patch = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "managedFields": entries}
            await self.merge(kind, namespace, name, {"metadata": patch})

    async def _ask(self, method: str, path: str, body: Object | None = None, **how: object) -> Object:
        try:
            response = await self._dynamic.request(
                method, path, body=body, serialize=False, _request_timeout=_REQUEST_S, **how
            )
            return _decoded(await response.read())
        except DynamicApiError as error:
            found = _decoded(error.body or b"")
            message = str(found.get("message") or f"{method} {path}: status {error.status}")
            raise _BY_STATUS.get(error.status, Unreachable)(
                error.status, str(found.get("reason", "")), message
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(0, "", f"the API server does not answer: {str(error) or repr(error)}") from error


def _decoded(text: bytes | str) -> Object:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class KubeAccess(NamedTuple):
    """How the API server is reached: as a pod's service account, or else by a kubeconfig (``$KUBECONFIG``)."""

    kubeconfig: str | None = None
    context: str | None = None

    async def configuration(self) -> client.Configuration:
        """Read the configuration again.  Raises `KubeError` when there is neither."""
        settings = client.Configuration()
        given = self.kubeconfig or os.environ.get("KUBECONFIG")
        try:
            if given is None and self.context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # theirs
            else:
                await config.load_kube_config(  # type: ignore[no-untyped-call]  # theirs
                    config_file=given, context=self.context, client_configuration=settings
                )
        except config.ConfigException as error:
            raise KubeError(0, "", f"no Kubernetes to be reached: {error}") from error
        return settings


@asynccontextmanager
async def connect(access: KubeAccess) -> AsyncIterator[KubeApi]:
    """The API server.  Raises `KubeError` when it is not known where that is."""
    settings = await access.configuration()
    settings.connection_pool_maxsize = 32
    async with client.ApiClient(settings) as api:
        yield KubeApi(await DynamicClient(api))  # type: ignore[no-untyped-call]  # theirs
