"""Kopf's watches on an API server over HTTP: what ends them, what does not, and what the operator hears of them."""

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from threadcluster_operator.controller import watcher as watching
from threadcluster_operator.controller.cache import Cache
from threadcluster_operator.controller.resync import Lister
from threadcluster_operator.controller.snapshot import Key
from threadcluster_operator.controller.watcher import KopfWatcher
from threadcluster_operator.kube import client
from threadcluster_operator.kube.client import POD, SERVICE, THREAD_CLUSTER, Kind, KubeAccess, NotFound, connect
from threadcluster_operator.kube.nesting import path_of_cut
from threadcluster_operator.render import selector_of

from tests.fakes.kube_http import KubeHttp, serving
from tests.support.polling import eventually

KINDS = (THREAD_CLUSTER, POD)
SOON_S = 10.0


class Heard:
    """Everything that the watches have brought."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.events: list[tuple[str | None, str]] = []
        self.listed: list[Kind] = []

    def feed(self, kind: str | None, body: Any) -> None:
        """An event."""
        self.events.append((kind, body["metadata"]["name"]))
        self.cache.drop(body) if kind == "DELETED" else self.cache.put(body)

    def names(self) -> set[str]:
        """The clusters and pods that are known."""
        clusters = {key.name for key in self.cache.resources}
        return clusters | {pod["metadata"]["name"] for key in [Key("talk", "chat")] for pod in self.cache.pods(key)}


@asynccontextmanager
async def watched(access: KubeAccess, heard: Heard, kinds: Iterable[Kind] = KINDS) -> AsyncIterator[KopfWatcher]:
    """Watches, until the end of the test."""
    watches = KopfWatcher(heard.feed, heard.listed.append, tuple(kinds), None, access)
    watches.start()
    try:
        yield watches
    finally:
        await watches.stop()
        assert watches._over.is_set()


@pytest.fixture
async def server() -> AsyncIterator[KubeHttp]:
    """An API server with ThreadClusters and pods."""
    async with serving(KINDS) as made:
        yield made


def access_to(server: KubeHttp, folder: Path, user: dict[str, Any] | None = None) -> KubeAccess:
    """The way to it."""
    return KubeAccess(str(server.kubeconfig(folder / "kubeconfig", user)))


def cluster(name: str, **more: Any) -> str:
    """A ThreadCluster's JSON."""
    meta = {"name": name, "namespace": "talk", "uid": f"uid-{name}", "resourceVersion": "VERSION"}
    return json.dumps(
        {"kind": "ThreadCluster", "metadata": meta, "spec": {"image": "a", "affinity": "AFFINITY"}, **more}
    )


def pod(name: str) -> str:
    """A worker's pod's JSON."""
    meta = {"name": name, "namespace": "talk", "uid": f"uid-{name}", "resourceVersion": "VERSION"}
    return json.dumps({"kind": "Pod", "metadata": meta | {"labels": selector_of("chat", "worker")}})


def nested(depth: int) -> str:
    """A ThreadCluster that no JSON decoder of Python reads."""
    return cluster("hostile").replace('"AFFINITY"', '{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize("depth", [70, 300, 700, 1_200, 9_900])
async def test_an_object_that_is_nested_too_deep_ends_no_watch(server: KubeHttp, tmp_path: Path, depth: int) -> None:
    """Listed, and by an event; it arrives as far as it can be read, and so do those before and after it."""
    heard = Heard()
    await server.put(THREAD_CLUSTER, nested(depth))
    await server.put(THREAD_CLUSTER, cluster("chat"))
    async with watched(access_to(server, tmp_path), heard) as watches:
        await eventually(lambda: heard.names() == {"hostile", "chat"})
        await server.put(THREAD_CLUSTER, nested(depth))
        await server.put(THREAD_CLUSTER, cluster("later"))
        await eventually(lambda: heard.names() == {"hostile", "chat", "later"})
        await eventually(lambda: heard.events.count(("MODIFIED", "hostile")) == 1)
        assert not watches._ended.is_set()
    hostile = heard.cache.resources[Key("talk", "hostile")]
    path = path_of_cut(hostile["spec"], "spec")
    assert path is not None
    assert path.startswith("spec.affinity.a")
    async with connect(access_to(server, tmp_path)) as kube:
        listed = await kube.list(THREAD_CLUSTER, None)
    assert {each["metadata"]["name"] for each in listed.items} == {"hostile", "chat", "later"}


async def test_what_was_deleted_in_a_gap_of_a_watch_is_given_up(server: KubeHttp, tmp_path: Path) -> None:
    """The history is gone, so the watch begins again with a list, in which the objects are missing."""
    heard = Heard()
    for body in (cluster("chat"), cluster("gone")):
        await server.put(THREAD_CLUSTER, body)
    for body in (pod("chat-0"), pod("chat-1")):
        await server.put(POD, body)
    access = access_to(server, tmp_path)
    marked: list[Key] = []
    async with connect(access) as kube, watched(access, heard) as watches:
        lister = Lister(kube, heard.cache, marked.append, KINDS, None)
        watches._listed = lister.request
        listing = asyncio.create_task(lister.run())
        await asyncio.wait_for(lister.complete.wait(), SOON_S)
        await eventually(lambda: heard.names() == {"chat", "gone", "chat-0", "chat-1"})
        for kind in KINDS:
            server.silent.add(kind)
        await server.delete(THREAD_CLUSTER, "gone")
        await server.delete(POD, "chat-1")
        marked.clear()
        server.silent.clear()
        for kind in KINDS:
            await server.forget_history(kind)
        await eventually(lambda: heard.names() == {"chat", "chat-0"})
        assert set(marked) == {Key("talk", "gone"), Key("talk", "chat")}
        assert ("DELETED", "gone") not in heard.events
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)


async def test_a_watch_that_is_cut_goes_on_where_it_was(server: KubeHttp, tmp_path: Path) -> None:
    """Without a list: the API server ends each watch every minute."""
    heard = Heard()
    await server.put(THREAD_CLUSTER, cluster("chat"))
    async with watched(access_to(server, tmp_path), heard):
        await eventually(lambda: heard.names() == {"chat"})
        await eventually(lambda: set(heard.listed) == set(KINDS))
        await server.cut()
        await server.put(THREAD_CLUSTER, cluster("later"))
        await eventually(lambda: heard.names() == {"chat", "later"})
        assert sorted(heard.listed) == sorted(KINDS)


@pytest.mark.parametrize("status", [400, 404, 410], ids=str)
async def test_a_watch_that_fails_for_good_ends_all_within_seconds(
    server: KubeHttp, tmp_path: Path, status: int
) -> None:
    """As when a CustomResourceDefinition is deleted; no thread is left behind that waits for a flag of ours."""
    heard = Heard()
    async with watched(access_to(server, tmp_path), heard) as watches:
        await eventually(lambda: set(heard.listed) == set(KINDS))
        server.failing[POD] = status
        await server.cut()
        await asyncio.wait_for(watches.ended(), SOON_S)
        assert watches.error is not None
        assert watches._thread is not None
        await asyncio.to_thread(watches._thread.join, SOON_S)
        assert not watches._thread.is_alive()


async def test_a_silent_watch_is_reported_by_its_kind(
    server: KubeHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was never begun; a watch on which something comes, or that begins again, is alive."""
    heard = Heard()
    async with watched(access_to(server, tmp_path), heard, (*KINDS, SERVICE)) as watches:  # it has no Services
        await eventually(lambda: set(heard.listed) == set(KINDS))
        assert watches.silent() is None
        monkeypatch.setattr(watching, "SILENT_S", 0.4)
        await asyncio.sleep(0.5)
        assert watches.silent() is not None

        def only_services() -> bool:
            return watches.silent() is SERVICE

        async def signs_of_life() -> bool:
            await server.put(POD, pod("chat-0"))
            await server.cut()
            return only_services()

        await eventually(signs_of_life)


def exec_user(folder: Path, token_file: Path) -> dict[str, Any]:
    """A user whose token a program makes: the one that is in a file at the moment."""
    program = folder / "login"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json\n"
        f"token = open({str(token_file)!r}).read()\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
        " 'status': {'token': token}}))\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}}


async def test_credentials_that_a_program_makes_are_renewed(
    server: KubeHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the watches when they are refused, those of the requests before; Kubernetes' own live 15 minutes."""
    monkeypatch.setattr(client, "_RENEW_S", 0.0)
    heard, token = Heard(), tmp_path / "token"
    token.write_text("first")
    access = access_to(server, tmp_path, exec_user(tmp_path, token))
    await server.put(THREAD_CLUSTER, cluster("chat"))
    async with connect(access) as kube, watched(access, heard) as watches:
        await eventually(lambda: heard.names() == {"chat"})
        await kube.list(THREAD_CLUSTER, None)
        token.write_text("second")
        server.tokens = {"second"}
        await server.cut()
        await server.put(THREAD_CLUSTER, cluster("later"))
        await kube.list(THREAD_CLUSTER, None)
        await eventually(lambda: heard.names() == {"chat", "later"})
        assert not watches._ended.is_set()
        assert len(watches._sessions) == 1, "the requests of other watches go on"


async def test_credentials_that_are_refused_for_good_end_the_watches(server: KubeHttp, tmp_path: Path) -> None:
    """They are not tried again and again without a pause."""
    heard = Heard()
    async with watched(access_to(server, tmp_path), heard) as watches:
        await eventually(lambda: set(heard.listed) == set(KINDS))
        server.tokens = {"another"}
        await server.cut()
        await asyncio.wait_for(watches.ended(), SOON_S)
        assert server.refused < 20


async def test_a_kind_is_served_when_it_is_discovered_and_listed(server: KubeHttp, tmp_path: Path) -> None:
    """A kind that is not raises an error of its own."""
    async with connect(access_to(server, tmp_path)) as kube:
        for kind in KINDS:
            await kube.probe(kind, None)
        with pytest.raises(NotFound):
            await kube.probe(SERVICE, None)
        server.kinds.remove(THREAD_CLUSTER)
        with pytest.raises(NotFound):
            await kube.probe(THREAD_CLUSTER, None)
