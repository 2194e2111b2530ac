"""The study of language models from end to end on tiny models, and what it refuses."""

import json
import shutil
from collections import Counter

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
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.models import CausalModel
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.splicing import spliced_losses
from implicit_em.language.store import ActivationStore
from implicit_em.trained.loading import load
from implicit_em.training.directory import RunDirectory
from implicit_em_studies.language.measuring import Largest
from implicit_em_studies.language.protocol import PRIMARY, LanguageProtocol
from implicit_em_studies.language.results import MEASURES, LanguageResults
from implicit_em_studies.language.study import STUDY, reaching, stages_of
from implicit_em_studies.shared.planning import compose_settings, one_of_each_family
from implicit_em_studies.shared.runs import Run

pytestmark = pytest.mark.usefixtures("coarse")
CHANGES = [
    "logger=csv",
    "families=[derived,topk]",
    "controls=[controls_without_seeds]",
    "permuted=[topk]",
    "variants={near: {of: topk, model.frozen: near}}",
    "seeds=[1,2]",
    "l0=[2,4]",
    "tuning.model.l0=2",
    "always.data.batch_size=32",
    "always.data.val_size=60",
    "tokens.fitted=300",
    "tokens.probed=100",
    "tokens.losses=400",
    "resamples=200",
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
    assert len(finals) == 2 * 2 * 2
    assert set(finals["target"]) == {2, 4}
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


def test_the_setting_with_the_lowest_fvu_of_the_validation_documents_is_chosen(study):
    tuning, chosen = table(study, "tuning"), table(study, "chosen")
    best = tuning.loc[tuning.groupby("family")["ridge_fvu"].idxmin(), "run"]
    assert set(chosen["run"]) == set(best)


def test_a_setting_that_misses_its_l0_is_chosen_only_where_all_do():
    tuning = pd.DataFrame(
        {
            "family": ["a", "a", "b", "b", "c"],
            "run": list("vwxyz"),
            "l0_reached": [False, True, False, False, None],
        }
    )
    assert list(reaching(tuning)["run"]) == ["w", "x", "y", "z"]


def made_up(finals, *changes):
    """The results of made-up finals."""
    empty, protocol = pd.DataFrame(), LanguageProtocol.read(CONF, ["resamples=50", *changes])
    return LanguageResults(protocol, "", empty, empty, finals, empty, empty, empty, "", {}, 1)


def compared_of(**columns):
    """The tests of made-up finals: two families, two seeds, two documents."""
    rows = [(family, seed) for family in ("derived", "l1") for seed in (1, 2)]
    finals = pd.DataFrame(rows, columns=["family", "seed"]).assign(
        target=16, ridge=[[1.0, 2.0]] * 4, variance=[[4.0, 4.0]] * 4, **columns
    )
    return made_up(finals).tests


LOST = {"spike_slab": 1.0, "tied_topk": 1.0, "l1": 1.5, "topk": 0.5, "topk_half": 1.01}
"""Squared errors of made-up families, in hundredths of the variance."""


def judged_at(changes=(), inside=True, **better):
    """The verdicts on made-up finals, by statement; a family may be better than LOST says.

    ``better`` has points by family, at each L0.
    """
    rows = [
        {"family": family, "target": l0, "seed": seed, "l0_reached": seed != missing}
        | {name: [(lost - points) / 100, 2 * (lost - points) / 100] for name in ("ridge", "own")}
        | {"spliced": [(lost - points) / 100, 2 * (lost - points) / 100]}
        for family, lost in {"derived": 30.0, **LOST}.items()
        for at, l0 in enumerate((16, 32, 64, 128))
        for points in [better.get(family, [0] * 4)[at] or 0]
        for missing in [1 if better.get(family, [0] * 4)[at] is None else 0]
        for seed in (1, 2, 3)
    ]
    finals = pd.DataFrame(rows).assign(
        **{name: [[1.0, 2.0]] * len(rows) for name in ("variance", "zero")}
    )
    finals["clean"] = [[0.0, 0.0]] * len(rows)
    if not inside:
        finals = finals.drop(columns="spliced")
    return made_up(finals, *changes).verdicts.set_index("statement")


BY_RIDGE = "{} over {}: variance explained by a ridge decoder"
BY_OWN = "{} over {}: variance explained by the family's own decoder"


def test_a_lead_is_judged_by_its_interval_at_most_of_the_l0():
    found = judged_at()
    assert len(found) == 9
    by_ridge = found.loc[BY_RIDGE.format("spike and slab", "L1")]
    assert (by_ridge["verdict"], by_ridge["required"]) == ("met", True)
    assert by_ridge["measured"].startswith("at 4 of 4; 16 active units: +0.50 [+0.50, +0.50]; 32")
    assert by_ridge["target"] == "lower end of the 95 % interval above -0.5 points, at 3 of 4 L0"
    inside = "tied TopK over {}: cross-entropy recovered inside the model"
    assert found.loc[inside.format("TopK of half the units"), "verdict"] == "met"
    assert found.loc[inside.format("TopK"), "verdict"] == "no", "a question: -0.50 is not above it"
    soft = found.loc[BY_OWN.format("spike and slab", "tied TopK")]
    assert (soft["verdict"], soft["measured"][:14]) == ("no", "at 0 of 4; 16 ")


def test_a_target_is_missed_where_too_few_l0_hold_it_with_all_seeds():
    found = judged_at(l1=[0, 0, 0, 9], topk_half=[0, 0, 9, 9], spike_slab=[0.1] * 4)["verdict"]
    assert found[BY_RIDGE.format("tied TopK", "L1")] == "met"
    assert found[BY_OWN.format("tied TopK", "TopK of half the units")] == "missed"
    assert found[BY_OWN.format("spike and slab", "tied TopK")] == "yes"
    found = judged_at(l1=[0, 0, None, None], topk_half=[0, 0, 0, None])["verdict"]
    assert found[BY_RIDGE.format("tied TopK", "L1")] == "missed", "seed 1 of L1 misses its L0"
    assert found[BY_OWN.format("tied TopK", "TopK of half the units")] == "met"


def test_what_a_language_model_or_a_study_lacks_is_not_judged():
    assert list(judged_at(["families=[derived,l1,topk,tied_topk]"], inside=False).index) == [
        BY_RIDGE.format("tied TopK", "L1")
    ]


def test_a_final_that_misses_its_l0_is_not_compared_there():
    for reached, seeds in (([True] * 4, 2), ([True, True, False, True], 1)):
        at = compared_of(l0_reached=reached)[PRIMARY].at
        assert at.set_index("family")["n"].to_dict() == {"derived": 2, "l1": seeds}


def test_without_a_final_that_reaches_its_l0_one_line_says_so(study, changes, monkeypatch):
    known = Run.metrics
    monkeypatch.setattr(Run, "metrics", lambda run: known(run) | {"l0_reached": False})
    with pytest.raises(RunError, match=r"tiny: no final ends within 5 % of its model\.l0"):
        STUDY.run(study.parent, [], changes, workers=1)


def test_the_report_says_what_the_tables_say(study):
    report_of(study)
    figures = {path.name for path in (study / "figures").glob("*.png")}
    assert figures == {f"{name}.png" for name in (*MEASURES, "densities")}


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
        PRIMARY: (codes @ ridge["weight"] + ridge["bias"]).double() / factor + mean,
    }
    row = row_of(study, run)
    fitted = raw_tokens(study, cfg, "train")
    chosen = fitted[fixed_choice(len(fitted), 300)].float()
    assert row["units_dead"] == (~(model.encode(chosen) != 0).any(0)).sum().item()
    for name, reconstruction in explained.items():
        expected = 1 - (raw - reconstruction).square().sum() / variance
        assert row[name] == pytest.approx(expected.item(), abs=1e-4)
    assert row["l0"] == pytest.approx((codes != 0).sum(-1).double().mean().item())


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
    assert row["ce_nats"] == pytest.approx(
        found.spliced["it"].loss_N.sum().item() / predicted, 1e-4
    )
    clean, zero, spliced = (
        losses.sum() for losses in (found.clean_N, found.zero.loss_N, found.spliced["it"].loss_N)
    )
    recovered = ((zero - spliced) / (zero - clean)).item()
    assert row["ce_recovered"] == pytest.approx(recovered, rel=1e-3)


def test_where_zeros_cost_nothing_the_recovered_share_is_not_compared(caplog):
    losses = {"clean": [[2.0, 2.0]] * 4, "zero": [[1.0, 1.0]] * 4, "spliced": [[2.0, 2.5]] * 4}
    assert list(compared_of(l0_reached=True, **losses)) == [PRIMARY]
    assert "ce_recovered is not compared: target=16, family=derived, seed=1" in caplog.text


def test_of_a_controls_code_the_largest_entries_are_kept():
    model = Largest(torch.nn.Linear(3, 3), 2)
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
    need = "{by: ridge_variance_explained, lead: low, above: 200, places: 2}"
    lead = f"of: [topk], over: derived, need: [{need}]"
    asked = f"targets=[{{{lead}}}, {{{lead}, required: false}}]"
    few += ["controls=[]", "permuted=[]", "variants={}", asked]
    with pytest.raises(RunError, match="1 missed targets, the first: TopK over derived: variance"):
        STUDY.run(tmp_path / "trial", [], few, workers=1)
    part = tmp_path / "trial" / "tiny"
    said = (part / "report.md").read_text()
    assert "control" not in said.partition("## Findings")[2].partition("##")[0]
    assert (part / "verdicts.md").read_text().strip() in said
    judged = json.loads((part / "verdicts.json").read_text())["verdicts"]
    assert [verdict["verdict"] for verdict in judged] == ["missed", "no"]


# --- what is refused


def test_a_model_that_is_not_there_or_reads_ahead_is_refused(tmp_path, tmp_path_factory, capfd):
    """One line refuses it, and nothing is harvested."""
    bert = make_model(tmp_path_factory.mktemp("model") / "bert", "bert", head=True)
    for path, causal, message in (
        ("nowhere", False, "lm.path=nowhere: no such folder or file"),
        (bert, True, "that reads ahead; allowed are causal models"),
    ):
        part = {"harvest": ["lm=auto", f"lm.path={path}"], "causal": causal, "model.hidden": 128}
        typed = [f"parts={json.dumps({'tiny': part})}", "families=[derived]", "permuted=[]"]
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


def test_a_family_of_half_the_units_has_as_many_parameters_as_a_tied_one(tmp_path):
    protocol = LanguageProtocol.read(
        CONF, ["families=[derived,topk,tied_topk,topk_half]", "permuted=[]"]
    )
    grids = compose_settings(protocol.families, protocol.grids, CONF, ["data=activations"])
    stages = stages_of(protocol, "minilm", tmp_path, one_of_each_family(grids), [])
    counts = {
        run.sweep: sum(p.numel() for p in run.spec.build_module(384).model.parameters())
        for run in stages.planned()
    }
    assert counts["tied_topk"] == 3072 * 385 + 384
    assert counts["topk_half"] == pytest.approx(counts["tied_topk"], rel=0.002)
    assert counts["topk"] > 1.9 * counts["tied_topk"]
    frozen = [counts[f"topk_frozen_{name}"] for name in ("encoder", "decoder")]
    assert frozen == [counts["topk"] - 3072 * 384] * 2
    assert counts["topk_near_start"] == counts["topk"]
