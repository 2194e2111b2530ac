"""A study from one call: its command, its directory, and the order in which it is made."""

import argparse
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError, RunError
from implicit_em.base.files import read_json, write_json
from implicit_em.base.locking import locked
from implicit_em.base.threads import cores
from implicit_em.config import CONF
from implicit_em_studies.shared.protocol import folder_of


class Part(ABC):
    """A part of a study, with a report of its own."""

    missed: Sequence[str] = ()
    """Targets that the part has missed."""

    @abstractmethod
    def run(self, command: str, workers: int) -> Path:
        """Train and measure what is missing, and write the report; return its path."""


class Request(NamedTuple):
    """What a study is asked for.

    Args:
        directory: directory of the runs and of the reports.
        words: names of parts; all if none is named.
        changes: ``KEY=VALUE`` settings of the protocol or, in Hydra's notation, of all runs.
        conf: folder of configuration files.
        found: what the directory's note says.
    """

    directory: Path
    words: Sequence[str]
    changes: Sequence[str]
    conf: Path
    found: Mapping[str, Any]


class Plan(NamedTuple):
    """How a study is made.

    Args:
        words: names of its parts.
        trial: label of the trial; ``None`` for the protocol.
        prepare: function that checks the parts, and makes what they need before they run.
    """

    words: Sequence[str]
    trial: str | None
    prepare: Callable[[], Sequence[Part]]


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """A study.

    Args:
        name: its command.
        noun: what one run of it is called; the note in its directory is named after it.
        directory: directory of the protocol's results.
        purpose: what it does, for its help.
        metavar: what a part is called there.
        words: what may be typed, for its help.
        quick: what ``--quick`` does, for its help; ``None`` if there is no such option.
        needs: file that a folder of configuration files must hold.
    """

    name: str
    noun: str = "study"
    directory: Path
    purpose: str
    metavar: str
    words: str
    quick: str | None = None
    needs: str = "train.yaml"

    @abstractmethod
    def plan(self, request: Request) -> Plan:
        """Return how the study is made; nothing is written yet.

        Raises:
            ConfigError: if a part is unknown, or a setting is refused.
        """

    def short(self, conf: Path) -> Sequence[str]:
        """Return the words of a quick trial: parts, and settings with ``=``."""
        raise NotImplementedError(f"{self.name} has no quick trial")

    def run(
        self,
        directory: str | Path | None = None,
        words: Sequence[str] = (),
        changes: Sequence[str] = (),
        workers: int | None = None,
        conf: str | Path = CONF,
        quick: bool = False,
    ) -> list[Path]:
        """Run the parts that words name and write their reports; return the reports' paths.

        Complete runs and measurements are reused, and a stopped study goes on. Settings other than
        the protocol's make a trial, and everything says so.

        Args:
            directory: directory of the runs and of the reports; ``None`` for that of the protocol.
            words: names of parts; all if none is named.
            changes: ``KEY=VALUE`` settings of the protocol or, in Hydra's notation, of all runs.
            workers: number of stacks that train, or processes that measure, at a time; ``None`` for
                one per core.
            conf: folder of configuration files.
            quick: whether to make a short trial, by default in a directory of its own. Its changes
                come before ``changes``, and its parts are those that run if none is named.

        Raises:
            ConfigError: if a setting is refused, or the directory holds another study.
            RunError: if runs failed, or, once all reports are written, if a target is missed.
        """
        directory, conf = Path(directory or self.directory), Path(conf)
        _refuse_arguments(workers, conf, self.needs)
        conf = conf.resolve()
        if quick:
            words, changes = self._shortened(conf, words, changes)
            if directory == self.directory:
                directory = directory.with_name(f"{directory.name}-quick")
        note = directory / f"{self.noun}.json"
        found = read_note(note)
        plan = self.plan(Request(directory, words, changes, conf, found))
        _refuse_directory(directory, self.directory, found, plan.trial)
        parts = plan.prepare()
        with locked(directory, f"{directory}: another {self.noun} is running there"):
            write_json(note, {**found, "trial": plan.trial})
            folders = {"directory": (directory, self.directory), "conf": (conf, CONF)}
            typed = command(self.name, [*plan.words, *changes], **folders)
            pages = [part.run(typed, workers or cores()) for part in parts]
        if missed := list(chain.from_iterable(part.missed for part in parts)):
            raise RunError(f"{len(missed)} missed targets, the first: {missed[0]}")
        return pages

    def parts_among(self, words: Sequence[str], conf: Path) -> Sequence[str]:
        """Return the words that name parts."""
        return words

    def _shortened(
        self, conf: Path, words: Sequence[str], changes: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Return the words and the changes of a quick trial; what is typed takes precedence."""
        typed, short = {change.partition("=")[0] for change in changes}, self.short(conf)
        own = [word for word in short if "=" in word and word.partition("=")[0] not in typed]
        parts = [word for word in short if "=" not in word]
        return [*words, *([] if self.parts_among(words, conf) else parts)], [*own, *changes]

    def main(self, arguments: Sequence[str]) -> int:
        """Run what the command line asks for; return the same exit codes as ``train.py``."""
        parser = Parser(prog=f"implicit-em {self.name}", description=self.purpose)
        parser.add_argument("words", nargs="*", metavar=self.metavar, help=self.words)
        home = self.directory
        parser.add_argument("--directory", type=Path, default=home, help=f"default: {home}")
        parser.add_argument("--workers", type=int, help="stacks at a time; default: one per core")
        add_conf(parser)
        parser.set_defaults(quick=False)
        if self.quick:
            parser.add_argument("--quick", action="store_true", help=self.quick)

        def run(given: argparse.Namespace) -> None:
            names = [word for word in given.words if "=" not in word]
            changes = [word for word in given.words if "=" in word]
            self.run(given.directory, names, changes, given.workers, given.conf, given.quick)

        return parser.run(arguments, run, "; the same command goes on")


def add_conf(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--conf`` to a parser."""
    text = "folder of configuration files; default: the package's own"
    parser.add_argument("--conf", type=Path, default=CONF, help=text)


def command(study: str, words: Sequence[str], **options: tuple[Path, Path]) -> str:
    """Return the command that runs a study again.

    ``options`` are the value and the default of each path; a path at its default is left out.
    """
    typed = ["implicit-em", study, *words]
    for name, (path, default) in options.items():
        typed += [f"--{name}", str(path)] if path != default else []
    return shlex.join(typed)


def read_note(note: Path) -> dict[str, Any]:
    """Return what a directory's note says of its study; empty if there is no note."""
    content = read_json(note) if note.exists() else {}
    if not isinstance(content, dict):
        raise ConfigError(f"{note}: cannot be read: not an object")
    return content


def _refuse_arguments(workers: int | None, conf: Path, needed: str) -> None:
    """Refuse an impossible number of workers, and a configuration folder without a needed file."""
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: must be at least 1")
    for name in ("train.yaml", needed):
        if not any((folder / name).exists() for folder in (conf, folder_of(conf))):
            raise ConfigError(f"conf={conf}: no {name} there; name the folder of the configuration")


def _refuse_directory(
    directory: Path, protocols: Path, note: Mapping[str, Any], trial: str | None
) -> None:
    """Refuse a file, and a directory of another study; a trial may not write to ``protocols``."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--directory {directory}: is a file")
    if trial and directory.resolve() == protocols.resolve():
        raise ConfigError(
            f"{protocols} is for the protocol alone: name another --directory for a {trial}"
        )
    if note and note.get("trial") != trial:
        raise ConfigError(
            f"{directory}: holds {note.get('trial') or 'a study of the protocol'}, not "
            f"{trial or 'one of the protocol'}; name another directory"
        )
