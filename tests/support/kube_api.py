"""The tests' own hand on a Kubernetes API: plain dicts in, plain dicts out, over one connection pool.

It is not the product's client, so that a test never asks the code that it judges.  Kinds are named by their
``apiVersion`` and ``kind``, as in a manifest; their paths are asked from the server once.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config

Object = dict[str, Any]  # a Kubernetes object, or part of one

MANAGER: Final = "tests"
_PATCHES: Final = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
_SOON_S: Final = 0.05
_BUSY: Final = (429, 503)


class Refused(Exception):
    """The API server's answer is no; ``status`` and ``reason`` are its own, the message is its sentence."""

    def __init__(self, status: int, answer: Object) -> None:
        super().__init__(f"{status} {answer.get('reason')}: {answer.get('message')}")
        self.status = status
        self.reason = str(answer.get("reason"))
        self.answer = answer


class NotSeen(AssertionError):
    """An awaited state did not come; the message shows the actual state."""


class Api:
    """One user's way to one API server."""

    def __init__(self, session: aiohttp.ClientSession, server: str, kubeconfig: Path, audit_log: Path | None) -> None:
        self.kubeconfig = kubeconfig
        self.audit_log = audit_log
        """Of the API server, where it is ours."""
        self._session = session
        self._server = server
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    async def get(self, version: str, kind: str, name: str, namespace: str | None = None, *, sub: str = "") -> Object:
        """One object, or its subresource ``sub``.  Raises `Refused`."""
        return await self.request("GET", await self.path(version, kind, name, namespace, sub))

    async def find(self, version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """One object, or None when there is none."""
        try:
            return await self.get(version, kind, name, namespace)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    async def list(self, version: str, kind: str, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        """All objects of a kind, of one namespace or of all, that have the labels."""
        answer = await self.request("GET", await self.path(version, kind, None, namespace), {"labelSelector": labels})
        items: list[Object] = answer["items"]
        return [{"apiVersion": version, "kind": kind, **item} for item in items]

    async def create(
        self, manifest: Object, namespace: str | None = None, *, sub: str = "", dry_run: bool = False
    ) -> Object:
        """Create an object; with ``sub`` post to that subresource of the object that ``manifest`` names."""
        name = manifest["metadata"]["name"] if sub else None
        path = await self.path(manifest["apiVersion"], manifest["kind"], name, _namespace_of(manifest, namespace), sub)
        return await self.request("POST", path, {"dryRun": "All"} if dry_run else None, manifest)

    async def apply(self, manifest: Object, namespace: str | None = None, *, dry_run: bool = False) -> Object:
        """Server-side apply, by force, with unknown fields refused.  Raises `Refused`."""
        version, kind, name = manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        path = await self.path(version, kind, name, _namespace_of(manifest, namespace))
        return await self.request("PATCH", path, query | ({"dryRun": "All"} if dry_run else {}), manifest, "apply")

    async def patch(
        self,
        version: str,
        kind: str,
        name: str,
        body: object,
        namespace: str | None = None,
        *,
        sub: str = "",
        how: Literal["merge", "strategic", "json"] = "merge",
    ) -> Object:
        """Change an object, or its subresource ``sub`` (``status``, ``scale``).  Raises `Refused`."""
        path = await self.path(version, kind, name, namespace, sub)
        return await self.request("PATCH", path, {"fieldManager": MANAGER}, body, how)

    async def delete(
        self,
        version: str,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        grace_s: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
    ) -> None:
        """Ask for an object's deletion; nothing to do when it is gone already."""
        body: Object = {"propagationPolicy": propagation}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self.request("DELETE", await self.path(version, kind, name, namespace), body=body)
        except Refused as refusal:
            if refusal.status != 404:
                raise

    async def wait_for(
        self,
        version: str,
        kind: str,
        name: str,
        condition: Callable[[Object], object],
        namespace: str | None = None,
        *,
        within_s: float = 30.0,
    ) -> Object:
        """The object as soon as ``condition`` holds for it.  Raises `NotSeen`."""
        deadline = time.monotonic() + within_s
        while True:
            found = await self.find(version, kind, name, namespace)
            if found is not None and condition(found):
                return found
            if time.monotonic() > deadline:
                shown = json.dumps({**found, "metadata": {"name": name}}, indent=1) if found else "it does not exist"
                raise NotSeen(f"{kind} {name}: not so within {within_s:.0f} s; {shown}")
            await asyncio.sleep(_SOON_S)

    async def wait_gone(
        self, version: str, kind: str, name: str, namespace: str | None = None, *, within_s: float = 30.0
    ) -> None:
        """Return when the object does not exist any more.  Raises `NotSeen`."""
        deadline = time.monotonic() + within_s
        while (found := await self.find(version, kind, name, namespace)) is not None:
            if time.monotonic() > deadline:
                raise NotSeen(f"{kind} {name}: still there after {within_s:.0f} s; {json.dumps(found, indent=1)}")
            await asyncio.sleep(_SOON_S)

    async def watch(
        self, version: str, kind: str, namespace: str | None = None, *, since: str, labels: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        """Changes (ADDED, MODIFIED, DELETED) after a resource version; ends when the server ends it."""
        path = await self.path(version, kind, None, namespace)
        query = {"watch": "true", "resourceVersion": since, "labelSelector": labels}
        budget = aiohttp.ClientTimeout(total=None)
        async with self._session.get(f"{self._server}{path}", params=query, timeout=budget) as response:
            if response.status != 200:
                raise Refused(response.status, _read(await response.text()))
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(event["object"].get("code", 500), event["object"])
                yield event["type"], event["object"]

    async def token_of(self, namespace: str, service_account: str) -> str:
        """A token of that service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        token: str = (await self.request("POST", path, body=body))["status"]["token"]
        return token

    async def path(self, version: str, kind: str, name: str | None, namespace: str | None = None, sub: str = "") -> str:
        """Where objects of a kind are.  Raises `KeyError` for a kind that the server does not have."""
        plural, namespaced = await self._kind(version, kind)
        where = _group(version)
        if namespaced and namespace is not None:
            where += f"/namespaces/{namespace}"
        assert not (namespaced and namespace is None and name), f"{kind} {name}: in which namespace?"
        return "/".join(filter(None, (f"{where}/{plural}", name, sub)))

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        how: str | None = None,
    ) -> Object:
        """One request; asked again while the server says that it is not ready for it.  Raises `Refused`.

        A ``body`` that is a text is JSON already: `json` cannot write what is nested too deep.
        """
        headers = {"Content-Type": _PATCHES[how] if how else "application/json"}
        data = body if body is None or isinstance(body, str) else json.dumps(body)
        deadline = time.monotonic() + 10
        while True:
            async with self._session.request(
                method, f"{self._server}{path}", params=query, data=data, headers=headers
            ) as response:
                answer = _read(await response.text())
                if response.status < 400:
                    return answer
                # A new CRD's storage "is (re)initializing" for a second.
                if response.status not in _BUSY or time.monotonic() > deadline:
                    raise Refused(response.status, answer)
            await asyncio.sleep(_SOON_S)

    async def _kind(self, version: str, kind: str) -> tuple[str, bool]:
        if (version, kind) not in self._kinds:
            for resource in (await self.request("GET", _group(version)))["resources"]:
                if "/" not in resource["name"]:
                    self._kinds[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        return self._kinds[version, kind]


@asynccontextmanager
async def reach(kubeconfig: Path, *, audit_log: Path | None = None) -> AsyncIterator[Api]:
    """Whatever a kubeconfig file says how to reach: with a token, a client certificate, or a program to ask."""
    configuration = Configuration()
    await load_kube_config(  # type: ignore[no-untyped-call]  # it has no types
        str(kubeconfig), client_configuration=configuration, persist_config=False
    )
    async with ApiClient(configuration) as client:
        ways: dict[str, dict[str, str]] = await configuration.auth_settings()  # type: ignore[assignment]  # too narrow
        headers = {way["key"]: way["value"] for way in ways.values()}
        connector = aiohttp.TCPConnector(ssl=client.rest_client.ssl_context, limit=64)
        async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=2**21) as session:
            yield Api(session, configuration.host, kubeconfig, audit_log)


def _read(text: str) -> Object:
    """An answer; a server that is just starting or ending may say a plain word."""
    try:
        answer: Object = json.loads(text)
    except json.JSONDecodeError:
        return {"message": text}
    return answer


def _group(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _namespace_of(manifest: Object, namespace: str | None) -> str | None:
    given: str | None = manifest["metadata"].get("namespace")
    return given or namespace
