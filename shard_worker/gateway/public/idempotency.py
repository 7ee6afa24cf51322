"""Idempotency: what a key and a body hash to, and the thread id that a keyed create has.

The scope of a key is (thread, account): the journal's index holds the thread, the hash holds the account.  Bodies are
compared as what they came to: the case of ids, the order of names and white space do not count, ``createAt`` neither,
and ``null`` for an optional field is the same as leaving it out.
"""

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from shard_worker.domain.ids import AccountId, ThreadId, ulid_text
from shard_worker.gateway.http.failures import Failure, FailureCode, of_parameter

_FIELD: Final = "Idempotency-Key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")


def key_failure(values: Sequence[str]) -> Failure | None:
    """The failure of a request's ``Idempotency-Key`` fields, or None."""
    if len(values) > 1:
        return of_parameter(_FIELD, FailureCode.DUPLICATE, "given more than once")
    if values and not _KEY.fullmatch(values[0]):
        return of_parameter(_FIELD, FailureCode.WRONG_FORMAT, "must be 1 to 128 visible ASCII characters")
    return None


def key_hash(account_id: AccountId, key: str) -> bytes:
    """The 16 bytes under which the journal knows a key."""
    return sha256(f"{account_id}:{key}".encode()).digest()[:16]


def thread_id_of(salt: bytes, account_id: AccountId, key: str) -> ThreadId:
    """The id of the thread that a keyed create without ``threadId`` makes: time part 0, the rest from the key.

    The rest is the first 80 bits of an HMAC under the database's ``salt``, so that no client can compute the id that
    another account's key leads to, and take it first.
    """
    return ThreadId(ulid_text(bytes(6) + hmac.digest(salt, f"{account_id}:{key}".encode(), "sha256")[:10]))


def body_hash(path: str, compared: bytes) -> bytes:
    """16 bytes that distinguish two requests with one key.

    ``path`` has its ids in canonical form, ``compared`` is what `CommandBody.compared` gives.  The journal keeps the bytes, so the
    hashed form must not change.
    """
    return sha256(b"%b\n%b" % (path.encode(), compared)).digest()[:16]
