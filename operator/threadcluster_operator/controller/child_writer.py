"""The writer of one cluster's children: creates, changes, scales and deletes them, each for itself.

`child_writes` decides when a child is written again; the writer does the I/O.  A child that the API server refuses stops no
other one.
"""

import logging
from collections.abc import Callable
from typing import Final

from threadcluster_operator.controller.actions import Actions
from threadcluster_operator.controller.cache import Cache, trim
from threadcluster_operator.controller.child_writes import ChildWrite, ChildWrites, Refusal, Step
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Key, Object, Written
from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.kube.client import KINDS, Conflict, Kind, Kube, KubeError, NotFound, Rejected
from threadcluster_operator.kube.preconditions import Preconditions
from threadcluster_operator.render import differences, digest

log = logging.getLogger(__name__)

_INVALID: Final = 422


class ChildWriter:
    """Writes the children of one cluster, and remembers what became of each write; all of it may be lost."""

    def __init__(self, kube: Kube, cache: Cache, recorder: Recorder, clock: Callable[[], float]) -> None:
        self.writes = ChildWrites()
        self.written: dict[tuple[str, str], Written] = {}
        self._foreign: dict[tuple[str, str], Object] = {}
        """Objects that have the name of a child and not its labels, so that no watch tells of them."""
        self._accepted: str | None = None
        """The StatefulSet that passed its dry run before a migration, as a hash."""
        self._kube = kube
        self._cache = cache
        self._recorder = recorder
        self._clock = clock

    async def foreign(self, key: Key) -> dict[tuple[str, str], Object]:
        """The objects that have the name of a child and not its labels, read again; one that cannot be read as it was."""
        for (kind, name), _ in list(self._foreign.items()):
            try:
                found = await self._kube.get(KINDS[kind], key.namespace, name)
            except KubeError as error:
                log.info("foreign object not read", extra={"key": str(key), "object": name, "cause": str(error)})
                continue
            if found is None:
                del self._foreign[kind, name]
            else:
                self._foreign[kind, name] = found
        return self._foreign

    async def write(self, seen: ClusterSnapshot, steps: Actions, besides: ChildWrite) -> None:
        """Write each child that is due; ``besides`` is wanted too, and written elsewhere.

        Raises `KubeError` only when the API server does not answer: then each further request would wait as long.
        """
        writes = [
            *(ChildWrite("create", body) for body in steps.create),
            *(ChildWrite("apply", body, *judged) for body, judged in steps.apply),
            *(ChildWrite("delete", body, body["metadata"]["uid"]) for body in steps.delete),
        ]
        scale = None
        if steps.scale is not None:
            body, state = steps.scale
            scale = ChildWrite("scale", body, *state)
        trial = None
        if steps.trial is not None:
            body, there = steps.trial
            trial = ChildWrite("create", body) if there is None else ChildWrite("apply", body, *there)
        wanted = {each.place for each in (*writes, scale, trial, besides) if each is not None}
        self.writes.keep(wanted, self._clock())
        workers_written = False
        for write in writes:
            # A migration for workers that the API server would not take is one too many: it cannot be taken back.
            begins = trial if write.verb == "create" and write.place.kind == "Job" else None
            if begins is not None and not await self._is_accepted(seen, begins):
                continue
            taken = await self._attempt(seen, write)
            workers_written = workers_written or (taken and write.place.kind == "StatefulSet")
        if scale is not None and not workers_written:
            await self._attempt(seen, scale)

    async def _is_accepted(self, seen: ClusterSnapshot, trial: ChildWrite) -> bool:
        """Whether the StatefulSet that is to follow the migration passes a dry run."""
        if self._accepted == trial.content:
            return True
        now = self._clock()
        if self.writes.step(trial, now) is Step.WAIT:
            return False
        result = await self._request(trial, dry_run=True)
        if isinstance(result, KubeError) and result.answer is not Answer.NO_DRY_RUN:
            await self._refuse(seen, trial, result)
            self.writes.failed(trial, refusal_of(trial, result), now)
            return False
        self._accepted = trial.content
        self.writes.accepted(trial)
        return True

    async def _attempt(self, seen: ClusterSnapshot, write: ChildWrite) -> bool:
        """Write a child, unless it is to wait; whether the API server took it."""
        writes, now = self.writes, self._clock()
        step = writes.step(write, now)
        if step is Step.WAIT:
            return False
        if step is Step.TRY_OUT:
            tried = await self._request(write, dry_run=True)
            if isinstance(tried, KubeError):
                await self._refuse(seen, write, tried)
                writes.failed(write, refusal_of(write, tried), now)
                return False
            if not writes.passed(write, now):
                return False
        result = await self._request(write)
        if isinstance(result, KubeError):
            await self._refuse(seen, write, result)
            writes.refused(write, refusal_of(write, result), now)
            return False
        writes.taken(write, now)
        self._took(seen, write, result)
        return True

    async def _request(self, write: ChildWrite, *, dry_run: bool = False) -> Object | KubeError | None:
        """The answer of the API server, or its error; raises `KubeError` when it does not answer at all."""
        kind, meta = KINDS[write.body["kind"]], write.body["metadata"]
        where = (kind, meta["namespace"], meta["name"])
        try:
            match write.verb:
                case "create":
                    return await self._kube.create(kind, write.body, dry_run=dry_run)
                case "apply":
                    return await self._change(write.body, write.judged, dry_run=dry_run)
                case "scale":
                    patch = {"metadata": write.judged.metadata, "spec": write.body["spec"]}
                    return await self._kube.merge(*where, patch, dry_run=dry_run)
                case "delete":
                    await self._kube.delete(*where, write.uid, dry_run=dry_run)
                    return None
        except KubeError as error:
            if error.answer is Answer.AWAY:
                raise
            return error

    async def _change(self, body: Object, seen: Preconditions, *, dry_run: bool) -> Object:
        """Apply; where the items of a list conflict with those of another writer, replace the list."""
        kind, meta = KINDS[body["kind"]], body["metadata"]
        try:
            try:
                return await self._kube.apply(kind, body, seen, dry_run=dry_run)
            except Rejected as error:
                if "spec" not in body or error.status != _INVALID:
                    raise
                log.info("not applied, merging", extra={"kind": kind.kind, "object": meta["name"], "cause": str(error)})
                patch = {"metadata": seen.metadata | {"annotations": meta["annotations"]}, "spec": body["spec"]}
                return await self._kube.merge(kind, meta["namespace"], meta["name"], patch, dry_run=dry_run)
        except (Conflict, NotFound):
            await self._correct(kind, meta["namespace"], meta["name"], seen)
            raise

    async def _correct(self, kind: Kind, namespace: str, name: str, seen: Preconditions) -> None:
        """An object is not as the cache has it: read it, instead of waiting for a watch that may have missed it."""
        found = await self._kube.get(kind, namespace, name)
        if found is None or Preconditions.of(found).uid != seen.uid:
            meta = {"namespace": namespace, "name": name, "uid": seen.uid, "resourceVersion": seen.version}
            self._cache.drop({"kind": kind.kind, "metadata": meta})
        if found is not None:
            self._cache.put(found)

    async def _meet(self, key: Key, write: ChildWrite) -> None:
        """Read the object that has the name already: another owner's, which is never taken over, or ours, which no watch has
        reported yet.
        """
        kind, name = KINDS[write.body["kind"]], write.body["metadata"]["name"]
        try:
            found = await self._kube.get(kind, key.namespace, name)
        except KubeError as error:
            log.info("existing object not read", extra={"key": str(key), "object": name, "cause": str(error)})
            return
        if found is not None and self._cache.put(found) != key:
            self._foreign[kind.kind, name] = found

    def _took(self, seen: ClusterSnapshot, write: ChildWrite, answer: Object | None) -> None:
        """Keep what the API server made of a write."""
        kind, name = write.body["kind"], write.body["metadata"]["name"]
        what = {"create": "Created", "apply": "Changed", "scale": "Scaled", "delete": "Deleted"}[write.verb]
        self._recorder.event(seen.resource, "Normal", what, f"{kind} {name}")
        if answer is None:
            return
        self._cache.put(answer)
        if write.verb == "scale":
            return
        before = self.written.pop((kind, name), None)
        fields = tuple(sorted(set(differences(write.body, answer))))
        if not fields:
            return
        kept = trim({part: value for part, value in answer.items() if part != "status"})
        self.written[kind, name] = Written(answer["metadata"]["uid"], digest(write.body), kept, fields)
        if before is None or before.fields != fields:
            message = f"an admission rule changes {kind} {name}: {', '.join(fields)}"
            log.info("child changed by admission", extra={"key": str(seen.key), "object": name, "fields": list(fields)})
            self._recorder.event(seen.resource, "Normal", "ChangedByAdmission", message)

    async def _refuse(self, seen: ClusterSnapshot, write: ChildWrite, error: KubeError) -> None:
        """Log a refusal, which the status reports, and read an object that has the name already."""
        extra = {"key": str(seen.key), "kind": write.place.kind, "object": write.place.name, "cause": str(error)}
        log.info("child not written", extra={**extra, "answer": error.answer.value})
        if error.answer is Answer.EXISTS:
            await self._meet(seen.key, write)


def refusal_of(write: ChildWrite, error: KubeError) -> Refusal:
    """The refusal of a write, for the status."""
    return Refusal(write.place.kind, write.place.name, error.answer, str(error))
