"""The image of the process that holds a pod's network open: one program of some instructions, without a compiler.

`pause(2)` until the kubelet kills it.  An image tar is a manifest, a configuration and one layer.
"""

import hashlib
import io
import json
import platform
import struct
import tarfile
from pathlib import Path
from typing import Final

NAME: Final = "threadcluster.test/pause:1"

_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
_MACHINES: Final = {
    # mov eax, SYS_pause; syscall; jmp back to the first instruction
    "x86_64": ("amd64", 62, bytes.fromhex("b8220000000f05ebf7")),
    # ppoll(NULL, 0, NULL, NULL): mov x0..x4, 0; mov x8, 73; svc 0; b back to the first instruction
    "aarch64": (
        "arm64",
        183,
        struct.pack(
            "<8I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800004, 0xD2800928, 0xD4000001, 0x17FFFFF9
        ),
    ),
}


def write_image(path: Path) -> Path:
    """Write the image `NAME` for this machine as a tar."""
    architecture, machine, code = _MACHINES[platform.machine()]
    layer = _tar({"pause": _program(machine, code)})
    configuration = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    files = {"config.json": configuration, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(_tar(files))
    return path


def _program(machine: int, code: bytes) -> bytes:
    """A static ELF executable: its header, one segment, the code."""
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = _HEADERS + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return identification + header + segment + code


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()
