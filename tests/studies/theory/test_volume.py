"""The candidates for a volume control, and what is measured of their runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.draws import draw
from torch.testing import assert_close

from implicit_em.models import Encoder
from implicit_em_studies.theory.volume import UnitRows, hinge, matched, penalty


def test_the_floor_is_what_deviations_lack():
    energies = torch.tensor([[0.0, 0.0], [2.0, 0.2]], dtype=torch.float64)
    lacking = 1 - (0.02 + 1e-4) ** 0.5
    assert hinge(energies).item() == pytest.approx(lacking, rel=1e-12)


def test_the_penalty_is_least_at_its_scale():
    energies = draw(50, 1)
    energies = (energies - energies.mean()) / energies.std()
    values = {scale: penalty(scale * energies, scale=7.0).item() for scale in (6.9, 7.0, 7.1)}
    assert min(values, key=values.get) == 7.0
    assert values[7.0] == pytest.approx(1 - np.log(49), rel=1e-6)


@pytest.mark.parametrize("function", [hinge, penalty])
def test_gradients_and_stacks(function):
    energies = draw(3, 8, 4)
    assert torch.autograd.gradcheck(function, 0.3 * energies.requires_grad_())
    assert_close(function(energies), torch.stack([function(one) for one in energies]))


def test_unit_rows_do_not_depend_on_their_length():
    torch.manual_seed(0)
    model, x = UnitRows(6, 5, gain=3.0), torch.randn(7, 6)
    before = model(x)
    plain = Encoder(6, 5)
    plain.weight.data = 3 * torch.nn.functional.normalize(model.weight.data)
    plain.linear.bias.data = model.linear.bias.data
    assert_close(before, plain(x))
    model.weight.data *= torch.tensor([[0.1], [2.0], [5.0], [1.0], [30.0]])
    assert_close(model(x), before)


def test_probes_are_compared_at_the_density_of_todays_runs():
    rows = [
        ("today", 1.0, 1e-3, 0.3, 0.93),
        ("today", 2.0, 1e-3, 0.1, 0.91),
        ("decay", 0.5, 1e-3, 0.4, 0.94),
        ("decay", 1.0, 1e-3, 0.2, 0.96),
        ("hinge", 1.0, 1e-3, 0.2, 0.99),
        ("today", 1.0, 1e-2, 0.9, 0.10),
    ]
    columns = ["candidate", "weight", "lr", "density", "probe_accuracy"]
    found = matched(pd.DataFrame(rows, columns=columns).assign(seed=1)).set_index("candidate")
    assert found.loc["today", "probe"] == pytest.approx(0.93)
    assert found.loc["decay", "probe"] == pytest.approx(0.95)
    assert np.isnan(found.loc["hinge", "probe"])
