"""The comparison from end to end on small data, with a contender of one's own; how it goes on."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.studies import as_tuned, report_of, table, tuned_in

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.config import CONF
from implicit_em.data import ResidentDataModule
from implicit_em.metrics.dictionaries import stability
from implicit_em.metrics.quality import Encoded, quality
from implicit_em.models import Dictionary
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em_studies.comparison.measuring import tuning_table
from implicit_em_studies.comparison.protocol import ComparisonProtocol, PartSettings
from implicit_em_studies.comparison.study import STUDY, stages_of
from implicit_em_studies.shared.planning import compose_settings, one_of_each_family
from implicit_em_studies.shared.protocol import digest
from implicit_em_studies.shared.runs import execute


class Toy(Dictionary):
    """A contender: what is below a threshold does not count."""

    def encode(self, x):
        return torch.relu(super().encode(x) - 0.1)


CONTENDER = "model: l1, model._target_: test_comparison.Toy"  # this and its class are all


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Draw figures in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("implicit_em_studies.shared.figures.RESOLUTION", 20)
        yield


@pytest.fixture(scope="module")
def changes(small_mnist):
    return [
        f"data.root={small_mnist}",
        "data.batch_size=64",
        "logger=csv",
        "datasets=[mnist]",
        "families=[derived,toy]",
        "controls=[controls_without_seeds]",
        "width=16",
        "parts.equal_parameters.widths={derived: 32}",
        "parts.equal_parameters.variants={near: {of: toy, model.frozen: near}}",
        "seeds=[1,2]",
        "always.data.val_size=100",
        "tuning.trainer.max_epochs=2",
        "finals.trainer.max_epochs=2",
        "reach=3",
        "beyond=2",
        f'grids.toy={{{CONTENDER}, axes: {{loss.l1.weight: "0.1,0.3"}}}}',
        'grids.derived={axes: {model: "encoder,sampled", loss.lse.weight: "0.1,10"}}',
    ]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, changes):
    """The directory of the part in which widths differ."""
    directory = tmp_path_factory.mktemp("comparison") / "trial"
    STUDY.run(directory, ["equal_parameters"], changes, workers=1)
    return directory / "mnist" / "equal_parameters"


def test_every_table_and_figure_is_written_and_the_report_needs_nothing_but_itself(comparison):
    tables = {path.stem for path in (comparison / "tables").iterdir()}
    names = ("matched_density", "tuning", "chosen", "finals", "controls", "stability")
    assert tables == {*names, "matched_activity"}
    figures = {path.name for path in (comparison / "figures").iterdir()}
    drawn = ("pareto", "grids", "features", "histograms")
    assert figures == {f"{name}.{kind}" for name in drawn for kind in ("png", "pdf")}
    report_of(comparison)
    page = (comparison / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4


def test_what_stands_in_the_tables_is_what_the_models_and_the_data_give(comparison):
    """By hand from a run's files: probes and decoders never see what they are measured on."""
    chosen, finals = table(comparison, "chosen"), table(comparison, "finals")
    runs = comparison.parent / "runs"
    data = RunSpec.of(RunDirectory(next((runs / "toy").iterdir())).read_config()).build_data()
    samples, labels = data.split("train")
    own, (tested, tested_labels) = data.train_indices(), data.split("test")
    assert (len(own), len(tested)) == (500, 200)
    for family in ("derived", "toy"):
        setting = chosen.loc[chosen["family"] == family, "settings"].iloc[0]
        seeds = finals[(finals["family"] == family) & (finals["settings"] == setting)]
        models = [
            implicit_em.load(runs / family / run, classes=[Toy]).eval() for run in seeds["run"]
        ]
        encode = getattr(models[0], "encode", models[0])
        train, test = (
            Encoded(x.numpy(), y.numpy(), encode(x).detach().numpy())
            for x, y in (
                (samples[own] / 255, labels[own]),
                (tested / 255, tested_labels),
            )
        )
        expected = quality(train, test, threads=1)
        row = seeds.iloc[0]
        for name in ("probe_accuracy", "sparse_probe_5", "least_squares_fvu", "exact_density"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name
        varies_D = samples[own].numpy().std(0) > 0
        rows = [model.weight.detach().numpy()[:, varies_D] for model in models]
        measured = table(comparison, "stability").set_index(["family", "settings"])
        found = measured.loc[(family, setting), "encoder_stability"]
        assert found == pytest.approx(stability(rows), rel=1e-5)
    report = (comparison / "report.md").read_text()
    row = next(line for line in report.splitlines() if f"| {setting} " in line)
    cells = [cell.strip() for cell in row.split("|")]
    means = seeds[["exact_density", "probe_accuracy"]].mean() * 100
    assert cells[-3:-1] == [f"{means.iloc[0]:.1f} %", f"{means.iloc[1]:.2f} %"]


def test_finals_have_their_own_settings_and_not_those_of_tuning(changes):
    changes = ["tuning.optimizer.weight_decay=0.1", "families=[derived]"]
    protocol = ComparisonProtocol.read(CONF, changes)
    settings = compose_settings(["derived"], protocol.grids, CONF)
    stages = stages_of(protocol, "equal_width", "equal_width", Path("nowhere"), settings)
    grids = stages.grids()
    chosen = pd.DataFrame({"family": "derived", "run": [grids[0].fingerprint]})
    finals = stages.finals(stages.picked(chosen))
    assert {run.cfg.optimizer.weight_decay for run in grids} == {0.1}
    assert {run.cfg.optimizer.weight_decay for run in finals} == {0.0}
    assert [run.cfg.seed for run in finals] == protocol.seeds


def test_families_may_share_a_setting():
    protocol = ComparisonProtocol.read(CONF)
    (setting, *_) = compose_settings(["derived"], protocol.grids, CONF)
    both = [setting, setting._replace(family="mine"), setting]
    stages = stages_of(protocol, "equal_width", "equal_width", Path("nowhere"), both)
    grids = stages.grids()
    assert [run.sweep for run in grids] == ["derived", "mine"]
    assert len({run.directory for run in grids}) == 2
    chosen = pd.DataFrame({"family": ["mine"], "run": [grids[1].fingerprint]})
    assert {run.sweep for run in stages.finals(stages.picked(chosen))} == {"mine"}


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('{"digest": "other"}', "holds the report of another protocol, other, not "),
        ("[1]", r"findings\.json: cannot be read: not an object"),
    ],
)
def test_a_report_of_another_protocol_is_not_written_over(note, message, changes, tmp_path):
    findings = tmp_path / "mnist" / "equal_parameters" / "findings.json"
    findings.parent.mkdir(parents=True)
    findings.write_text(note)
    with pytest.raises(ConfigError, match=message):
        STUDY.run(tmp_path, ["equal_parameters"], changes, workers=1)
    assert findings.read_text() == note
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [findings]


def test_data_without_labels_are_refused_before_anything_trains(changes, tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).random((300, 6), dtype=np.float32))
    own = [change for change in changes if not change.startswith(("data.root", "datasets"))]
    with pytest.raises(ConfigError, match=r"data\.labels: the comparison probes for labels"):
        STUDY.run(
            tmp_path / "trial",
            ["equal_width"],
            [*own, "datasets=[tensors]", f"data.path={tmp_path}/X.npy"],
        )
    assert not (tmp_path / "trial").exists()


def test_settings_are_tuned_on_validation_samples_and_finals_tested(comparison):
    tuning, finals = table(comparison, "tuning"), table(comparison, "finals")
    assert tuning.groupby("family").size().to_dict() == {"derived": 4, "toy": 2}
    assert "model=sampled, lse=10" in set(tuning["settings"])
    chosen = table(comparison, "chosen")
    assert set(finals["settings"]) == set(chosen["settings"])
    seeds = finals.groupby(["family", "settings"])["seed"].agg(sorted)
    assert all(own == [1, 2] for own in seeds)
    hundred = 100 * tuning["probe_accuracy"]
    assert (hundred.round(6) == hundred.round()).all(), "of 100 validation samples"
    for run in (comparison.parent / "runs" / "derived").iterdir():
        metrics = json.loads((run / "metrics.json").read_text())
        measured = (run / "quality.json").exists()
        assert (metrics["probe_accuracy"] is None) == measured, "finals are probed by quality"


def test_densities_are_those_of_the_samples_that_each_family_takes(changes, tmp_path):
    centred = f"grids.toy={{{CONTENDER}, data.normalize: centre}}"
    of_runs, of_protocol = changes[:3], changes[3:]
    protocol = ComparisonProtocol.read(CONF, [*of_protocol, centred, "grids.derived={}"])
    settings = compose_settings(protocol.families, protocol.grids, CONF, of_runs)
    runs = stages_of(protocol, "equal_width", "equal_width", tmp_path, settings).grids()
    execute(runs, workers=1)
    found = tuning_table(runs)["density"].tolist()
    assert found == [pytest.approx(run.metrics()["density"], rel=0.1) for run in runs]


def test_tuning_never_reads_the_test_set_and_takes_what_diverges_for_a_result(
    changes, tmp_path, monkeypatch, caplog
):
    wild = 'grids.derived={axes: {lr.value: "1e-3,1e30", loss.lse.weight: "0.1,10"}}'
    read, tables = set(), []
    split = ResidentDataModule.split
    monkeypatch.setattr(
        ResidentDataModule, "split", lambda self, name: (read.add(name), split(self, name))[1]
    )
    monkeypatch.setattr(
        "implicit_em_studies.comparison.study.select", lambda t, *_: 1 / tables.append(t)
    )
    tuned_alone = [*changes, "controls=[]", wild]
    for _ in range(2):
        with pytest.raises(TypeError), caplog.at_level("INFO"):
            STUDY.run(tmp_path / "trial", ["equal_width"], tuned_alone, workers=1)
    assert read == {"train"}
    diverged = tables[0][tables[0]["error"].notna()]
    assert diverged["settings"].tolist() == ["lr=1e+30, lse=0.1", "lr=1e+30, lse=10"]
    assert tables[0]["probe_accuracy"].isna().tolist() == [False, False, True, True, False, False]
    assert caplog.text.count("runs to train") == 1, "what diverged would do so again"


def test_a_trial_says_so_everywhere(comparison):
    text = (comparison / "report.md").read_text()
    assert "> **TRIAL with always.data.val_size=100, beyond=2, controls=" in text
    for path in (comparison / "tables").glob("*.csv"):
        assert pd.read_csv(path)["trial"].str.startswith("TRIAL with").all()
    for note in (comparison / "findings.json", comparison.parents[1] / "comparison.json"):
        assert json.loads(note.read_text())["trial"].startswith("TRIAL with")


@pytest.mark.slow
def test_it_goes_on_with_what_is_missing_and_parts_share_what_they_can(
    comparison, changes, tmp_path
):
    directory = tmp_path / "trial"
    shutil.copytree(comparison.parents[1], directory)
    finals = table(comparison, "finals")
    toys = finals[finals["family"] == "toy"].drop(columns="train_seconds")
    lost, damaged = toys["run"][:2]
    runs = directory / "mnist" / "runs" / "toy"
    before = sorted(runs.iterdir())
    written = (runs / damaged / "metrics.json").stat().st_mtime_ns
    (runs / lost / "metrics.json").unlink()
    (runs / damaged / "quality.json").write_text("{")
    STUDY.run(directory, ["equal_width"], changes, workers=2)
    assert sorted(runs.iterdir()) == before, "families of the same width in both parts"
    assert (runs / damaged / "metrics.json").stat().st_mtime_ns == written
    part = directory / "mnist" / "equal_width"
    narrow = table(part, "finals").drop(columns="train_seconds")
    assert set(narrow["units"]) == {16}
    again = narrow[narrow["family"] == "toy"]
    pd.testing.assert_frame_equal(again.reset_index(drop=True), toys.reset_index(drop=True))
    assert not (part / "tables" / "matched_activity.csv").exists()
    assert set(finals.loc[finals["family"] == "derived", "units"]) == {32}


def test_variants_are_controls_with_the_settings_that_were_chosen(comparison):
    controls, finals = table(comparison, "controls"), table(comparison, "finals")
    toys, near = (
        rows[rows["family"] == name] for rows, name in ((finals, "toy"), (controls, "near"))
    )
    by = ["settings", "seed"]
    assert near[by].sort_values(by).values.tolist() == toys[by].sort_values(by).values.tolist()
    assert near["fvu"].notna().all()
    report = (comparison / "report.md").read_text()
    assert re.search(rf"\| near +\| {near['settings'].iloc[0]} +\|", report)
    assert "On average over the chosen settings, the probe reaches: toy" in report


@pytest.fixture(scope="module")
def committed():
    """The committed protocol, and the settings of its grids on MNIST."""
    protocol = ComparisonProtocol.read(CONF)
    return protocol, compose_settings(protocol.families, protocol.grids, CONF)


COMPARED = ROOT / "docs" / "results" / "compare"


def test_the_committed_results_are_those_of_the_protocol(committed):
    protocol, settings = committed
    budgets = Counter(setting.family for setting in settings)
    assert budgets == dict.fromkeys(protocol.families, 32)
    for part in ("equal_width", "equal_parameters"):
        results = COMPARED / "mnist" / part
        assert tuned_in(table(results, "tuning")) == as_tuned(settings)
        finals = table(results, "finals")
        assert set(finals["seed"]) == set(protocol.seeds)
        assert set(finals["epochs"]) == {protocol.finals["trainer.max_epochs"]}
        for family, units in finals.groupby("family")["units"].unique().items():
            assert list(units) == [protocol.of_part(part).width_of(part, family)]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_every_part_is_that_of_the_results_on_all_data(dataset):
    protocol = ComparisonProtocol.read(CONF)
    for part in protocol.parts:
        own = protocol.of_part(part)
        composed = compose_settings(own.families, own.grids, CONF, [f"data={dataset}"])
        assert set(Counter(setting.family for setting in composed).values()) == {32}
        if (results := COMPARED / dataset / part).exists():
            found = tuned_in(table(results, "tuning"))
            assert found == {one for one in as_tuned(composed) if one[0] in dict(found)}


def test_a_part_has_its_own_width_families_and_grids(committed):
    protocol, _ = committed
    own = protocol.of_part("decay_128")
    assert own.families == [*protocol.families, "derived_decay", "hybrid_decay"]
    assert (own.width, own.width_of("decay_128", "topk")) == (128, 128)
    assert list(own.parts) == ["decay_128"]
    assert own.of_part("decay_128") == own
    assert own.deciding("decay_128") == protocol.deciding("decay_128")
    narrow, wide = (
        {setting.cfg.model.l0 for setting in compose_settings(["topk"], grids, CONF)}
        for grids in (protocol.grids, own.grids)
    )
    assert [k / 128 for k in sorted(wide)] == pytest.approx(
        [k / 64 for k in sorted(narrow)], abs=0.01
    )


def test_a_part_has_a_digest_of_what_it_runs_alone(committed):
    protocol, settings = committed
    some = [setting.cfg for setting in settings[:2]]

    def changed(**values):
        other = protocol.model_copy(update=values)
        return {
            part
            for part in ("equal_width", "equal_parameters")
            if digest(some, other.deciding(part)) != digest(some, protocol.deciding(part))
        }

    for part, own in (
        ("equal_parameters", PartSettings()),
        ("equal_width", PartSettings(width=32)),
        ("equal_width", PartSettings(also=["l2"])),
    ):
        assert changed(parts={**protocol.parts, part: own}) == {part}
    assert changed(datasets=["mnist"]) == set()
    assert changed(densities=[0.1]) == {"equal_width", "equal_parameters"}
    assert changed(seeds=[1]) == {"equal_width", "equal_parameters"}


def test_equal_parameters_are_equal_to_a_hundredth(committed):
    protocol, settings = committed
    first = one_of_each_family(settings)
    counts = {}
    part = "decoder_free_parameters"
    first += one_of_each_family(compose_settings(protocol.parts[part].also, protocol.grids, CONF))
    for run in stages_of(protocol, part, part, Path("nowhere"), first).grids():
        module = run.spec.build_module(784)
        counts[run.sweep] = sum(p.numel() for p in module.model.parameters())
    assert (counts["derived"], counts["spike_slab"]) == (100_480, 101_264)
    assert len(counts) == 13
    assert all(abs(count / counts["derived"] - 1) < 0.01 for count in counts.values()), counts
