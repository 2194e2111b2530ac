import pytest
import torch
from helpers.draws import draw

from implicit_em.losses import l1


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
