"""The recovery study from end to end on small data."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.studies import as_tuned, report_of, table, tuned_in

import implicit_em
from implicit_em.config import CONF
from implicit_em.metrics.dictionaries import cosines
from implicit_em.metrics.pursuit import pursuit_l0
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em_studies.recovery.protocol import RecoveryProtocol
from implicit_em_studies.recovery.study import STUDY, stages_of
from implicit_em_studies.shared.planning import compose_settings

pytestmark = pytest.mark.usefixtures("coarse")
CHANGES = [
    "logger=csv",
    "data.batch_size=100",
    "families=[derived,topk]",
    "toy_families=[derived]",
    "controls=[controls_without_seeds]",
    "seeds=[1,2]",
    "variants={near: {of: topk, model.frozen: near}}",
    "middle.data.features=12",
    "middle.data.width=6",
    "middle.data.density=0.1",
    "middle.data.samples=500",
    "middle.data.test_samples=200",
    "always.data.val_size=100",
    "tuning.trainer.max_epochs=1",
    "finals.trainer.max_epochs=1",
    "variations.half_the_units.model.hidden=8",
    'grids.derived={model: encoder, axes: {model.l0: "2,4"}}',
    "grids.topk={model: topk, axes: {model.l0: 2}}",
    'toy_grids.derived={model: encoder, axes: {loss.lse.weight: "1,2"}}',
]


@pytest.fixture(scope="module")
def study(tmp_path_factory, coarse):
    """A directory with the middle cell and a variation."""
    directory = tmp_path_factory.mktemp("recovery") / "trial"
    STUDY.run(directory, ["middle", "half_the_units"], CHANGES, workers=1)
    return directory


@pytest.mark.slow
def test_invocations_of_different_cells_add_up(study, tmp_path):
    directory = tmp_path / "trial"
    for cell in ("half_the_units", "middle"):
        STUDY.run(directory, [cell], CHANGES, workers=1)
    for name in ("finals", "chosen", "controls"):
        first, second = (
            table(where, name).drop(columns="train_seconds", errors="ignore")
            for where in (study, directory)
        )
        pd.testing.assert_frame_equal(first, second)


def test_every_table_has_every_cell_and_the_report_says_what_the_tables_say(study):
    cells = table(study, "cells").set_index("cell")
    assert cells["units"].to_dict() == {"middle": 12, "half_the_units": 8}
    names = ("cells", "tuning", "chosen", "finals", "controls", "tests")
    assert {path.stem for path in (study / "tables").iterdir()} == set(names)
    for name in names:
        assert set(table(study, name)["target" if name == "tests" else "cell"]) == set(cells.index)
    report_of(study)
    figures = {path.stem for path in (study / "figures").iterdir()}
    by = {f"{name}_{how}" for name in ("phases", "variations") for how in ("blind", "truth")}
    assert figures == {"l0", *by}


def test_each_criterion_has_its_finals_and_shared_runs_are_trained_once(study):
    finals, chosen = table(study, "finals"), table(study, "chosen")
    assert not finals.duplicated(["cell", "run"]).any()
    for _, row in chosen.iterrows():
        own = finals[(finals["cell"] == row["cell"]) & (finals["family"] == row["family"])]
        assert sorted(own.loc[own["settings"] == row["settings"], "seed"]) == [1, 2]


def test_what_stands_in_the_tables_is_what_models_and_truth_give(study):
    """By hand from a run's files: the ridge decoder never sees the test samples."""
    row = table(study, "finals").query("family == 'topk' and cell == 'middle'").iloc[0]
    run = study / "runs" / "middle" / "topk" / row["run"]
    cfg = RunDirectory(run).read_config()
    cfg.data.normalize = "none"  # a loaded model takes raw samples
    data = RunSpec.of(cfg).build_data()
    train = data.split("train")[0][data.train_indices()]
    test, _ = data.final_samples()
    assert (len(train), len(test)) == (400, 200)
    model = implicit_em.load(run).eval()
    decoder = implicit_em.fit_decoder(model, train)
    best_M = cosines(data.truth().directions_MD, decoder.weight.numpy()).max(1)
    assert row["ridge_found_0.8"] == np.mean(best_M > 0.8)
    assert row["ridge_mean_cosine"] == pytest.approx(best_M.mean(), rel=1e-5)  # float32 sums
    assert row["ridge_fvu"] == pytest.approx(decoder.fvu(test), rel=1e-5)
    best_M = cosines(data.truth().directions_MD, model.decoder.weight.detach().numpy().T).max(1)
    assert row["found_0.8"] == row["decoder_found_0.8"] == np.mean(best_M > 0.8)
    active = (model.encode(test) > 0).double()
    assert row["l0"] == pytest.approx(active.sum(1).mean().item())
    measured = RunDirectory(run).read_metrics()
    assert row["ridge_fvu"] == pytest.approx(measured["ridge_fvu"], rel=1e-3)
    own_KD = model.decoder.weight.detach().numpy().T
    assert row["pursuit_l0"] == pytest.approx(pursuit_l0(own_KD, test.numpy()))


def test_a_variant_is_trained_with_what_was_chosen_without_the_truth(study):
    controls, chosen = table(study, "controls"), table(study, "chosen")
    for cell, own in controls[controls["family"] == "near"].groupby("cell"):
        by = {"cell": cell, "family": "topk", "criterion": "blind"}
        blind = chosen[(chosen[list(by)] == pd.Series(by)).all(axis=1)]
        assert set(own["settings"]) == set(blind["settings"])
        assert sorted(own["seed"]) == [1, 2]
        assert own["found_0.8"].tolist() == own["decoder_found_0.8"].tolist()
    assert "features are found by: TopK" in (study / "report.md").read_text()


@pytest.mark.parametrize("stage", ["tuning", "finals"])
def test_models_are_measured_on_the_samples_that_they_were_trained_for(study, stage):
    """The data normalise: samples that are normalised twice would have another L0."""
    for _, row in table(study, stage).iterrows():
        run = RunDirectory(study / "runs" / row["cell"] / row["family"] / row["run"])
        assert row["l0"] == pytest.approx(run.read_metrics()["l0"])
    data = RunSpec.of(run.read_config()).build_data()
    assert len(data.final_samples()[0]) == {"tuning": 100, "finals": 200}[stage]
    assert row["true_l0"] == data.truth().l0


def test_a_model_without_a_decoder_is_measured_by_a_ridge_decoder(study):
    rows = table(study, "finals").query("family == 'derived'")
    assert rows["decoder_found_0.8"].isna().all()
    for name in ("found_0.8", "mean_cosine", "split"):
        assert rows[name].tolist() == rows[f"ridge_{name}"].tolist()


def test_targets_stand_beside_what_was_reached(study):
    finals = table(study, "finals")
    derived, topk = (finals[finals["family"] == name] for name in ("derived", "topk"))
    assert topk["l0_reached"].astype(bool).all(), "it keeps k"
    assert set(finals["l0_target"]) <= {2, 4}
    near = (derived["l0"] / derived["l0_target"] - 1).abs() <= 0.05
    assert derived["l0_reached"].astype(bool).tolist() == near.tolist()


def test_there_are_ten_cells_of_which_one_is_the_middle():
    protocol = RecoveryProtocol.read(CONF)
    assert len(protocol.cells) == 10
    settings = [protocol.of_cell(cell) for cell in protocol.cells]
    assert len({str(sorted(one.items())) for one in settings}) == 10
    assert protocol.of_cell("middle").items() >= protocol.middle.items()
    assert protocol.of_cell("middle")["model.hidden"] == protocol.middle["data.features"]


def test_the_committed_results_are_those_of_the_protocol():
    protocol = RecoveryProtocol.read(CONF)
    results = ROOT / "docs" / "results" / "recover"
    tuning, finals = (
        pd.concat([table(results, name), table(results / "decoder_free", name)])
        for name in ("tuning", "finals")
    )
    toys = tuning["cell"].isin(protocol.toys)
    for rows, names, grids in (
        (tuning[~toys], protocol.families, protocol.grids),
        (tuning[toys], protocol.toy_families, protocol.toy_grids),
    ):
        settings = compose_settings(names, grids, CONF)
        assert Counter(setting.family for setting in settings) == dict.fromkeys(names, 8)
        assert tuned_in(rows) == as_tuned(settings)
    assert set(tuning["cell"]) == {cell for (cell,) in protocol.chosen([])}
    assert set(finals["seed"]) == set(protocol.seeds)
    for rows, stage in ((tuning[~toys], protocol.tuning), (finals, protocol.finals)):
        rows = rows[~rows["cell"].isin(protocol.toys)]
        assert set(rows["epochs"]) == {stage["trainer.max_epochs"]}


def test_some_controls_have_at_most_as_many_units_as_inputs():
    protocol = RecoveryProtocol.read(CONF, list(filter(RecoveryProtocol.has, CHANGES)))
    names = ["controls", "controls_without_seeds"]
    controls = compose_settings(names, protocol.grids, CONF, ["data=superposition"])
    stages = stages_of(protocol, "middle", CONF, [], controls)
    units = {run.sweep: run.cfg.model.hidden for run in stages.controls()}
    assert units == {"ica": 6, "kmeans": 12, "random": 12, "pca": 6}
