"""Put the pinned Swagger UI into the package: `python tools/swagger_ui.py`, which needs npm and a registry.

The package on npm is taken as it is packed, without its dependency: that one reports installations to its maker.  Nothing of it runs
here.  The bytes must be those that `INTEGRITY` names; a new version is pinned by editing both constants.
"""

import base64
import gzip
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "5.35.0"
INTEGRITY = "sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ=="
PLACE = Path(__file__).parents[1] / "shard_worker" / "gateway" / "public" / "swagger_ui"
PACKED = ("swagger-ui-bundle.js", "swagger-ui.css")
"""Served, and compressed once here: no worker compresses anything."""
PLAIN = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")


def main() -> None:
    """Fetch, check, write."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"swagger-ui-dist@{VERSION}"], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != INTEGRITY:
            raise SystemExit(f"swagger-ui-dist {VERSION} is {found}, not {INTEGRITY}")
        with tarfile.open(archive) as files:
            for name in (*PACKED, *PLAIN):
                member = files.extractfile(f"package/{name}")
                assert member is not None, name
                content = member.read()
                if name in PACKED:
                    (PLACE / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
                else:
                    (PLACE / name).write_bytes(content)


if __name__ == "__main__":
    main()
