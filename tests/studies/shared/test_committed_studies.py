"""The full runs under docs/results/, and what the documentation says of them."""

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.paths import ROOT

from implicit_em_studies.paper import study as paper
from implicit_em_studies.shared.judged import JudgedStudy
from implicit_em_studies.theory import study as theory


@dataclass
class Committed:
    directory: Path
    study: JudgedStudy
    names: Collection[str]

    @property
    def content(self):
        return json.loads((self.directory / "verdicts.json").read_text())

    @property
    def claims(self):
        every = self.study.claims.by_key
        return {key: claim for key, claim in every.items() if claim.experiment in self.names}


RESULTS = ROOT / "docs" / "results"
PARTS = sorted(RESULTS.glob("compare/*/*/findings.json"))
THEORY = RESULTS / "theory"
ALONE = ("on_or_off", "dead_units")
"""Experiments that ran on their own, and have reports of their own."""
RETIRED = {"depth", "reconstruction", "anomaly", "dead_units"}
"""Experiments that have left the tree; their reports name the commit that has them."""
STUDIES = {
    "paper": Committed(RESULTS, paper.STUDY, paper.STUDY.experiments),
    "theory": Committed(THEORY, theory.STUDY, theory.STUDY.experiments.keys() - {*ALONE}),
    **{name: Committed(THEORY / name, theory.STUDY, [name]) for name in ALONE},
}


@pytest.fixture(params=STUDIES)
def study(request):
    return STUDIES[request.param]


def test_the_page_of_results_counts_the_verdicts():
    page = (ROOT / "docs" / "results.md").read_text()
    given = Counter(verdict["verdict"] for verdict in STUDIES["paper"].content["verdicts"])
    reproduced, partly, nots = (given[v] for v in ("reproduced", "partly", "not reproduced"))
    counted = f"{reproduced} are reproduced, {partly} partly and {nots} not"
    assert f"Of {given.total()} claims, {counted}" in page

    shown = re.findall(r"^\| `(\w+)`: [^|]*\| (\d) \| (\d) \| (\d) \|", page, re.MULTILINE)
    verdicts = [v for name in ("theory", *ALONE) for v in STUDIES[name].content["verdicts"]]
    given = Counter((v["experiment"], v["verdict"]) for v in verdicts)
    counts = {name: tuple(map(int, numbers)) for name, *numbers in shown}
    assert counts == {
        name: tuple(given[name, verdict] for verdict in ("yes", "partly", "no"))
        for name, _ in given
    }


def test_every_claim_was_judged_by_the_criterion_that_stands_there_now(study):
    """A claim that the report does not have is amended; a claim that the tree lacks has left it."""
    judged = {v["claim"]: v for v in study.content["verdicts"] if v["claim"] in study.claims}
    assert all(judged[key]["criterion"] == study.claims[key].words[1] for key in judged)
    amended = {key: text for key in study.claims if (text := study.claims[key].words[2])}
    assert study.claims.keys() - judged.keys() <= amended.keys()
    assert {key: v["amended"] for key, v in judged.items() if v["amended"]} == {
        key: text for key, text in amended.items() if key in judged
    }
    report = (study.directory / "report.md").read_text()
    retired = RETIRED & {verdict["experiment"] for verdict in study.content["verdicts"]}
    assert not retired or "commit `a37bfb9` (tag `studies-2026`)" in report.partition("|")[0]
    assert all(f"- `{key}`: {amended[key]}" in report for key in amended.keys() & judged.keys())


def test_the_report_is_whole_and_no_trial(study):
    report, figures = whole_report_of(study.directory)
    assert (study.directory / "verdicts.md").read_text().strip() in report
    of_experiments = study.study.experiments.items()
    drawn = {
        f"figures/{study.study.file.format(experiment=name, name=picture)}.png"
        for name, experiment in of_experiments
        if name in study.names
        for picture in experiment.pictures
    }
    assert drawn <= {*figures}
    assert "No reason is known" not in report


def whole_report_of(directory):
    """Return a report that is no trial and shows no number that is none, and its figures."""
    report = (directory / "report.md").read_text()
    figures = re.findall(r"\]\((figures/.*?)\)", report)
    assert all((directory / path).exists() for path in figures)
    assert "TRIAL" not in report
    assert not re.search(r"\bnan\b", report)
    return report, figures


@pytest.mark.parametrize("note", PARTS, ids=lambda note: "-".join(note.parts[-3:-1]))
def test_the_report_of_a_part_is_whole_and_no_trial(note):
    found = json.loads(note.read_text())
    report, figures = whole_report_of(note.parent)
    assert figures
    assert all(sentence in report for sentence in found["findings"])
    assert found["trial"] is None
