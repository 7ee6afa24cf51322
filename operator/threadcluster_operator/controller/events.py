"""Kubernetes Events about a cluster: decisions and diagnoses; a repeated Event raises the count of the first.

A reconcile does not wait for its Events: a background task writes them, and an Event that cannot be written is lost.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from threadcluster_operator.controller.snapshot import Object
from threadcluster_operator.kube.client import EVENT, Conflict, Kube, KubeError

log = logging.getLogger(__name__)

_KNOWN_MOST: Final = 2_000
_WAITING_MOST: Final = 500
_AGAIN_S: Final = 30.0
"""The same thing is written down again at most so often."""
_MESSAGE_MOST: Final = 1_000


class _Known(NamedTuple):
    times: int
    first: str
    written_at: float


class Recorder:
    """Writes Events, one after the other; `run` it."""

    def __init__(self, kube: Kube, identity: str) -> None:
        self._kube = kube
        self._identity = identity
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._waiting: asyncio.Queue[Object] = asyncio.Queue(_WAITING_MOST)

    def event(self, about: Mapping[str, Any], type: Literal["Normal", "Warning"], reason: str, message: str) -> None:  # noqa: A002 - Kubernetes' word
        """Write an Event about an object, some time."""
        meta = about["metadata"]
        message = message[:_MESSAGE_MOST]
        same = hashlib.sha256("\0".join((meta["uid"], type, reason, message)).encode()).hexdigest()[:16]
        stamp = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        known = self._known.get(same)
        count, first = (1, stamp) if known is None else (known.times + 1, known.first)
        written_at = time.monotonic()
        if known is not None and written_at - known.written_at < _AGAIN_S:
            self._known[same] = known._replace(times=count)
            return
        self._known[same] = _Known(count, first, written_at)
        self._known.move_to_end(same)
        if len(self._known) > _KNOWN_MOST:
            self._known.popitem(last=False)
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{same}", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "type": type,
            "reason": reason,
            "message": message,
            "count": count,
            "firstTimestamp": first,
            "lastTimestamp": stamp,
            "source": {"component": "threadcluster-operator"},
            "reportingComponent": "threadcluster-operator",
            "reportingInstance": self._identity,
        }
        if not self._waiting.full():
            self._waiting.put_nowait(event)

    def transitions(self, about: Mapping[str, Any], before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> None:
        """Write what has become of the conditions that people wait for."""
        old = {each["type"]: each for each in (before or {}).get("conditions") or ()}
        for each in after.get("conditions", ()):
            was = old.get(each["type"], {})
            if each["type"] == "Stalled" and each["status"] == "True" and was.get("reason") != each["reason"]:
                self.event(about, "Warning", each["reason"], each["message"])
            elif each["type"] == "Stalled" and each["status"] == "False" and was.get("status") == "True":
                self.event(about, "Normal", "Mended", f"{was['reason']} is over")
            elif each["type"] == "Ready" and each["status"] == "True" and was.get("status") != "True":
                self.event(about, "Normal", "Ready", each["message"])

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            event = await self._waiting.get()
            meta = event["metadata"]
            try:
                await self._kube.create(EVENT, event)
            except Conflict:
                again = {"count": event["count"], "lastTimestamp": event["lastTimestamp"]}
                try:
                    await self._kube.merge(EVENT, meta["namespace"], meta["name"], again)
                except KubeError as error:
                    log.info("event not written", extra={"event_name": meta["name"], "cause": str(error)})
            except KubeError as error:
                log.info("event not written", extra={"event_name": meta["name"], "cause": str(error)})
