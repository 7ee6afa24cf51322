"""Refusals: the closed list of reasons for which the domain says no.

A refusal is a value, never an exception.  `Refusal.code` is what a client sees as ``code``; the gateway alone knows
which HTTP status it has.
"""

from enum import StrEnum

from msgspec import Struct


class RefusalCode(StrEnum):
    """Why a thread refuses a command or a read."""

    THREAD_NOT_FOUND = "thread-not-found"
    """No such thread, or the caller may not read it: no answer distinguishes the two."""
    THREAD_DESTROYED = "thread-destroyed"
    NOT_ADMINISTRATOR = "not-administrator"
    NOT_SENDER = "not-sender"
    ALREADY_EXISTS = "already-exists"
    PARENT_NOT_READABLE = "parent-not-readable"
    LAST_ADMINISTRATOR = "last-administrator"
    ADMINISTRATOR_LIMIT = "administrator-limit"
    MEMBER_LIMIT = "member-limit"
    MESSAGE_LIMIT = "message-limit"
    MESSAGE_ID_TAKEN = "message-id-taken"
    REPLY_NOT_LIVE = "reply-not-live"
    MESSAGE_NOT_FOUND = "message-not-found"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    """Decided by the actor, which knows the keys; the rest is decided by the domain."""


class Refusal(Struct, frozen=True, gc=False, tag="refusal", array_like=True):
    """A definite no; nothing was stored."""

    code: RefusalCode
    detail: str
