"""The resource read: from a YAML text, strictly, and from the Kubernetes API, leniently.

A file that a person wrote is refused for an unknown field, which is a typing error.  An object of the API is not: a newer
schema has more fields than an older operator knows, and what it does know is still right.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from threadcluster_operator.api.spec import KIND, KubernetesSpec, ThreadCluster
from threadcluster_operator.api.strict_yaml import DuplicateKey, load_documents
from threadcluster_operator.api.wording import did_you_mean, failure


class InvalidResource(Exception):
    """A YAML file does not make a cluster; the message names file, field and reason, one failure a line."""


class InvalidSpec(Exception):
    """An object of the Kubernetes API does not make a cluster; ``failures`` has each as "field: reason"."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__("\n".join(failures))
        self.failures = failures


def parse_spec(document: Mapping[str, Any]) -> KubernetesSpec:  # JSON has no narrower type
    """The spec of an object of the Kubernetes API, with its defaults; unknown fields are ignored at every depth.

    Raises `InvalidSpec` with every known field that is wrong or missing.
    """
    given = document.get("spec")
    try:
        return KubernetesSpec.model_validate(
            {} if given is None else given, extra="ignore", by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise InvalidSpec([failure(dict(item), KubernetesSpec, "spec") for item in error.errors()]) from error


class Resources:
    """The contents of one YAML file: a cluster, and the Secrets that the cluster refers to."""

    def __init__(self, cluster: ThreadCluster, secrets: dict[str, dict[str, str]]) -> None:
        self.cluster = cluster
        self._secrets = secrets

    def database_url(self) -> str | None:
        """The DSN that `spec.database` refers to, or None without one.  Raises `InvalidResource`."""
        database = self.cluster.spec.database
        if database is None:
            return None
        ref = database.url_secret_key_ref
        secret = self._secrets.get(ref.name)
        where = "spec.database.urlSecretKeyRef"
        if secret is None:
            raise InvalidResource(f"{where}.name: the file has no Secret {ref.name!r}")
        if ref.key not in secret:
            raise InvalidResource(f"{where}.key: Secret {ref.name!r} has no key {ref.key!r}")
        return secret[ref.key]


def read_resources(path: Path) -> Resources:
    """The cluster in a file, and its Secrets.  Raises `InvalidResource`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidResource(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidResource(f"{path}: not UTF-8 text, from byte {error.start} on") from None
    return parse_resources(text, str(path))


def parse_resources(text: str, source: str) -> Resources:
    """The cluster in a YAML text, and its Secrets.  ``source`` names it in messages.  Raises `InvalidResource`."""
    try:
        documents = [document for document in load_documents(text) if document is not None]
    except DuplicateKey as error:
        raise InvalidResource(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        raise InvalidResource(f"{source}: not YAML: {_yaml_failure(error)}") from None  # the cause shows the text
    except (ValueError, OverflowError, RecursionError):
        raise InvalidResource(
            f"{source}: not YAML: a date or a number that does not exist, or nested too deep"
        ) from None
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
            hint = did_you_mean(kind, (KIND, "Secret"))
            raise InvalidResource(f"{where}: kind: {kind!r} is neither {KIND} nor Secret{hint}")
    if len(clusters) != 1:
        raise InvalidResource(f"{source}: exactly one {KIND} is wanted, {len(clusters)} found")
    return Resources(clusters[0], secrets)


def _yaml_failure(error: yaml.YAMLError) -> str:
    """The error and its position, without any of the text: the line, or a name in the error, may be a Secret's."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + re.sub(r"""(['"]).*\1""", "…", str(problem))


def _cluster(document: dict[str, Any], where: str) -> ThreadCluster:  # YAML has no narrower type
    try:
        return ThreadCluster.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidResource(
            "\n".join(f"{where}: {failure(dict(item), ThreadCluster)}" for item in error.errors())
        ) from error


def _secret(document: dict[str, Any], where: str) -> tuple[str, dict[str, str]]:  # YAML has no narrower type
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise InvalidResource(f"{where}: metadata.name: a Secret needs a name")
    values: dict[str, str] = {}
    for field in ("data", "stringData"):
        if not isinstance(document.get(field) or {}, dict):
            raise InvalidResource(f"{where}: {field}: keys with values are wanted")
    for key, encoded in (document.get("data") or {}).items():
        try:
            values[key] = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError) as error:
            raise InvalidResource(f"{where}: data.{key}: not base64 text") from error
    for key, value in (document.get("stringData") or {}).items():
        if not isinstance(value, str):
            raise InvalidResource(f"{where}: stringData.{key}: a text is wanted")
        values[key] = value
    return name, values
