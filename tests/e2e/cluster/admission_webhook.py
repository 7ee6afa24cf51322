"""An admission webhook on the loopback address: it denies, rewrites, is down, or answers nonsense, as a test says."""

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from aiohttp import web

from tests.support.authority import Authority
from tests.support.kube_api import Api, Object

Patch = list[Object]  # RFC 6902

_REVIEW: Final = "admission.k8s.io/v1"


class Webhook:
    """One server, and its configuration in a Kubernetes cluster; made by `webhook`."""

    def __init__(self, api: Api, name: str, authority: Authority, folder: Path) -> None:
        self.denies: str | None = None
        """The message by which every request is denied."""
        self.status = 403
        """The number of that denial."""
        self.rewrites: Callable[[Object], Patch] = lambda body: []
        """Returns the patch of an object."""
        self.asked: list[tuple[str, str, bool]] = []
        """Kind, name and whether it was a dry run, of each request."""
        self._api = api
        self._name = name
        self._authority = authority
        self._folder = folder
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Answer; at the same port as before."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = self._folder / "leaf.pem", self._folder / "leaf.key"
        certificate.write_bytes(self._authority.leaf())
        key.write_bytes(self._authority.key)
        context.load_cert_chain(certificate, key)
        app = web.Application()
        app.add_routes([web.post("/", self._answer)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=context)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """No longer answer: connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def register(
        self,
        namespace: str,
        group: str,
        resources: list[str],
        *,
        kind: Literal["Validating", "Mutating"] = "Validating",
        instance: str | None = None,
    ) -> None:
        """Have the API server ask it about these resources in a namespace, and refuse them when it does not answer; of one
        ThreadCluster alone where that is named.
        """
        labels = {} if instance is None else {"app.kubernetes.io/instance": instance}
        await self._api.apply(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": f"{kind}WebhookConfiguration",
                "metadata": {"name": self._name},
                "webhooks": [
                    {
                        "name": f"{self._name}.example.org",
                        "clientConfig": {
                            "url": f"https://127.0.0.1:{self._port}/",
                            "caBundle": base64.b64encode(self._authority.certificate).decode(),
                        },
                        "rules": [
                            {
                                "apiGroups": [group],
                                "apiVersions": ["*"],
                                "operations": ["CREATE", "UPDATE", "DELETE"],
                                "resources": resources,
                            }
                        ],
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                        "objectSelector": {"matchLabels": labels},
                        "failurePolicy": "Fail",
                        "sideEffects": "None",
                        "timeoutSeconds": 2,
                        "admissionReviewVersions": ["v1"],
                    }
                ],
            }
        )

    async def unregister(self) -> None:
        """The API server asks it no more."""
        for kind in ("Validating", "Mutating"):
            await self._api.delete("admissionregistration.k8s.io/v1", f"{kind}WebhookConfiguration", self._name)

    async def _answer(self, request: web.Request) -> web.Response:
        asked = (await request.json())["request"]
        self.asked.append((asked["kind"]["kind"], asked.get("name", ""), bool(asked.get("dryRun"))))
        answer: Object = {"uid": asked["uid"], "allowed": self.denies is None}
        if self.denies is not None:
            answer["status"] = {"code": self.status, "message": self.denies}
        elif asked["operation"] != "DELETE":
            patch = self.rewrites(asked["object"])
            if patch:
                answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        return web.json_response({"apiVersion": _REVIEW, "kind": "AdmissionReview", "response": answer})


@asynccontextmanager
async def webhook(api: Api, name: str) -> AsyncIterator[Webhook]:
    """A webhook that answers, and that no API server asks yet; gone with its configuration at the end."""
    with tempfile.TemporaryDirectory() as folder:
        made = Webhook(api, name, Authority(), Path(folder))
        await made.start()
        try:
            yield made
        finally:
            await made.unregister()
            await made.stop()
