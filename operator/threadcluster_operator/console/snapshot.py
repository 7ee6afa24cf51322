"""The snapshot: what every viewer of a console sees of the cluster, made from the platform's last look at it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from shard_worker.contract_internal import DatabaseState, OwnershipResponse, ShardEntry, ShardState
from threadcluster_operator.console.backend import ClusterFacts, Document, WorkerFacts
from threadcluster_operator.planning.observation import newest

RECOVERING: Final = "recovering"
"""The state of a shard whose owner does not serve it: the owner died, or still loads the shard."""


def snapshot_of(facts: ClusterFacts, commands: Mapping[str, str]) -> Document:
    """All but the ages, which change all the time: see `ages_of`."""
    found = newest(facts.answers.values())
    shards = [_shard(entry, facts.answers) for entry in (found.shards if found is not None else ())]
    of_worker: defaultdict[str | None, list[Document]] = defaultdict(list)
    for shard in shards:
        of_worker[shard["owner"]].append(shard)
    return {
        "kind": "snapshot",
        "name": facts.name,
        "ready": facts.ready,
        "url": facts.url,
        "claimedByOther": facts.claimed_by_other,
        "mode": facts.rebalance_mode,
        "planVersion": found.plan_version if found is not None else None,
        "database": _database(facts.answers.values()),
        "workers": [_worker(each, facts.answers, of_worker[each.name]) for each in facts.workers],
        "shards": shards,
        "commands": {str(name): line for name, line in commands.items()},
    }


def ages_of(facts: ClusterFacts, now: datetime) -> Document:
    """How old the readings of the database are, in seconds: of each worker, and of the newest."""
    ages = {name: _age_s(answer, now) for name, answer in facts.answers.items()}
    return {"kind": "pulse", "ages": ages, "age": min((age for age in ages.values() if age is not None), default=None)}


def epochs_of(facts: ClusterFacts) -> int:
    """A number that grows with every change of owner."""
    found = newest(facts.answers.values())
    return sum(entry.epoch for entry in found.shards) if found is not None else 0


def _shard(entry: ShardEntry, answers: Mapping[str, OwnershipResponse]) -> Document:
    state: str = entry.state
    owner = answers.get(entry.owner or "")
    if entry.state is ShardState.SERVING and (owner is None or entry.id not in owner.serving):
        state = RECOVERING
    return {
        "id": entry.id,
        "owner": entry.owner,
        "target": entry.target,
        "state": state,
        "epoch": entry.epoch,
        "reason": entry.reason,
        "since": entry.since,
        "pin": entry.pin,
        "commandsPerSecond": round(entry.load.commands_per_second, 1),
        "appendMilliseconds": round(entry.load.append_milliseconds, 1),
    }


def _worker(facts: WorkerFacts, answers: Mapping[str, OwnershipResponse], shards: list[Document]) -> Document:
    answer = answers.get(facts.name)
    database = answer.database if answer is not None else None
    return {
        "name": facts.name,
        "state": facts.state,
        "version": answer.version if answer is not None else "",
        "pid": facts.pid,
        "address": facts.address,
        "shards": len(shards),
        "commandsPerSecond": round(sum(shard["commandsPerSecond"] for shard in shards), 1),
        "database": database.state if database is not None else None,
        "message": database.message if database is not None else "",
    }


def _database(answers: Iterable[OwnershipResponse]) -> Document:
    """Connected when the database answers any worker; else the fault that a worker names."""
    reports = [answer.database for answer in answers if answer.database is not None]
    best = next((report for report in reports if report.state is DatabaseState.CONNECTED), None)
    report = best or next(iter(reports), None)
    if report is None:
        return {"state": "unknown", "since": None, "reason": None, "message": "no worker answers"}
    return {"state": report.state, "since": report.since, "reason": report.reason, "message": report.message}


def _age_s(answer: OwnershipResponse, now: datetime) -> float | None:
    """The age by this process's clock where the worker says when it read; never negative."""
    if answer.as_of is None:
        return None
    read = datetime.fromisoformat(answer.as_of)
    return round(max(0.0, (now.astimezone(UTC) - read).total_seconds()), 1)
