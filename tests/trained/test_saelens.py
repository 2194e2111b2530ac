"""SAELens's format, written and read, and the command that exports a run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exchanged import MODELS, TRANSCODERS, UNITS, WIDTH, made, normalizer_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import implicit_em
from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.models import PCA, Encoder
from implicit_em.models.normalizing import fit_normalizer
from implicit_em.trained.export import export, main
from implicit_em.trained.foreign import CONVERT, read_foreign
from implicit_em.trained.saelens import to_saelens


def theirs(config, arrays, x_ND):
    """Return codes and reconstructions as SAELens computes them."""
    shifted_ND = x_ND
    if config.get("apply_b_dec_to_input", True):
        shifted_ND = x_ND - arrays["b_dec"]
    z_NK = shifted_ND @ arrays["W_enc"]
    length_K = torch.ones(())
    match config["architecture"]:
        case "gated":
            magnitude_NK = shifted_ND @ (arrays["W_enc"] * arrays["r_mag"].exp()) + arrays["b_mag"]
            codes_NK = (z_NK + arrays["b_gate"] > 0) * magnitude_NK.relu()
        case "topk":
            if config.get("rescale_acts_by_decoder_norm"):
                length_K = arrays["W_dec"].norm(dim=-1)
            top = ((z_NK + arrays["b_enc"]) * length_K).topk(config["k"])
            codes_NK = torch.zeros_like(z_NK).scatter(1, top.indices, top.values.relu())
        case "jumprelu" | "jumprelu_transcoder" | "jumprelu_skip_transcoder":
            z_NK = z_NK + arrays["b_enc"]
            codes_NK = z_NK.relu() * (z_NK > arrays["threshold"])
        case "batchtopk":
            z_NK = z_NK + arrays["b_enc"]
            codes_NK = z_NK.relu() * (z_NK > arrays["topk_threshold"])
        case "standard" | "transcoder" | "skip_transcoder":
            codes_NK = (z_NK + arrays["b_enc"]).relu()
    decoded_ND = (codes_NK / length_K) @ arrays["W_dec"] + arrays["b_dec"]
    return codes_NK, decoded_ND + (x_ND @ arrays["W_skip"].T if "W_skip" in arrays else 0)


def random_arrays(architecture):
    torch.manual_seed(0)
    names = ["W_enc", "W_dec", "b_dec"]
    names += ["b_gate", "r_mag", "b_mag"] if architecture == "gated" else ["b_enc"]
    shapes = {"W_enc": (WIDTH, UNITS), "W_dec": (UNITS, WIDTH), "b_dec": (WIDTH,)}
    arrays = {name: torch.randn(shapes.get(name, (UNITS,))) for name in names}
    if architecture == "jumprelu":  # one below 0 does nothing
        arrays["threshold"] = torch.rand(UNITS) - 0.3
    if architecture == "batchtopk":
        arrays["topk_threshold"] = torch.tensor(0.4, dtype=torch.float64)
    return arrays


def written(folder, config, arrays, names=("cfg.json", "sae_weights.safetensors")):
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / names[1])
    (folder / names[0]).write_text(json.dumps({"metadata": {}, **config}))
    return folder


@pytest.mark.parametrize("option", [None, "scale", "standard", "zca"])
@pytest.mark.parametrize("name", [*MODELS, *TRANSCODERS])
def test_their_formulas_give_our_codes_and_reconstructions(name, option, tmp_path):
    model, x_ND = made(name)
    normalizer = option and normalizer_of(model, option, x_ND)
    of_input, of_target = normalizer.sides(model.out_features) if normalizer else (None, None)
    seen_ND = x_ND if normalizer is None else of_input(x_ND)
    width = model.out_features or WIDTH
    decoder = (
        (torch.randn(UNITS, width), torch.randn(width)) if isinstance(model, Encoder) else None
    )
    config, arrays = to_saelens(model, normalizer, decoder)
    codes_NK, found_ND = theirs(config, arrays, x_ND)
    expected_NK = model.encode(seen_ND)
    torch.testing.assert_close(codes_NK, expected_NK, atol=2e-5, rtol=1e-5)
    decoded_ND = (
        model.reconstruct(seen_ND) if decoder is None else expected_NK @ decoder[0] + decoder[1]
    )
    if normalizer is not None:
        decoded_ND = of_target.inverse(decoded_ND)
    torch.testing.assert_close(found_ND, decoded_ND, atol=5e-5, rtol=1e-5)
    save_file(arrays, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    again = implicit_em.load(tmp_path)
    torch.testing.assert_close(again.encode(x_ND), codes_NK, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(again.reconstruct(x_ND), found_ND, atol=5e-5, rtol=1e-5)


RESCALED = {"rescale_acts_by_decoder_norm": True}
UNFOLDED = {"normalize_activations": "expected_average_only_in"}


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        *((name, {}) for name in ("standard", "topk", "jumprelu", "gated", "batchtopk")),
        *(("topk", RESCALED), ("standard", UNFOLDED), ("topk", {"dtype": "float64"})),
    ],
)
@pytest.mark.parametrize("subtract", [True, False])
def test_a_folder_of_theirs_is_read(architecture, more, subtract, tmp_path, caplog):
    arrays = random_arrays(architecture)
    config = {"architecture": architecture, "k": 2, "apply_b_dec_to_input": subtract, **more}
    model, x_ND = implicit_em.load(written(tmp_path, config, arrays)), torch.randn(50, WIDTH)
    codes_NK, found_ND = theirs(config, arrays, x_ND)
    ours_NK = model.encode(x_ND)
    torch.testing.assert_close(ours_NK, codes_NK, atol=1e-5, rtol=1e-5, check_dtype=False)
    ours_ND = model.reconstruct(x_ND)
    torch.testing.assert_close(ours_ND, found_ND, atol=1e-5, rtol=1e-5, check_dtype=False)
    assert str(ours_ND.dtype) == f"torch.{more.get('dtype', 'float32')}"
    assert implicit_em.fit_decoder(model, x_ND).fvu(x_ND) < 1
    assert ("vectors are taken unscaled" in caplog.text) == (more == UNFOLDED)


def of_dictionary_learning(kind, arrays):
    """Return the arrays under the names that dictionary_learning has for them."""
    bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec")
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
    names |= {"b_gate": "gate_bias", "b_mag": "mag_bias", "b_dec": bias}
    if kind == "GatedAutoEncoder":
        names["b_dec"] = "decoder_bias"
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        names = {}
    found = {
        names.get(n, n): (a.T if a.dim() == 2 and n in names else a).contiguous()
        for n, a in arrays.items()
    }
    if "TopK" in kind:
        found |= {"k": torch.tensor(2), "threshold": torch.tensor(0.4)}
    return found


@pytest.mark.parametrize(
    ("kind", "architecture", "subtract"),
    [
        ("AutoEncoder", "standard", True),
        ("AutoEncoderNew", "standard", False),
        ("AutoEncoderTopK", "topk", True),
        ("BatchTopKSAE", "batchtopk", True),
        ("MatryoshkaBatchTopKSAE", "batchtopk", True),
        ("JumpReluAutoEncoder", "jumprelu", False),
        ("GatedAutoEncoder", "gated", True),
    ],
)
def test_dictionary_learning_is_read_once_its_pickle_is_converted(
    kind, architecture, subtract, tmp_path, monkeypatch
):
    arrays, x_ND = random_arrays(architecture), torch.randn(50, WIDTH)
    config = {"architecture": architecture, "k": 2, "apply_b_dec_to_input": subtract}
    codes_NK, found_ND = theirs(config, arrays, x_ND)
    arrays.pop("topk_threshold", None)
    torch.save(of_dictionary_learning(kind, arrays), tmp_path / "ae.pt")
    trainer = {"dict_class": kind, "k": 2, "layer": 3, "lm_name": "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    with pytest.raises(ConfigError) as refused:
        implicit_em.load(tmp_path)
    assert CONVERT in str(refused.value)
    monkeypatch.chdir(tmp_path)
    exec(CONVERT)
    model = implicit_em.load(tmp_path)
    torch.testing.assert_close(model.encode(x_ND), codes_NK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.reconstruct(x_ND), found_ND, atol=1e-5, rtol=1e-5)
    assert read_foreign(tmp_path).metadata["hook_name"] == "blocks.3.hook_resid_post"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": torch.tensor(3)}, "k=2 with these weights: allowed is 3"),
        ({"encoder.weight": torch.zeros(9)}, "Error(s) in loading state_dict for TopK: size"),
    ],
)
def test_weights_of_dictionary_learning_that_contradict_its_settings_are_one_line(
    changes, said, tmp_path, recwarn
):
    arrays = of_dictionary_learning("AutoEncoderTopK", random_arrays("topk"))
    save_file({**arrays, **changes}, tmp_path / "ae.safetensors")
    trainer = {"dict_class": "AutoEncoderTopK", "k": 2, "layer": 3}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    with pytest.raises(DamagedError) as refused:
        implicit_em.load(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}: {said}")
    assert not [str(w.message) for w in recwarn]


def test_what_has_no_form_there_is_one_line(tmp_path):
    model, x_ND = made("encoder")
    with pytest.raises(ConfigError, match=r"model: a PCA; SAELens has a form for Encoder, "):
        to_saelens(PCA(WIDTH, 3), None, None)
    with pytest.raises(ConfigError, match=r"activation: Softplus\(.*\); SAELens has ReLU alone"):
        to_saelens(Encoder(WIDTH, 3, nn.Softplus()), None, None)
    with pytest.raises(ConfigError, match=r"data.normalize=l2: cannot be folded"):
        to_saelens(model, fit_normalizer("l2", lambda: [x_ND]), None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metadata": None}, "cfg.json: of before SAELens 6.0"),
        ({"architecture": "temporal"}, "architecture=temporal: allowed are standard, topk"),
        ({"architecture": {"a": 1}}, "architecture={'a': 1}: allowed are standard, topk"),
        ({"architecture": "gated"}, "gated: missing or unknown: b_enc, b_gate, b_mag, r_mag"),
        ({"architecture": "topk", "k": UNITS + 1}, f"k={UNITS + 1}: allowed are whole numbers"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations=layer_norm: allowed are"),
        ({"reshape_activations": "hook_z"}, "reshape_activations=hook_z: allowed is none"),
        ({"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input=false: allowed are true, false"),
        ({"dtype": "int8"}, "dtype=int8: allowed are float32, float64, float16, bfloat16"),
        ({"d_in": 5}, f"d_in=5 with these weights: allowed is {WIDTH}"),
    ],
)
def test_folders_that_cannot_be_read_are_one_line(changes, said, tmp_path):
    arrays = to_saelens(made("l1")[0], None, None)[1]
    written(tmp_path, {"architecture": "standard", **changes}, arrays)
    with pytest.raises(DamagedError) as refused:
        implicit_em.load(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}: {said}")


@pytest.mark.parametrize("content", ["[]", "{", '{"metadata": 3}'])
def test_damaged_configurations_are_one_line(content, tmp_path):
    written(tmp_path, {}, random_arrays("standard"))
    (tmp_path / "cfg.json").write_text(content)
    with pytest.raises(DamagedError, match=str(tmp_path)):
        implicit_em.load(tmp_path)


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


def test_a_run_with_a_decoder_needs_no_samples_for_its_export(command_line, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 6), dtype=np.float32))
    brief = ["trainer.max_epochs=1", "model.hidden=3", "logger=csv", "picture=false", "probe=none"]
    typed = ["data=tensors", f"data.path={tmp_path}/x.npy", "model=topk", "model.l0=2"]
    assert command_line(*typed, *brief, f"hydra.run.dir={tmp_path / 'run'}") == 0
    (tmp_path / "x.npy").unlink()
    assert export(tmp_path / "run").exists()


def test_an_export_that_is_there_stays_and_nothing_else_is_overwritten(
    run, capsys, tmp_path, monkeypatch
):
    weights = run / "saelens" / "sae_weights.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            export(run)
    assert not weights.parent.exists(), "nothing is there in part"
    for form in ("saelens", "safetensors"):
        assert main([str(run), "--format", form]) == 0
        before = weights.stat().st_mtime_ns
        assert main([str(run), "--format", form]) == 0
    assert weights.stat().st_mtime_ns == before
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    for arguments, said in (
        ([str(run)], f"out={run / 'saelens'}: is there already; nothing is overwritten"),
        ([str(run), "--out", str(tmp_path)], f"out={tmp_path}: is there already"),
        (
            [str(run), "--format", "pickle"],
            "format=pickle: allowed are saelens, safetensors, torch",
        ),
        ([str(run), "--format", "safetensors", "--push", "a/b"], "push: allowed for --format"),
        ([str(run), "--push", "b"], "push=b: write OWNER/NAME"),
        ([str(tmp_path)], f"{tmp_path} is no run directory"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert weights.read_bytes() == changed
