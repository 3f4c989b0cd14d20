"""What can go wrong while images are replayed.

ReplayError          a step or a check failed: the images or the compose file are wrong
└── NotPossibleError this machine cannot replay anything: said, and skipped
"""


class ReplayError(Exception):
    """One line: what, and why."""


class NotPossibleError(ReplayError):
    """Names what the machine lacks."""
