"""All settings of a worker, in one place: from the environment, refused early and all at once.

`docs/configuration.md` is generated from this module (`python -m shard_worker.settings`).
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shard_worker.contract_internal import DEFAULT_DRAIN_S, ENVIRONMENT_PREFIX
from shard_worker.contract_tls import SECRET_LEAST, parse_secrets, worker_secrets
from shard_worker.dsn import parse_dsn


class InvalidSettings(Exception):
    """The environment does not make a worker; the message lists every failure with the variable's name."""


class WorkerSettings(BaseSettings):
    """One worker's settings; each is the environment variable ``SHARD_WORKER_<NAME>``.

    An empty variable counts as one that is not set.  Variables of other names are ignored, not refused: Kubernetes puts
    ``SHARD_WORKER_SERVICE_HOST`` and its kin into every pod beside a Service called ``shard-worker``.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    name: Annotated[str, Field(min_length=1, max_length=63, description="The worker's stable id, e.g. `chat-0`.")]
    cluster: Annotated[
        str, Field(min_length=1, max_length=127, description="The id of the cluster that the database belongs to.")
    ]
    cluster_uid: Annotated[
        str,
        Field(
            max_length=63,
            description="The uid of the ThreadCluster, as in the database's claim. Unset: the id alone says whose the"
            " database is.",
        ),
    ] = ""
    cluster_name: Annotated[
        str, Field(max_length=127, description="Its namespace and name, `<namespace>/<name>`, as in the claim.")
    ] = ""
    cluster_site: Annotated[
        str, Field(max_length=63, description="The uid of its Kubernetes cluster, as in the claim.")
    ] = ""
    dsn: Annotated[
        SecretStr | None,
        Field(
            description="Where Postgres is: `postgresql://user:password@host:port/database`. Several hosts, as"
            " `host:port,host:port`, are the members of one replicated system; the primary is found. Exactly one of this"
            " and the file."
        ),
    ] = None
    dsn_file: Annotated[
        Path | None,
        Field(
            description="A file with the DSN, read again at every connection, so that a rotated password needs no restart."
        ),
    ] = None
    database_tls: Annotated[
        Literal["disable", "require", "verify-full"] | None,
        Field(
            description="Whether Postgres must be reached by TLS, and whether its certificate must be good for its host."
            " Unset: as the DSN says; TLS where it is offered."
        ),
    ] = None
    database_ca_file: Annotated[
        Path | None,
        Field(
            description="The authorities whose certificate Postgres must show (PEM), read again at every connection."
            " Unset: the system's, for `verify-full`."
        ),
    ] = None
    replica_dsn: Annotated[
        SecretStr | None,
        Field(
            description="Where a replica of Postgres is, which answers queries of the read model while it is at most 5 s behind."
            " Not together with the file; unset: the primary answers."
        ),
    ] = None
    replica_dsn_file: Annotated[
        Path | None, Field(description="A file with the replica's DSN, read again at every connection.")
    ] = None
    shards: Annotated[
        int | None, Field(ge=1, le=4096, description="The shard count the database must have; unset: whatever it has.")
    ] = None

    host: Annotated[str, Field(description="The address under which other workers reach this one.")] = "127.0.0.1"
    bind: Annotated[str, Field(description="The address to listen on.")] = "127.0.0.1"
    public_port: Annotated[
        int, Field(ge=0, le=65535, description="The port of the public API; 0 chooses a free one.")
    ] = 8080
    public_fd: Annotated[
        int | None, Field(ge=3, description="An inherited listening socket to serve the public API on as well.")
    ] = None
    management_port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="The port of probes, metrics, the internal API and the other workers' frames; 0 chooses a free one.",
        ),
    ] = 8081
    secret: Annotated[
        SecretStr | None,
        Field(
            min_length=SECRET_LEAST,
            description="The cluster's secret, from which workers, operator and CLI derive their certificates. Exactly one of this and the file; only the file can be rotated.",
        ),
    ] = None
    secret_file: Annotated[
        Path | None,
        Field(
            description="A file with the cluster's secret, at least 16 random bytes. It may hold two, a line each, while"
            " one replaces the other: the first signs, both verify. It is read again while the worker runs."
        ),
    ] = None
    parent_fd: Annotated[
        int | None,
        Field(
            ge=3,
            description="An inherited pipe whose end means that the supervisor is gone: the worker then leaves in order.",
        ),
    ] = None
    ready_file: Annotated[
        Path | None, Field(description="A file to write, as JSON, what was bound and under which incarnation.")
    ] = None

    append_connections: Annotated[
        int,
        Field(
            ge=1,
            le=4,
            description="Connections that append; each shard is fixed to one. More help only where a commit takes milliseconds.",
        ),
    ] = 1
    read_connections: Annotated[
        int, Field(ge=1, le=64, description="Connections that load threads, look up keys and keep snapshots.")
    ] = 4
    query_connections: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Connections that queries of the read model are asked over; as many again to the replica, where there is one.",
        ),
    ] = 4
    batch_max_events: Annotated[int, Field(ge=1, le=4096, description="Events in one append at most.")] = 512
    batch_max_bytes: Annotated[
        int, Field(ge=65536, le=16 << 20, description="Bytes of payload in one append, about, at most.")
    ] = 1 << 20
    append_watchdog_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=30,
            description="After how long an unanswered append's connection is given up and its outcome found out on a new one.",
        ),
    ] = 2.0

    command_budget_seconds: Annotated[
        float, Field(ge=0.1, le=60, description="Within how long a request is answered, if only by 503.")
    ] = 5.0
    beat_seconds: Annotated[float, Field(ge=0.02, le=0.4, description="How often the worker shows that it lives.")] = (
        0.15
    )
    lease_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=0.6,
            description="How long after sending an acknowledged beat reads are served from memory. Must stay below the 0.7 s after which peers may take over.",
        ),
    ] = 0.5
    drain_seconds: Annotated[
        float, Field(ge=1, le=600, description="How long leaving may take before the worker ends all the same.")
    ] = DEFAULT_DRAIN_S
    body_seconds: Annotated[
        float, Field(ge=0.1, le=600, description="Within how long a request must be complete; else 408.")
    ] = 30.0

    max_connections: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Connections of the public port at most, and no more than the limit of open files allows; beyond"
            " it those that wait longest for their clients are dropped.",
        ),
    ] = 8_192
    max_body_bytes_in_flight: Annotated[
        int,
        Field(
            ge=1 << 20,
            description="Bytes of requests that are not answered yet, over all connections of the public port, at most;"
            " beyond it the longest incomplete ones get 503, else the newest.",
        ),
    ] = 64 << 20
    max_answer_bytes_in_flight: Annotated[
        int,
        Field(
            ge=1 << 20,
            description="Bytes of answers that clients of the public port have not read, at most; beyond it the slowest"
            " readers are dropped, else the newest answer is 503.",
        ),
    ] = 64 << 20

    max_streams: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Streams of events that are open on this worker at most; beyond it 503. Each is a connection too.",
        ),
    ] = 5_000
    max_streams_per_account: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Streams of one account on this worker at most; beyond it 503."),
    ] = 20

    passivation_idle_seconds: Annotated[
        float, Field(ge=1, le=86400, description="After how long without a request a thread leaves memory.")
    ] = 120.0
    max_resident_threads: Annotated[
        int,
        Field(ge=1, le=10_000_000, description="Threads in memory at most; beyond it the least recently asked leaves."),
    ] = 20_000
    write_format: Annotated[
        int | None,
        Field(
            ge=1,
            description="The journal format that events are written in. Unset: the newest that the release before this one"
            " reads, so that a roll-back to it finds nothing that it cannot read (docs/upgrades.md).",
        ),
    ] = None
    memory_budget_bytes: Annotated[
        int | None,
        Field(
            ge=32 << 20,
            description="Bytes that threads in memory, prepared threads, waiting snapshots and waiting requests may take"
            " together, as the worker estimates them. Unset: three quarters of what the control group's memory limit"
            " leaves beside 256 MiB for the process, at least 32 MiB; without such a limit 512 MiB.",
        ),
    ] = None
    snapshot_every_events: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Events of a thread between two snapshots; in a thread with more than twice as many messages,"
            " half as many as those.",
        ),
    ] = 100
    snapshot_every_bytes: Annotated[
        int,
        Field(
            ge=65536,
            le=1 << 30,
            description="Bytes of a thread's events between two snapshots, when these come before the events' number.",
        ),
    ] = 4 << 20
    concurrent_loads: Annotated[
        int, Field(ge=1, le=64, description="Groups of up to 50 threads that are loaded at once.")
    ] = 2
    max_pending_per_thread: Annotated[
        int, Field(ge=1, le=1_000_000, description="Commands of one thread on their way at most; beyond it 503.")
    ] = 2_000
    max_pending_total: Annotated[
        int,
        Field(
            ge=1, le=1_000_000, description="Events of this worker on their way to the journal at most; beyond it 503."
        ),
    ] = 20_000
    max_pending_bytes_per_thread: Annotated[
        int,
        Field(
            ge=65536,
            le=1 << 40,
            description="Bytes that one thread's waiting requests and events on their way may take, about; beyond it 503.",
        ),
    ] = 16 << 20
    max_pending_bytes: Annotated[
        int,
        Field(
            ge=1 << 20,
            le=1 << 40,
            description="Bytes that all waiting requests and events on their way may take on this worker, about;"
            " beyond it 503.",
        ),
    ] = 64 << 20

    max_messages: Annotated[int, Field(ge=1, description="Live messages in a thread at most.")] = 5_000
    max_administrators: Annotated[int, Field(ge=1, description="Administrators of a thread at most.")] = 100
    max_members: Annotated[int, Field(ge=1, description="Members of a thread at most.")] = 10_000

    projection_enabled: Annotated[
        bool,
        Field(
            description="Project the shards of this worker into the read model; without, lists over threads stay where they"
            " are for as long as this worker owns the shards."
        ),
    ] = True
    query_source: Annotated[
        Literal["owner", "read-model"],
        Field(
            description="The side that answers queries about one thread: its owner, from memory, so that a client reads its own"
            " writes, and the read model while the shard is not served; or always the read model."
        ),
    ] = "owner"
    lane_enabled: Annotated[
        bool,
        Field(
            description="Let plain commands go around the HTTP library's parser and tasks; their answers are the same. Without,"
            " each costs about half as much again."
        ),
    ] = True
    docs_enabled: Annotated[bool, Field(description="Serve `/openapi.json` and `/docs`.")] = True
    console_url: Annotated[
        str,
        Field(
            pattern=r"^(http://127\.0\.0\.1:[0-9]{1,5}/)?$",
            description="The address of a local cluster's console, without its token: `/` of the public port then names it."
            " Unset: there is no `/`.",
        ),
    ] = ""
    cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Origins that browsers may call from, as a JSON list; none: CORS is off."),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Host names that clients may call by, without a port, as a JSON list; others get 421. None: any."
        ),
    ] = ()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="The least level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "text"],
        Field(description="JSON lines, readable text, or by whether the output is a terminal."),
    ] = "auto"

    @field_validator("dsn", "replica_dsn")
    @classmethod
    def _dsn_is_a_url(cls, dsn: SecretStr | None) -> SecretStr | None:
        if dsn is not None:
            _check_dsn(dsn.get_secret_value())
        return dsn

    @field_validator("dsn_file", "replica_dsn_file")
    @classmethod
    def _dsn_file_holds_a_url(cls, path: Path | None) -> Path | None:
        if path is not None:
            _check_dsn(_content(path).decode(errors="replace"))
        return path

    @field_validator("database_ca_file")
    @classmethod
    def _ca_file_can_be_read(cls, path: Path | None) -> Path | None:
        if path is not None:
            _content(path)
        return path

    @field_validator("secret_file")
    @classmethod
    def _secret_file_holds_enough(cls, path: Path | None) -> Path | None:
        if path is not None:
            _secrets_in(path)
        return path

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _lists_are_json(cls, given: object, info: ValidationInfo) -> object:
        if not isinstance(given, str):
            return given
        try:
            return json.loads(given)
        except ValueError as error:
            example = "https://chat.example" if info.field_name == "cors_origins" else "chat.example"
            raise ValueError(f'must be a JSON list, e.g. ["{example}"]') from error

    @model_validator(mode="wrap")
    @classmethod
    def _all_failures_at_once(cls, given: dict[str, object], handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse invalid combinations of two settings together with invalid single settings."""
        refused = [
            _refusal(
                (),
                f"exactly one of {ENVIRONMENT_PREFIX}{name.upper()} and {ENVIRONMENT_PREFIX}{name.upper()}_FILE must be set",
            )
            for name in ("dsn", "secret")
            if (given.get(name) is None) == (given.get(f"{name}_file") is None)
        ]
        try:
            settings = handler(given)
        except ValidationError as error:
            refused += [_refusal(item["loc"], item["msg"].removeprefix("Value error, ")) for item in error.errors()]
        else:
            if settings.lease_seconds <= settings.beat_seconds:
                reason = f"must be more than {ENVIRONMENT_PREFIX}BEAT_SECONDS, or no read is ever served from memory"
                refused.append(_refusal(("lease_seconds",), reason))
            if settings.replica_dsn is not None and settings.replica_dsn_file is not None:
                reason = f"must be left out where {ENVIRONMENT_PREFIX}REPLICA_DSN_FILE is set"
                refused.append(_refusal(("replica_dsn",), reason))
            if settings.database_ca_file is not None and settings.database_tls in (None, "disable"):
                reason = f"needs {ENVIRONMENT_PREFIX}DATABASE_TLS to be require or verify-full"
                refused.append(_refusal(("database_ca_file",), reason))
            if not refused:
                return settings
        raise ValidationError.from_exception_data(cls.__name__, refused, hide_input=True)

    @property
    def database(self) -> str | Path:
        """The DSN, or the file that holds it."""
        return self.dsn.get_secret_value() if self.dsn is not None else self.dsn_file or Path()

    @property
    def replica(self) -> str | Path | None:
        """The replica's DSN, or the file that holds it; None without a replica."""
        return self.replica_dsn.get_secret_value() if self.replica_dsn is not None else self.replica_dsn_file

    def cluster_secrets(self) -> tuple[bytes, ...]:
        """The values of the cluster's secret; the first signs.  Raises `InvalidSettings` when its file cannot be read."""
        if self.secret is not None:
            return (self.secret.get_secret_value().encode(),)
        assert self.secret_file is not None  # one of the two is set
        try:
            return _secrets_in(self.secret_file)
        except ValueError as error:
            raise InvalidSettings(f"{ENVIRONMENT_PREFIX}SECRET_FILE: {error}") from error


def load_settings() -> WorkerSettings:
    """The settings of this process.  Raises `InvalidSettings` with all failures, a line each."""
    try:
        return WorkerSettings()
    except ValidationError as error:
        raise InvalidSettings("\n".join(_failure(item["loc"], item["msg"]) for item in error.errors())) from error


def _failure(place: tuple[int | str, ...], reason: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{'.'.join(str(part) for part in place).upper()}: {reason}" if place else reason


def _refusal(place: tuple[int | str, ...], reason: str) -> InitErrorDetails:
    """A failure without the value that failed: it may be a secret."""
    return InitErrorDetails(type=PydanticCustomError("refused", "{reason}", {"reason": reason}), loc=place, input=None)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _secrets_in(path: Path) -> tuple[bytes, ...]:
    """The values in a secret's file, which must be of a worker."""
    try:
        return worker_secrets(parse_secrets(_content(path)))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} {error}") from error


def _check_dsn(dsn: str) -> None:
    parse_dsn(dsn)


def _allowed(schema: dict[str, Any]) -> str:
    """Type and range of a setting, for the reference.  ``Any``: a JSON schema has no better type."""
    merged = {**schema, **next(iter(schema.get("anyOf", ())), {})}  # an optional setting: its type without null
    if merged.get("type") == "boolean":
        return "`true`, `false`"
    bounds = {"minimum": "≥ {}", "maximum": "≤ {}", "minLength": "≥ {} characters", "maxLength": "≤ {} characters"}
    limits = [
        words.format(f"{merged[key]:g}" if isinstance(merged[key], float) else merged[key])
        for key, words in bounds.items()
        if key in merged
    ]
    return ", ".join(limits or [f"`{choice}`" for choice in merged.get("enum", ())])


def reference() -> str:
    """docs/configuration.md, as it must be."""
    lines = [
        "# Configuration of a worker",
        "",
        "Generated from `shard_worker/settings.py` by `make docs`; do not edit. `shard-worker run` checks all of it before",
        "it opens a socket or a connection, and names every setting that it refuses at once. An empty variable counts as",
        "one that is not set.",
        "",
        "| variable | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
    ]
    schemas = WorkerSettings.model_json_schema()["properties"]
    for name, field in WorkerSettings.model_fields.items():
        default = "required" if field.is_required() else "–" if field.default in (None, ()) else f"`{field.default}`"
        if isinstance(field.default, bool):
            default = default.lower()
        lines.append(
            f"| `{ENVIRONMENT_PREFIX}{name.upper()}` | {default} | {_allowed(schemas[name])} | {field.description} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
