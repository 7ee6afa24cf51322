"""The image of a next release: this one's, and on it one layer with one more migration.

The archive names the layers of this release's image and does not have them: the node that imports it has them already.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Final

from shard_worker.database.migration_files import SCHEMA_VERSION

NAME: Final = "threadcluster.test/threadcluster:next"
SCHEMA: Final = SCHEMA_VERSION + 1
"""The schema of that release."""

_MIGRATION: Final = """
-- Columns of tables that are read and written all the time, a table, and an index over rows that may be many.
ALTER TABLE meta ADD COLUMN next_note text;
ALTER TABLE worker ADD COLUMN next_note text;
ALTER TABLE shard ADD COLUMN next_note text;
ALTER TABLE shard_target ADD COLUMN next_note text;
ALTER TABLE journal ADD COLUMN next_note text;
ALTER TABLE snapshot ADD COLUMN next_note text;
CREATE TABLE next_note (id integer PRIMARY KEY, text text NOT NULL DEFAULT '');
CREATE INDEX CONCURRENTLY snapshot_next ON snapshot (next_note);
"""
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIGURATION: Final = "application/vnd.oci.image.config.v1+json"


def write_image(path: Path, base: Path) -> Path:
    """Write the image `NAME` for a node that has the image of the archive ``base``."""
    with tarfile.open(base) as archive:
        [described] = json.loads(_content(archive, "manifest.json"))
        configuration = json.loads(_content(archive, described["Config"]))
        sizes = [archive.getmember(layer).size for layer in described["Layers"]]
        folder = _migrations(archive, described["Layers"])
    layer = _tar({f"{folder}/{SCHEMA:04}_next.sql": _MIGRATION.encode()})
    layers = [
        {"mediaType": _LAYER, "digest": digest, "size": size}
        for digest, size in zip(configuration["rootfs"]["diff_ids"], sizes, strict=True)
    ]
    configuration["rootfs"]["diff_ids"].append(_digest(layer))
    configuration.pop("history", None)  # it would lack the layer
    config = json.dumps(configuration).encode()
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _described(_CONFIGURATION, config),
            "layers": [*layers, _described(_LAYER, layer)],
        }
    )
    named = {**_described(_MANIFEST, manifest), "annotations": {"io.containerd.image.name": NAME}}
    index = _json({"schemaVersion": 2, "manifests": [named]})
    blobs = {f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (manifest, config, layer)}
    path.write_bytes(_tar({"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index, **blobs}))
    return path


def _migrations(archive: tarfile.TarFile, layers: list[str]) -> str:
    """The folder of the migrations in the image."""
    for layer in reversed(layers):
        content = archive.extractfile(layer)
        assert content is not None
        with tarfile.open(fileobj=content) as files:
            for name in files.getnames():
                if name.endswith("shard_worker/database/migrations/0001_foundation.sql"):
                    return name.rpartition("/")[0]
    raise AssertionError("the image has no migrations")


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


def _described(media_type: str, blob: bytes) -> dict[str, Any]:  # JSON
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()
