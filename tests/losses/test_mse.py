import pytest
import torch
from torch.testing import assert_close

from implicit_em.losses import mse


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def test_passes_gradcheck():
    assert torch.autograd.gradcheck(mse, (draw(3, 5).requires_grad_(), draw(3, 5, seed=1)))


def test_a_stack_gives_each_replicas_own_value():
    reconstruction, x = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    stacked = mse(reconstruction, x)
    assert stacked.shape == (2, 3)
    pairs = zip(reconstruction.flatten(0, 1), x.flatten(0, 1), strict=True)
    assert_close(stacked.flatten(), torch.stack([mse(a, b) for a, b in pairs]))
