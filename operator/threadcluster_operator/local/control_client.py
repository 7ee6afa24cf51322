"""Client of a supervisor's control server (see `threadcluster_operator.local.control_server`)."""

import json
from typing import Any, Final

import aiohttp

from threadcluster_operator.local.data_dir import DataDir
from threadcluster_operator.local.errors import NotRunning, UpFailed

_ANSWER_S: Final = 4.0


class ControlClient:
    """Asks the supervisor of a data directory.  Every call raises `NotRunning` when there is none."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir

    async def status(self) -> dict[str, Any]:  # JSON
        """The supervisor's view of the cluster."""
        return await self._call("GET", "/status")

    async def accept(self, text: str) -> list[str]:
        """Hand over a new resource; what changes.  Raises `UpFailed` when it is refused."""
        return list((await self._call("PUT", "/cluster", text))["changes"])

    async def plan(self) -> dict[str, Any]:  # JSON
        """The moves that `rebalance` would make now.  Raises `UpFailed` when the owners are unknown."""
        return await self._call("GET", "/plan")

    async def rebalance(self, plan: str | None) -> dict[str, Any]:  # JSON
        """Balance now, or carry out just this plan.  Raises `UpFailed` when that is refused."""
        return await self._call("POST", "/rebalance", json.dumps({"plan": plan}))

    async def progress(self) -> dict[str, Any]:  # JSON
        """How far the last `rebalance` is."""
        return await self._call("GET", "/rebalance")

    async def hand_over(self) -> None:
        """Nothing is to be done: the supervisor orders the moves."""

    async def down(self) -> None:
        """Ask for the end; it has only begun when this returns."""
        await self._call("POST", "/down")

    async def _call(self, method: str, path: str, text: str | None = None) -> dict[str, Any]:  # JSON
        control = self._data_dir.control()
        if control is None and self._data_dir.is_locked():
            raise NotRunning(
                f"a supervisor runs on {self._data_dir.path}, but control.json does not say where it listens: try again"
                " in a moment; if this lasts, end the process that holds the file `lock` there, and bring the cluster up"
            )
        if control is None:
            raise NotRunning(f"no cluster is running on {self._data_dir.path}")
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session,
                session.request(
                    method,
                    control["url"] + path,
                    data=text,
                    headers={"Authorization": f"Bearer {control['token']}"},
                ) as response,
            ):
                answer: dict[str, Any] = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NotRunning(f"the supervisor of {self._data_dir.path} does not answer: {error!r}") from error
        if "refused" in answer:
            raise UpFailed(answer["refused"])
        return answer
