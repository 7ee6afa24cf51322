"""The errors of the local platform's commands."""


class NotRunning(Exception):
    """No supervisor lives on the data directory, or it does not answer."""


class UpFailed(Exception):
    """The cluster cannot be brought up; the message says why and what to do."""
