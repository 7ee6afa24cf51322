"""Ports of this machine for programs that are given one."""

import socket


def free_ports(address: str, count: int) -> list[int]:
    """Free ports; all are held until the last is found, so that they differ."""
    held = [socket.create_server((address, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
