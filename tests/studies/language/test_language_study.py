"""The study of language models from end to end on tiny models, and what it refuses."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.language import WIDTH, make_model, make_text
from helpers.lines import one_line
from helpers.studies import report_of, table
from safetensors.torch import load_file

from implicit_em.base.errors import RunError
from implicit_em.config import CONF
from implicit_em.data.modules import fixed_choice
from implicit_em.language.absorption import MEASURES as ABSORBED
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.models import CausalModel
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.splicing import spliced_losses
from implicit_em.language.store import ActivationStore
from implicit_em.metrics.dictionaries import matched_cosine
from implicit_em.models import SparseAutoencoder
from implicit_em.trained.loading import load, load_trusted
from implicit_em.training.directory import RunDirectory
from implicit_em.training.spec import RunSpec
from implicit_em_studies.language.explaining import STUDY as EXPLAINING
from implicit_em_studies.language.measuring import Largest
from implicit_em_studies.language.protocol import MEASURES, ExplainingProtocol, LanguageProtocol
from implicit_em_studies.language.results import RIDGE
from implicit_em_studies.language.study import STUDY, stages_of
from implicit_em_studies.shared.planning import compose_settings, one_of_each_family

pytestmark = pytest.mark.usefixtures("coarse")
CHANGES = [
    "logger=csv",
    "families=[derived,topk]",
    "halved=[]",
    "also_over=[]",
    "controls=[controls_without_seeds]",
    "permuted=[topk]",
    "variants={near: {of: topk, model.frozen: near}}",
    "targets=[]",
    "learning={families: [derived, topk], power: 0.5, parts: {tiny: {1500: [1, 2]}}}",
    "seeds=[1,2]",
    "seeds_of={topk: [1, 2, 3]}",
    "l0=[2,4]",
    "tuned_at=[2,4]",
    "source=label",
    "always.data.batch_size=32",
    "always.data.val_size=60",
    "tokens.fitted=300",
    "tokens.probed=100",
    "tokens.losses=400",
    "resamples=200",
    "probed_sets=[]",  # they are of a package that the tests do not need
    'grids.derived={model: sampled, axes: {lr.value: "1e-3,1e-2"}}',
    'grids.topk={model: topk, axes: {lr.value: "1e-3,1e-2"}}',
]


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """The changes that make a study of a tiny causal model."""
    folder = tmp_path_factory.mktemp("model")
    model, text = (
        make_model(folder / "llama", "llama", head=True),
        make_text(folder / "rows.jsonl", 200),
    )
    harvest = [
        *("lm=auto", f"lm.path={model}", "sites=[resid.1]", "tokens=null", "threads=1"),
        *("text=files", f"text.paths=[{text}]", "text.label=label"),
        *("batch_size=4", "context.length=12", "shard_tokens=120"),
    ]
    part = {"harvest": harvest, "causal": True, "model.hidden": 24}
    return [f"parts={json.dumps({'tiny': part})}", *CHANGES]


@pytest.fixture(scope="module")
def study(tmp_path_factory, changes, coarse):
    """The directory of a study, whose probes read the label of the documents."""
    directory = tmp_path_factory.mktemp("language") / "trial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("implicit_em_studies.language.measuring.KIND", "label")
        for name, value in (("SHARE", 0.5), ("KNOWN", 0), ("LEAST", 1)):  # the words are few
            patch.setattr(f"implicit_em.language.absorption.{name}", value)
        STUDY.run(directory, [], changes, workers=1)
    return directory / "tiny"


def a_final(study, family, l0):
    """The directory of a final, and its configuration."""
    for metrics in sorted(study.glob(f"runs/{family}/*/metrics.json")):
        run = RunDirectory(metrics.parent)
        cfg = run.read_config()
        if cfg.data.final == "test" and cfg.model.l0 == l0 and str(cfg.data.path).endswith("store"):
            return run, cfg
    raise AssertionError("no such final")


def test_finals_are_trained_at_each_l0_with_each_seed(study):
    finals = table(study, "finals")
    assert len(finals) == 2 * (2 + 3)
    assert set(finals["target"]) == {2, 4}
    assert list(finals["family"].unique()) == ["derived", "topk"], "in the order of the protocol"
    topk = finals[finals["family"] == "topk"]
    assert (topk["l0"] == topk["target"]).all()
    assert set(table(study, "permuted")["family"]) == {"topk"}
    controls = table(study, "controls")
    assert set(controls["target"]) == {2, 4}
    of_variants = controls["family"] == "near"
    assert set(controls.loc[~of_variants, "units"]) == {WIDTH}, (
        "PCA, and the activations themselves"
    )
    trained = controls[of_variants]
    assert set(trained["settings"]) == set(topk["settings"]), "those that were chosen for TopK"
    assert trained.groupby("target")["seed"].agg(list).to_dict() == {2: [1, 2], 4: [1, 2]}
    measured = ["l0", "variance_explained", "ce_recovered"]
    assert trained[measured].notna().all(axis=None)
    assert finals[["probe_label", "probe_label_1", "probe_label_5"]].notna().all(axis=None)
    for name in ("pca", "ica", "pixels"):
        (run,) = (study / "runs" / name).iterdir()
        assert RunDirectory(run).read_config().trainer.max_epochs == 0


def test_absorption_is_measured_of_the_finals_of_every_family(study):
    benchmarks = table(study, "benchmarks")
    assert Counter(benchmarks["family"]) == {"derived": 2, "topk": 2}
    for name in ABSORBED:
        assert benchmarks[f"absorption, {name}"].between(0, 1).all()
    assert "*Absorption* is that of first letters" in report_of(study)


def test_grids_are_extended_once_where_the_best_setting_is_at_an_end(study):
    tuning, chosen = table(study, "tuning"), table(study, "chosen").set_index("family")
    for family, rows in tuning.groupby("family"):
        rates = rows["settings"].str.partition("=")[2].astype(float)
        assert sorted(rates.unique()) in ([1e-4, 1e-3, 1e-2], [1e-3, 1e-2, 0.1]), family
        best = float(chosen.loc[family, "settings"].partition("=")[2])
        at_end = best in (rates.min(), rates.max())
        assert (chosen.loc[family, "at an end"] == "lr") == at_end


def test_the_report_says_what_the_tables_say(study):
    report_of(study)
    figures = {path.name for path in (study / "figures").glob("*.png")}
    shown = [name for name in MEASURES if name in set(table(study, "tests")["measure"])]
    assert {"variance_explained", "kl"} <= {*shown}
    assert figures == {f"{name}.png" for name in (*shown, "densities", "learning")}


def test_variance_and_activity_are_those_of_a_recomputation(study):
    run, cfg = a_final(study, "topk", 4)
    raw = raw_tokens(study, cfg, "test")
    model, arrays = load(run.path), load_file(run.path / "model.safetensors")
    mean, factor = (arrays[f"data.normalize.{name}"] for name in ("mean", "factor"))
    codes = model.encode(raw.float())
    ridge = load_file(run.path / "ridge_decoder.safetensors")
    variance = (raw - raw.mean(0)).square().sum()
    explained = {
        "variance_explained": model.decode(codes).double(),
        RIDGE: (codes @ ridge["weight"] + ridge["bias"]).double() / factor + mean,
    }
    row = row_of(study, run)
    fitted = raw_tokens(study, cfg, "train")
    chosen = fitted[fixed_choice(len(fitted), 300)].float()
    assert row["units_dead"] == (~(model.encode(chosen) != 0).any(0)).sum().item()
    for name, reconstruction in explained.items():
        expected = 1 - (raw - reconstruction).square().sum() / variance
        assert row[name] == pytest.approx(expected.item(), abs=1e-4)
    assert row["l0"] == pytest.approx((codes != 0).sum(-1).double().mean().item())


def test_stability_is_of_the_directions_that_decode_and_of_the_seeds_of_all_families(study):
    alike, finals = table(study, "stability").set_index("family"), table(study, "finals")
    for family in ("topk", "derived"):
        own = finals[(finals["family"] == family) & (finals["target"] == 2)]
        models = [load(study / "runs" / family / run) for run in own.loc[own["seed"] < 3, "run"]]
        rows = [m.decoder.weight.T if family == "topk" else m.weight for m in models]
        expected = matched_cosine(*(matrix.detach().numpy() for matrix in rows))
        assert alike.loc[family, "stability"] == pytest.approx(expected)


def test_learning_curves_have_the_chosen_settings_at_a_scaled_rate(study):
    learning, learned = table(study, "learning"), table(study, "learned")
    stores = study / "store", study / "store-1500"
    own, other = (ActivationStore(store).manifest.text["tokens"] for store in stores)
    assert set(learning["harvested"]) == {own, other}
    for family, setting in table(study, "chosen").set_index("family")["settings"].items():
        runs = learning[(learning["family"] == family) & (learning["harvested"] == other)]
        assert list(runs["seed"]) == [1, 2]
        cfg = RunDirectory(study / "runs" / family / runs["run"].iloc[0]).read_config()
        assert (Path(cfg.data.path), cfg.model.l0, cfg.data.final) == (stores[1], 2, "test")
        rate = float(setting.partition("=")[2]) * (own / other) ** 0.5
        assert cfg.lr.value == pytest.approx(rate, rel=1e-3)
    means = learned.set_index("target")["mean"]
    assert set(means.index) == {own, other}
    assert set(learned["family"]) == {"topk"}, "the other has no decoder of its own"
    assert means[other] == pytest.approx(runs["variance_explained"].mean())


def test_losses_are_those_of_the_spliced_model(study, changes):
    run, cfg = a_final(study, "derived", 2)
    store = ActivationStore(study / "store")
    part = json.loads(changes[0].removeprefix("parts="))["tiny"]
    (path,) = [w.removeprefix("lm.path=") for w in part["harvest"] if w.startswith("lm.path=")]
    lm = LanguageModelSettings(name="auto", package=None, path=path, sha256=None, permuted=None)
    data = ActivationDataModule(study / "store", largest_norm=cfg.data.largest_norm)
    data.setup()
    model, arrays = load(run.path), load_file(run.path / "model.safetensors")
    mean, factor = (arrays[f"data.normalize.{name}"] for name in ("mean", "factor"))
    ridge = load_file(run.path / "ridge_decoder.safetensors")

    def reconstruct(x):
        return ((model.encode(x) @ ridge["weight"] + ridge["bias"]) / factor + mean).float()

    found = spliced_losses(
        store, CausalModel.load(lm, "cpu"), "resid.1", data.rule, {"it": reconstruct}, most=400
    )
    row, predicted = row_of(study, run), found.predicted_N.sum().item()
    clean, zero, spliced = (
        losses.sum() for losses in (found.clean_N, found.zero.loss_N, found.spliced["it"].loss_N)
    )
    recovered = ((zero - spliced) / (zero - clean)).item()
    assert row["ce_recovered"] == pytest.approx(recovered, rel=1e-3)
    assert row["excess_ce"] == pytest.approx((spliced - clean).item() / predicted, rel=1e-3)
    divergence = found.spliced["it"].divergence_N.sum().item()
    assert row["kl"] == pytest.approx(divergence / predicted, rel=1e-4)


def test_of_a_controls_code_the_largest_entries_are_kept():
    model = Largest(SparseAutoencoder(3, 3), 2)
    model.model.encode = lambda x: x
    x = torch.tensor([[3.0, -4.0, 1.0], [0.0, 0.0, 5.0]])
    assert model.encode(x).tolist() == [[3, -4, 0], [0, 0, 5]]


def raw_tokens(study, cfg, split):
    """The vectors of the tokens that are left, float64."""
    data = ActivationDataModule(study / "store", largest_norm=cfg.data.largest_norm)
    data.setup()
    samples = data.split("test" if split == "test" else "train")[0]
    return samples[data.train_indices()].double() if split == "train" else samples.double()


def row_of(study, run):
    """The row of a final in the table."""
    fingerprint = json.loads((run.path / "metrics.json").read_text())["config_fingerprint"]
    finals = table(study, "finals")
    (row,) = finals[finals["run"] == fingerprint].to_dict("records")
    return row


def test_it_goes_on_where_it_was_stopped(study, changes, monkeypatch):
    monkeypatch.setattr("implicit_em.engine.stack.Stack.train", lambda *_: pytest.fail("trained"))
    for name in ("_quality", "spliced_losses"):
        again = f"implicit_em_studies.language.measuring.{name}"
        monkeypatch.setattr(again, lambda *_, **__: pytest.fail("measured"))
    before = table(study, "finals")
    STUDY.run(study.parent, [], changes, workers=1)
    pd.testing.assert_frame_equal(table(study, "finals"), before)


def test_a_study_without_controls_and_permuted_weights_fails_if_it_misses_a_target(
    study, changes, tmp_path, monkeypatch
):
    monkeypatch.setattr("implicit_em_studies.shared.tuned.trial_label", lambda changes: None)
    for name in ("store", "runs"):
        shutil.copytree(study / name, tmp_path / "trial" / "tiny" / name)
    left_out = ("controls", "permuted", "variants")
    few = [word for word in changes if not word.startswith(left_out)]
    lead = "of: [topk], over: derived, by: ridge_variance_explained, above: 200, places: {tiny: 2}"
    asked = f"targets=[{{{lead}}}, {{{lead}, required: false}}]"
    few += ["controls=[]", "permuted=[]", "variants={}", asked]
    with pytest.raises(RunError, match="1 missed targets, the first: TopK over derived: Variance"):
        STUDY.run(tmp_path / "trial", [], few, workers=1)
    part = tmp_path / "trial" / "tiny"
    said = (part / "report.md").read_text()
    assert "control" not in said.partition("## Findings")[2].partition("##")[0]
    assert (part / "verdicts.md").read_text().strip() in said
    judged = json.loads((part / "verdicts.json").read_text())["verdicts"]
    assert [verdict["verdict"] for verdict in judged] == ["missed", "no"]


# --- codes of several sweeps


def test_finals_are_read_with_more_sweeps_and_compared_by_what_they_leave(
    study, changes, tmp_path, monkeypatch
):
    monkeypatch.setattr("implicit_em_studies.shared.tuned.trial_label", lambda changes: None)
    shutil.copytree(study / "store", tmp_path / "trial" / "tiny" / "store")
    grid = "model: tied_topk, axes: {lr.value: 1e-3}"
    lead = "of: [tied_topk_swept], over: tied_topk, by: fvu, places: {tiny: 2}, required: false"
    typed = [
        *(one for one in changes if not one.startswith(("grids", "families", "learning"))),
        *("families=[tied_topk,tied_topk_swept]", "reference=tied_topk", "controls=[]"),
        *("permuted=[]", "variants={}", "seeds=[1]", "seeds_of={}", "tokens.read=150"),
        *(f"grids.tied_topk={{{grid}}}", f"grids.tied_topk_swept={{{grid}, model.sweeps: 3}}"),
        *("read_sweeps=[1,4]", f"targets=[{{{lead}, below: 0.5}}, {{{lead}, below: 100}}]"),
    ]
    EXPLAINING.run(tmp_path / "trial", [], typed, workers=1)
    part = tmp_path / "trial" / "tiny"
    readings, finals = table(part, "readings"), table(part, "finals")
    assert len(readings) == 2 * 2 * 2, "a family, a number of sweeps, and a refit or none"
    cfg = RunDirectory(part / "runs" / "tied_topk_swept" / readings["run"].iloc[-1]).read_config()
    samples = RunSpec.of(cfg).build_data().final_samples()[0]
    x = samples[fixed_choice(len(samples), 150)]
    for row in readings.itertuples():
        run = RunDirectory(part / "runs" / row.family / row.run)
        reading = {"read_sweeps": row.read_sweeps, "refit": row.refit}
        model, _ = load_trusted(run, reading)
        codes = model.encode(x)
        left = (x - model.decode(codes)).square().sum() / (x - x.mean(0)).square().sum()
        assert row.fvu == pytest.approx(left.item(), rel=1e-4)
        assert row.l0 == pytest.approx((codes != 0).sum(1).double().mean().item())
        assert row.microseconds > 0
    assert "fvu" not in finals, "it says the same as the variance explained"
    report = (part / "report.md").read_text()
    assert "## Read with other numbers of sweeps" in report
    assert "Ratios to tied TopK" in report
    judged = json.loads((part / "verdicts.json").read_text())["verdicts"]
    own = finals.groupby(["family", "target"])["variance_explained"].mean()
    ratio = (1 - own["tied_topk_swept", 2]) / (1 - own["tied_topk", 2])
    assert f"2: {ratio:.3f} [" in judged[0]["measured"]
    assert [verdict["verdict"] for verdict in judged] == ["no", "yes"]


def test_the_committed_protocol_of_sweeps_is_pinned():
    protocol = ExplainingProtocol.read(CONF)
    assert list(protocol.parts) == ["minilm", "smollm2"]
    assert protocol.reference == "topk_half", "of equal parameters"
    settings = compose_settings(protocol.families, protocol.grids, CONF, ["data=activations"])
    sweeps = {one.family: one.cfg.model.sweeps for one in settings}
    assert sweeps == {name: 3 if "swept" in name else 1 for name in protocol.families}


# --- what is refused


def test_a_model_that_is_not_there_or_reads_ahead_is_refused(tmp_path, tmp_path_factory, capfd):
    """One line refuses it, and nothing is harvested."""
    bert = make_model(tmp_path_factory.mktemp("model") / "bert", "bert", head=True)
    for path, causal, message in (
        ("nowhere", False, "lm.path=nowhere: no such folder or file"),
        (bert, True, "that reads ahead; allowed are causal models"),
    ):
        part = {"harvest": ["lm=auto", f"lm.path={path}"], "causal": causal, "model.hidden": 128}
        typed = [f"parts={json.dumps({'tiny': part})}", *CHANGES, "families=[topk]"]
        capfd.readouterr()
        assert STUDY.main([*typed, "controls=[]", "--directory", str(tmp_path / "trial")]) == 2
        assert not list(tmp_path.rglob("*.safetensors"))
        assert message in one_line(capfd)


def test_the_committed_protocol_is_pinned():
    protocol = LanguageProtocol.read(CONF)
    assert list(protocol.parts) == ["minilm", "smollm2"]
    grids = compose_settings(protocol.families, protocol.grids, CONF, ["data=activations"])
    families = Counter(setting.family for setting in grids)
    assert families == dict.fromkeys(protocol.families, 6), "the same budget for all"
    for target in protocol.targets:
        assert {target.over, *target.of} <= {*protocol.seeds_of}, "of five seeds"
        assert {*target.places} <= {*protocol.parts}
        assert all(least <= len(protocol.judged_at(part)) for part, least in target.places.items())
        assert (target.above is None) == (target.by in ("excess_ce", "kl")), "a loss has ratios"


def test_a_family_of_half_the_units_has_as_many_parameters_as_a_tied_one(tmp_path):
    protocol = LanguageProtocol.read(CONF, ["families=[topk,tied_topk,topk_half]", "permuted=[]"])
    grids = compose_settings(protocol.families, protocol.grids, CONF, ["data=activations"])
    stages = stages_of(protocol, "minilm", tmp_path, one_of_each_family(grids), [])
    counts = {
        run.sweep: sum(p.numel() for p in run.spec.build_module(384).model.parameters())
        for run in stages.planned()
    }
    assert counts["tied_topk"] == 3072 * 385 + 384
    assert counts["topk_half"] == pytest.approx(counts["tied_topk"], rel=0.002)
    assert counts["topk"] > 1.9 * counts["tied_topk"]
    assert counts["topk_frozen_decoder"] == counts["topk"] - 3072 * 384
    assert counts["topk_near_start"] == counts["topk"]
