"""A client that follows an account: it resumes with the last id when the stream ends, and drops what it has already.

It judges what it sees: of each thread every event, none left out, in their order on each connection.  Anything wrong is in
`AccountFollower.faults`.
"""

from collections.abc import Callable, Sequence

from tests.support.load.follower import Event, Follower


class AccountFollower(Follower):
    """Follows one account on one of some workers, whichever answers."""

    def __init__(
        self, urls: Callable[[], Sequence[str]], account_id: str, *, position: str = "", turn: int = 0
    ) -> None:
        super().__init__(urls, "", account_id, position=position, turn=turn)
        self._path = f"/v1/accounts/{account_id}/events"
        self.newest: dict[str, int] = {}
        """By thread, the newest event that it has."""
        self.repeats = 0
        self._on_this: dict[str, int] = {}
        self._connection = 0

    def _got(self, event: Event) -> None:
        if self._connection != self.connects:
            self._connection, self._on_this = self.connects, {}
        if event.id:
            self.position = event.id
        if event.type == "":
            self.opened.set()
        elif event.type == "reset":
            self.resets += 1
            self.opened.set()
        elif event.type == "error":
            self.faults.append(f"error {event.data.decode()}")
        else:
            fields = event.json
            thread_id, number = fields["threadId"], fields["sequenceNr"]
            before = self._on_this.get(thread_id)
            if before is not None and number != before + 1:
                self.faults.append(f"{thread_id}: {number} came after {before} on one connection")
            self._on_this[thread_id] = number
            known = self.newest.get(thread_id, 0)
            if number > known + 1:
                self.faults.append(f"{thread_id}: {number} came after {known}")
            if number <= known:
                self.repeats += 1
            else:
                self.seen.append((number, fields["epoch"]))
                self.newest[thread_id] = number
