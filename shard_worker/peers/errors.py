"""Why a peer did not answer, and what that says about storage."""


class PeerUnreachable(Exception):
    """The peer cannot be asked, or went away.  ``sent`` is False only if no byte of the request ever left."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class PeerOverloaded(Exception):
    """The peer has as many of our requests as it takes; nothing of this one left."""
