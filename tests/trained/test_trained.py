"""Models of other tools are measured like runs, at the place that they name."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.lines import one_line
from helpers.stores import make_text_store
from safetensors.torch import save_file

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.language.hooks import hooks_of, metadata_of, site_of
from implicit_em.metrics.reconstruction import fvu
from implicit_em.trained.evaluate import main
from implicit_em.trained.reading import trained, typed_data
from implicit_em.viewer.__main__ import main as explore_main

WIDTH, UNITS = 3, 8


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_text_store(tmp_path / "store", list("abcdefghij"), [[2, 3, 4, 6, 7]] * 30)


def made(folder, width=WIDTH, **metadata):
    """Write a TopK SAE whose decoder's rows differ in length."""
    torch.manual_seed(0)
    arrays = {"W_enc": torch.randn(width, UNITS), "W_dec": torch.randn(UNITS, width) * 2}
    arrays |= {"b_enc": torch.zeros(UNITS), "b_dec": torch.full((width,), 50.0)}
    config = {"architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True}
    metadata = {"sae_lens_version": "6.0.0", **metadata}
    folder.mkdir()
    save_file(arrays, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": metadata}))
    return folder


def test_a_folder_is_measured_on_raw_vectors_and_nothing_is_written_there(store, tmp_path, capsys):
    folder = made(tmp_path / "sae", hook_name="blocks.0.hook_resid_post")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    data = ["data=activations", f"data.path={store}", "data.largest_norm=null"]
    assert main([str(folder), *data]) == 0
    assert f"{folder}, evaluated" in capsys.readouterr().out
    (file,) = (tmp_path / "outputs").glob("sae-*/evaluations/*.json")
    kept = json.loads(file.read_text())
    assert kept["model"] == str(folder)
    assert main([str(folder), *data, "--json", "--out", "elsewhere"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == kept["metrics"]
    assert (tmp_path / "elsewhere" / "evaluations" / file.name).exists()
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    model, samples = implicit_em.load(folder), trained(folder, kept["data"]).data
    x_ND = samples.split("test")[0].float()
    with torch.no_grad():
        codes_NK, found_ND = model.encode(x_ND), model.reconstruct(x_ND)
    found = again["metrics"]
    assert found["fvu"] == pytest.approx(fvu(x_ND.numpy(), found_ND.numpy()), rel=1e-4)
    assert found["l0"] == pytest.approx((codes_NK > 0).sum(1).double().mean().item())
    assert found["site"] == "resid.0"
    assert np.isfinite(found["ridge_fvu"])


def test_mistakes_are_one_line(store, tmp_path, capsys):
    data = ["data=activations", f"data.path={store}"]
    other = made(tmp_path / "other", hook_name="blocks.7.hook_mlp_out")
    wide, sae = made(tmp_path / "wide", 5), made(tmp_path / "sae", model_name="gpt2")
    for arguments, said in (
        ([sae], f"{sae}: says nothing of its data; write data=activations data.path=STORE"),
        ([sae, "data.path=x"], "data.path=x: no such key"),
        ([sae, *data], f"model_name=gpt2: {store} holds vectors of tiny"),
        ([wide, *data], "data: samples of width 3, but the model was trained on width 5"),
        ([other, *data], "hook_name=blocks.7.hook_mlp_out: not in the store"),
        ([wide, *data, "data.normalize=scale"], "data.normalize=scale: the model takes raw"),
        ([tmp_path / "none"], "none is no run directory"),
    ):
        assert main(list(map(str, arguments))) == 2
        assert said in one_line(capsys)
    assert not (tmp_path / "outputs").exists()


def held(architecture="LlamaModel", name="auto", sites=("resid.3", "mlp.3", "mlpin.3", "attn.3")):
    manifest = SimpleNamespace(
        model={"name": name, "architecture": architecture},
        sites=dict.fromkeys(sites, 6),
        settings={"context": {"length": 8}},
        prefix=[1],
    )
    return SimpleNamespace(manifest=manifest, path="store")


@pytest.mark.parametrize(
    ("architecture", "hook", "site"),
    [
        ("LlamaModel", "blocks.3.hook_resid_post", "resid.3"),
        ("LlamaModel", "blocks.4.hook_resid_pre", "resid.3"),
        ("LlamaModel", "model.layers.3", "resid.3"),
        ("LlamaModel", "model.layers.3.mlp", "mlp.3"),
        ("GPT2Model", "transformer.h.3", "resid.3"),
        ("GPT2Model", "blocks.3.hook_mlp_out", "mlp.3"),
        ("GPTNeoXModel", "gpt_neox.layers.3", "resid.3"),
        ("GPTNeoXModel", "gpt_neox.layers.3.attention", "attn.3"),
        ("LlamaModel", "blocks.3.hook_attn_out", "attn.3"),
        ("LlamaModel", "blocks.3.mlp.hook_in", "mlpin.3"),
        ("LlamaModel", "model.layers.3.post_attention_layernorm", "mlpin.3"),
        ("GPT2Model", "blocks.3.ln2.hook_normalized", "mlpin.3"),
        ("BertModel", "bert.encoder.layer.3.attention.output", "mlpin.3"),
        ("BertModel", "blocks.3.hook_normalized_resid_post", "resid.3"),
        ("BertModel", "blocks.3.hook_resid_post", None),
        ("LlamaModel", "blocks.3.hook_normalized_resid_post", None),
        ("LlamaModel", "blocks.3.hook_resid_pre", None),
        ("LlamaModel", "blocks.3.attn.hook_z", None),
    ],
)
def test_a_hook_names_a_site(architecture, hook, site):
    store, metadata = held(architecture), {"hook_name": hook, "model_name": "any/name"}
    if site is None:
        with pytest.raises(ConfigError, match=f"hook_name={hook}: not in the store store, which"):
            site_of(metadata, store, None)
    else:
        assert site_of(metadata, store, None) == site == site_of(metadata, store, site)
        with pytest.raises(ConfigError, match=f"data.site=mlp.9: the model is of {site}"):
            site_of(metadata, store, "mlp.9")
    assert site_of({}, store, "mlp.3") == "mlp.3"


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        ("gpt2-small", "gpt2", True),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-q4_1", True),
        ("sentence-transformers/all-MiniLM-L6-v2", "minilm", True),
        ("/models/mine", "minilm", True),
        (None, "minilm", True),
        ("_", "minilm", True),
        ("gpt2-small", "auto", True),
        ("gpt2-small", "minilm", False),
        ("EleutherAI/pythia-70m", "smollm2-q4_1", False),
    ],
)
def test_a_store_of_another_model_is_refused(theirs, ours, same):
    metadata, store = {"model_name": theirs}, held(name=ours)
    if same:
        assert site_of(metadata, store, "resid.3") == "resid.3"
    else:
        said = re.escape(f"model_name={theirs}: store holds vectors of {ours}")
        with pytest.raises(ConfigError, match=said):
            site_of(metadata, store, "resid.3")


@pytest.mark.parametrize(
    ("architecture", "name", "cls", "hook"),
    [
        ("GPT2Model", "gpt2", "HookedTransformer", "blocks.3.hook_resid_post"),
        ("BertModel", "minilm", "HookedTransformer", "blocks.3.hook_normalized_resid_post"),
        ("LlamaModel", "smollm2-q4_1", "AutoModelForCausalLM", "model.layers.3"),
        ("GPT2Model", "mine", "AutoModelForCausalLM", "transformer.h.3"),
    ],
)
def test_an_export_names_the_place_as_transformer_lens_or_transformers_do(
    architecture, name, cls, hook
):
    store = held(architecture, name)
    found = metadata_of(store.manifest, "resid.3")
    assert (found["model_class_name"], found["hook_name"]) == (cls, hook)
    assert site_of(found, store, None) == "resid.3"
    assert hook in hooks_of("resid.3", architecture)


def test_its_features_are_shown_on_the_vectors_that_are_named(store, tmp_path, capsys):
    folder = made(tmp_path / "sae", hook_name="blocks.0.hook_resid_post")
    before = sorted(folder.iterdir())
    data = ["data=activations", f"data.path={store}"]
    assert explore_main([*data, str(folder), str(folder), "data.largest_norm=null"]) == 0
    (index,) = (tmp_path / "outputs").glob("sae-*/explore/index.html")
    assert capsys.readouterr().out.endswith(f"Open {index.relative_to(tmp_path)}\n")
    assert sorted(folder.iterdir()) == before
    about = (index.parent / "data" / "0" / "about.js").read_text()
    assert '"decoder":"its own decoder"' in about
    assert f"address: {folder}" in about
    node = typed_data(folder, [*data, "data.largest_norm=null"])
    table = implicit_em.features(folder, data=node).table()
    x_ND = trained(folder, node).data.split("test")[0].float()
    active_NK = implicit_em.load(folder).encode(x_ND) > 0
    np.testing.assert_allclose(table["density"], active_NK.double().mean(0), atol=1e-4)
    for words, said in (
        ([str(folder)], "says nothing of its data; write data=activations data.path=STORE"),
        (data, "data=activations: name a run directory, or a folder, before it"),
        ([str(folder), "data=none"], "data=none: no such option"),
    ):
        assert explore_main(words) == 2
        assert said in one_line(capsys)
