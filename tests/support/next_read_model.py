"""The program `shard-worker` of a next release: it has a version 2 of the read model, and feeds version 1 as well.

In version 2 the removal of messages counts as activity of a thread.
"""

from typing import Final

from shard_worker.domain.events import MessagesRemoved
from shard_worker.readmodel.projection import Changes, StoredEvent
from shard_worker.readmodel.rules import RULES, Rules

MIGRATION: Final = """
CREATE FUNCTION make_readmodel_v2(generation integer) RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
    PERFORM make_readmodel_v1(generation);
    EXECUTE format('ALTER TABLE readmodel_%s.thread ADD COLUMN note text', generation);
END
$make$
"""
"""The part of the release's migration that is about the read model."""


class NextChanges(Changes):
    """The net change of a batch by the rules of version 2."""

    def add(self, stored: StoredEvent) -> None:
        """Take one more event."""
        super().add(stored)
        if isinstance(stored.event, MessagesRemoved):
            self.threads[stored.thread_id].activity_at = stored.event.at


def main() -> None:
    """Run the program."""
    RULES[2] = Rules(NextChanges, "make_readmodel_v2")

    from shard_worker.main import main as program

    program()


if __name__ == "__main__":
    main()
