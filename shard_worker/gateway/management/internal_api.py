"""The routes of ``/internal/v1``, through which a planner reads and changes the cluster.

`shard_worker.contract_internal` has the messages.  The routes are documented in docs/internal-api.md, which a test holds to
`InternalApi.routes`.  Any worker gives the same answer, because all of them read it from the same database; only
``serving`` and ``leave`` are the answering worker's own.  A body or a parameter that is not wholly understood changes
nothing.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from aiohttp import web

from shard_worker.contract_internal import (
    HISTORY_LIMIT,
    HISTORY_MOST,
    INTERNAL_PREFIX,
    THREAD_EVENTS_LIMIT,
    CordonResponse,
    CordonVerb,
    HistoryResponse,
    LeaveResponse,
    PinRequest,
    PinResponse,
    ShardTarget,
    TargetsRequest,
    TargetsResponse,
)
from shard_worker.domain.ids import ShardId, ThreadId, canonical
from shard_worker.gateway.http import json_bounds, json_decoding
from shard_worker.gateway.http.failures import (
    ULID_FORM,
    Failure,
    FailureCode,
    Location,
    of_body,
    of_field,
    of_parameter,
    unknown_parameter,
)
from shard_worker.gateway.http.options import GatewayOptions
from shard_worker.gateway.http.problems import Problem, ProblemCode, ProblemRaised, invalid
from shard_worker.gateway.http.query_string import too_many_parameters
from shard_worker.gateway.http.request_body import check_media_type, read_body
from shard_worker.gateway.http.response import RawResponse
from shard_worker.gateway.management.backend import ClusterView, DatabaseOfOther, DatabaseUnavailable

_WORKERS: Final = f"{INTERNAL_PREFIX}/workers/"
_THREADS: Final = f"{INTERNAL_PREFIX}/threads/"
_SEQUENCE_NR_MOST: Final = 999_999_999
_VERBS: Final = frozenset(verb.value for verb in CordonVerb)

_STEP: Final = re.compile(r"\.([^.\[`]+)|\[([0-9]+)\]")
_WORKER_NAME: Final = "must be null, or a worker's name of 1 to 63 characters"

Body = TypeVar("Body")
Handler = Callable[[web.BaseRequest, str], Awaitable[RawResponse]]
"""Answers a request; the text is the ``{name}`` or the ``{threadId}`` in its path, or empty."""


class InternalApi:
    """Answers everything under `INTERNAL_PREFIX`."""

    def __init__(self, view: ClusterView, options: GatewayOptions) -> None:
        self._view = view
        self._options = options
        self.routes: dict[str, dict[str, Handler]] = {
            f"{INTERNAL_PREFIX}/ownership": {"GET": self._ownership},
            f"{INTERNAL_PREFIX}/ownership/digest": {"GET": self._digest},
            f"{INTERNAL_PREFIX}/targets": {"PUT": self._targets},
            f"{INTERNAL_PREFIX}/pins": {"PUT": self._pin},
            f"{INTERNAL_PREFIX}/history": {"GET": self._history},
            f"{INTERNAL_PREFIX}/leave": {"POST": self._leave},
            f"{_THREADS}{{threadId}}": {"GET": self._thread},
            f"{_THREADS}{{threadId}}/state": {"GET": self._thread_state},
            **{f"{_WORKERS}{{name}}/{verb}": {"POST": self._cordoning(verb)} for verb in CordonVerb},
        }
        """By path, and for each path by method."""

    def find(self, path: str) -> tuple[dict[str, Handler] | None, str]:
        """The handlers of a path by method, None where there are none, and the name in the path."""
        name, _, verb = path.removeprefix(_WORKERS).partition("/")
        if path.startswith(_WORKERS) and name and verb in _VERBS:
            return self.routes[f"{_WORKERS}{{name}}/{verb}"], unquote(name)
        thread_id, slash, tail = path.removeprefix(_THREADS).partition("/")
        if path.startswith(_THREADS) and thread_id and (tail == "state") == bool(slash):
            return self.routes[f"{_THREADS}{{threadId}}{slash}{tail}"], thread_id
        return (None if "{" in path else self.routes.get(path)), ""

    async def _ownership(self, request: web.BaseRequest, _: str) -> RawResponse:
        _parameters(request, ())
        return _answer(await self._view.ownership())

    async def _digest(self, request: web.BaseRequest, _: str) -> RawResponse:
        _parameters(request, ())
        return _answer(self._view.digest())

    async def _decoded(
        self, request: web.BaseRequest, bounds: json_bounds.JsonBounds, form: type[Body]
    ) -> tuple[Body, list[Failure]]:
        """The body of a request as ``form``, and what is wrong with it besides; raises 400 for another form."""
        _parameters(request, ())
        check_media_type(request)
        raw = await read_body(request, self._options)
        json_bounds.check(raw, bounds)
        value, failures = json_decoding.decode(raw)
        try:
            return msgspec.convert(value, form), failures
        except msgspec.ValidationError as error:
            raise invalid(*failures, _not_converted(error)) from None
        except UnicodeEncodeError:  # msgspec cannot name a field that has a lone surrogate in its name
            detail = "the name of a field is not Unicode text"
            raise invalid(*failures, of_body(FailureCode.FORBIDDEN_CHARACTERS, detail)) from None

    async def _pin(self, request: web.BaseRequest, _: str) -> RawResponse:
        pin, failures = await self._decoded(request, json_bounds.ORDINARY, PinRequest)
        with _postgres():
            shards = await self._view.shard_count()
        if not 0 <= pin.shard < shards:
            failures.append(_no_shard(("shard",), pin.shard, shards))
        if pin.worker is not None and not _is_worker_name(pin.worker):
            failures.append(of_field(("worker",), FailureCode.WRONG_FORMAT, _WORKER_NAME))
        if failures:
            raise invalid(*failures)
        with _postgres():
            changed = await self._view.set_pin(pin.shard, pin.worker)
        return _answer(PinResponse(shard=ShardId(pin.shard), worker=pin.worker, changed=changed))

    async def _targets(self, request: web.BaseRequest, _: str) -> RawResponse:
        plan, failures = await self._decoded(request, json_bounds.PLAN, TargetsRequest)
        with _postgres():
            shards = await self._view.shard_count()
        if not (len(plan.hash) <= 64 and _storable(plan.hash)):
            failures.append(of_field(("hash",), FailureCode.WRONG_FORMAT, "must be at most 64 printable characters"))
        failures += _target_failures(plan.targets, shards)
        if failures:
            raise invalid(*failures)
        with _postgres():
            version = await self._view.set_targets(plan)
        if version is None:
            detail = f"made from plan {plan.plan_version}, but plan {self._view.plan_version()} is in force"
            raise ProblemRaised(Problem(code=ProblemCode.PLAN_STALE, detail=detail))
        return _answer(TargetsResponse(plan_version=version))

    def _cordoning(self, verb: CordonVerb) -> Handler:
        async def answer(request: web.BaseRequest, name: str) -> RawResponse:
            await self._check_empty(request)
            with _postgres():
                found = _storable(name) and await self._view.set_cordon(
                    name, cordoned=verb.cordoned, draining=verb.draining
                )
            if not found:
                known = ", ".join(self._view.worker_names()) or "none"
                detail = f"name: no worker has ever been called {name!r}; known are: {known}"
                raise ProblemRaised(Problem(code=ProblemCode.WORKER_NOT_FOUND, detail=detail))
            return _answer(CordonResponse(name=name, cordoned=verb.cordoned, draining=verb.draining))

        return answer

    async def _leave(self, request: web.BaseRequest, _: str) -> RawResponse:
        await self._check_empty(request)
        return _answer(LeaveResponse(owned=self._view.leave()))

    async def _history(self, request: web.BaseRequest, _: str) -> RawResponse:
        given = _parameters(request, ("limit", "shard"))
        with _postgres():
            shards = await self._view.shard_count() if "shard" in given else 1
        failures: list[Failure] = []
        limit = _number(given, "limit", 1, HISTORY_MOST, failures)
        shard = _number(given, "shard", 0, shards - 1, failures)
        if failures:
            raise invalid(*failures)
        with _postgres():
            changes = await self._view.history(limit or HISTORY_LIMIT, shard)
        return _answer(HistoryResponse(changes=tuple(changes)))

    async def _thread(self, request: web.BaseRequest, given_id: str) -> RawResponse:
        given = _parameters(request, ("before", "limit"))
        failures: list[Failure] = []
        thread_id = _thread_id(given_id, failures)
        before = _number(given, "before", 1, _SEQUENCE_NR_MOST, failures)
        limit = _number(given, "limit", 1, THREAD_EVENTS_LIMIT, failures)
        if failures:
            raise invalid(*failures)
        with _postgres():
            return _answer(await self._view.thread(thread_id, before, limit or THREAD_EVENTS_LIMIT))

    async def _thread_state(self, request: web.BaseRequest, given_id: str) -> RawResponse:
        given = _parameters(request, ("at",))
        failures: list[Failure] = []
        thread_id = _thread_id(given_id, failures)
        at = _number(given, "at", 0, _SEQUENCE_NR_MOST, failures)
        if failures:
            raise invalid(*failures)
        with _postgres():
            return _answer(await self._view.thread_state(thread_id, at))

    async def _check_empty(self, request: web.BaseRequest) -> None:
        """Refuse parameters and fields: the path is the whole request."""
        _parameters(request, ())
        raw = await read_body(request, self._options)
        if not raw:
            return
        check_media_type(request)
        json_bounds.check(raw, json_bounds.ORDINARY)
        value, _ = json_decoding.decode(raw)
        if not isinstance(value, dict):
            raise invalid(of_body(FailureCode.WRONG_TYPE, "must be empty, or an object without fields"))
        if value:
            raise invalid(*(of_field((name,), FailureCode.UNKNOWN, "is not a field of this request") for name in value))


def _answer(message: msgspec.Struct) -> RawResponse:
    return RawResponse(msgspec.json.encode(message))


@contextmanager
def _postgres() -> Iterator[None]:
    """Answer 503 when Postgres does not answer, and 409 when it belongs to another cluster."""
    try:
        yield
    except DatabaseOfOther as error:
        problem = Problem(code=ProblemCode.DATABASE_CLAIMED_BY_OTHER, detail=str(error))
        raise ProblemRaised(problem) from error
    except DatabaseUnavailable as error:
        problem = Problem(code=ProblemCode.DATABASE_AWAY, detail=str(error), retry_after_s=1.0)
        raise ProblemRaised(problem) from error


def _storable(text: str) -> bool:
    """Whether Postgres can keep a text."""
    return "\0" not in text and text.isprintable()


def _is_worker_name(text: str) -> bool:
    return 0 < len(text) <= 63 and _storable(text)


def _not_converted(error: msgspec.ValidationError) -> Failure:
    """The failure of a body that is not the message; msgspec's sentence ends with the place, as in ``at `$.targets[0]```."""
    detail = str(error)
    steps = _STEP.findall(detail.rpartition(" - at `$")[2]) if " - at `$" in detail else []
    return Failure("", FailureCode.INVALID, detail, "".join(f"/{name or index}" for name, index in steps))


def _no_shard(location: Location, shard: int, shards: int) -> Failure:
    return of_field(location, FailureCode.OUT_OF_RANGE, f"there is no shard {shard}, only 0 to {shards - 1}")


def _target_failures(targets: list[ShardTarget], shards: int) -> list[Failure]:
    failures: list[Failure] = []
    places: dict[int, int] = {}
    for place, target in enumerate(targets):
        first = places.setdefault(target.shard, place)
        if not 0 <= target.shard < shards:
            failures.append(_no_shard(("targets", place, "shard"), target.shard, shards))
        elif first != place:
            detail = f"shard {target.shard} is at targets[{first}] already"
            failures.append(of_field(("targets", place, "shard"), FailureCode.DUPLICATE, detail))
        if target.target is not None and not _is_worker_name(target.target):
            failures.append(of_field(("targets", place, "target"), FailureCode.WRONG_FORMAT, _WORKER_NAME))
        if not (len(target.reason) <= 200 and _storable(target.reason)):
            detail = "must be at most 200 printable characters"
            failures.append(of_field(("targets", place, "reason"), FailureCode.WRONG_FORMAT, detail))
    return failures


def _parameters(request: web.BaseRequest, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a request; raises 400 for one that is not known, or given twice."""
    fields: dict[str, str] = {}
    failures: list[Failure] = []
    query = request.raw_path.partition("?")[2]
    if (failure := too_many_parameters(query)) is not None:
        raise invalid(failure)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            failures.append(unknown_parameter(name))
        elif name in fields:
            failures.append(of_parameter(name, FailureCode.DUPLICATE, "is given twice"))
        fields[name] = value
    if failures:
        raise invalid(*failures)
    return fields


def _thread_id(text: str, failures: list[Failure]) -> ThreadId:
    found = canonical(text)
    if found is None:
        failures.append(of_parameter("threadId", FailureCode.WRONG_FORMAT, ULID_FORM))
    return ThreadId(found or "")


def _number(fields: dict[str, str], name: str, least: int, most: int, failures: list[Failure]) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most:
        return int(text)
    failures.append(of_parameter(name, FailureCode.OUT_OF_RANGE, f"must be an integer from {least} to {most}"))
    return None
