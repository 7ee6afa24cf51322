"""The Secrets of a cluster: made, made again when they are lost, and rotated, by create and delete alone.

The operator reads no Secret.  The cluster's status says which values the Secrets hold, before they are made with them:
whatever is interrupted, the next reconcile deletes and makes them again with what the status says.
"""

import time
from collections.abc import Sequence
from typing import Final

from shard_worker.contract_tls import internal_key
from threadcluster_operator.controller.diagnosis import Diagnosis
from threadcluster_operator.controller.events import Recorder
from threadcluster_operator.controller.reasons import Reason
from threadcluster_operator.controller.snapshot import ClusterSnapshot, Object
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
"""How often it is tried to make the Secrets of a cluster at rest, in case one was lost: its workers hold what it held."""
_CHECK_WAITING_S: Final = 10.0
"""The same while a pod is not ready, or no worker answers: either may be for want of the Secret."""


def client_text(text: str) -> str:
    """The content of the users' Secret, for that of the workers' Secret."""
    return "".join(f"{internal_key(value).decode()}\n" for value in text.encode().split())


class SecretKeeper:
    """Keeps the Secrets of one cluster; remembers when it looked."""

    def __init__(self) -> None:
        self.trouble: Diagnosis | None = None
        """Why the Secrets are not as they should be."""
        self._checked_at = time.monotonic()

    def begin(self) -> None:
        """Another reconcile begins, which may find nothing wrong."""
        self.trouble = None

    async def keep(
        self, kube: Kube, recorder: Recorder, seen: ClusterSnapshot, wanted: RenderInput, keys: OperatorKeys
    ) -> SecretState | None:
        """Do the next step; the state to record, None while the names are taken.  Raises `KubeError`."""
        newest = SecretValue(wanted.spec.secret_generation, next(iter(keys)))
        state = seen.secret_state
        if state is None:
            return await self._first(kube, wanted, keys, newest)
        text = secret_text(keys, wanted.uid, state.values)
        if text is None:
            return self._without_key(keys, state, newest)
        bodies = internal_secrets(wanted, text, client_text(text))
        if not state.made:
            return await self._make(kube, recorder, seen, bodies, state)
        if time.monotonic() - self._checked_at >= self._period_s(seen):
            await self._make_lost(kube, recorder, seen, bodies)
        values = next_values(state.values, newest, confirmed=seen.secret_confirmed)
        return state if values == state.values else SecretState(values, made=False)

    def _period_s(self, seen: ClusterSnapshot) -> float:
        at_rest = seen.ownership is not None and all(pod.ready for pod in seen.workers())
        return _CHECK_S if at_rest else _CHECK_WAITING_S

    async def _first(
        self, kube: Kube, wanted: RenderInput, keys: OperatorKeys, newest: SecretValue
    ) -> SecretState | None:
        """Nothing was ever made for this cluster: what has the names now is another's, and stays as it is."""
        text = secret_text(keys, wanted.uid, (newest,)) or ""
        for body in internal_secrets(wanted, text, client_text(text)):
            try:
                await kube.create(SECRET, body, dry_run=True)
            except Conflict:
                self.trouble = Diagnosis(
                    Reason.NAME_CONFLICT,
                    f"Secret {body['metadata']['name']} exists, and was not made for this ThreadCluster. Remedy: rename this"
                    " ThreadCluster, or delete that object; one of an earlier ThreadCluster of this name goes by itself.",
                )
                return None
        return SecretState((newest,), made=False)

    async def _make(
        self, kube: Kube, recorder: Recorder, seen: ClusterSnapshot, bodies: Sequence[Object], state: SecretState
    ) -> SecretState:
        """By name, without a uid: the state was recorded for a cluster that had these names for itself."""
        for body in bodies:
            name = body["metadata"]["name"]
            await kube.delete(SECRET, seen.key.namespace, name, None)
            try:
                await kube.create(SECRET, body)
            except Conflict:  # the old one is still on its way out
                return state
            recorder.event(seen.resource, "Normal", "Created", f"Secret {name}")
        self._checked_at = time.monotonic()
        return state._replace(made=True)

    async def _make_lost(self, kube: Kube, recorder: Recorder, seen: ClusterSnapshot, bodies: Sequence[Object]) -> None:
        self._checked_at = time.monotonic()
        for body in bodies:
            try:
                await kube.create(SECRET, body)
            except Conflict:
                continue
            recorder.event(seen.resource, "Warning", "SecretRestored", f"Secret {body['metadata']['name']} was lost")

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
