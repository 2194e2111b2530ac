import pytest
import torch
from helpers.draws import draw

from implicit_em.losses import orthogonality


def test_is_the_squared_distance_of_the_row_products_from_the_identity():
    weight, expected = draw(4, 6), 0.0
    rows = weight.tolist()
    for i, left in enumerate(rows):
        for j, right in enumerate(rows):
            product = sum(a * b for a, b in zip(left, right, strict=True))
            expected += (product - (i == j)) ** 2
    assert orthogonality(weight).item() == pytest.approx(expected, rel=1e-12)


def test_unit_rows_at_right_angles_cost_nothing():
    rotation, _ = torch.linalg.qr(draw(6, 6))
    assert orthogonality(rotation[:4]).item() == pytest.approx(0, abs=1e-25)


def test_more_rows_than_columns_cannot_be_free():
    # K unit rows in D dimensions: ||W W^T||_F^2 >= K^2 / D, the bound reached by a tight frame.
    assert orthogonality(torch.eye(3).repeat(2, 1)).item() == 6**2 / 3 - 6
