"""Ports of this machine for programs that are given one."""

import socket


def free_port() -> int:
    """A port that is in no use."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port
