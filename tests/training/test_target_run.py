"""Runs whose target is not their input, and crosscoders: their rows, results and refusals."""

import json

import numpy as np
import pytest
import torch
from helpers.stores import OTHER_SINK, SINK, SITE, SPECIAL, make_store
from torch.testing import assert_close

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.config.schema import to_plain
from implicit_em.data.on_disk import SamplesOnDisk
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.store import ActivationStore
from implicit_em.models.normalizing import normalizer_of
from implicit_em.trained.evaluate import evaluate
from implicit_em.trained.export import export
from implicit_em.trained.reading import trained
from implicit_em.training.results import in_table
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

SIZES = [("train", [300, 200, 250]), ("validation", [60]), ("test", [80])]
SITES = {SITE: 3, "mlp.0": 4, "attn.0": 3}
BRIEF = [
    *("data=activations", "data.path=store", "data.batch_size=32", "data.val_size=40"),
    *("model.hidden=8", "trainer.max_epochs=3", "logger=csv", "picture=false"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("several")
    further = {name: size for name, size in SITES.items() if name != SITE}
    make_store(path / "store", SIZES, further=further)
    return path


@pytest.fixture
def store(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return ActivationStore("store")


def ready(**arguments):
    data = ActivationDataModule("store", **arguments)
    data.prepare_data()
    data.setup()
    return data


# --- rows


def expected_rows(store, split, sites):
    """Vectors of sites side by side, of the tokens that the rule of each site leaves."""
    token = store.column("token", split)
    kept = (token > max(SPECIAL)) & ~torch.isin(token, torch.tensor([SINK, OTHER_SINK]))
    return torch.cat([store.column(site, split)[kept] for site in sites], 1).float()


@pytest.mark.parametrize("buffer", [2e9, 6_000])
@pytest.mark.parametrize(
    ("site", "target", "sites", "widths"),
    [
        (SITE, "mlp.0", (SITE, "mlp.0"), (3, 4)),
        (SITE, "mlp", (SITE, "mlp.0"), (3, 4)),
        ([SITE], "mlp", (SITE, "mlp.0"), (3, 4)),
        ([SITE, "mlp.0"], None, (SITE, "mlp.0"), (7, None)),
        ([SITE, "mlp.0"], "attn.0", (SITE, "mlp.0", "attn.0"), (7, 3)),
    ],
)
def test_a_row_holds_the_vectors_of_all_sites_side_by_side(
    store, site, target, sites, widths, buffer
):
    data = ready(site=site, target=target, buffer=buffer, val_size=10)
    assert (data.in_features, data.out_features) == widths
    samples = data.split("train")[0]
    assert isinstance(samples, SamplesOnDisk) == (buffer == 6_000)
    found = samples[data.train_indices()]
    found = found.in_memory() if isinstance(found, SamplesOnDisk) else found
    assert torch.equal(found.float(), expected_rows(store, "train", sites))


@pytest.mark.parametrize("option", ["centre", "standard", "scale", "zca"])
def test_each_site_is_normalised_by_its_own_statistics(store, option):
    data = ready(site=SITE, target="mlp.0", normalize=option, val_size=10)
    rows = expected_rows(store, "train", (SITE, "mlp.0")).double()
    parts = []
    for x in rows.split([3, 4], dim=1):
        moved = x - x.mean(0)
        covariance, fourth = moved.T @ moved / len(x), moved.square().sum(1).square().mean()
        parts.append(normalizer_of(option, len(x), x.mean(0), covariance, fourth)(x))
    found = data.split("train")[0][data.train_indices()]
    assert_close(found.double(), torch.cat(parts, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": "mlp"}, "^site=null in the store store: allowed are"),
        ({"site": 3}, "^site=3 in the store store: allowed are"),
        ({"site": []}, "needs a site"),
        ({"site": "mlp.0", "target": "mlp.0"}, r"target=mlp\.0: .* each site is named once"),
        ({"site": [SITE, "mlp.0"], "normalize": "l2"}, "normalize=l2: a sample is of several"),
    ],
)
def test_sites_that_make_no_sample_are_refused(store, settings, said):
    with pytest.raises(ConfigError, match=said):
        ActivationDataModule("store", **settings)


# --- runs


def run_of(composed, directory, *typed):
    cfg = composed("model=topk", *BRIEF, *typed)
    return cfg, train(cfg, directory)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("topk", ["model.skip=true"]),
        ("encoder", ["loss=lse_var"]),
        ("jump_relu", ["data.normalize=zca"]),
        ("gated", ["model.skip=true", "data.normalize=zca"]),
    ],
)
def test_a_run_measures_what_it_leaves_of_the_target(store, composed, tmp_path, model, more):
    typed = [f"model={model}", f"data.site={SITE}", "data.target=mlp.0", *more]
    typed += ["trainer.log_every_n_steps=1", "lr.value=0.01"]
    _, metrics = run_of(composed, tmp_path / "run", *typed)
    rows = expected_rows(store, "test", (SITE, "mlp.0"))
    x, target = rows.split([3, 4], dim=1)
    loaded = implicit_em.load(tmp_path / "run")
    assert metrics["status"] == "completed"
    if model == "encoder":
        assert metrics["transpose_reconstruction_mse"] is None
        found = trained(tmp_path / "run")
        again = found.coder(x).detach()
        assert metrics["ridge_fvu"] == pytest.approx(fvu(target, again), rel=1e-3)
        train_x, train_y = expected_rows(store, "train", (SITE, "mlp.0")).split([3, 4], dim=1)
        with pytest.raises(ValueError, match="target=None: allowed are vectors of width 4"):
            implicit_em.fit_decoder(loaded, train_x)
        decoder = implicit_em.fit_decoder(loaded, train_x, target=train_y)
        assert decoder.fvu(x, target) == pytest.approx(metrics["ridge_fvu"], rel=0.05)
        assert_close(decoder.reconstruct(x), again, atol=0.5, rtol=0.1)
        return
    assert metrics["fvu"] == pytest.approx(fvu(target, loaded.reconstruct(x)), rel=1e-3)
    steps = np.genfromtxt(tmp_path / "run" / "steps.csv", delimiter=",", names=True)
    for name in ("fvu", "monitorfvu"):
        assert steps[name][-1] == pytest.approx(metrics["fvu"], rel=0.4)
    assert_close(trained(tmp_path / "run").coder(x), loaded.reconstruct(x), atol=1e-3, rtol=0)
    assert loaded.encode(x).shape[1] == 8
    skipped = getattr(loaded, "model", loaded).skip
    assert (skipped is not None) == ("model.skip=true" in more)


def fvu(target, found):
    found = found.detach()
    return float((target - found).square().sum() / (target - target.mean(0)).square().sum())


@pytest.mark.parametrize(
    ("model", "option"), [("topk", "scale"), ("topk", "zca"), ("encoder", "none")]
)
def test_a_crosscoder_is_measured_at_each_of_its_sites(store, composed, tmp_path, model, option):
    sites = f"data.site=[{SITE},mlp.0]"
    more = [f"model={model}", f"data.normalize={option}", "lr.value=0.01"]
    more += ["loss=lse_var"] if model == "encoder" else []
    _, metrics = run_of(composed, tmp_path / "run", sites, *more)
    x = expected_rows(store, "test", (SITE, "mlp.0"))
    run = trained(tmp_path / "run")
    found, table = run.coder(x), implicit_em.features(tmp_path / "run").table()
    for name, columns in ((SITE, slice(3)), ("mlp.0", slice(3, 7))):
        own = fvu(x[:, columns], found[:, columns])
        assert metrics[f"fvu.{name}"] == pytest.approx(own, rel=2e-3)
        if model == "topk":
            norms = run.model.decoder.weight.T[:, columns].norm(dim=1).double()
            assert_close(torch.tensor(table[f"norm.{name}"]), norms, atol=1e-3, rtol=0)
    if model == "topk":
        assert metrics["fvu"] == pytest.approx(fvu(x, found), rel=2e-3)
    assert (metrics["site"], metrics["inputs"]) == (f"{SITE}+mlp.0", 7)
    assert 0 <= metrics["single_site_units"] <= 8
    shown = in_table(metrics)
    assert {f"fvu.{SITE}", "fvu.mlp.0", "single_site_units"} <= {*shown}
    for form in ("saelens", "safetensors"):
        with pytest.raises(ConfigError, match=rf"data.site=\[{SITE},mlp.0\]: {form} has no form"):
            export(tmp_path / "run", form)


@pytest.mark.parametrize(
    ("model", "more", "architecture"),
    [
        ("l1", [], "transcoder"),
        ("jump_relu", ["model.skip=true"], "jumprelu_skip_transcoder"),
        ("matryoshka", ["model.prefixes=[0.5]", "model.l0=2"], "jumprelu_transcoder"),
        ("topk", [], None),
    ],
)
def test_an_export_names_both_hooks_and_comes_back(
    store, composed, tmp_path, model, more, architecture
):
    typed = [f"model={model}", f"data.site={SITE}", "data.target=mlp", *more]
    run_of(composed, tmp_path / "run", *typed)
    if architecture is None:
        with pytest.raises(ConfigError, match=r"a TopK with data\.target; SAELens's transcoders"):
            export(tmp_path / "run")
        return
    place = export(tmp_path / "run")
    config = json.loads((place / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_out"]) == (architecture, 3, 4)
    assert not config["apply_b_dec_to_input"]
    hooks = config["metadata"]["hook_name"], config["metadata"]["hook_name_out"]
    assert hooks == ("model.layers.0", "model.layers.0.mlp")
    x = expected_rows(store, "test", (SITE,))
    ours, theirs = implicit_em.load(tmp_path / "run"), implicit_em.load(place)
    assert_close(ours.reconstruct(x), theirs.reconstruct(x), atol=1e-3, rtol=1e-4)
    data = to_plain(composed("data=activations", "data.path=store", "model=topk").data)
    again = evaluate(place, {**data, "target": "mlp"}, out=tmp_path)
    assert again["fvu"] == pytest.approx(implicit_em.Run(tmp_path / "run").metrics["fvu"], rel=1e-3)
    with pytest.raises(
        ConfigError, match=r"data\.target=attn\.0: the model is of mlp\.0, its hook_"
    ):
        evaluate(place, {**data, "target": "attn.0"}, out=tmp_path)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["model=tied_topk", "data.target=mlp"], "model=tied_topk: its rows also decode"),
        (["model=spike_slab", "data.target=mlp"], "model=spike_slab: its rows also"),
        (["model.skip=true"], "model.skip=true: the input would explain itself; needs data.target"),
        (["model=pca", "data.target=mlp"], "model=pca: it explains its input alone; allowed is"),
        ([f"data.site=[{SITE},{SITE}]"], f"data.site=[{SITE}, {SITE}], target=null: needs a site"),
        (["data.target=mlp.7"], "data.target=mlp.7 in the store store: allowed are null"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(folder, refused, typed, said):
    typed = typed if "model=" in typed[0] else ["model=topk", *typed]
    found = refused(*BRIEF, f"data.site={SITE}", f"data.path={folder}/store", *typed)
    found = found.replace(f"{folder}/", "")
    assert found.startswith(f"error: {said}"), found


def test_a_model_is_not_measured_on_another_target(store, composed, tmp_path):
    cfg, _ = run_of(composed, tmp_path / "run", f"data.site={SITE}", "data.target=mlp.0")
    data = {**RunSpec.of(cfg).settings["data"], "target": None}
    with pytest.raises(ConfigError, match=r"data.target: samples of width None, .* on width 4"):
        _ = trained(tmp_path / "run", data).data
