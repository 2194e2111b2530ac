"""Studies of families that are tuned: their parts are checked, trained, and written to a page."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, filterfalse
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.base.files import write_json
from implicit_em.base.progress import working
from implicit_em.base.tables import print_rows
from implicit_em_studies.shared.planning import P, check_all
from implicit_em_studies.shared.protocol import OF, folder_of, trial_label
from implicit_em_studies.shared.report import Report, describe, forget, history_of, log_summary
from implicit_em_studies.shared.runs import Run, execute_all, has_diverged
from implicit_em_studies.shared.study import Part, Plan, Request, Study, read_note
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.shared.targets import MISSED, TARGETS, judged

log = logging.getLogger(__name__)
R = TypeVar("R")
"""What a part measured."""


@dataclass(frozen=True)
class Results(ABC, Generic[P]):
    """The tables of a part, each with a row for each run; a study has more of them."""

    protocol: P
    tuning: pd.DataFrame  # of the grids
    chosen: pd.DataFrame  # settings of the grids
    finals: pd.DataFrame
    controls: pd.DataFrame

    @abstractmethod
    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by name."""

    @property
    def untrained(self) -> pd.DataFrame:
        """The controls that are not trained, without variants of families."""
        return self.controls[~self._are_variants(self.controls)]

    def beside_variants(self, finals: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the variants and, before them, of the families that they are of."""
        controls = controls[self._are_variants(controls)]
        made = controls["family"].unique() if len(controls) else ()
        origins = {self.protocol.variants[name][OF] for name in made}
        return pd.concat([finals[finals["family"].isin(origins)], controls], ignore_index=True)

    def _are_variants(self, controls: pd.DataFrame) -> pd.Series:
        families = controls.get("family", pd.Series(dtype=object))
        return families.isin(list(self.protocol.variants))

    def kept(self, *names: str) -> dict[str, pd.DataFrame]:
        """Return the tables of these names as they are."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Content(Generic[R]):
    """What the report of a part shows; its template may name more of a subclass."""

    results: R

    template: ClassVar[str] = "report.md.j2"
    say: ClassVar[Any]  # function of the results, for the findings
    judge: ClassVar[Any] = staticmethod(lambda results: [])  # the same, for the verdicts on targets

    @cached_property
    def findings(self) -> list[str]:
        """What the tables say, one sentence each."""
        return type(self).say(self.results)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Verdicts on the targets of the study, a row for each."""
        return judged(type(self).judge(self.results))

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Tables of numbers by name."""
        results: Any = self.results
        return results.tables()

    @property
    @abstractmethod
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""


class TunedPart(Part, Generic[P]):
    """A part of tuned families; it is checked as a whole before anything is trained.

    Args:
        digest: what identifies the part's protocol and settings.
        directory: directory of tables, figures and report.
        trial: label of the trial; ``None`` for the protocol.
        tags: tags of its runs in W&B.

    Raises:
        ConfigError: if a run is refused, or the directory holds the report of another protocol.
    """

    package: ClassVar[str]  # which has the templates

    def __init__(
        self,
        protocol: P,
        digest: str,
        directory: Path,
        conf: Path,
        trial: str | None,
        tags: Sequence[str] = (),
    ) -> None:
        self.protocol, self.digest, self.directory = protocol, digest, directory
        self.conf, self.trial = conf, trial
        self.tags = [*tags, *(["trial"] if trial else [])]
        found = read_note(directory / "findings.json").get("digest", digest)
        if found != digest:
            raise ConfigError(
                f"{directory}: holds the report of another protocol, {found}, not {digest}; "
                "name another directory, or remove findings.json there: its runs stay"
            )
        check_all(self.plan())

    @abstractmethod
    def plan(self) -> Iterable[Run]:
        """Return the runs that are to be checked."""

    def train(self, runs: Sequence[Run], workers: int) -> None:
        """Train the runs that are not complete; a setting that diverges is a result."""
        execute_all(runs, workers, self.tags)

    def trained(self, runs: Sequence[Run], workers: int, every: str) -> list[Run]:
        """Train runs and return those that did not diverge; ``every`` is what messages call them.

        Raises:
            RunError: if none is left.
        """
        if kept := self.kept(runs, workers):
            return kept
        raise RunError(f"{every} diverged")

    def kept(self, runs: Sequence[Run], workers: int) -> list[Run]:
        """Train runs and return those that did not diverge."""
        self.train(runs, workers)
        return list(filterfalse(has_diverged, runs))

    def write(self, content: Content[Any], runs: Sequence[Run], command: str, **note: Any) -> Path:
        """Write tables, figures, findings and report; ``note`` is kept beside the findings.

        A trial has no verdicts.
        """
        patterns = "report.*", "findings.json", "verdicts.*", "tables/*.csv", "figures/*.*"
        forget(self.directory, *patterns)
        history = history_of(folder_of(self.conf) / self.protocol.file)
        origin = describe(command, runs, protocol=history)
        report = Report(self.directory, origin, self.trial)
        report.write_tables(content.tables)
        with working("drawing the figures"):
            report.write_figures(content.figures)
        kept = {"trial": self.trial, "digest": self.digest, **note, "findings": content.findings}
        write_json(self.directory / "findings.json", kept)
        verdicts = judged([]) if self.trial else content.verdicts
        if len(verdicts):
            TARGETS.write(verdicts, origin, self.directory)
            print_rows("Verdicts", TARGETS.in_short(verdicts))
            self.missed = list(rows_of(verdicts, verdict=MISSED)["statement"])
        shown = TARGETS.as_markdown(verdicts) if len(verdicts) else ""
        page = report.write_page(
            self.package, content.template, part=self, content=content, verdicts=shown
        )
        log_summary(runs[0].cfg, self.directory, content.tables, origin, self.trial)
        for sentence in content.findings:
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page


@dataclass(frozen=True, kw_only=True)
class TunedStudy(Study, Generic[P]):
    """A study of tuned families.

    Args:
        protocol: class of its protocol.
        prepare: function that composes and checks the parts of a request, given the protocol,
            settings of all runs, and the label of the trial.
    """

    protocol: type[P]
    prepare: Callable[[P, Request, Sequence[str], str | None], Sequence[TunedPart[P]]]

    def short(self, conf: Path) -> Sequence[str]:
        """Return the words of a quick trial, which the protocol names."""
        return self.protocol.read(conf).quick

    def parts_among(self, words: Sequence[str], conf: Path) -> Sequence[str]:
        """Return the words that are no families."""
        families = self.protocol.read(conf).every_family
        return [word for word in words if word not in families]

    def plan(self, request: Request) -> Plan:
        """Return how the study is made, with changes of the protocol and settings of all runs."""
        changes, conf = request.changes, request.conf
        self.protocol.refuse_misspelt(changes, conf)
        protocol = self.protocol.read(conf, list(filter(self.protocol.has, changes)))
        overrides = list(filterfalse(self.protocol.has, changes))
        protocol.refuse_own_settings(overrides)
        trial = trial_label(changes)
        families = [word for word in request.words if word in protocol.every_family]
        parts = [word for word in request.words if word not in families]
        if families:
            of_parts = {part: protocol.families_of(part) for part in protocol.chosen(parts)}
            having = [part for part, own in of_parts.items() if {*families} & {*own}]
            if not having:
                allowed = ", ".join(dict.fromkeys(chain(*of_parts.values()))) or "none"
                raise ConfigError(
                    f"{families[0]}: no family of {', '.join(parts)}; allowed: {allowed}"
                )
            parts = list(dict.fromkeys(chain(*having)))
        asked = protocol.only(families), request._replace(words=parts)
        prepare = partial(self.prepare, *asked, overrides, trial)
        return Plan(request.words, trial, prepare)


def choose(tuning: pd.DataFrame, criteria: Mapping[Any, str]) -> pd.DataFrame:
    """Return the best setting of each family by each criterion, a row for each.

    Args:
        tuning: one row per setting, with ``family``, ``settings``, ``run``, and the criteria's
            columns, null if the setting diverged.
        criteria: column of each criterion; with a minus in front, less is better.
    """
    rows = []
    for name, criterion in criteria.items():
        column = criterion.removeprefix("-")
        known = tuning.dropna(subset=column)
        values = -known[column] if criterion.startswith("-") else known[column]
        best = values.groupby(known["family"], sort=False).idxmax()
        rows.append(known.loc[best].assign(criterion=name))
    return pd.concat(rows, ignore_index=True)
