"""A decoder for any model, and what calling a model gives."""

import json

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from torch import nn

import implicit_em
from implicit_em.data.superposition import draw
from implicit_em.language.steering import Steering
from implicit_em.metrics.reconstruction import fvu
from implicit_em.models import Dictionary, Encoder, SparseAutoencoder
from implicit_em.models.normalizing import Normalized, fit_normalizer
from implicit_em.trained.loading import fit_decoder
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))


class Fronted(Encoder):
    """Transforms its input first, to another width than the data's."""

    def __init__(self, in_features, hidden=64, activation=None):
        super().__init__(9, hidden, activation)
        self.front = nn.Linear(in_features, 9)

    def forward(self, x):
        return super().forward(self.front(x))


@pytest.fixture
def samples():
    return torch.randint(256, (700, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("kind", [Encoder, SparseAutoencoder, Fronted])
def test_a_decoder_is_fitted_to_any_model_and_measured_on_any_samples(kind, samples):
    torch.manual_seed(0)
    model = kind(64, 20)
    decoder = fit_decoder(model, samples[:500])
    assert (decoder.weight.shape, decoder.bias.shape) == ((20, 64), (64,))
    x = samples[500:].flatten(1) / 255
    decoded = decoder(model.encode(x)).detach()
    assert torch.allclose(decoder.reconstruct(samples[500:]), decoded, atol=1e-6)
    assert decoder.fvu(samples[500:]) == pytest.approx(fvu(x.numpy(), decoded.numpy()), rel=1e-5)
    assert decoder.explained_variance(x.numpy()) == 1 - decoder.fvu(x)
    assert decoder.fvu(samples[:500]) < min(1, decoder.fvu(samples[500:]))


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((0, 6), {}, r"samples of shape .*: allowed is \(N, \.\.\.\)"),
        ((1, 6), {}, r"samples of shape .*: allowed is \(N, \.\.\.\)"),
        ((6,), {}, r"samples of shape .*: allowed is \(N, \.\.\.\)"),
        ((20, 6), {"ridge": 0}, "ridge=0: must be above 0"),
        ((20, 6), {"held": torch.zeros(5, 6), "ridge": 1.0}, "held: neither ridge nor target"),
        ((20, 6), {"held": torch.zeros(0, 6)}, "held: 0 samples"),
    ],
)
def test_what_no_decoder_can_be_fitted_to_is_refused(shape, options, said):
    with pytest.raises(ValueError, match=said):
        fit_decoder(Encoder(6, 3), torch.zeros(shape), **options)


def test_vectors_of_a_sequence_are_samples():
    x = torch.randn(40, 6, 9, generator=torch.Generator().manual_seed(0))
    model = Encoder(9, 5)
    found, expected = fit_decoder(model, x), fit_decoder(model, x.flatten(0, 1))
    assert torch.equal(found.weight, expected.weight)
    assert found.fvu(x) == expected.fvu(x.flatten(0, 1))


def test_the_smaller_matrix_is_chosen_by_the_number_of_vectors(monkeypatch):
    monkeypatch.setattr("implicit_em.metrics.reconstruction._Samples", None)
    fit_decoder(Encoder(9, 64), torch.randn(40, 6, 9))


def test_a_run_is_measured_by_the_decoder_of_a_fixed_choice(composed, small, tmp_path, monkeypatch):
    monkeypatch.setattr("implicit_em.training.decoding.FITTED", 300)
    monkeypatch.setattr("implicit_em.training.decoding.MEASURED", 150)
    cfg = composed(*small, "probe=none", "data.val_size=100")
    metrics = train(cfg, tmp_path)
    data = RunSpec.of(cfg).build_data()
    choice = np.sort(np.random.default_rng(0).permutation(500)[:300])
    final = np.sort(np.random.default_rng(0).permutation(200)[:150])
    fitted_on = data.split("train")[0][data.train_indices()[choice]]
    decoder = fit_decoder(tmp_path, fitted_on)
    assert decoder.fvu(data.split("test")[0][final]) == metrics["ridge_fvu"]
    assert 0 < metrics["ridge_fvu"] < 1
    assert 0 < metrics["l0"] < 5


@pytest.mark.slow
def test_known_features_that_a_ridge_decoder_finds_are_counted(composed, small, tmp_path):
    known = ["data=superposition", "data.features=40", "data.width=20", "data.density=0.05"]
    sizes = ["data.samples=3000", "data.test_samples=200", "data.batch_size=64"]
    cfg = composed(
        *known, *sizes, "model=topk", "model.l0=2", "trainer.max_epochs=8", "lr.value=1e-2"
    )
    metrics = train(cfg, tmp_path / "run")
    data = RunSpec.of(cfg).build_data()
    decoder = fit_decoder(
        implicit_em.load(tmp_path / "run"), draw(data.superposition).samples_ND[:3000]
    )
    truth_MD, found_KD = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
        for rows in (data.truth().directions_MD, decoder.weight.numpy())
    )
    assert metrics["features_found"] == ((truth_MD @ found_KD.T).max(1) > 0.8).mean()
    assert 0.2 < metrics["features_found"] < 1
    assert train(composed(*small, "probe=none"), tmp_path / "images")["features_found"] is None


def test_a_model_that_transforms_its_input_is_trained_measured_and_saved(
    command_line, small, tmp_path
):
    model = ["model._target_=test_decoding.Fronted", "trainer.max_epochs=1", "probe=none"]
    assert command_line(*small, *model, f"hydra.run.dir={tmp_path / 'run'}") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert metrics["transpose_reconstruction_mse"] is None
    assert 0 < metrics["ridge_fvu"] < 1
    loaded = implicit_em.load(tmp_path / "run", classes=[Fronted])
    x = torch.rand(3, 64)
    assert loaded.encode(x).shape == (3, 5)
    with pytest.raises(ValueError, match=r"^Fronted: its rows are no decoder"):
        loaded.reconstruct(x)


def test_metrics_that_are_not_finite_are_null_and_named_in_one_line(
    command_line, small, tmp_path, capfd
):
    one_step = ["lr.value=1e38", "data.batch_size=600", "trainer.max_epochs=1"]
    assert command_line(*small, *one_step, f"hydra.run.dir={tmp_path / 'run'}") == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "not finite" in line]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    named = line.partition("not finite, so null: ")[2].split(", ")
    assert {"responsibility_entropy", "ridge_fvu", "probe_accuracy"} <= set(named)
    assert all(metrics[key] is None for key in named)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_encodes_reconstructs_and_says_what_it_gives(composed, model):
    built = RunSpec.of(composed(f"model={model}")).build_module(81).model
    units = built.weight.shape[0]
    x = torch.rand(2, 3, 81, dtype=torch.float64)
    with torch.no_grad():
        assert built.encode(x).shape == (2, 3, units)
        if own := built.own_decoder:
            code = built.encode(x)
            assert torch.allclose(code @ own[0] + own[1], built.decode(code))
        if isinstance(built, SparseAutoencoder) or model == "pixels":
            assert built.reconstruct(x).shape == x.shape
        else:
            with pytest.raises(ValueError, match=r"its rows are no decoder; .*fit_decoder\(model"):
                built.decode(built.encode(x))
        reconstructs = built(x).shape == x.shape and model != "pixels"
    called = "model.reconstruct(x): recon" if reconstructs else "model.encode(x): energies"
    assert f"model(x), {called}" in repr(built)
    assert f"(..., {units})" in repr(built)


def test_inputs_take_the_dtype_of_the_model_unless_their_scale_is_unknown():
    model = Encoder(64, 5).double()
    x = torch.rand(3, 64)
    assert torch.equal(model(x), model(x.double()))
    with pytest.raises(TypeError, match=r"inputs of torch\.uint8: must be floating point, scaled"):
        model(x.byte())


def test_a_model_in_bfloat16_codes_raw_vectors_as_it_codes_normalised_ones():
    x_ND = 50 + torch.randn(64, 16)
    normalizer = fit_normalizer("standard", lambda: [x_ND.double()])
    model = Dictionary(16, 32, middle="zero").bfloat16()
    coder = Normalized(model, normalizer)
    assert torch.equal(coder.encode(x_ND), model.encode(normalizer(x_ND)))
    steering = Steering(Normalized(model), None, None)
    assert torch.equal(steering.replacement({3: 0.0})(x_ND), x_ND)
