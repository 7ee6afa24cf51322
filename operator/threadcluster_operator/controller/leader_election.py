"""The election of one of the operator's replicas as leader: the replica that renewed the Lease last holds it.

The Lease only keeps two replicas from doing the same work; it is no fence.  The uid and the plan version that every write
carries reject the late writes of a deposed leader.  A follower takes over only after the leader's silence: the times in the
Lease are another machine's clock, so a follower measures by its own clock how long the Lease has not changed.

Every replica reads the Lease every 2 s, so the Lease is also what shows first that the API server was restored from a
backup: versions go back.  Whatever a leader knows is of another history then, and its lead ends, to begin again with
nothing; watches would stay silent, and caches refuse what is older than what they have.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from threadcluster_operator.kube.client import (
    LEASE,
    Conflict,
    Kind,
    Kube,
    KubeError,
    Object,
    Unreachable,
)
from threadcluster_operator.kube.preconditions import Preconditions

log = logging.getLogger(__name__)

DURATION_S: Final = 12.0
"""Time without renewal after which a Lease is free."""
RENEW_S: Final = 2.0
GIVE_UP_S: Final = 8.0
"""Time without a successful renewal after which a leader stops; well below `DURATION_S`, when another may begin."""

_UNFIT_S: Final = 15.0
"""Time without a turn of the election that went through after which a replica is not fit to lead; an API server that is
restarted is back before."""

boottime: Callable[[], float] = (
    (lambda: time.clock_gettime(time.CLOCK_BOOTTIME)) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds on a clock that goes on while the machine sleeps, where the system has one: the others' clocks did."""


class LeaseRef(NamedTuple):
    """Where the Lease is."""

    namespace: str
    name: str


class LeaseObservation(NamedTuple):
    """A Lease as it was when it last changed, and when that was, by our own clock."""

    version: str
    at: float


class Leadership(Protocol):
    """Whether this replica leads, as the operator's work sees it."""

    leading: asyncio.Event
    lost: asyncio.Event

    def unfit(self) -> str | None:
        """Why this replica could not lead now if it had to; None when it could."""
        ...

    def holds(self) -> bool:
        """Whether this replica leads by the clock too: after a pause of the process `leading` may be out of date."""
        ...

    async def run(self) -> None:
        """Stand for election until cancelled; then the Lease is given back."""
        ...


class LeaderElector(Leadership):
    """This replica's part in the election; `leading` is set while it leads."""

    def __init__(
        self,
        kube: Kube,
        place: LeaseRef,
        identity: str,
        *,
        clock: Callable[[], float] = boottime,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        fit: Callable[[], bool] = lambda: True,
        tell: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """``fit`` says whether this replica may stand for election now, and ``tell`` gets each change of its lead."""
        self._fit = fit
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self.leading = asyncio.Event()
        self.lost = asyncio.Event()
        self._kube = kube
        self._place = place
        self._identity = identity
        self._seen = LeaseObservation("", 0.0)
        self._renewed_at = 0.0
        self._newest = 0
        """The highest version of the Lease so far."""
        self._may_write = False
        """Whether the API server has let this replica write the Lease."""
        self._turned_at = clock()
        self._failure = ""

    def unfit(self) -> str | None:
        """Why this replica could not lead now if it had to; None when it could."""
        return self._failure if self._failure and self._clock() - self._turned_at > _UNFIT_S else None

    def holds(self) -> bool:
        """Whether this replica leads by the clock too: after a pause of the process `leading` may be out of date."""
        return self.leading.is_set() and self._clock() - self._renewed_at < GIVE_UP_S

    async def run(self) -> None:
        """Stand for election until cancelled; then the Lease is given back."""
        try:
            while True:
                began = self._clock()
                try:
                    if not self._fit():
                        raise TimeoutError("the loop of the operator's work does not turn")
                    async with asyncio.timeout(GIVE_UP_S / 2):
                        mine = await self._turn(began)
                    self._turned_at, self._failure = self._clock(), ""
                except (KubeError, TimeoutError) as error:
                    self._failure = str(error) or type(error).__name__
                    log.warning("lease not renewed", extra={"cause": self._failure})
                    mine = self.leading.is_set() and self._clock() - self._renewed_at < GIVE_UP_S
                if mine and not self.leading.is_set():
                    log.info("leading", extra={"identity": self._identity})
                    self.lost.clear()
                    self.leading.set()
                    self._tell(True)
                elif not mine and self.leading.is_set():
                    log.warning("no longer leading", extra={"identity": self._identity})
                    self.leading.clear()
                    self.lost.set()
                    self._tell(False)
                await self._sleep(RENEW_S)
        finally:
            if self.leading.is_set():
                self.leading.clear()
                self.lost.set()
                self._tell(False)
                await asyncio.shield(self._give_back())

    async def _turn(self, now: float) -> bool:
        """Renew, or take what is free; whether it is ours now."""
        lease = await self._kube.get(LEASE, *self._place)
        if lease is None:
            try:
                made = await self._kube.create(LEASE, self._mine(None))
            except Conflict:
                return False
            self._renewed_at, self._may_write = now, True
            return not self._went_back(made)
        version, spec = lease["metadata"]["resourceVersion"], lease.get("spec", {})
        if version != self._seen.version:
            self._seen = LeaseObservation(version, now)
        if self._went_back(lease):
            return False
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and now - self._seen.at < DURATION_S:
            await self._try_to_write(lease)
            return False
        try:
            changed = await self._kube.merge(LEASE, *self._place, self._mine(lease))
        except Conflict:
            return False
        self._seen = LeaseObservation(changed["metadata"]["resourceVersion"], now)
        self._renewed_at, self._may_write = now, True
        return not self._went_back(changed)

    def _went_back(self, lease: Object) -> bool:
        """Whether this is a state from before those that this replica has seen: no API server has two histories."""
        version, newest = int(lease["metadata"]["resourceVersion"]), self._newest
        self._newest = version
        if version < newest:
            log.warning("versions of the API server went back", extra={"before": newest, "now": version})
        return version < newest

    async def _try_to_write(self, lease: Object) -> None:
        """Change nothing, once: a follower that may only read is noticed before the leader is gone.  Raises `KubeError`."""
        if not self._may_write:
            with suppress(Conflict):
                await self._kube.merge(LEASE, *self._place, {"metadata": {"uid": lease["metadata"]["uid"]}})
            self._may_write = True

    def _mine(self, lease: Object | None) -> Object:
        """The Lease in our name; with the version that was seen, so that of two who take it one is refused."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        before: dict[str, Any] = {} if lease is None else lease.get("spec", {})
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION_S), "renewTime": now}
        if before.get("holderIdentity") != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": before.get("leaseTransitions", -1) + 1}
        namespace, name = self._place
        meta = {"namespace": namespace, "name": name}
        if lease is not None:
            meta["resourceVersion"] = lease["metadata"]["resourceVersion"]
        return {"apiVersion": LEASE.group_version, "kind": LEASE.kind, "metadata": meta, "spec": spec}

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(RENEW_S):
                lease = await self._kube.get(LEASE, *self._place)
                if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
                    meta = {"resourceVersion": lease["metadata"]["resourceVersion"]}
                    await self._kube.merge(LEASE, *self._place, {"metadata": meta, "spec": {"holderIdentity": ""}})
        except (KubeError, TimeoutError) as error:
            log.info("lease not given back; it ends by itself", extra={"cause": str(error)})


class LeaderGuardedKube:
    """`Kube` in which only the leader may write; the writes of a follower fail as if the API server did not answer."""

    def __init__(self, kube: Kube, leadership: Leadership) -> None:
        self._kube = kube
        self._leadership = leadership
        self.get = kube.get
        self.list = kube.list
        self.probe = kube.probe

    async def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """See `Kube`."""
        self._check()
        return await self._kube.create(kind, body, dry_run=dry_run)

    async def apply(self, kind: Kind, body: Object, seen: Preconditions, *, dry_run: bool = False) -> Object:
        """See `Kube`."""
        self._check()
        return await self._kube.apply(kind, body, seen, dry_run=dry_run)

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, subresource: str = "", *, dry_run: bool = False
    ) -> Object:
        """See `Kube`."""
        self._check()
        return await self._kube.merge(kind, namespace, name, patch, subresource, dry_run=dry_run)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None, *, dry_run: bool = False) -> None:
        """See `Kube`."""
        self._check()
        await self._kube.delete(kind, namespace, name, uid, dry_run=dry_run)

    def _check(self) -> None:
        if not self._leadership.holds():
            raise Unreachable(0, "", "this replica does not lead any more")
