"""The full run under docs/results/ and what the documentation says of it."""

import json
import re

import pandas as pd
import pytest
from helpers.paths import ROOT

from implicit_em.experiments.criteria import AMENDMENTS, CLAIMS
from implicit_em.experiments.figures import PICTURES
from implicit_em.experiments.paper import TABLES

RESULTS = ROOT / "docs" / "results"
VERDICTS = json.loads((RESULTS / "verdicts.json").read_text())


def test_the_page_of_results_shows_the_verdicts_of_the_full_run():
    assert (RESULTS / "verdicts.md").read_text().strip() in (ROOT / "docs/results.md").read_text()


def test_every_claim_was_judged_by_the_criterion_that_stands_there_now():
    judged = {verdict["claim"]: verdict["criterion"] for verdict in VERDICTS["verdicts"]}
    assert judged == {key: claim.criterion for key, claim in CLAIMS.by_key.items()}
    amended = {v["claim"] for v in VERDICTS["verdicts"] if v["amended"]}
    assert amended == set(AMENDMENTS)


def test_the_results_say_where_they_come_from():
    provenance = VERDICTS["provenance"]
    assert re.fullmatch(r"[0-9a-f]{7,}", provenance["commit"]), "a clean commit"
    assert all(provenance[key] for key in ("versions", "processor", "device", "runs", "command"))


def test_the_report_is_whole_and_no_trial():
    report = (RESULTS / "report.md").read_text()
    figures = re.findall(r"\]\((figures/.*?)\)", report)
    assert len(figures) == len(PICTURES)
    assert all((RESULTS / path).exists() for path in figures)
    assert "TRIAL" not in report
    assert "No reason is known" not in report
    assert not re.search(r"\bnan\b", report)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_published_figure(name):
    cells = pd.read_csv(RESULTS / "tables" / f"{name}.csv")
    assert cells["paper"].notna().sum() == sum(
        figure.value is not None for row in TABLES[name].rows.values() for figure in row.values()
    )
    assert cells.loc[cells["deviates"].fillna(False).astype(bool), "reason"].notna().all()
