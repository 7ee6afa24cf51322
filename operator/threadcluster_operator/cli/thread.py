"""`threadcluster thread`: one thread, as the console's inspector shows it."""

import json
from typing import Any, Final

import click
import msgspec

from shard_worker.contract_internal import InspectedThread, ThreadEvent, ThreadResponse, ThreadStateResponse
from shard_worker.domain.ids import canonical
from threadcluster_operator.cli.cluster_access import Cluster, with_cluster
from threadcluster_operator.cli.escape import escaped
from threadcluster_operator.cli.table import counted

_TEXT_MOST: Final = 2_000
"""Characters of one event that the text shows; -o json has all of them."""


@click.command()
@click.argument("thread_id", metavar="ID")
@click.option(
    "--at", type=click.IntRange(0), metavar="N", help="The state after event N, and the events up to it [default: now]."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_cluster
async def thread(cluster: Cluster, thread_id: str, at: int | None, output: str) -> None:
    """Show a thread: its shard, owner and epoch, its last 100 events, and its state now or after any of them.

    \b
    threadcluster thread 01KB0000000000000000000000
    threadcluster thread 01KB0000000000000000000000 --at 17 -o json

    The events are shown as the journal has them, with the hash of the idempotency key that each came with. Characters that
    a terminal would obey are escaped; -o json is exact.
    """  # noqa: D301 - click takes \b for a block to leave as it is
    if canonical(thread_id) is None:
        raise click.ClickException(
            f"{escaped(thread_id)} is no id of a thread: 26 characters, digits and letters without I, L, O and U"
        )
    found = await cluster.workers.thread(thread_id, None if at is None else at + 1)
    state = await cluster.workers.thread_state(thread_id, at)
    click.echo(json.dumps(_document(found, state), indent=2) if output == "json" else _text(found, state))


def _document(found: ThreadResponse, state: ThreadStateResponse) -> dict[str, Any]:  # JSON
    """Both answers in one; JSON escapes every character that is not ASCII, and changes none."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(found))
    document["stateAt"] = json.loads(msgspec.json.encode(state))
    return document


def _text(found: ThreadResponse, state: ThreadStateResponse) -> str:
    owner = f"owner {found.owner}, incarnation {found.incarnation}" if found.owner is not None else "no owner"
    lines = [f"thread {found.thread_id}: shard {found.shard} ({found.state}), {owner}, epoch {found.epoch}"]
    if not found.sequence_nr:
        return f"{lines[0]}\nno such thread was ever created"
    lines.append(
        f"{counted(found.sequence_nr, 'event')}"
        + (", the last of them up to the one asked for:" if found.more else ":")
    )
    lines += [line for event in found.events for line in _event(event)]
    return "\n".join([*lines, "", *_state(state)])


def _event(event: ThreadEvent) -> list[str]:
    key = f"  key {event.key_hash}" if event.key_hash is not None else ""
    head = f"{event.sequence_nr}  {event.written_at}  {escaped(event.type)} v{event.version}  epoch {event.epoch}{key}"
    payload = json.dumps(json.loads(bytes(event.payload)), ensure_ascii=False)
    shown = payload if len(payload) <= _TEXT_MOST else f"{payload[:_TEXT_MOST]} … ({len(payload)} characters)"
    return [head, f"    {_printable(shown)}"]


def _printable(text: str) -> str:
    """JSON without the characters that a terminal obeys; its own backslashes stay as they are."""
    return escaped(text).replace("\\\\", "\\")


def _state(found: ThreadStateResponse) -> list[str]:
    lines = [f"state after event {found.sequence_nr}:"]
    if found.fault is not None:
        lines.append(f"  not folded any further: {escaped(found.fault)}")
    if found.state is not None:
        lines += [f"  {name}: {value}" for name, value in _facts(found.state)]
    return lines


def _facts(state: InspectedThread) -> list[tuple[str, str]]:
    return [
        ("title", "-" if state.title is None else escaped(state.title)),
        ("creator", state.creator_id),
        ("administrators", " ".join(state.administrator_ids) or "-"),
        ("members", " ".join(state.member_ids) or "-"),
        ("live messages", str(len(state.messages))),
        ("removed messages", str(len(state.removed_message_ids))),
        ("destroyed", "yes" if state.destroyed else "no"),
    ]
