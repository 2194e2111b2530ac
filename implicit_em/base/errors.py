"""Errors that the user can act on; each message is one line."""

import difflib
import re
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
"""Exit codes of a failed run, of bad input, and after Ctrl-C."""
MOST_LISTED = 12
"""Largest number of allowed names that are listed beside a hint."""


class RunError(Exception):
    """A run cannot start or go on; the message gives the reason."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class ConfigError(RunError, ValueError):
    """A setting is wrong; the message names the key, the value and what is allowed."""


class DamagedError(ConfigError):
    """A file is damaged or of another kind; the message names it."""


class MissingError(ConfigError, FileNotFoundError):
    """There is no run or no model where one is named; the message names the place."""


class WriteError(RunError, OSError):
    """A file could not be written; the message names it and the reason."""


class NonFiniteLossError(RunError, RuntimeError):
    """The loss became infinite or NaN; the message names the step and the terms."""


class Interrupted(SystemExit):
    """A signal asked a run to end, and the run has saved its state.

    It is not an ``Exception``, so a sweep does not go on to its next job. The exit code is 128 plus
    the signal's number, as in shells.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)
        self.signal = number

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}"

    def __reduce__(self) -> tuple[type, tuple[signal.Signals]]:  # workers send it pickled
        return type(self), (self.signal,)


class EndedError(SystemExit):
    """An error that ends a command, and that Hydra leaves alone.

    It is not an ``Exception``: Hydra turns the exceptions of a callback into warnings, and prints a
    line of its own for the exception of a run.

    Args:
        error: the error.
        refusal: the line that says why nothing is started; ``None`` for the error of a run, which
            is in the run's log already.
    """

    def __init__(self, error: Exception, refusal: str | None = None) -> None:
        super().__init__(refusal or str(error))
        self.error, self.refusal = error, refusal


def one_line(error: BaseException) -> str:
    """Return the message of an error, or of the cause that it wraps, in one line."""
    cause = error if isinstance(error, RunError) else error.__cause__ or error
    if missing := _missing_name(error):
        return missing
    message = " ".join(str(cause).split())
    return textwrap.shorten(message, 300, placeholder=" ...") or type(cause).__name__


@contextmanager
def raising(
    kind: type[RunError], subject: str, *replaced: type[Exception], is_group: bool = False
) -> Iterator[None]:
    """Raise an error of the project, ``subject: reason``, in place of errors of other kinds.

    If the subject is a group of settings, a reason that begins with ``key=`` follows a dot, because
    the key belongs to the group.
    """
    try:
        yield
    except replaced as error:
        reason = one_line(error)
        mark = "." if is_group and re.match(r"\w+=", reason) else ": "
        raise kind(f"{subject}{mark}{reason}") from error


def _missing_name(error: BaseException) -> str | None:
    """Return a line if a dotted path names something that its module lacks, or else ``None``."""
    while error.__cause__ is not None:
        error = error.__cause__
    module, _, name = (getattr(error, "name", None) or "").rpartition(".")
    if not isinstance(error, ModuleNotFoundError) or module not in sys.modules:
        return None
    close = difflib.get_close_matches(name, dir(sys.modules[module]), n=1)
    return f"{module} has no {name}" + (f"; did you mean {close[0]}?" if close else "")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint at the allowed name that is closest, and the names on the same level."""
    allowed = list(allowed)
    close = difflib.get_close_matches(name, allowed, n=1)
    parent = close[0].rpartition(".")[0] if close else name.rpartition(".")[0]
    beside = [key for key in allowed if key.rpartition(".")[0] == parent]
    listed = ", ".join(beside or sorted({key.partition(".")[0] for key in allowed}))
    if not close:
        return f"allowed: {listed}"
    hint = f"did you mean {close[0]}?"
    return hint if len(beside) > MOST_LISTED else f"{hint} allowed: {listed}"
