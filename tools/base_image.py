"""Pin the base image of the `Dockerfile` by digest: `make pin-base`.

The comment above ``ARG BASE`` names the tag.  The registry is asked for the manifest of that tag, its digest is counted
from the bytes that came, and ``ARG BASE`` becomes ``<name>@sha256:<digest>``: the operating system and the interpreter of
a build are then those that were tested.  Run it again to take a newer base; only the standard library is needed.
"""

import argparse
import hashlib
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"
HUB = "https://registry-1.docker.io"
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
PATIENCE_S = 30.0
MANIFEST_MOST_BYTES = 4 << 20


def fail(reason: str) -> None:
    """End with one sentence that says what to do."""
    sys.exit(f"make pin-base: {reason}")


def get(url: str, headers: dict[str, str]) -> bytes:
    """The body at a URL."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is the caller's, http or https
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310
        body: bytes = response.read(MANIFEST_MOST_BYTES)
    return body


def token_for(challenge: str) -> str:
    """The anonymous token that a registry's ``WWW-Authenticate`` asks for."""
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = asked.pop("realm")
    found = json.loads(get(f"{realm}?{urllib.parse.urlencode(asked)}", {}))
    return str(found.get("token") or found["access_token"])


def digest_of(registry: str, name: str, tag: str) -> str:
    """The digest of the index that a tag names now."""
    url = f"{registry}/v2/{name}/manifests/{tag}"
    try:
        body = get(url, {"Accept": ACCEPT})
    except urllib.error.HTTPError as error:
        challenge = error.headers.get("WWW-Authenticate", "")
        if error.code != 401 or "realm=" not in challenge:
            raise
        body = get(url, {"Accept": ACCEPT, "Authorization": f"Bearer {token_for(challenge)}"})
    if not json.loads(body).get("manifests"):
        fail(f"{name}:{tag} is not an index of several architectures: choose a tag that is")
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def main() -> None:
    """Rewrite the line of the `Dockerfile`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", default=HUB, help="where to ask [default: %(default)s]")
    parser.add_argument("--dockerfile", type=Path, default=DOCKERFILE)
    given = parser.parse_args()
    text = given.dockerfile.read_text()
    tagged = re.search(r"^# Tag of BASE: ([a-z0-9./_-]+):([\w.-]+)\n", text, re.MULTILINE)
    if tagged is None:
        fail(f"{given.dockerfile} has no line `# Tag of BASE: <name>:<tag>` above ARG BASE")
        return
    name, tag = tagged.groups()
    try:
        digest = digest_of(given.registry, name if "/" in name else f"library/{name}", tag)
    except (OSError, ValueError, KeyError) as error:
        fail(f"{given.registry} does not answer for {name}:{tag}: {error}; the Dockerfile stays as it is")
        return
    given.dockerfile.write_text(re.sub(r"^ARG BASE=.*$", f"ARG BASE={name}@{digest}", text, flags=re.MULTILINE))
    sys.stdout.write(f"{name}:{tag} is {digest}\n")


if __name__ == "__main__":
    main()
