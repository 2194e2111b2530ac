"""The full comparison under docs/results/compare/."""

import json
import re

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
