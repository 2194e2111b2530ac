"""Studies of tuned families: controls, grids, choice, finals, variants, measurements, a report."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, filterfalse
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import pandas as pd
from matplotlib.figure import Figure

from implicit_em.base.errors import ConfigError, RunError
from implicit_em.base.files import write_json
from implicit_em.base.progress import working
from implicit_em.base.tables import print_rows
from implicit_em_studies.shared.claims import Claims
from implicit_em_studies.shared.pairs import SIGNIFICANT
from implicit_em_studies.shared.planning import P, Setting, Stages, check_all, training_of
from implicit_em_studies.shared.protocol import OF, digest, folder_of, trial_label
from implicit_em_studies.shared.report import (
    Report,
    describe,
    forget,
    history_of,
    log_summary,
    sentences,
)
from implicit_em_studies.shared.runs import Run, execute_all, has_diverged
from implicit_em_studies.shared.study import Part, Plan, Request, Study, read_note
from implicit_em_studies.shared.tables import rows_of
from implicit_em_studies.shared.targets import MISSED, VERDICTS, judged

log = logging.getLogger(__name__)
TARGETS = Claims("target", VERDICTS)
"""How verdicts on targets are written; the targets themselves stand in the study's protocol."""


@dataclass(frozen=True)
class Results(ABC, Generic[P]):
    """What the report of a part shows: tables with a row for each run; a study has more of them."""

    protocol: P
    training: str  # optimizers and schedules of the runs
    tuning: pd.DataFrame  # of the grids
    chosen: pd.DataFrame  # settings of the grids
    finals: pd.DataFrame
    controls: pd.DataFrame

    package: ClassVar[str]  # which has the templates report.md.j2 and findings.md.j2

    @property
    def findings(self) -> list[str]:
        """What the tables say, one sentence each."""
        about = {"content": self, "reference": self.protocol.reference, "significant": SIGNIFICANT}
        return sentences(self.package, "findings.md.j2", **about)

    @property
    @abstractmethod
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Tables of numbers by name."""

    @property
    @abstractmethod
    def figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that draw the figures, by name."""

    @property
    def verdicts(self) -> pd.DataFrame:
        """Verdicts on the targets of the study, a row for each; none without targets."""
        return judged([])

    @classmethod
    def of(cls, tuned: "Tuned[P]", **more: Any) -> Self:
        """Return the results of what was tuned, with ``more`` fields."""
        return cls(tuned.protocol, tuned.training, *tuned.tables, **more)

    @property
    def aimed(self) -> pd.DataFrame:
        """The finals with a target for L0."""
        return self.finals.dropna(subset="l0_target")

    @property
    def missed(self) -> pd.Series:
        """Numbers of finals of each family that miss their target for L0 by more than 5 %."""
        aimed = self.aimed
        return aimed[aimed["l0_reached"] != 1].groupby("family", sort=False).size()

    @property
    def diverged(self) -> pd.Series:
        """Numbers of settings of each family's grid that diverged."""
        lost = self.tuning[self.tuning["ridge_fvu"].isna()]
        return lost.groupby("family", sort=False).size()

    @property
    def untrained(self) -> pd.DataFrame:
        """The controls that are not trained, without variants of families."""
        return self.controls[~self._are_variants(self.controls)]

    def of_variants(self, finals: pd.DataFrame, controls: pd.DataFrame, measure: str) -> pd.Series:
        """Return means of the variants and, before them, of the families that they are of."""
        controls = controls[self._are_variants(controls)]
        made = controls["family"].unique() if len(controls) else ()
        origins = {self.protocol.variants[name][OF] for name in made}
        beside = pd.concat([finals[finals["family"].isin(origins)], controls], ignore_index=True)
        return beside.groupby("family", sort=False)[measure].mean() if origins else pd.Series()

    def _are_variants(self, controls: pd.DataFrame) -> pd.Series:
        families = controls.get("family", pd.Series(dtype=object))
        return families.isin(list(self.protocol.variants))

    def kept(self, *names: str) -> dict[str, pd.DataFrame]:
        """Return the tables of these names as they are."""
        return {name: getattr(self, name) for name in names}


@dataclass
class Tuned(Generic[P]):
    """What a part has trained and measured.

    Args:
        protocol: its protocol.
        tables: tables of the grids, of what was chosen, of finals and of controls.
        finals: finals that did not diverge.
        others: all other runs that did not diverge.
        lost: finals that diverged.
    """

    protocol: P
    tables: list[pd.DataFrame] = field(default_factory=list)
    finals: list[Run] = field(default_factory=list)
    others: list[Run] = field(default_factory=list)
    lost: list[Run] = field(default_factory=list)

    @property
    def training(self) -> str:
        """Optimizers and schedules of the runs."""
        return training_of([*self.finals, *self.others])


class TunedPart(Part, Generic[P]):
    """A part in which families are tuned; it is checked before anything is trained.

    A study adds how it chooses and measures.

    Args:
        name: name of the part in its protocol.
        stages: the places where families are tuned, each for itself.
        settings: all settings of the part.
        request: what the study is asked for.
        directory: directory of tables, figures and report.
        trial: label of the trial; ``None`` for the protocol.
        tags: tags of its runs in W&B.

    Raises:
        ConfigError: if a run is refused, or the directory holds the report of another protocol.
    """

    note: Mapping[str, Any] = {}
    """What is kept beside the findings."""

    def __init__(
        self,
        name: str,
        stages: Sequence[Stages[P]],
        settings: Iterable[Setting],
        request: Request,
        directory: Path,
        trial: str | None,
        tags: Sequence[str],
    ) -> None:
        self.name, self.stages, self.protocol = name, stages, stages[0].protocol
        self.directory, self.conf, self.trial = directory, request.conf, trial
        self.tags = [*tags, *(["trial"] if trial else [])]
        self.digest = digest((one.cfg for one in settings), self.protocol.deciding(name))
        found = read_note(directory / "findings.json").get("digest", self.digest)
        if found != self.digest:
            raise ConfigError(
                f"{directory}: holds the report of another protocol, {found}, not {self.digest}; "
                "name another directory, or remove findings.json there: its runs stay"
            )
        check_all(run for run in self.planned() if not run.completed)

    def planned(self) -> Iterable[Run]:
        """Return the runs to check."""
        return chain.from_iterable(stages.planned() for stages in self.stages)

    def train(self, runs: Sequence[Run], workers: int) -> None:
        """Train the runs that are not complete; a setting that diverges is a result."""
        execute_all(runs, workers, self.tags)

    def kept(self, runs: Sequence[Run], workers: int) -> list[Run]:
        """Train runs and return those that did not diverge."""
        self.train(runs, workers)
        return list(filterfalse(has_diverged, runs))

    def trained(self, runs: Sequence[Run], workers: int, every: str) -> list[Run]:
        """Train runs and return those that did not diverge; ``every`` is what messages call them.

        Raises:
            RunError: if none is left.
        """
        if kept := self.kept(runs, workers):
            return kept
        raise RunError(f"{every} diverged")

    def write(self, content: Results[P], runs: Sequence[Run], command: str) -> Path:
        """Write tables, figures, findings and report; a trial has no verdicts."""
        patterns = "report.*", "findings.json", "verdicts.*", "tables/*.csv", "figures/*.*"
        forget(self.directory, *patterns)
        history = history_of(folder_of(self.conf) / self.protocol.file)
        origin = describe(command, runs, protocol=history)
        report = Report(self.directory, origin, self.trial)
        report.write_tables(content.tables)
        with working("drawing the figures"):
            report.write_figures(content.figures)
        findings = content.findings
        about = {"trial": self.trial, "digest": self.digest, **self.note, "findings": findings}
        write_json(self.directory / "findings.json", about)
        verdicts = judged([]) if self.trial else content.verdicts
        if len(verdicts):
            TARGETS.write(verdicts, origin, self.directory)
            print_rows("Verdicts", TARGETS.in_short(verdicts))
            self.missed = list(rows_of(verdicts, verdict=MISSED)["statement"])
        shown = TARGETS.as_markdown(verdicts) if len(verdicts) else ""
        about = {"part": self, "content": content, "findings": findings, "verdicts": shown}
        page = report.write_page(content.package, **about)
        log_summary(runs[0].cfg, self.directory, content.tables, origin, self.trial)
        for sentence in findings:
            log.info("%s", sentence)
        log.info("Written to %s", page)
        return page

    def tune(self, grids: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return the measurements of the grids, a row for each setting."""
        return self.measure(grids, workers)

    @abstractmethod
    def choose(self, tuning: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the settings that are chosen."""

    def chosen_for_variants(self, chosen: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the chosen settings that variants are trained with."""
        return chosen

    @abstractmethod
    def measure(self, runs: Sequence[Run], workers: int) -> pd.DataFrame:
        """Return the measurements of finals, a row for each."""

    def measure_controls(
        self, controls: Sequence[Run], variants: Sequence[Run], workers: int
    ) -> pd.DataFrame:
        """Return the measurements of controls and of variants of families, a row for each."""
        return self.measure([*controls, *variants], workers)

    def named(self, table: pd.DataFrame, stages: Stages[P]) -> pd.DataFrame:
        """Return a table of a place as it stands beside the tables of other places."""
        return table

    @abstractmethod
    def results(self, tuned: Tuned[P], workers: int) -> Iterator[Results[P]]:
        """Yield what the report shows, and again what it shows once there is more."""

    def run(self, command: str, workers: int) -> Path:
        """Train and measure what is missing in all places, and write the report; return its path.

        Raises:
            RunError: if runs failed, or all of a kind diverged.
        """
        tuned, places = Tuned(self.protocol), []
        for stages in self.stages:
            tables = self.tuned_in(stages, tuned, workers)
            places.append([self.named(table, stages) for table in tables])
        tuned.tables = [pd.concat(every, ignore_index=True) for every in zip(*places, strict=True)]
        for content in self.results(tuned, workers):
            page = self.write(content, [*tuned.finals, *tuned.others], command)
        return page

    def tuned_in(self, stages: Stages[P], tuned: Tuned[P], workers: int) -> list[pd.DataFrame]:
        """Return the tables of a place, and add its runs to ``tuned``."""
        log.info("%s: controls and grids", stages.name)
        controls, grids = stages.controls(), stages.grids()
        self.train(controls, workers)
        kept = self.trained(grids, workers, f"{stages.name}: every setting")
        with working(f"{stages.name}: measuring the grids"):
            tuning = self.tune(grids, workers)
        chosen = self.choose(tuning)
        finals = stages.finals(stages.picked(chosen))
        tuned.finals += self.trained(finals, workers, f"{stages.name}: every final")
        varied = stages.varied(stages.picked(self.chosen_for_variants(chosen)))
        variants = self.kept(stages.finals(varied), workers)
        tuned.others += [*kept, *controls, *variants]
        tuned.lost += filter(has_diverged, finals)
        with working(f"{stages.name}: measuring finals and controls"):
            measured = self.measure(list(filterfalse(has_diverged, finals)), workers)
            return [tuning, chosen, measured, self.measure_controls(controls, variants, workers)]


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
