"""Tables, verdicts and report from made-up evidence that repeats the paper."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.made_up_study import as_published
from helpers.studies import changed
from matplotlib.figure import Figure

from implicit_em_studies.paper import tables
from implicit_em_studies.paper.criteria import CLAIMS
from implicit_em_studies.paper.paper import Published
from implicit_em_studies.paper.study import STUDY
from implicit_em_studies.shared.judged import JudgedPart
from implicit_em_studies.shared.report import Report
from implicit_em_studies.shared.tables import rows_of

AMENDED = {"independent_of_rate", "features_are_prototypes", "sae_rows_are_noise"}
OF = {"table1": "ablation", "table2": "benchmark", "table3": "dynamics"}


def compared(evidence, name):
    """A table of the paper, and the figures that deviate."""
    return tables.beside_published(name, evidence[OF[name]][OF[name]])


def figures(evidence, name, **where):
    return rows_of(compared(evidence, name)[name], **where).set_index("quantity")


@pytest.fixture
def evidence():
    return as_published()


def test_a_table_puts_mean_and_deviation_beside_the_papers_figure(evidence):
    row = figures(evidence, "table1", loss="lse_var").loc["redundancy"]
    values = [1875 - 40, 1875, 1875 + 40]
    assert row["paper"] == 1875
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    assert row["n"] == 3
    probe = figures(evidence, "table2", model="encoder").loc["probe_accuracy"]
    assert (probe["paper"], probe["paper_std"]) == (93.4, 0.4)
    assert probe["mean"] == pytest.approx(93.4)
    first, second = (
        tables.side_by_side(name, compared(evidence, name)[name]).iloc[row]
        for name, row in (("table1", 1), ("table2", 0))
    )
    assert (first["redundancy, paper"], first["redundancy"]) == ("1,875", "1,875.0 ± 40.0")
    assert second["probe (%), paper"] == "93.4 ± 0.4"
    assert (first["n"], second["n"]) == ("3", "5")


def test_the_published_figures_do_not_deviate_from_themselves(evidence):
    for name in ("table1", "table2"):
        assert compared(evidence, name)["deviations"] == []
    adam = figures(evidence, "table3", optimizer="adam").loc["convergence_epoch"]
    assert not adam["deviates"].any()
    printed = tables.side_by_side("table3", compared(evidence, "table3")["table3"])
    assert rows_of(printed, optimizer="adam")["converged at"].tolist() == ["never"] * 4


@pytest.mark.parametrize(
    ("mean", "std", "complete", "paper", "deviates"),
    [
        (93.84, None, True, Published(93.4, 0.4), False),
        (93.86, None, True, Published(93.4, 0.4), True),
        (93.86, 0.1, True, Published(93.4, 0.4), False),
        (29.4, None, True, Published(29), False),
        (29.6, None, True, Published(29), True),
        (70.0, 0.0, False, Published(70), True),
        (None, None, False, Published(None), False),
        (99.0, 1.0, True, Published(None), True),
        (None, None, False, Published(70), True),
    ],
)
def test_what_deviates(mean, std, complete, paper, deviates):
    assert tables._deviates(mean, std, complete, paper) is deviates


def test_a_caption_is_latex(tmp_path, evidence):
    cells = compared(evidence, "table2")["table2"]
    tables.printed("table2").write(cells, tmp_path / "table2", "TRIAL with a_b=1 & #~{x}")
    text = (tmp_path / "table2.tex").read_text()
    assert r"a\_b=1 \& \#\textasciitilde{}\{x\}" in text
    assert r"50.3 & 50.3 $\pm$" in text


def test_the_file_of_verdicts_holds_criterion_value_and_interval(tmp_path):
    CLAIMS.write(CLAIMS.judge(as_published()), {"commit": "abc"}, tmp_path)
    content = json.loads((tmp_path / "verdicts.json").read_text())
    assert content["provenance"] == {"commit": "abc"}
    rows = {row["claim"]: row for row in content["verdicts"]}
    gap = rows["better_than_sae"]
    assert gap["low"] < gap["value"] < gap["high"]
    assert gap["test"] == "paired t test"
    assert gap["p_value"] < 0.01
    count = rows["half_the_parameters"]
    assert (count["low"], count["high"], count["p_value"]) == (None, None, None)
    assert {key for key, row in rows.items() if row["amended"]} == AMENDED
    table = (tmp_path / "verdicts.md").read_text()
    assert table.count("**reproduced**") == len(CLAIMS.by_key)


def test_a_report_with_verdicts(tmp_path, evidence, composed):
    """As ``JudgedPart.run`` writes it, with measurements that are made up."""
    ablation = changed("ablation", "ablation", "redundancy", 99.0, loss="var_tc")(evidence)
    ablation = ablation["ablation"]["ablation"]
    measured = {"ablation": ablation, **tables.beside_published("table1", ablation)}
    experiment = replace(
        STUDY.experiments["ablation"],
        measure=lambda runs: measured,
        pictures={name: lambda measured: Figure() for name in ("figure2", "figure6")},
    )
    study = replace(STUDY, experiments={"ablation": experiment})
    run = SimpleNamespace(cfg=composed("logger=csv"), sweeps=["ablation"])
    part = JudgedPart(study, ["ablation"], [run], tmp_path, None)
    page = part.write(Report(tmp_path, {"commit": "abc"}))
    report = (tmp_path / "report.md").read_text()
    assert "Of 3 claims: 3 reproduced, 0 partly, 0 not reproduced." in report
    assert "**LSE alone collapses: reproduced.**" in report
    assert (
        "Table 1, var_tc, redundancy: paper 28, measured 99.0 ± 0.0. No reason is known." in report
    )
    assert "paired t test of logarithms: p = " in report
    assert not [key for key in AMENDED if f"`{key}`" in report], "of other experiments"
    assert "TRIAL" not in report
    assert page.read_text().count("data:image/png;base64,") == 2
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())["verdicts"]
    assert [row["experiment"] for row in verdicts] == ["ablation"] * 3
