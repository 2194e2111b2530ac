"""What is measured of units that are on or off, and training by denoising."""

import pytest
import torch
from helpers.draws import draw
from torch.testing import assert_close

from implicit_em.models import SpikeSlab
from implicit_em_studies.theory.on_or_off import Denoising, identities


def model(kind=SpikeSlab):
    torch.manual_seed(0)
    made = kind(6, 9, log_odds=4.0, temperature=0.05)
    made.decoder.bias.data = torch.randn(6)
    return made


def test_identities_hold_and_a_wrong_gradient_is_seen(monkeypatch):
    x = draw(20, 6, dtype=torch.float32)
    assert max(identities(model(), x).values()) < 1e-13
    monkeypatch.setattr(
        SpikeSlab, "reconstruct", lambda self, x: 1.01 * self.decode(self.encode(x))
    )
    assert identities(model(), x)["of_inputs"] > 1e-3


def test_a_denoiser_reconstructs_from_noise_of_the_temperature_which_the_step_decides():
    plain, noisy = model(), model(Denoising)
    x = 3 * draw(4000, 6, dtype=torch.float32)
    first = noisy.training_outputs(x)
    again = model(Denoising).training_outputs(x)
    assert_close(first["energies"], again["energies"], rtol=0, atol=0)
    assert not torch.equal(noisy.training_outputs(x)["energies"], first["energies"])
    scale = x.square().mean(-1, keepdim=True).sqrt()
    n = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    still = model()
    still.scaled = False
    code = still.encode(x / scale + 0.05**0.5 * n) * scale
    assert_close(first["energies"], code)
    assert_close(first["reconstruction"], plain.decode(code))
    assert first["energies"].requires_grad


def test_with_little_noise_a_denoiser_steps_as_an_autoencoder():
    noisy, x = model(Denoising), draw(50, 6, dtype=torch.float32)
    noisy.temperature.fill_(1e-9)
    assert noisy.training_outputs(x)["energies"].detach() == pytest.approx(
        noisy.encode(x).detach(), abs=1e-3
    )
