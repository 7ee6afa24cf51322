"""The verbs that are alike on both platforms: their command lines, and the changes that any live worker records."""

from collections.abc import Mapping
from typing import Final

from shard_worker.contract_internal import CordonVerb
from threadcluster_operator.console.backend import Verb, VerbName, VerbRefused
from threadcluster_operator.workers.protocol import WorkersClient

_COMMANDS: Final = {
    "thread": "threadcluster thread {thread}",
    "history": "threadcluster history",
    VerbName.CORDON: "threadcluster cordon {worker}",
    VerbName.UNCORDON: "threadcluster uncordon {worker}",
    VerbName.DRAIN: "threadcluster drain {worker}",
    VerbName.REBALANCE: "threadcluster rebalance",
    VerbName.PIN: "threadcluster pin {shard} {worker}",
    VerbName.UNPIN: "threadcluster unpin {shard}",
}


def command_lines(flags: str, kill: str) -> Mapping[str, str]:
    """The command line of each verb, with the options that select the cluster; ``kill`` ends a worker."""
    return {name: line + flags for name, line in _COMMANDS.items()} | {VerbName.KILL: kill}


async def record(workers: WorkersClient, verb: Verb) -> str:
    """Have a worker record a cordon or a pin; a sentence about it.

    Raises `VerbRefused` for another verb, `NoWorkerAvailable` and `WorkerRefused`.
    """
    match verb.verb:
        case VerbName.PIN | VerbName.UNPIN:
            worker = verb.worker if verb.verb is VerbName.PIN else None
            changed = await workers.pin(verb.shard, worker)
            state = "no more" if worker is None else f"to {worker}"
            return f"shard {verb.shard} is pinned {state}" + ("" if changed else ", as before")
        case VerbName.CORDON | VerbName.UNCORDON | VerbName.DRAIN:
            await workers.cordon(verb.worker, CordonVerb(verb.verb.value))
            return f"{verb.verb} of {verb.worker} is recorded"
    raise VerbRefused(f"no worker can record {verb.verb.value!r}")


def ordered(moves: int) -> str:
    """A sentence about a rebalance that has begun."""
    return f"{moves} moves ordered" if moves else "nothing to move"
