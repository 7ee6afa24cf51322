"""Kubernetes, as the operator uses it: plain dicts in and out, one closed set of errors, one field manager.

Everything that is written to the API server goes through here, so that what the operator may do can be read off one file
and held against its Role.  Objects are made by POST and changed by server-side apply with the uid of the one that was
seen: an apply alone would make again an object that was just deleted, and would silently take over another owner's.
"""

import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes.aio import client, config
from kubernetes.aio.config.kube_config import KubeConfigLoader
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError

from threadcluster_operator.kube.answers import Answer, meaning_of
from threadcluster_operator.kube.managed_fields import merge_manager_entries
from threadcluster_operator.kube.nesting import shallow
from threadcluster_operator.kube.preconditions import Preconditions

log = logging.getLogger(__name__)

FIELD_MANAGER: Final = "threadcluster-operator"
_PAGE: Final = 100
_REQUEST_S: Final = 10.0
_TEXT_MOST: Final = 300
_RENEW_S: Final = 30.0
"""How often a kubeconfig is asked for credentials again.  Tokens of EKS live 15 minutes, and a program that makes one tells
how long: it is run again 5 minutes before, or each time when it does not tell."""

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
RESOURCE_QUOTA: Final = Kind("v1", "ResourceQuota", "resourcequotas")
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
        RESOURCE_QUOTA,
        LEASE,
        SERVICE_MONITOR,
    )
}
"""By the name of the kind."""


class KubeError(Exception):
    """The API server did not do what was asked; ``answer`` is the meaning, ``reason`` its own word or empty."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.answer = meaning_of(status, reason, message)


class NotFound(KubeError):
    """There is no such object, no such namespace, or no such kind."""


class Conflict(KubeError):
    """The object exists already, or is another than the one that was seen; look again."""


class Forbidden(KubeError):
    """Not by our Role, or refused by a quota or an admission rule; ``answer`` says which."""


class Rejected(KubeError):
    """The object is invalid, with any credentials; the message names the field."""


class Unreachable(KubeError):
    """No answer, or one that blames the server or a webhook: ask again later."""


_BY_ANSWER: Final[Mapping[Answer, type[KubeError]]] = {
    Answer.INVALID: Rejected,
    Answer.TOO_LARGE: Rejected,
    Answer.NOT_PERMITTED: Forbidden,
    Answer.QUOTA: Forbidden,
    Answer.DENIED: Forbidden,
    Answer.NAMESPACE_ENDING: Forbidden,
    Answer.KIND_MISSING: NotFound,
    Answer.NAMESPACE_MISSING: NotFound,
    Answer.MISSING: NotFound,
    Answer.EXISTS: Conflict,
    Answer.CONFLICT: Conflict,
    Answer.NO_DRY_RUN: Rejected,
    Answer.ADMISSION_DOWN: Unreachable,
    Answer.THROTTLED: Unreachable,
    Answer.UNKNOWN_CLIENT: Unreachable,
    Answer.FAILING: Unreachable,
    Answer.AWAY: Unreachable,
}


def error_of(status: int, reason: str, message: str) -> KubeError:
    """The error that an answer is."""
    return _BY_ANSWER[meaning_of(status, reason, message)](status, reason, message)


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

    async def probe(self, kind: Kind, namespace: str | None) -> None:
        """Return when a kind is served, and its objects may be listed.  Raises `NotFound` for a kind that is not there."""

    async def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """Make an object; raises `Conflict` when one of that name is there.

        ``dry_run``, here and below: the API server and its admission rules judge the request, and nothing is changed.
        """

    async def apply(self, kind: Kind, body: Object, seen: Preconditions, *, dry_run: bool = False) -> Object:
        """Make the fields of ``body`` ours and so, on just the state that was seen.  Raises `Conflict` for another."""

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "", *, dry_run: bool = False
    ) -> Object:
        """Merge a patch into an object, or into a part of it."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None, *, dry_run: bool = False) -> None:
        """Delete just the object with that uid, what hangs on it after it; nothing when it is gone or another.

        With None as uid: whichever object has the name.
        """


class KubeApi:
    """`Kube` over the dynamic client of the `kubernetes` package; made by `connect`."""

    def __init__(self, dynamic: DynamicClient, manager: str = FIELD_MANAGER, renewal: "Renewal | None" = None) -> None:
        self._dynamic = dynamic
        self._manager = manager
        self._renewal = renewal

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

    async def probe(self, kind: Kind, namespace: str | None) -> None:
        """See `Kube`.

        Kopf watches the kinds that the API server names when Kopf begins: discovery lags behind a CRD.  The group's own
        page comes first: while a kind is missing it is all that is asked for.
        """
        prefix = "/api" if "/" not in kind.group_version else "/apis"
        served = await self._ask("get", f"{prefix}/{kind.group_version}")
        names = {each["name"] for each in served["resources"]}
        if prefix == "/apis":
            groups = {each["name"] for each in (await self._ask("get", prefix))["groups"]}
            names &= names if kind.group_version.partition("/")[0] in groups else set()
        if kind.plural not in names:
            raise NotFound(HTTPStatus.NOT_FOUND, "NotFound", f"{kind.group_version} has no {kind.plural}")
        await self._ask("get", kind.path(namespace), None, limit=1)

    async def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """See `Kube`."""
        path = kind.path(body["metadata"]["namespace"])
        return await self._ask("post", path, body, field_manager=self._manager, **_write(dry_run=dry_run))

    async def apply(self, kind: Kind, body: Object, seen: Preconditions, *, dry_run: bool = False) -> Object:
        """See `Kube`."""
        meta = body["metadata"]
        version = seen.version
        if not dry_run:
            version = await self._manage_all(kind, meta["namespace"], meta["name"], seen)
        return await self._ask(
            "patch",
            kind.path(meta["namespace"], meta["name"]),
            body | {"metadata": meta | seen._replace(version=version).metadata},
            field_manager=self._manager,
            force_conflicts=True,
            content_type="application/apply-patch+yaml",
            **_write(dry_run=dry_run),
        )

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "", *, dry_run: bool = False
    ) -> Object:
        """See `Kube`."""
        # A status may have a field that an older CustomResourceDefinition does not know: the rest of it must arrive.
        strict = not subresource
        return await self._ask(
            "patch",
            kind.path(namespace, name) + (f"/{subresource}" if subresource else ""),
            patch,
            field_manager=self._manager,
            content_type="application/merge-patch+json",
            **_write(dry_run=dry_run, strict=strict),
        )

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None, *, dry_run: bool = False) -> None:
        """See `Kube`."""
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._ask("delete", kind.path(namespace, name), body, dry_run="All" if dry_run else None)
        except (NotFound, Conflict):
            return

    async def _manage_all(self, kind: Kind, namespace: str, name: str, seen: Preconditions) -> str:
        """Have what is applied next take out what was ours and is in it no more, however it became ours.

        Returns the version that this makes of the one that was seen; it changes nothing that was judged.
        """
        found = await self.get(kind, namespace, name)
        if found is None or Preconditions.of(found) != seen:
            return seen.version  # the write itself is refused, and says why
        entries = merge_manager_entries(found["metadata"].get("managedFields", ()), self._manager)
        if entries is None:
            return seen.version
        patch = {"metadata": seen.metadata | {"managedFields": entries}}
        return Preconditions.of(await self.merge(kind, namespace, name, patch)).version

    async def _ask(self, method: str, path: str, body: Object | None = None, **how: object) -> Object:
        try:
            if self._renewal is not None:
                await self._renewal()
            response = await self._dynamic.request(
                method, path, body=body, serialize=False, _request_timeout=_REQUEST_S, **how
            )
            return _decoded(await response.read())
        except DynamicApiError as error:
            raise _refusal(error, f"{method} {path}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _no_answer(error) from error


def _refusal(error: DynamicApiError, asked: str) -> KubeError:
    found = _decoded(error.body or b"")
    message = found.get("message") or _text(error.body or b"") or f"{asked}: status {error.status}"
    return error_of(error.status, str(found.get("reason", "")), str(message))


def _no_answer(error: Exception) -> KubeError:
    return Unreachable(0, "", f"the API server does not answer: {str(error) or repr(error)}")


_NO_FILE: Final = f"{os.devnull}/kinds"
"""A file that cannot be.  The library would keep the kinds for good, in a file of the folder for temporary files whose name is made
of the server's address: anyone on the machine could write it, and another cluster may have the address tomorrow.
"""


async def discover(api: client.ApiClient) -> DynamicClient:
    """A client that knows the API server's kinds.  Raises `KubeError`, also when another program answers at the address."""
    try:
        return await DynamicClient(api, cache_file=_NO_FILE)  # type: ignore[no-any-return, no-untyped-call]  # theirs
    except DynamicApiError as error:
        raise _refusal(error, "discovery") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _no_answer(error) from error
    except (LookupError, ValueError, TypeError, AttributeError) as error:  # the library takes every answer for its own
        raise KubeError(0, "", f"{api.configuration.host} does not answer as an API server does") from error


def _write(*, dry_run: bool, strict: bool = True) -> dict[str, Any]:  # the client's own keywords
    """Of every write: a field that the schema does not have is refused, and never left out silently."""
    chosen: list[tuple[str, str]] = [("fieldValidation", "Strict")] if strict else []
    return {"query_params": chosen, "dry_run": "All" if dry_run else None}


def _text(body: bytes | str) -> str:
    """An answer that is no JSON, as that to the path of a kind that is not served."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    return " ".join(text.split())[:_TEXT_MOST]


def _decoded(text: bytes | str) -> Object:
    try:
        found = msgspec.json.decode(shallow(text.encode() if isinstance(text, str) else text))
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class KubeAccess(NamedTuple):
    """How the API server is reached: as a pod's service account, or else by a kubeconfig (``$KUBECONFIG``)."""

    kubeconfig: str | None = None
    context: str | None = None

    async def configuration(self) -> client.Configuration:
        """Read the configuration again.  Raises `KubeError` when there is neither."""
        settings, _ = await self.renewed()
        return settings

    async def renewed(self) -> "tuple[client.Configuration, Renewal | None]":
        """Read the configuration again; with what renews its credentials, where nothing else does.

        The token of a service account is read again by its own loader.  Raises `KubeError` when there is neither.
        """
        settings = client.Configuration()
        given = self.kubeconfig or os.environ.get("KUBECONFIG")
        try:
            if given is None and self.context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # theirs
                return settings, None
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call]  # theirs
                config_file=given, context=self.context, client_configuration=settings
            )
        except config.ConfigException as error:
            raise KubeError(0, "", f"no Kubernetes to be reached: {error}") from error
        return settings, Renewal(loader, settings)


class Renewal:
    """Keeps the credentials of a kubeconfig fresh: tokens and certificates that a program makes, and files of tokens."""

    def __init__(self, loader: KubeConfigLoader, settings: client.Configuration) -> None:
        self.tls: ssl.SSLContext | None = None
        """That of the client, which shows the certificate."""
        self._loader = loader
        self._settings = settings
        self._asked_at = time.monotonic()

    async def __call__(self) -> None:
        """Renew what is due; called before each request.  Of several at a time one asks, the others go on as they are."""
        if time.monotonic() - self._asked_at < _RENEW_S:
            return
        self._asked_at = time.monotonic()
        before = self._settings.cert_file
        try:
            await self._loader.load_and_set(self._settings)  # type: ignore[no-untyped-call]  # theirs
        except (config.ConfigException, OSError, ValueError) as error:
            log.warning("credentials not renewed, going on with those before", extra={"cause": str(error)})
        if self.tls is not None and self._settings.cert_file not in (None, before):
            self.tls.load_cert_chain(self._settings.cert_file, self._settings.key_file)  # of new connections


@asynccontextmanager
async def connect(access: KubeAccess) -> AsyncIterator[KubeApi]:
    """The API server.  Raises `KubeError` when it is not known where that is."""
    settings, renewal = await access.renewed()
    settings.connection_pool_maxsize = 32
    async with client.ApiClient(settings) as api:
        if renewal is not None:
            renewal.tls = api.rest_client.ssl_context
        yield KubeApi(await discover(api), renewal=renewal)
