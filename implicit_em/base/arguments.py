"""Command lines: their parsers, whose errors are one line, and their exit codes."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from implicit_em.base.errors import FAILED, INTERRUPTED, REFUSED, ConfigError, RunError, one_line
from implicit_em.base.quiet import quieten


class Parser(argparse.ArgumentParser):
    """A parser that prints an error in one line, without its usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end with exit code 2."""
        print(f"error: {message}; {self.prog} --help explains", file=sys.stderr)
        self.exit(2)

    def run(
        self,
        arguments: Sequence[str] | None,
        function: Callable[[argparse.Namespace], object],
        after_interruption: str = "",
    ) -> int:
        """Call a function of the options, whose log goes to stdout; return the exit code.

        An error of the project, or of a file, prints one line on stderr. With ``--json`` the log
        goes to stderr, too.

        Args:
            arguments: command line; ``None`` for the command line of the process.
            function: function of the options; it has failed if it returns ``False``.
            after_interruption: what is said beside "interrupted" after Ctrl-C.

        Returns:
            0 for success, 1 for failure, 2 for bad input, 130 after Ctrl-C.
        """
        options = self.parse_intermixed_args(arguments)
        quieten()
        stream = sys.stderr if getattr(options, "json", False) else sys.stdout
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=stream)
        try:
            return FAILED if function(options) is False else 0
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            return REFUSED if isinstance(error, ConfigError) else FAILED
        except OSError as error:  # of a path that no file can have, or a disk
            print(f"error: {one_line(error)}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(f"interrupted{after_interruption}", file=sys.stderr)
            return INTERRUPTED
