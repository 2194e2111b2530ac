"""What is measured of units that are on or off: variants, noise, codes and the identity."""

from types import SimpleNamespace

import pytest
import torch

from implicit_em.models import SpikeSlab
from implicit_em_studies.theory.spike_slab import Denoising, codes, identity_error, variant


@pytest.fixture
def model():
    torch.manual_seed(0)
    found = SpikeSlab(6, 9, temperature=0.05, log_odds=4.0)
    with torch.no_grad():
        found.encoder.linear.bias.normal_(0, 0.1)
        found.decoder.bias.normal_()
    return found


@pytest.fixture
def x():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def cfg(kind="models.SpikeSlab", held=True, mse=1.0, slab=1.0, **added):
    terms = {"mse": mse, "slab": slab, **added}
    loss = {name: SimpleNamespace(weight=weight) for name, weight in terms.items()}
    model = SimpleNamespace(_target_=f"implicit_em.{kind}", held=held)

    class Loss(dict):
        __getattr__ = dict.__getitem__

    return SimpleNamespace(model=model, loss=Loss(loss))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "step"),
        ({"slab": 0.0}, "no_slab"),
        ({"mse": 1e-3}, "no_error"),
        ({"held": False}, "exact"),
        ({"kind": "theory.spike_slab.Denoising", "held": False, "slab": 0.0}, "denoising"),
        ({"var": 1e-5}, "var_1e-05"),
        ({"tc": 1e-4}, "tc_0.0001"),
        ({"kind": "models.BatchTopK"}, "hard"),
        ({"kind": "models.Encoder"}, "paper"),
    ],
)
def test_a_run_is_the_variant_that_its_settings_make(settings, name):
    assert variant(cfg(**settings)) == name


def test_the_identity_holds_in_float64_and_is_seen_to_fail(model, x):
    assert identity_error(model, x) < 1e-13
    model.encode = lambda x: 1.01 * SpikeSlab.encode(model, x)
    assert identity_error(model, x) > 1e-4


def test_the_hard_code_keeps_the_activations_of_units_more_on_than_off(model, x):
    soft_NK, hard_NK = codes(model, x)
    a_NK = (x - model.decoder.bias) @ model.weight.T + model.encoder.linear.bias
    on_NK = model.responsibilities(x) > 0.5
    assert 0 < on_NK.sum() < (soft_NK > 0).sum()
    assert torch.allclose(hard_NK, torch.where(on_NK, a_NK, 0.0), atol=1e-6)
    assert torch.allclose(soft_NK, model.encode(x))


def test_noise_has_the_variance_t_and_is_another_at_each_step(x):
    model = Denoising(6, 9, temperature=0.25)
    clean = torch.zeros(20_000, 6)
    seen = []
    model.encoder.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for _ in range(2):
        outputs = model.training_outputs(clean)
    assert seen[0].var().item() == pytest.approx(0.25, rel=0.02)
    assert not torch.equal(*seen)
    assert outputs["reconstruction"].shape == clean.shape
