"""The Secrets of a cluster: made, made again when they are lost, and rotated, by create and delete alone.

The operator reads no Secret.  Whether one is there a dry run of its creation shows, which writes nothing.  The cluster's status
says which values the Secrets hold, before they are made with them: whatever is interrupted, the next reconcile deletes and
makes them again with what the status says.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from shard_worker.contract_tls import internal_key
from threadcluster_operator.controller.diagnosis import Diagnosis
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object
from threadcluster_operator.kube.answers import Answer
from threadcluster_operator.kube.client import SECRET, Conflict, Kube
from threadcluster_operator.render import (
    OperatorKeys,
    RenderInput,
    SecretState,
    SecretValue,
    internal_secrets,
    next_values,
    secret_text,
)

_CHECK_S: Final = 300.0
"""Time between two checks whether the Secrets of a cluster are there whose workers hold what they need."""
_CHECK_WAITING_S: Final = 10.0
"""The same while a pod waits for its volumes, or workers prove themselves by another secret: either may be for want of the
Secret.  A worker that has started holds the Secret, so its silence has another cause."""


def client_text(text: str) -> str:
    """The content of the users' Secret, for that of the workers' Secret."""
    return "".join(f"{internal_key(value).decode()}\n" for value in text.encode().split())


class SecretKeeper:
    """Keeps the Secrets of one cluster; remembers when it looked."""

    def __init__(self, kube: Kube, recorder: Recorder, now: float) -> None:
        self.trouble: Diagnosis | None = None
        """Why the Secrets are not as they should be."""
        self._kube = kube
        self._recorder = recorder
        self._now = self._checked_at = now
        self._mismatched = False

    def begin(self, now: float, *, mismatched: bool) -> None:
        """Another reconcile begins, which may find nothing wrong; ``mismatched``: workers have another secret."""
        self.trouble = None
        self._now, self._mismatched = now, mismatched

    async def keep(
        self, seen: ClusterSnapshot, wanted: RenderInput, keys: OperatorKeys, *, dry_run: bool = False
    ) -> SecretState | None:
        """Do the next step, or try it out by a ``dry_run``; the state to record, None while the names are taken.

        Raises `KubeError`.
        """
        newest = SecretValue(wanted.spec.secret_generation, next(iter(keys)))
        state = seen.secret_state
        if state is None:
            return await self._first(wanted, keys, newest)
        text = secret_text(keys, wanted.uid, state.values)
        if text is None:
            return self._without_key(keys, state, newest)
        bodies = internal_secrets(wanted, text, client_text(text))
        if not state.made:
            return await self._make(seen, bodies, state, dry_run=dry_run)
        if self._now - self._checked_at >= self._period_s(seen):
            await self._make_lost(seen, bodies, dry_run=dry_run)
        values = next_values(state.values, newest, confirmed=seen.secret_confirmed)
        return state if values == state.values else SecretState(values, made=False)

    def _period_s(self, seen: ClusterSnapshot) -> float:
        waits = self._mismatched or any(pod.get("status", {}).get("phase") == "Pending" for pod in seen.pods)
        return _CHECK_WAITING_S if waits else _CHECK_S

    async def _first(self, wanted: RenderInput, keys: OperatorKeys, newest: SecretValue) -> SecretState | None:
        """Nothing was ever made for this cluster: what has the names now is another's, and stays as it is."""
        text = secret_text(keys, wanted.uid, (newest,)) or ""
        for body in internal_secrets(wanted, text, client_text(text)):
            if await self._is_there(body):
                self.trouble = Diagnosis(
                    Reason.NAME_CONFLICT,
                    f"Secret {body['metadata']['name']} exists, and was not made for this ThreadCluster. Remedy: rename this"
                    " ThreadCluster, or delete that object; one of an earlier ThreadCluster of this name goes by itself.",
                )
                return None
        return SecretState((newest,), made=False)

    async def _make(
        self, seen: ClusterSnapshot, bodies: Sequence[Object], state: SecretState, *, dry_run: bool
    ) -> SecretState:
        """By name, without a uid: the state was recorded for a cluster that had these names for itself."""
        for body in bodies:
            name = body["metadata"]["name"]
            if await self._is_there(body):
                await self._kube.delete(SECRET, seen.key.namespace, name, None, dry_run=dry_run)
                if dry_run:
                    continue
                if await self._is_there(body):  # a finalizer holds it, or another writer has made it again
                    raise Conflict(
                        HTTPStatus.CONFLICT, "AlreadyExists", f"{name} already exists again after its deletion"
                    )
            if not dry_run:
                await self._kube.create(SECRET, body)
                self._recorder.event(seen.resource, "Normal", "Created", f"Secret {name}")
        return state._replace(made=True)

    async def _make_lost(self, seen: ClusterSnapshot, bodies: Sequence[Object], *, dry_run: bool) -> None:
        for body in bodies:
            if not await self._is_there(body) and not dry_run:
                await self._kube.create(SECRET, body)
                lost = f"Secret {body['metadata']['name']} was lost"
                self._recorder.event(seen.resource, "Warning", "SecretRestored", lost)
        if not dry_run:
            self._checked_at = self._now

    async def _is_there(self, body: Object) -> bool:
        """Whether a Secret has the name; raises `KubeError` where the API server would not take one of it."""
        try:
            await self._kube.create(SECRET, body, dry_run=True)
        except Conflict as error:
            if error.answer is not Answer.EXISTS:
                raise
            return True
        return False

    def _without_key(self, keys: OperatorKeys, state: SecretState, newest: SecretValue) -> SecretState:
        """A value cannot be derived any more.  The Secrets are left as they are until a user wants another value."""
        if newest.generation > max(value.generation for value in state.values):
            return SecretState((newest,), made=False)
        lost = ", ".join(sorted({value.operator_key for value in state.values} - set(keys)))
        self.trouble = Diagnosis(
            Reason.INTERNAL_SECRET_MISMATCH,
            f"the cluster's secret was made with the operator's key {lost}, which the operator does not have any more, so it"
            " cannot ask the workers. Remedy: add that key to the operator's Secret again; or raise spec.secretGeneration:"
            " the value is then replaced at once, and workers do not reach each other until each has read the new one.",
        )
        return state
