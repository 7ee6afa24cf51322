"""Asking a worker to leave, and waiting until it owns nothing: what a pod's preStop hook does, from beside the worker.

It needs the management port and the cluster's secret, from which it makes its certificate: no database, no Kubernetes.
It is synchronous and imports little, for a hook that starts slowly eats of the time that the shards have.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

import msgspec

from shard_worker.contract import url_host
from shard_worker.contract_internal import INTERNAL_PREFIX, LeaveResponse, ProblemResponse
from shard_worker.contract_tls import INTERNAL_NAME, internal_client_context

_ASK_EVERY_S: Final = 0.1
_ANSWER_S: Final = 2.0

Say = Callable[[str], None]


class LeaveFailed(Exception):
    """The worker was not brought to leave; the message says why."""


def leave(
    host: str, port: int, secrets: tuple[bytes, ...], *, timeout_s: float, say: Say, at_least_s: float = 0.0
) -> None:
    """Have the worker at an address leave, and return when it owns nothing, after ``at_least_s``.  Raises `LeaveFailed`.

    The worker answers requests all the while, by forwarding them: for those whose load balancer has not noticed yet.
    """
    began = time.monotonic()
    if _leave(host, port, secrets, timeout_s, say):
        time.sleep(max(0.0, began + at_least_s - time.monotonic()))


def _leave(host: str, port: int, secrets: tuple[bytes, ...], timeout_s: float, say: Say) -> bool:
    """Whether the worker, which owns nothing now, still runs."""
    where = f"{url_host(host)}:{port}"
    deadline = time.monotonic() + timeout_s
    owned = None
    while True:
        try:
            left = _ask(host, port, secrets)
        except ssl.SSLError as error:
            if owned is None:
                raise LeaveFailed(
                    f"the worker at {where} and this command do not hold the same secret: {error}"
                ) from error
            left = owned  # it answered before, so the secret is right: the worker ends in the middle of the handshake
        except (OSError, http.client.HTTPException) as error:
            if owned is None:
                raise LeaveFailed(f"no worker answers at {where}: {str(error) or repr(error)}") from error
            if isinstance(error, ConnectionRefusedError):
                say("the worker has ended")
                return False
            left = owned  # it is busy, or is closing: the next answer, or the refusal to give one, tells
        if left != owned:
            say(f"leaving: {left} shards still here" if left else "left: the worker owns nothing")
        owned = left
        if owned == 0:
            return True
        if time.monotonic() >= deadline:
            raise LeaveFailed(f"the worker at {where} still owns {owned} shards after {timeout_s:g} s")
        time.sleep(_ASK_EVERY_S)


def _ask(host: str, port: int, secrets: tuple[bytes, ...]) -> int:
    """Ask once; how many shards the worker still owns."""
    where = f"{url_host(host)}:{port}"
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        plain = socket.create_connection((host, port), timeout=_ANSWER_S)
        connection.sock = internal_client_context(secrets).wrap_socket(plain, server_hostname=INTERNAL_NAME)
        connection.request("POST", f"{INTERNAL_PREFIX}/leave")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    try:
        if response.status == http.HTTPStatus.OK:
            return msgspec.json.decode(body, type=LeaveResponse).owned
        reason = msgspec.json.decode(body, type=ProblemResponse).detail
    except msgspec.DecodeError:
        reason = "this is not a worker's management port"
    raise LeaveFailed(f"the worker at {where} refuses ({response.status}): {reason}")
