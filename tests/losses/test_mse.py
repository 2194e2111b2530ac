import pytest
from helpers.draws import draw

from implicit_em.losses import mse


def test_is_the_mean_squared_error_over_all_elements():
    reconstruction, x = draw(3, 5), draw(3, 5, seed=1)
    total = 0.0
    for row, target in zip(reconstruction.tolist(), x.tolist(), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(row, target, strict=True))
    assert mse(reconstruction, x).item() == pytest.approx(total / 15, rel=1e-14)
