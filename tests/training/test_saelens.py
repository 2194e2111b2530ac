"""SAELens's format, written and read, and the command that exports a run."""

import json

import pytest
import torch
from helpers.exchanged import MODELS, UNITS, WIDTH, made
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import implicit_em
from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.export import export, main
from implicit_em.models import PCA, Encoder
from implicit_em.models.normalizing import fit_normalizer, taking_raw
from implicit_em.training.saelens import from_saelens, to_saelens


def theirs(config, arrays, x_ND):
    """Return codes and reconstructions as SAELens computes them."""
    shifted_ND = x_ND - arrays["b_dec"] * config["apply_b_dec_to_input"]
    z_NK = shifted_ND @ arrays["W_enc"]
    match config["architecture"]:
        case "gated":
            magnitude_NK = shifted_ND @ (arrays["W_enc"] * arrays["r_mag"].exp()) + arrays["b_mag"]
            codes_NK = (z_NK + arrays["b_gate"] > 0) * magnitude_NK.relu()
        case "topk":
            top = (z_NK + arrays["b_enc"]).topk(config["k"])
            codes_NK = torch.zeros_like(z_NK).scatter(1, top.indices, top.values.relu())
        case "jumprelu":
            z_NK = z_NK + arrays["b_enc"]
            codes_NK = z_NK.relu() * (z_NK > arrays["threshold"])
        case "standard":
            codes_NK = (z_NK + arrays["b_enc"]).relu()
    return codes_NK, codes_NK @ arrays["W_dec"] + arrays["b_dec"]


@pytest.mark.parametrize("option", [None, "scale", "standard", "zca"])
@pytest.mark.parametrize("name", MODELS)
def test_their_formulas_give_our_codes_and_reconstructions(name, option, tmp_path):
    model, x_ND = made(name)
    normalizer = option and fit_normalizer(option, lambda: [x_ND.double()])
    seen_ND = x_ND if normalizer is None else normalizer(x_ND)
    decoder = (
        (torch.randn(UNITS, WIDTH), torch.randn(WIDTH)) if isinstance(model, Encoder) else None
    )
    config, arrays = to_saelens(model, normalizer, decoder)
    codes_NK, found_ND = theirs(config, arrays, x_ND)
    expected_NK = model.encode(seen_ND)
    torch.testing.assert_close(codes_NK, expected_NK, atol=2e-5, rtol=1e-5)
    decoded_ND = (
        model.decode(expected_NK) if decoder is None else expected_NK @ decoder[0] + decoder[1]
    )
    if normalizer is not None:
        decoded_ND = normalizer.inverse(decoded_ND)
    torch.testing.assert_close(found_ND, decoded_ND, atol=5e-5, rtol=1e-5)
    save_file(arrays, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    again = implicit_em.load(tmp_path)
    torch.testing.assert_close(again.encode(x_ND), codes_NK, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(again.reconstruct(x_ND), found_ND, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("subtract", [True, False])
def test_a_folder_of_theirs_is_read(architecture, subtract, tmp_path):
    torch.manual_seed(0)
    names = ["W_enc", "W_dec", "b_dec"]
    names += ["b_gate", "r_mag", "b_mag"] if architecture == "gated" else ["b_enc"]
    shapes = {"W_enc": (WIDTH, UNITS), "W_dec": (UNITS, WIDTH), "b_dec": (WIDTH,)}
    arrays = {name: torch.randn(shapes.get(name, (UNITS,))) for name in names}
    if architecture == "jumprelu":
        arrays["threshold"] = torch.rand(UNITS)
    config = {"architecture": architecture, "k": 2, "apply_b_dec_to_input": subtract}
    save_file(arrays, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    model, x_ND = implicit_em.load(tmp_path), torch.randn(50, WIDTH)
    codes_NK, found_ND = theirs(config, arrays, x_ND)
    torch.testing.assert_close(model.encode(x_ND), codes_NK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.reconstruct(x_ND), found_ND, atol=1e-5, rtol=1e-5)
    assert implicit_em.fit_decoder(model, x_ND).fvu(x_ND) < 1


def test_what_has_no_form_there_is_one_line(tmp_path):
    model, x_ND = made("encoder")
    with pytest.raises(ConfigError, match=r"model: a PCA; SAELens has a form for Encoder, "):
        to_saelens(PCA(WIDTH, 3), None, None)
    with pytest.raises(ConfigError, match=r"activation: Softplus\(.*\); SAELens has ReLU alone"):
        to_saelens(Encoder(WIDTH, 3, nn.Softplus()), None, None)
    with pytest.raises(ConfigError, match=r"data.normalize=l2: cannot be folded"):
        to_saelens(model, fit_normalizer("l2", lambda: [x_ND]), None)


def test_folders_that_cannot_be_read_are_one_line(tmp_path):
    arrays = to_saelens(made("l1")[0], None, None)[1]
    save_file(arrays, tmp_path / "sae_weights.safetensors")
    for changes, said in (
        ({"architecture": "temporal"}, "architecture=temporal: allowed are standard, topk"),
        ({"architecture": {"name": "topk"}}, "architecture={'name': 'topk'}: allowed are"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations=layer_norm: only"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm=True: only"),
    ):
        config = {"architecture": "standard", **changes}
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=said):
            from_saelens(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "gated"}))
    with pytest.raises(DamagedError, match=r"no model of SAELens: 'b_gate'"):
        from_saelens(tmp_path)


@pytest.fixture
def run(command_line, small, tmp_path):
    """A finished run of the derived model on normalised images."""
    further = ["data.normalize=scale", "probe=none", "picture=false"]
    assert command_line(*small, *further, f"hydra.run.dir={tmp_path / 'run'}") == 0
    return tmp_path / "run"


def test_a_run_is_exported_with_a_ridge_decoder_and_says_so(run, capsys):
    assert main([str(run)]) == 0
    assert f"Written to {run / 'saelens'}" in capsys.readouterr().out
    x_ND = torch.rand(30, 64)
    model, ours = implicit_em.load(run / "saelens"), implicit_em.load(run)
    torch.testing.assert_close(model.encode(x_ND), ours.encode(x_ND), atol=1e-5, rtol=1e-5)
    config = json.loads((run / "saelens" / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("standard", 64, 5)
    assert config["metadata"]["implicit_em_decoder"] == "ridge regression after the training"
    file = export(run, "safetensors")
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["config"]) == config
    whole = load_file(run / "saelens" / "sae_weights.safetensors")
    for name, array in load_file(file).items():
        assert torch.equal(array, whole[name])


def test_bad_exports_are_one_line(run, capsys, monkeypatch, tmp_path):
    assert main([str(run)]) == 0
    for arguments, said in (
        ([str(run)], f"out={run / 'saelens'}: is there already; nothing is overwritten"),
        ([str(run), "--format", "pickle"], "format=pickle: allowed are saelens, safetensors"),
        ([str(run), "--format", "safetensors", "--push", "a/b"], "push: allowed for --format"),
        ([str(tmp_path)], f"{tmp_path} is no run directory"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([str(run), "--out", str(tmp_path / "other"), "--push", "a/b"]) == 2
    assert "push: no token of the hub" in capsys.readouterr().err


def test_a_run_on_a_store_names_the_place_in_the_model(tmp_path, command_line):
    from helpers.stores import make_text_store

    store = make_text_store(tmp_path / "store", list("abcdefghij"), [[2, 3, 4, 6, 7]] * 30)
    data = ["data=activations", f"data.path={store}", "data.batch_size=16", "model=topk"]
    brief = ["model.hidden=4", "model.k=2", "trainer.max_epochs=1", "logger=csv"]
    further = ["probe=none", "picture=false", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command_line(*data, *brief, *further) == 0
    config = json.loads((export(tmp_path / "run") / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.0.hook_resid_post"
    assert config["metadata"]["implicit_em_decoder"] == "its own"
    assert (config["architecture"], config["k"]) == ("topk", 2)


def test_a_folded_model_equals_its_export(tmp_path):
    model, x_ND = made("l1")
    normalizer = fit_normalizer("zca", lambda: [x_ND.double()])
    _, arrays = to_saelens(model, normalizer, None)
    folded = taking_raw(model.double(), normalizer)
    torch.testing.assert_close(arrays["W_dec"], folded.decoder.weight.T.float())
