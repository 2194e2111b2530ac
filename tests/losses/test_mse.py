import pytest
import torch
from helpers.draws import draw

from implicit_em.losses import mse


def test_is_the_mean_squared_error_over_all_elements():
    reconstruction, x = draw(3, 5), draw(3, 5, seed=1)
    total = 0.0
    for row, target in zip(reconstruction.tolist(), x.tolist(), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(row, target, strict=True))
    assert mse(reconstruction, x).item() == pytest.approx(total / 15, rel=1e-14)


def test_a_perfect_reconstruction_costs_nothing():
    x = draw(3, 5)
    assert mse(x, x).item() == 0


def test_does_not_depend_on_batch_size_or_width():
    assert mse(torch.full((3, 5), 2.0), torch.zeros(3, 5)).item() == 4
    assert mse(torch.full((6, 9), 2.0), torch.zeros(6, 9)).item() == 4
