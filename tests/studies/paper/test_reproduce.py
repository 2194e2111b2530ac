"""The study from end to end on small data: runs, tables, figures, report; and how it goes on."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from helpers.paths import ROOT, copied_configuration

from implicit_em.base.errors import ConfigError, RunError
from implicit_em_studies.paper.study import STUDY
from implicit_em_studies.shared.runs import table

CONF = ROOT / "conf"
pytestmark = pytest.mark.usefixtures("coarse")


@pytest.fixture(scope="module")
def overrides(small_mnist):
    return [
        f"data.root={small_mnist}",
        "data.batch_size=64",
        "trainer.max_epochs=2",
        "seed=1",
        "logger=csv",
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory, overrides, coarse):
    """A directory with all five experiments."""
    directory = tmp_path_factory.mktemp("study") / "trial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("implicit_em_studies.paper.prototypes.PERMUTATIONS", 10)
        STUDY.run(directory, changes=overrides, workers=1, conf=CONF)  # two would need processes
    return directory


def test_every_table_and_figure_is_written_and_the_report_needs_nothing_but_itself(study):
    tables = {path.name for path in (study / "tables").iterdir()}
    figures = {path.name for path in (study / "figures").iterdir()}
    paper = {f"table{n}.{kind}" for n in (1, 2, 3) for kind in ("csv", "md", "tex")}
    beyond = ("draws", "encoder", "training", "crossings", "trends", "settling", "features")
    assert tables == paper | {f"{name}.csv" for name in beyond}
    assert figures == {f"figure{n}.{kind}" for n in range(1, 10) for kind in ("png", "pdf")}
    assert all(path.stat().st_size > 1000 for path in (study / "figures").iterdir())
    for path in (study / "tables").glob("*.tex"):
        text = path.read_text()
        assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
        assert not re.search(r"±|–|(?<!\\)%", text)
    page = (study / "report.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 9
    addresses = re.findall(r"""\s(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert all(address.startswith("data:") for address in addresses)
    markdown = (study / "report.md").read_text()
    assert all((study / path).exists() for path in re.findall(r"\]\((figures/.*?)\)", markdown))
    assert "nan" not in re.findall(r"[\w-]+", markdown)


def test_a_trial_says_so_everywhere_and_gives_no_verdicts(study, overrides):
    label = "TRIAL with data.batch_size=64, seed=1, trainer.max_epochs=2"
    assert not (study / "verdicts.json").exists()
    report = (study / "report.md").read_text()
    assert label in report
    assert "reproduced" not in report.lower().replace("reproduction", "")
    assert re.search(f">[^<]*{label}", (study / "report.html").read_text())
    for path in (study / "tables").glob("*.csv"):
        assert (pd.read_csv(path)["trial"] == label).all()
    for path in [*(study / "tables").glob("*.md"), *(study / "tables").glob("*.tex")]:
        assert path.read_text().replace("\\", "").count("TRIAL with") == 1
    assert json.loads((study / "study.json").read_text())["trial"] == label


def test_a_study_goes_on_with_what_is_missing_or_damaged(study, overrides, tmp_path, caplog):
    directory = tmp_path / "trial"
    shutil.copytree(study, directory)
    note = json.loads((directory / "study.json").read_text())
    two = {**note, "experiments": ["theorem", "ablation"]}  # all five take long to measure again
    (directory / "study.json").write_text(json.dumps(two))
    (lost,) = (directory / "runs" / "ablation").glob("*loss=lse,*")
    (kept,) = (directory / "runs" / "ablation").glob("*loss=var_tc,*")
    (damaged,) = (directory / "runs" / "ablation").glob("*loss=lse_var,*")
    (headless,) = (directory / "runs" / "ablation").glob("*loss=lse_var_tc,*")
    written = (kept / "metrics.json").stat().st_mtime_ns
    (lost / "metrics.json").unlink()
    (damaged / "metrics.json").write_text("{")
    (headless / "model.safetensors").unlink()
    with caplog.at_level("INFO"):
        STUDY.run(directory, ["ablation"], overrides, workers=1, conf=CONF)
    assert re.search(r"3 of \d+ runs to train", caplog.text)
    assert "Experiment 1" in (directory / "report.md").read_text(), "what was there stays"
    assert f"ablation/{kept.name}: complete already, reused" in caplog.text
    for run in (lost, damaged, headless):
        assert json.loads((run / "metrics.json").read_text())["status"] == "completed"
    assert (kept / "metrics.json").stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_run_that_experiments_share_is_trained_once(study, overrides):
    runs = STUDY.runs(list(STUDY.experiments), study / "runs", CONF, overrides)
    shared = [run for run in runs if len(run.places) > 1]
    assert all(run.completed for run in runs)
    assert {"ablation", "benchmark", "dynamics", "features"} in [set(run.sweeps) for run in shared]
    benchmark = table(runs, ["benchmark"])
    assert benchmark["model"].tolist() == ["encoder", "sae"]
    rates = table(runs, ["dynamics"]).groupby("optimizer")["lr"]
    assert rates.agg(sorted).tolist() == [[1e-4, 1e-3, 1e-2, 1e-1]] * 2


def test_a_run_of_the_experiment_alone_is_found_by_its_fingerprint(tmp_path, overrides):
    STUDY.run(tmp_path, ["benchmark"], overrides, workers=1, conf=CONF)
    runs = STUDY.runs(["ablation"], tmp_path / "runs", CONF, overrides)
    assert [run.label for run in runs if run.completed] == ["benchmark/model=encoder,seed=1"]


def test_another_study_is_not_written_over(study, overrides):
    with pytest.raises(ConfigError, match="holds a run of other settings; nothing is overwritten"):
        STUDY.run(study, ["ablation"], [*overrides, "trainer.min_epochs=2"], conf=CONF)


@pytest.mark.slow
def test_a_seed_alone_other_than_the_first_is_shown(tmp_path, overrides):
    seeds = [*(o for o in overrides if not o.startswith("seed")), "seed=2"]
    STUDY.run(tmp_path, ["features"], seeds, workers=2, conf=CONF)
    assert (tmp_path / "figures" / "figure3.png").exists()


def test_a_failed_run_fails_the_study_and_keeps_the_others(tmp_path, overrides):
    dangerous = [*overrides, "lr.value=1e38", "optimizer=sgd"]
    with pytest.raises(RunError, match=r"\d of 4 runs failed, the first: ablation/.*kept"):
        STUDY.run(tmp_path, ["ablation"], dangerous, workers=1, conf=CONF)
    assert not (tmp_path / "report.html").exists()
    assert "not finite" in (tmp_path / "runs/ablation/loss=lse_var,seed=1/train.log").read_text()


def test_the_files_hold_the_protocol_and_another_setting_is_none(tmp_path):
    every, theorem = STUDY.experiments, STUDY.experiments["theorem"]
    runs = STUDY.runs(list(every), tmp_path, CONF)
    assert all(one.digest_among(runs) == one.protocol for one in every.values())
    threads, rate = (
        theorem.digest_among(STUDY.runs(["theorem"], tmp_path, CONF, [change]))
        for change in ("trainer.threads=2", "lr.value=1e-2")
    )
    assert threads == theorem.protocol != rate


def test_changed_configuration_files_make_a_trial(tmp_path, small_mnist):
    copied_configuration(tmp_path / "conf")
    file = tmp_path / "conf" / "trainer" / "default.yaml"
    file.write_text(file.read_text().replace("max_epochs: 100", "max_epochs: 1"))
    overrides = [f"data.root={small_mnist}", "logger=csv"]
    directory = tmp_path / "study"
    STUDY.run(directory, ["theorem"], overrides, workers=1, conf=tmp_path / "conf")
    assert "TRIAL with changed configuration files" in (directory / "report.md").read_text()


def test_make_passes_the_epochs_of_a_trial_on():
    printed = subprocess.run(
        ["make", "--dry-run", "reproduce", "EPOCHS=2"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "trainer.max_epochs=2 --directory results/trial-2-epochs" in printed
