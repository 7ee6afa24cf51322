"""The client against a real worker on a real Postgres, through a network with faults."""

import asyncio
import re
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from threadcluster_client import Client, Event, Follow, InvalidRequest, LastAdministrator, Limits, ThreadNotFound

from tests.support.polling import eventually
from tests.support.pure_modules import ROOT
from tests.support.tcp_proxy import TcpProxy
from tests.support.worker_processes import Workers, workers_on

ADA, BOB, CAI = (f"01ARZ3NDEKTSV4RRFFQ69G5FA{last}" for last in "ABC")


def proxy_to(workers: Workers) -> TcpProxy:
    """A network with faults before the workers."""
    return TcpProxy("127.0.0.1", int(workers.url.rpartition(":")[2]))


def client_through(proxy: TcpProxy, idle_s: float) -> Client:
    """A client that takes a silent server for a lost one soon."""
    return Client(f"http://127.0.0.1:{proxy.port}", limits=Limits(idle_s=idle_s, deadline_s=20.0))


async def test_commands_are_stored_once_whatever_the_network_does(
    dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Create, post, page and fail; each fault of a connection at the moment of a command; the README's examples."""
    async with (
        workers_on(dsn, tmp_path, "a") as workers,
        proxy_to(workers) as proxy,
        client_through(proxy, idle_s=0.7) as client,
    ):
        thread = await client.create_thread(ADA, "t", member_ids=[BOB])
        await _refusals(client, thread.thread_id)
        texts = []
        for name, arm in _faults(proxy).items():
            await client.thread(thread.thread_id, ADA)  # leaves a connection in the pool
            arm()
            added = await client.add_messages(thread.thread_id, BOB, [name])
            proxy.watch = None
            proxy.heal()
            texts.append(name)
            assert added.replayed is (name in ("answer stalled", "answer cut")), name
            assert added.sequence_nr == 1 + len(texts)
        messages = client.messages(thread.thread_id, ADA, limit=2, min_sequence_nr=added.sequence_nr)
        assert [message.body async for message in messages] == texts
        assert [len(page.items) async for page in messages.pages()][:2] == [2, 2]
        (listed,) = [each async for each in client.threads(ADA)]
        assert listed.id == thread.thread_id
        assert [each async for each in client.members(thread.thread_id, ADA)] == [BOB]
        assert [each async for each in client.administrators(thread.thread_id, BOB)] == [ADA]
        await _readmes_examples(workers, capsys)


async def _refusals(client: Client, thread_id: str) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        await client.create_thread("not an id", "")
    assert len(invalid.value.error_messages) >= 2
    with pytest.raises(LastAdministrator):
        await client.leave_administrators(thread_id, ADA, [ADA])
    with pytest.raises(ThreadNotFound):
        await client.thread(thread_id, CAI)
    created = await client.create_thread(ADA, "again", idempotency_key="key")
    again = await client.create_thread(ADA, "again", idempotency_key="key")
    assert (again.thread_id, again.replayed) == (created.thread_id, True)
    await client.destroy_thread(created.thread_id, ADA)


async def _readmes_examples(workers: Workers, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other; what they print is what their comments say."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "client" / "README.md").read_text(), re.S)
    source = "async def examples(URL, MAP):\n" + textwrap.indent("\n".join(blocks), "    ")
    found: dict[str, Callable[[str, str], Awaitable[None]]] = {}
    exec(compile(source, "client/README.md", "exec"), found)
    await found["examples"](workers.url, workers.by_name["a"].management + "/cluster")
    promised = re.findall(r"print\(.*\)  # (.*)", source)
    printed = capsys.readouterr().out.splitlines()
    assert len(promised) == 4
    assert [line for line in printed if line in promised] == promised


def _faults(proxy: TcpProxy) -> dict[str, Callable[[], None]]:
    """By name, how the network is prepared for a fault; all but the last strike when a command's first attempt passes."""
    loop = asyncio.get_running_loop()

    def at_first_attempt(strike: Callable[[], None]) -> Callable[[], None]:
        strikes = iter([strike])

        def watch(chunk: bytes) -> None:
            if chunk.startswith(b"POST"):
                next(strikes, proxy.heal)()

        return lambda: setattr(proxy, "watch", watch)

    def stall_answer() -> None:
        proxy.stall(up=False)

    def cut_answer() -> None:
        proxy.stall(up=False)
        loop.call_later(0.3, proxy.cut)

    def refuse() -> None:
        proxy.refusing = True
        proxy.cut()
        loop.call_later(0.3, proxy.heal)

    return {
        "answer stalled": at_first_attempt(stall_answer),
        "answer cut": at_first_attempt(cut_answer),
        "refused": at_first_attempt(refuse),
        "connections of the pool dead": proxy.blackhole,
    }


async def test_a_stream_goes_on_through_cuts_and_a_restart(dsn: str, tmp_path: Path) -> None:
    """Each event once and in order, of a thread and of an account; and so do the posts beside it."""
    async with (
        workers_on(dsn, tmp_path, "a") as workers,
        proxy_to(workers) as proxy,
        client_through(proxy, idle_s=5.0) as client,
    ):
        thread = await client.create_thread(ADA, "t")
        seen: tuple[list[int], list[int]] = [], []
        follows = client.follow(thread.thread_id, ADA, position="0"), client.follow_account(ADA)
        tasks = [asyncio.create_task(_record(follow, into)) for follow, into in zip(follows, seen, strict=True)]
        await eventually(lambda: follows[1].position is not None)

        async def post(count: int) -> None:
            for _ in range(count):
                await client.add_messages(thread.thread_id, ADA, ["x"], deadline_s=60.0)

        await post(10)
        proxy.cut()
        await post(10)
        await asyncio.gather(post(10), _restart(workers))
        proxy.cut()
        await post(10)
        await eventually(lambda: all(each[-1:] == [41] for each in seen), within_s=60.0)
        assert seen[0] == list(range(1, 42))
        assert [number for number in seen[1] if number > 1] == list(range(2, 42))  # it may begin before the create
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_calls_on_threads_go_to_their_owners(dsn: str, tmp_path: Path) -> None:
    """By a real map; when an owner dies its calls go on at the other worker."""
    async with (
        workers_on(dsn, tmp_path, "a", "b") as workers,
        proxy_to(workers) as proxy,
        Client(
            f"http://127.0.0.1:{proxy.port}",
            map_url=workers.by_name["b"].management + "/cluster",
            limits=Limits(idle_s=2.0),
        ) as client,
    ):
        threads = [(await client.create_thread(ADA, "t")).thread_id for _ in range(16)]
        passed: list[bytes] = []
        proxy.watch = passed.append

        async def all_to_owners() -> bool:
            passed.clear()
            for thread in threads:
                await client.add_messages(thread, ADA, ["x"])
            return not passed

        await eventually(all_to_owners, within_s=30.0)
        await workers.by_name["a"].kill()
        for thread in threads:
            await client.add_messages(thread, ADA, ["y"])
        assert passed  # those of the dead worker


async def _record(follow: Follow, into: list[int]) -> None:
    async for item in follow:
        assert isinstance(item, Event)
        into.append(item.sequence_nr)


async def _restart(workers: Workers) -> None:
    await workers.by_name["a"].kill()
    await workers.by_name["a"].start()
