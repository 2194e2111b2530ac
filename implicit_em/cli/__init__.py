"""The command line: ``implicit-em COMMAND ...``; a mistake prints one clear line.

A command is a function of its arguments that returns an exit code. It is an entry point of the
group ``implicit_em.commands``, so any installed package can add one. The first sentence of the
function's docstring is its help.
"""

import ast
import atexit
import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from implicit_em.base.allocation import keep_freed_memory
from implicit_em.base.errors import FAILED, REFUSED, nearest, one_line
from implicit_em.base.imports import quick_imports

GROUP, OWN = "implicit_em.commands", "implicit-em"
"""The entry points, and the distribution of the project."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by the arguments (by default the process's); return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (arguments or ["--help"])[0], arguments[1:]
    # Of two commands with one name, the project's own comes last and stays.
    found = sorted(entry_points(group=GROUP), key=lambda one: getattr(one.dist, "name", "") == OWN)
    commands = {command.name: command for command in found}
    if name in ("--help", "-h"):
        print("usage: implicit-em COMMAND ...; implicit-em COMMAND --help explains a command")
        print("\n".join(_help(commands)))
        return 0
    if name == "--version":
        print(version(OWN))
        return 0
    if name not in commands:
        print(f"error: {name}: no such command; {nearest(name, commands)}", file=sys.stderr)
        return REFUSED
    sys.path.append(os.getcwd())  # for modules that a user's configuration names
    keep_freed_memory()  # before a library, such as pandas, starts a thread with memory of its own
    try:
        with quick_imports():
            command = commands[name].load()
    except ImportError as error:
        print(f"error: {name}: cannot be loaded: {one_line(error)}", file=sys.stderr)
        return FAILED
    atexit.register(gc.freeze)  # else a process ends with a search of all of torch for garbage
    return command(rest)


def _help(commands: Mapping[str, EntryPoint]) -> Iterator[str]:
    """Yield a line for each command, grouped by package."""
    width = max(map(len, commands))
    for _, own in groupby(sorted(commands.values(), key=_home), _home):
        yield ""
        for command in own:
            try:
                text = _docstring(command).partition(".")[0]
            except ImportError as error:
                text = f"cannot be loaded: {one_line(error)}"
            yield f"  {command.name:{width}}  {text}"


def _home(command: EntryPoint) -> str:
    return command.module.partition(".")[0]


def _docstring(command: EntryPoint) -> str:
    """Return the docstring of a command, from its source: to import torch takes seconds."""
    module = find_spec(command.module)
    if module and module.origin:
        for node in ast.parse(Path(module.origin).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == command.attr:
                return ast.get_docstring(node) or ""
    return command.load().__doc__ or ""
