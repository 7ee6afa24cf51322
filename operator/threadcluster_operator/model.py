"""The ThreadCluster resource, as people write it: one typed model for every platform.

Unknown fields are refused with their path; whoever reads a newer resource leniently does so at its own door.
"""

import base64
import binascii
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from threadcluster_operator.placement import Mode, Strategy

API_VERSION = "threadcluster.io/v1alpha1"
KIND = "ThreadCluster"


class ResourceRefused(Exception):
    """A YAML file does not make a cluster; the message names file, field and reason, one failure a line."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, strict=True)


Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]


class SecretKeyRef(_Part):
    """A key of a Secret."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    key: Annotated[str, Field(min_length=1, max_length=253)] = "url"


class DatabaseSpec(_Part):
    """Which Postgres carries the journal; locally one is brought along when this is left out."""

    url_secret_key_ref: SecretKeyRef


class PassivationSpec(_Part):
    """When a thread leaves memory."""

    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 120
    max_resident_threads: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000


class WorkerSpec(_Part):
    """How each worker runs."""

    passivation: PassivationSpec = PassivationSpec()


class ServiceSpec(_Part):
    """Where the gateway is reached."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 80


class GatewaySpec(_Part):
    """The public side."""

    service: ServiceSpec = ServiceSpec()


class PinSpec(_Part):
    """A shard that belongs on one worker, whatever balance says."""

    shard: Annotated[int, Field(ge=0)]
    worker: Annotated[str, Field(min_length=1, max_length=63)]


class RebalanceSpec(_Part):
    """When shards move between workers, and how many at a time."""

    mode: Mode = "Auto"
    strategy: Strategy = "Count"
    max_concurrent_moves: Annotated[int, Field(ge=1, le=256)] = 4
    imbalance_threshold_percent: Annotated[int, Field(ge=0, le=100)] = 10
    pins: Annotated[list[PinSpec], Field(max_length=4096)] = Field(default_factory=list)


class ThreadClusterSpec(_Part):
    """What the user wants."""

    shards: Annotated[int, Field(ge=1, le=4096)] = 144
    replicas: Annotated[int, Field(ge=0, le=256)] = 3
    database: DatabaseSpec | None = None
    worker: WorkerSpec = WorkerSpec()
    gateway: GatewaySpec = GatewaySpec()
    rebalance: RebalanceSpec = RebalanceSpec()

    @model_validator(mode="after")
    def _check_pins(self) -> Self:
        pinned: dict[int, int] = {}
        wrong: list[InitErrorDetails] = []
        for position, pin in enumerate(self.rebalance.pins):
            reason = ""
            if pin.shard >= self.shards:
                reason = f"the cluster has shards 0 to {self.shards - 1}"
            elif (first := pinned.setdefault(pin.shard, position)) != position:
                reason = f"spec.rebalance.pins.{first} pins this shard already"
            if reason:
                error = PydanticCustomError("pin", "{reason}", {"reason": reason})
                wrong.append(
                    InitErrorDetails(type=error, loc=("rebalance", "pins", position, "shard"), input=pin.shard)
                )
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self


class Metadata(_Part):
    """Which cluster this is."""

    name: Name
    namespace: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class ThreadCluster(_Part):
    """One cluster."""

    api_version: Literal["threadcluster.io/v1alpha1"]
    kind: Literal["ThreadCluster"]
    metadata: Metadata
    spec: ThreadClusterSpec = ThreadClusterSpec()

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.metadata.name


class Resources:
    """What one YAML file holds: a cluster, and the Secrets it refers to."""

    def __init__(self, cluster: ThreadCluster, secrets: dict[str, dict[str, str]]) -> None:
        self.cluster = cluster
        self._secrets = secrets

    def database_url(self) -> str | None:
        """The DSN that `spec.database` refers to, or None without one.  Raises `ResourceRefused`."""
        database = self.cluster.spec.database
        if database is None:
            return None
        ref = database.url_secret_key_ref
        secret = self._secrets.get(ref.name)
        where = "spec.database.urlSecretKeyRef"
        if secret is None:
            raise ResourceRefused(f"{where}.name: the file has no Secret {ref.name!r}")
        if ref.key not in secret:
            raise ResourceRefused(f"{where}.key: Secret {ref.name!r} has no key {ref.key!r}")
        return secret[ref.key]


def read_resources(path: Path) -> Resources:
    """The cluster in a file, and its Secrets.  Raises `ResourceRefused`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ResourceRefused(f"{path}: {error.strerror}") from error
    return parse_resources(text, str(path))


def parse_resources(text: str, source: str) -> Resources:
    """The cluster in a YAML text, and its Secrets.  ``source`` names it in messages.  Raises `ResourceRefused`."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise ResourceRefused(f"{source}: not YAML: {error}") from error
    clusters: list[ThreadCluster] = []
    secrets: dict[str, dict[str, str]] = {}
    for number, document in enumerate(documents, start=1):
        where = f"{source}, document {number}"
        kind = document.get("kind") if isinstance(document, dict) else None
        if kind == "Secret":
            name, values = _secret(document, where)
            secrets[name] = values
        elif kind == KIND:
            clusters.append(_cluster(document, where))
        else:
            raise ResourceRefused(f"{where}: kind: {kind!r} is neither {KIND} nor Secret")
    if len(clusters) != 1:
        raise ResourceRefused(f"{source}: exactly one {KIND} is wanted, {len(clusters)} found")
    return Resources(clusters[0], secrets)


def _cluster(document: dict[str, Any], where: str) -> ThreadCluster:  # YAML has no narrower type
    try:
        return ThreadCluster.model_validate(document)
    except ValidationError as error:
        raise ResourceRefused("\n".join(f"{where}: {_failure(dict(item))}" for item in error.errors())) from error


def _failure(item: dict[str, Any]) -> str:  # pydantic's own shape
    path = ".".join(str(part) for part in item["loc"])
    reason = "unknown field" if item["type"] == "extra_forbidden" else item["msg"]
    given = "" if item["type"] in ("missing", "extra_forbidden") else f" (given: {item['input']!r})"
    return f"{path}: {reason}{given}"


def _secret(document: dict[str, Any], where: str) -> tuple[str, dict[str, str]]:  # YAML has no narrower type
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise ResourceRefused(f"{where}: metadata.name: a Secret needs a name")
    values: dict[str, str] = {}
    for key, encoded in (document.get("data") or {}).items():
        try:
            values[key] = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError) as error:
            raise ResourceRefused(f"{where}: data.{key}: not base64 text") from error
    for key, value in (document.get("stringData") or {}).items():
        if not isinstance(value, str):
            raise ResourceRefused(f"{where}: stringData.{key}: a text is wanted")
        values[key] = value
    return name, values
