"""The full comparison under docs/results/compare/ and what the documentation says of it."""

import json
import re

import pandas as pd
import pytest
from helpers.comparison_digests import DIGESTS
from helpers.paths import ROOT

RESULTS = ROOT / "docs" / "results" / "compare"
PARTS = sorted(path.parent for path in RESULTS.glob("*/*/findings.json"))


def findings(part):
    return json.loads((part / "findings.json").read_text())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.parent.name}-{part.name}")
def test_a_report_is_whole_and_of_the_protocol(part):
    report, found = (part / "report.md").read_text(), findings(part)
    assert all(sentence in report for sentence in found["findings"])
    assert found["trial"] is None
    assert "TRIAL" not in report
    assert not re.search(r"\bnan\b", report)
    figures = re.findall(r"\]\((figures/.*?)\)", report)
    assert figures
    assert all((part / path).exists() for path in figures)
    assert found["digest"] == DIGESTS[part.parent.name][part.name]


def section():
    text = (ROOT / "docs/results.md").read_text()
    return text.partition("## The comparison")[2].partition("\n## ")[0]


def test_the_page_of_results_shows_the_matched_densities_of_the_full_run():
    rows = re.findall(r"^\|.*\|$", section(), flags=re.M)
    part = RESULTS / "mnist" / "equal_width"
    assert len(rows) == 2 + pd.read_csv(part / "tables" / "chosen.csv")["family"].nunique()
    report = (part / "report.md").read_text()
    assert all(row in report for row in rows)


def test_the_sentences_on_the_page_of_results_are_findings_of_the_report_named_before_them():
    said, sentences = [], 0
    for line in section().replace("\n  ", " ").splitlines():
        if named := re.search(r"\(results/compare/(.+)/report\.md\)", line):
            said = findings(RESULTS / named[1])["findings"]
        if line.startswith("- "):
            assert line[2:] in said
            sentences += 1
    assert sentences >= 3
