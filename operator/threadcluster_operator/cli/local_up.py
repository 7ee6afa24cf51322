"""`threadcluster local up`: brings a cluster up here, in the foreground or detached, or hands a running one its resource."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shard_worker.tasks import run_until
from threadcluster_operator.api import (
    InvalidResource,
    Resources,
    parse_resources,
    read_resources,
    without_local_effect,
)
from threadcluster_operator.cli.groups import os_sentence
from threadcluster_operator.cli.inputs import name_of, read_input
from threadcluster_operator.cli.target import local_clusters
from threadcluster_operator.local.control_client import ControlClient
from threadcluster_operator.local.data_dir import ROOT, DataDir, DataDirBusy
from threadcluster_operator.local.database_choice import DatabaseChoice, wrong_dsn
from threadcluster_operator.local.durable_file import read_text
from threadcluster_operator.local.errors import NotRunning, UpFailed

if TYPE_CHECKING:
    from threadcluster_operator.local.control_server import ControlServer
    from threadcluster_operator.local.supervisor import Supervisor

_SAMPLE = Path("manifests/samples/demo.yaml")
_DEFAULT = """
apiVersion: threadcluster.io/v1alpha1
kind: ThreadCluster
metadata: {name: demo}
spec: {replicas: 2}
"""
_DEFAULT_PORT = 8080
DATABASE_URL_VARIABLE = "THREADCLUSTER_DATABASE_URL"
"""Where `up` finds the DSN of a Postgres that is not embedded."""
_DETACHED_VARIABLE = "THREADCLUSTER_DETACHED"
"""Set where the output of `up` is a log: the address of the console has a token, and is printed by the command alone."""


def bring_up(
    file: Path | None,
    chosen: tuple[Path | None, str | None],
    port: int | None,
    database: DatabaseChoice,
    *,
    detach: bool,
) -> None:
    """Do what the command says it does; ``chosen`` are the data directory and the name that were given.

    Raises `click.ClickException` with what is wrong.
    """
    place = None
    try:
        text, source = _text(file), name_of(file or _SAMPLE)
        place = _place(chosen, parse_resources(text, source).cluster.name, file)
        if file is None and place.cluster_yaml.exists():
            click.echo(f"going on with {place.cluster_yaml} (-f hands over another resource)")
            text, source = _kept(place), str(place.cluster_yaml)
        resources = parse_resources(text, source)
        _check_dsns(resources, source, database)
        if unused := without_local_effect(resources.cluster.spec, "spec"):
            click.echo(f"for Kubernetes alone, without effect here: {', '.join(unused)}")
        _refuse_other_cluster(place, resources)
        if place.is_locked():
            asyncio.run(_hand_over(place, text, resources, port, database))
        elif detach:
            _detach(place, text, _port(port, resources), database)
        else:
            logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
            logging.raiseExceptions = (
                False  # a reader of the output that has ended is no reason to end, nor to complain
            )
            asyncio.run(_foreground(place, resources, text, _port(port, resources), database))
    except (InvalidResource, UpFailed, DataDirBusy, NotRunning) as error:
        raise click.ClickException(str(error)) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" ({place.path}; another place: --data-dir)" if place is not None else ""
        raise click.ClickException(f"{os_sentence(error)}{where}") from error


def _text(file: Path | None) -> str:
    if file is not None:
        return read_input(file)
    return _SAMPLE.read_text(encoding="utf-8") if _SAMPLE.exists() else _DEFAULT


def _place(chosen: tuple[Path | None, str | None], name: str, file: Path | None) -> DataDir:
    """The data directory that is given, or that of the cluster's name."""
    data_dir, wanted = chosen
    if wanted is not None and file is not None and wanted != name:
        raise UpFailed(f"metadata.name: {name_of(file)} has the cluster {name!r}, and --name is {wanted!r}")
    if wanted is not None and file is None and data_dir is None and not DataDir(ROOT / wanted).cluster_yaml.exists():
        known = ", ".join(local_clusters()) or "none"
        raise UpFailed(f"no cluster {wanted!r} to go on with; there are {known}. A new one is made from a file: -f")
    return DataDir(data_dir if data_dir is not None else ROOT / (wanted or name))


def _check_dsns(resources: Resources, source: str, database: DatabaseChoice) -> None:
    """Refuse a DSN that no Postgres answers to, wherever it comes from."""
    of_resource = resources.database_url()
    for url, where in ((of_resource, f"{source}: spec.database.urlSecretKeyRef"), (database.url, database.source)):
        if url is not None and (wrong := wrong_dsn(url)) is not None:
            raise UpFailed(f"{where}: {wrong}")


def _kept(place: DataDir) -> str:
    """The resource that was last accepted."""
    try:
        read_resources(place.cluster_yaml)
    except InvalidResource as error:
        raise UpFailed(f"{error}\n{place.cluster_yaml} is damaged: hand the resource over again with -f") from error
    return place.cluster_yaml.read_text(encoding="utf-8")


def _port(port: int | None, resources: Resources) -> int:
    """The port asked for: the option, else what the resource says itself, else 8080 (80 is not for ordinary users)."""
    if port is not None:
        return port
    service = resources.cluster.spec.gateway.service
    return service.port if "port" in service.model_fields_set else _DEFAULT_PORT


def _refuse_other_cluster(place: DataDir, resources: Resources) -> None:
    """A data directory belongs to one cluster of one shard count."""
    if not place.cluster_yaml.exists():
        return
    try:
        before = read_resources(place.cluster_yaml).cluster
    except InvalidResource as error:
        # The database knows its cluster and shard count as well, and refuses others.
        click.echo(f"{place.cluster_yaml} is damaged and will be replaced: {error}", err=True)
        return
    new = resources.cluster
    if before.name != new.name:
        raise UpFailed(f"metadata.name: {place.path} is {before.name!r}'s, not {new.name!r}'s")
    if before.spec.shards != new.spec.shards:
        raise UpFailed(
            f"spec.shards: {place.path} was made with {before.spec.shards}, which never changes; {new.spec.shards} was asked"
            " for"
        )


async def _foreground(place: DataDir, resources: Resources, text: str, port: int, database: DatabaseChoice) -> None:
    from threadcluster_operator.console.server import ConsoleServer
    from threadcluster_operator.local.console_backend import SupervisorBackend
    from threadcluster_operator.local.control_server import ControlServer
    from threadcluster_operator.local.supervisor import Supervisor

    place.make()
    place.lock()
    began = time.monotonic()

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # the reader of the output has ended: the cluster goes on
            click.echo(f"[{time.monotonic() - began:5.1f} s] {line}")

    supervisor = Supervisor(place, resources, port=port, database=database, say=say)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            supervisor.kill()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    console = ConsoleServer(SupervisorBackend(supervisor))
    await console.start(supervisor.failure.report)
    supervisor.console_url = console.url
    control = ControlServer(supervisor, place, stop, console=console.address)
    say(f"cluster {resources.cluster.name!r} in {place.path}")
    try:
        await run_until(stopping, _start(supervisor, control, place, text, say), name="start")
        await supervisor.fail_until(stopping)
    finally:
        await control.close()
        await console.close()
        await supervisor.down()
    say("down; the data stays")


async def _start(
    supervisor: "Supervisor",
    control: "ControlServer",
    place: DataDir,
    text: str,
    say: Any,  # a plain callable
) -> None:
    await supervisor.up()
    place.write_private(place.cluster_yaml, text)
    await control.start()
    await supervisor.await_converged()
    say(f"ready: http://127.0.0.1:{supervisor.port}")
    with contextlib.suppress(OSError):
        click.echo(_curl_lines(f"http://127.0.0.1:{supervisor.port}"))
        if _DETACHED_VARIABLE not in os.environ:
            _print_addresses(place, f"http://127.0.0.1:{supervisor.port}")


def _print_addresses(place: DataDir, url: str) -> None:
    """The address of the console, with its token, and that of the API's documents."""
    click.echo(f"API:     {url}/docs\nConsole: {(place.control() or {}).get('console')}")


def _curl_lines(url: str) -> str:
    account = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
    json_type = "-H 'Content-Type: application/json'"
    return f"""
Try it, in another terminal:

  THREAD=$(curl -s {json_type} {url}/v1/threads/create -d '{{"accountId":"{account}","title":"hello","administratorIds":["{account}"],"memberIds":[]}}' | sed 's/.*"threadId":"\\([^"]*\\)".*/\\1/'); echo $THREAD
  curl -s {json_type} {url}/v1/threads/$THREAD/messages/add -d '{{"accountId":"{account}","messages":[{{"text":"hi there"}}]}}'
  curl -s "{url}/v1/threads/$THREAD/messages?account_id={account}"
"""


def _detach(place: DataDir, text: str, port: int, database: DatabaseChoice) -> None:
    """Run `up` in a process of its own, and follow what it says until the cluster serves or it ends."""
    place.make()
    handed = place.path / "wanted.yaml"
    place.write_private(handed, text)
    log_file = place.logs / "supervisor.log"
    from_here = log_file.stat().st_size if log_file.exists() else 0
    command = [sys.executable, "-m", "threadcluster_operator.main", "local", "up", "-f", str(handed)]
    command += ["--data-dir", str(place.path), "--port", str(port)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", _DETACHED_VARIABLE: "1"}
    if database.take_over:
        command += ["--take-over", database.take_over]
    if database.url is not None:
        environment[DATABASE_URL_VARIABLE] = database.url  # not an argument: every user sees those
    with log_file.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=environment,
        )
    with log_file.open(encoding="utf-8", errors="replace") as follow:
        follow.seek(from_here)
        url = ""
        while True:
            ended = process.poll() is not None
            for line in follow:
                click.echo(line, nl=False)
                url = url or line.partition("] ready: ")[2].strip()
            if url:
                _print_addresses(place, url)
                return
            if ended:
                raise UpFailed(f"the cluster did not come up; see {log_file}")
            time.sleep(0.05)


async def _hand_over(
    place: DataDir, text: str, resources: Resources, port: int | None, database: DatabaseChoice
) -> None:
    client = ControlClient(place)
    before = await client.status()
    click.echo(f"cluster {resources.cluster.name}, local, {place.path}: it runs, and gets its resource")
    _refuse_what_a_start_decides(place, resources, int(before["url"].rpartition(":")[2]), port, database)
    changes = await client.accept(text)
    click.echo("\n".join(changes) if changes else "nothing changes")
    shown = None
    while True:
        found = await client.status()
        line = ", ".join(f"{worker['name']} {worker['state']} ({len(worker['shards'])})" for worker in found["workers"])
        if line != shown:
            click.echo(line or "no workers")
            shown = line
        if found["ready"]:
            break
        if claimed := found.get("claimedByOther"):  # a supervisor of an earlier release does not say
            raise UpFailed(f"{claimed} (after `threadcluster local down` here)")
        await asyncio.sleep(0.2)
    click.echo(f"converged: {before['replicas']} → {found['replicas']} workers, {found['url']}")
    _print_addresses(place, found["url"])


def _refuse_what_a_start_decides(
    place: DataDir, resources: Resources, serves: int, port: int | None, database: DatabaseChoice
) -> None:
    """Refuse a port or a database that a running cluster does not have: both are given to its processes as they start."""
    remedy = "stop it with `threadcluster local down`, then bring it up so"
    new = _port(None, resources)
    try:
        kept = read_resources(place.cluster_yaml)
    except InvalidResource:  # damaged, and about to be replaced
        kept = resources
    if port not in (None, 0, serves):
        raise UpFailed(f"--port: the cluster runs on port {serves}, and does not change to {port}; {remedy}")
    if port is None and new not in (_port(None, kept), serves):
        raise UpFailed(
            f"spec.gateway.service.port: the cluster runs on port {serves}, and does not change to {new}; {remedy}"
        )
    if database.url is not None and database.url != (read_text(place.migration_dsn_file) or "").strip():
        raise UpFailed(f"{database.source}: the cluster runs on another database; {remedy}")
    if database.url is None and resources.database_url() != kept.database_url():
        raise UpFailed(f"spec.database: the cluster runs on another database; {remedy}")
    if database.take_over:
        raise UpFailed(f"--take-over: the cluster runs, and takes a database over only as it starts; {remedy}")
