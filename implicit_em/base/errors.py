"""Errors that a person can do something about; their message is one line."""

import signal
import textwrap


class RunError(Exception):
    """A run cannot start or go on, for the reason that the message gives."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class ConfigError(RunError, ValueError):
    """A setting that cannot be: the message names the key, the value and what is allowed."""


class DamagedError(ConfigError):
    """A file is not what it should be: the message names it."""


class WriteError(RunError, OSError):
    """A file could not be written: the message names it and the reason."""


class NonFiniteLossError(RunError, RuntimeError):
    """The loss became infinite or NaN: the message names the step and the terms."""


class Interrupted(SystemExit):
    """A signal asked a run to end, and it has saved where it was.

    Not an ``Exception``, so that a sweep does not go on to its next job.

    Args:
        number: of the signal; the exit code is 128 more, as shells have it.

    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)
        self.signal = number

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}"

    def __reduce__(self) -> tuple[type, tuple[signal.Signals]]:  # a launcher's worker sends it
        return type(self), (self.signal,)


class RefusedError(SystemExit):
    """A configuration was refused before Hydra started its job.

    Not an ``Exception``, as Hydra turns those that its callbacks raise into warnings.
    """

    def __init__(self, reason: str, error: Exception) -> None:
        super().__init__(reason)
        self.error = error


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, that of its cause where another error wraps it."""
    cause = error if isinstance(error, RunError) else error.__cause__ or error
    message = " ".join(str(cause).split())
    return textwrap.shorten(message, 300, placeholder=" ...") or type(cause).__name__
