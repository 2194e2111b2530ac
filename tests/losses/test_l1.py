import pytest
import torch
from torch.testing import assert_close

from implicit_em.losses import l1


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_is_the_mean_magnitude_over_all_elements():
    energies = draw(3, 5)
    expected = sum(abs(e) for row in energies.tolist() for e in row) / 15
    assert l1(energies).item() == pytest.approx(expected, rel=1e-14)


def test_gradient_is_the_sign_over_the_number_of_elements():
    energies = torch.tensor([[2.0, -3.0], [0.0, 1e-9]], requires_grad=True)
    l1(energies).backward()
    assert energies.grad.tolist() == [[0.25, -0.25], [0.0, 0.25]]


def test_huge_energies_stay_finite():
    assert l1(torch.full((4, 5), -1e30)).item() == pytest.approx(1e30)


def test_passes_gradcheck():
    energies = draw(3, 5)
    away_from_the_kink = energies + 0.1 * energies.sign()
    assert torch.autograd.gradcheck(l1, away_from_the_kink.requires_grad_())


def test_a_stack_gives_each_replicas_own_value():
    energies = draw(2, 3, 4, 5)
    stacked = l1(energies)
    assert stacked.shape == (2, 3)
    singles = [l1(replica) for replica in energies.flatten(0, 1)]
    assert_close(stacked.flatten(), torch.stack(singles))
