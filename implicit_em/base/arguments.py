"""Parsers of command lines, whose errors are one line."""

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that prints an error in one line, without its usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end with exit code 2."""
        print(f"error: {message}; {self.prog} --help explains", file=sys.stderr)
        self.exit(2)
