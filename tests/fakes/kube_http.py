"""An API server over HTTP, as far as a watch needs one: discovery, lists and watches, with faults on demand.

Objects are put into it by kind; every change goes to the watches of the kind that are open, and is kept for those that
begin later with a version from before.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from threadcluster_operator.kube.client import Kind, Object

_GONE = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"}


class KubeHttp:
    """The server; `serving` runs one."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = list(kinds)
        self.tokens = {"first"}
        """The tokens that are accepted."""
        self.failing: dict[Kind, int] = {}
        """The status with which requests for watches of a kind are answered."""
        self.silent: set[Kind] = set()
        """Kinds on whose watches nothing is sent any more, not even their end."""
        self.lists: dict[Kind, int] = defaultdict(int)
        """How many lists were answered."""
        self.refused = 0
        """How many requests were without a token that is accepted."""
        self.address = ""
        self._version = 0
        self._objects: dict[Kind, dict[str, tuple[int, str]]] = defaultdict(dict)
        self._events: dict[Kind, list[tuple[int, str, str]]] = defaultdict(list)
        self._oldest: dict[Kind, int] = defaultdict(int)
        """Watches from before this version get the answer that it is gone."""
        self._changed = asyncio.Condition()
        self._generation = 0

    async def put(self, kind: Kind, body: Object | str) -> None:
        """Create or change an object; a text is its JSON, with ``VERSION`` in place of its version."""
        self._version += 1
        text = body if isinstance(body, str) else json.dumps(body)
        text = text.replace("VERSION", str(self._version))
        name = _name_of(text)
        known = name in self._objects[kind]
        self._objects[kind][name] = self._version, text
        await self._tell(kind, "MODIFIED" if known else "ADDED", text)

    async def delete(self, kind: Kind, name: str) -> None:
        """Delete an object."""
        self._version += 1
        before, text = self._objects[kind].pop(name)
        text = text.replace(f'"resourceVersion": "{before}"', f'"resourceVersion": "{self._version}"')
        await self._tell(kind, "DELETED", text)

    async def forget_history(self, kind: Kind) -> None:
        """End the watches of a kind; from now on what was before is gone."""
        self._version += 1
        self._oldest[kind] = self._version
        await self.cut()

    async def cut(self) -> None:
        """End all watches, as a restart of the server does."""
        self._generation += 1
        async with self._changed:
            self._changed.notify_all()

    def kubeconfig(self, path: Path, user: dict[str, Any] | None = None) -> Path:
        """A file for this server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.address}}],
            "users": [{"name": "fake", "user": {"token": "first"} if user is None else user}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    # --- routes

    def application(self) -> web.Application:
        """Discovery, and the kinds, in all namespaces."""
        app = web.Application(middlewares=[self._authenticate])
        app.router.add_get("/version", self._version_of_server)
        app.router.add_get("/api", self._old_versions)
        app.router.add_get("/apis", self._groups)
        app.router.add_get("/api/{version}", self._resources)
        app.router.add_get("/apis/{group}/{version}", self._resources)
        app.router.add_get("/{path:.*}", self._objects_of)
        return app

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:  # aiohttp's own types
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            self.refused += 1
            return web.json_response({"kind": "Status", "reason": "Unauthorized", "code": 401}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _version_of_server(self, _: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "34"})

    async def _old_versions(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "APIVersions", "versions": ["v1"]})

    async def _groups(self, _: web.Request) -> web.Response:
        groups = {kind.group_version.partition("/")[0]: kind for kind in self.kinds if "/" in kind.group_version}
        versions = {name: {"version": kind.group_version.partition("/")[2]} for name, kind in groups.items()}
        found = [{"name": name, "versions": [each], "preferredVersion": each} for name, each in versions.items()]
        return web.json_response({"kind": "APIGroupList", "groups": found})

    async def _resources(self, request: web.Request) -> web.Response:
        version = "/".join(filter(None, (request.match_info.get("group"), request.match_info["version"])))
        verbs = ["list", "watch", "patch"]
        found = [
            {"name": kind.plural, "kind": kind.kind, "singularName": "", "namespaced": True, "verbs": verbs}
            for kind in self.kinds
            if kind.group_version == version
        ]
        if version == "v1":  # Kopf waits for it
            found.append({"name": "namespaces", "kind": "Namespace", "singularName": "", "namespaced": False})
        if not found:
            return web.json_response({"kind": "Status", "reason": "NotFound", "code": 404}, status=404)
        return web.json_response({"kind": "APIResourceList", "groupVersion": version, "resources": found})

    async def _objects_of(self, request: web.Request) -> web.StreamResponse:
        kind = next((each for each in self.kinds if each.path(None) == request.path), None)
        if kind is None:
            return web.json_response({"kind": "Status", "reason": "NotFound", "code": 404}, status=404)
        if "watch" in request.query:
            return await self._watch(request, kind)
        self.lists[kind] += 1
        items = ",".join(text for _, text in self._objects[kind].values())
        head = json.dumps({"resourceVersion": str(self._version)})
        text = f'{{"kind":"{kind.kind}List","apiVersion":"{kind.group_version}","metadata":{head},"items":[{items}]}}'
        return web.Response(text=text, content_type="application/json")

    async def _watch(self, request: web.Request, kind: Kind) -> web.StreamResponse:
        if kind in self.failing:
            return web.json_response({"kind": "Status", "code": self.failing[kind]}, status=self.failing[kind])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        since, generation = int(request.query["resourceVersion"]), self._generation
        if since < self._oldest[kind]:
            await response.write(json.dumps({"type": "ERROR", "object": _GONE}).encode() + b"\n")
            return response
        while generation == self._generation or kind in self.silent:
            for version, what, text in self._events[kind]:
                if version > since and kind not in self.silent:
                    line = f'{{"type":"{what}","object":{text}}}\n'.encode()
                    half = len(line) // 2  # a line may arrive in parts
                    await response.write(line[:half])
                    await asyncio.sleep(0)
                    await response.write(line[half:])
                    since = version
            async with self._changed:
                await self._changed.wait()
        return response

    async def _tell(self, kind: Kind, what: str, text: str) -> None:
        self._events[kind].append((self._version, what, text))
        async with self._changed:
            self._changed.notify_all()


def _name_of(text: str) -> str:
    """The name in an object's JSON, however deep that is."""
    _, _, rest = text.partition('"name": "')
    return rest.partition('"')[0]


@asynccontextmanager
async def serving(kinds: Sequence[Kind]) -> AsyncIterator[KubeHttp]:
    """A server of these kinds."""
    server = KubeHttp(kinds)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
