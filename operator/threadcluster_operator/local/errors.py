"""What a local cluster's commands are refused with."""


class NotRunning(Exception):
    """No supervisor lives on the data directory, or it does not answer."""


class UpFailed(Exception):
    """The cluster cannot be brought up; the message says why and what to do."""


class MovesRefused(Exception):
    """Moves that were asked for are not made; the message says why."""
