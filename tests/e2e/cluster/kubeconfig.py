"""Files by which programs reach a cluster: written for users of a control plane of ours, or derived from a given one."""

import json
from pathlib import Path

import yaml


def write_kubeconfig(path: Path, *, server: str, authority: str, token: str, namespace: str = "default") -> Path:
    """A file for the holder of ``token``; ``authority`` is the base64 of the server's certificate authority."""
    _write(path, {"server": server, "certificate-authority-data": authority}, {"token": token}, namespace)
    return path


def for_token(path: Path, given: Path, token: str, *, namespace: str = "default") -> Path:
    """A file for the holder of ``token`` on the cluster of ``given``, in its current context."""
    config = yaml.safe_load(given.read_text())
    context = next(each["context"] for each in config["contexts"] if each["name"] == config["current-context"])
    cluster = next(each["cluster"] for each in config["clusters"] if each["name"] == context["cluster"])
    if "certificate-authority" in cluster:  # relative to the file that has it
        cluster |= {"certificate-authority": str(given.parent / cluster["certificate-authority"])}
    _write(path, cluster, {"token": token}, namespace)
    return path


def _write(path: Path, cluster: dict[str, str], user: dict[str, str], namespace: str) -> None:
    path.touch(mode=0o600)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": namespace}}],
        "current-context": "tests",
    }
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML, and needs no rules of quoting
