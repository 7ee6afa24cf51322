"""The route of a request, as a table: from what a worker knows of a shard to what it does next."""

import pytest

from shard_worker.actors.pending import NOT_SERVED, UNKNOWN
from shard_worker.actors.routing import OwnerSearch, Route, route_of
from shard_worker.contract import CommandRequest, Done, ReadThread, Request
from shard_worker.ownership.view import ShardOwner
from tests.support.node import account, create, request, thread

HERE, ASK, WAIT, REFUSE = Route.SERVE_HERE, Route.ASK_OWNER, Route.WAIT, Route.REFUSE


def owned_by(worker: str, epoch: int = 5) -> ShardOwner:
    """The owner of a shard."""
    return ShardOwner(worker, "incarnation", epoch, "127.0.0.1", 1, 2)


MINE, OTHER = owned_by("w0"), owned_by("w1")


@pytest.mark.parametrize(
    ("here", "owner", "deserted", "after_epoch", "queued", "route"),
    [
        # The shard is here: nothing else counts.
        (True, None, False, -1, False, HERE),
        (True, None, True, -1, False, HERE),
        (True, MINE, False, -1, True, HERE),
        (True, OTHER, False, 9, True, HERE),
        # No owner is known.
        (False, None, False, -1, False, WAIT),
        (False, None, False, 5, True, WAIT),
        (False, None, True, -1, False, REFUSE),
        (False, None, True, 5, True, REFUSE),
        # Owned by this worker and not here: being adopted, or just dropped.
        (False, MINE, False, -1, False, WAIT),
        (False, MINE, True, -1, False, WAIT),
        # Another worker is the owner.
        (False, OTHER, False, -1, False, ASK),
        (False, OTHER, True, -1, False, ASK),
        (False, OTHER, False, 4, False, ASK),
        (False, OTHER, False, 5, False, WAIT),
        (False, OTHER, False, 6, False, WAIT),
        (False, OTHER, False, -1, True, WAIT),
    ],
)
def test_route_follows_from_shard_and_owner(  # the columns of the table
    here: bool, owner: ShardOwner | None, deserted: bool, after_epoch: int, queued: bool, route: Route
) -> None:
    """Every case of the decision."""
    assert route_of("w0", owner, here=here, deserted=deserted, after_epoch=after_epoch, queued=queued) is route


def search_for(asked: Request) -> OwnerSearch:
    """A request at worker w0."""
    return OwnerSearch("w0", asked)


def read() -> ReadThread:
    """A query."""
    return ReadThread(thread(), account())


def command(key: str | None) -> CommandRequest:
    """A command, with or without an idempotency key."""
    return request(create(thread(), account()), key)


def route(search: OwnerSearch, owner: ShardOwner | None, *, queued: bool = False) -> Route:
    """The next route of a request whose shard is elsewhere."""
    return search.route(owner, here=False, deserted=False, queued=queued)


def test_an_unreachable_owner_is_not_asked_again_until_the_request_is_let_in() -> None:
    """A later owner is asked at once."""
    search = search_for(read())
    assert route(search, OTHER) is ASK
    search.asks()
    assert search.lost(OTHER, sent=False, probe_at=1.5)
    assert (search.after_epoch, search.probe_at) == (5, 1.5)
    assert route(search, OTHER) is WAIT
    assert route(search, owned_by("w2", 6)) is ASK
    search.waits(OTHER)
    search.let_in()
    assert route(search, OTHER) is ASK


def test_an_admitted_request_passes_its_line_once() -> None:
    """After it asked in vain it lines up again, like every other."""
    search = search_for(read())
    assert route(search, OTHER, queued=True) is WAIT
    search.waits(OTHER)
    search.let_in()
    assert route(search, OTHER, queued=True) is ASK
    search.asks()
    search.not_served(OTHER)
    assert (search.after_epoch, search.probe_at) == (5, 0.0)
    assert route(search, owned_by("w2", 6), queued=True) is WAIT


def test_a_wait_for_this_worker_ends_with_a_later_epoch() -> None:
    """The worker's own epoch is no news; an earlier failure is not forgotten."""
    search = search_for(read())
    search.waits(MINE)
    assert search.after_epoch == 5
    search.lost(owned_by("w1", 7), sent=False, probe_at=0.0)
    search.waits(MINE)
    assert search.after_epoch == 7
    search.waits(None)
    assert search.after_epoch == 7


@pytest.mark.parametrize(
    ("asked", "sent", "again", "maybe_stored"),
    [
        (read(), False, True, False),
        (read(), True, True, False),
        (command(None), False, True, False),
        (command(None), True, False, False),
        (command("key"), False, True, False),
        (command("key"), True, True, True),
    ],
)
def test_only_a_command_that_left_without_a_key_is_not_sent_again(
    asked: Request, sent: bool, again: bool, maybe_stored: bool
) -> None:
    """A query stores nothing; a key makes the second sending harmless."""
    search = search_for(asked)
    assert search.lost(OTHER, sent=sent, probe_at=0.0) is again
    assert search.maybe_stored is maybe_stored


def test_only_a_success_is_certain_of_a_command_that_may_be_stored() -> None:
    """Any other answer speaks of the second sending alone."""
    done = Done(1, ())
    search = search_for(command("key"))
    assert search.certain(NOT_SERVED) == NOT_SERVED
    search.lost(OTHER, sent=True, probe_at=0.0)
    assert search.certain(NOT_SERVED) == UNKNOWN
    assert search.certain(done) is done
