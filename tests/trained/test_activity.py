"""The entries of a code on disk, against the code itself."""

import numpy as np
import pytest
import torch

from implicit_em import Encoder
from implicit_em.base.errors import RunError
from implicit_em.trained import activity as module
from implicit_em.trained.activity import Activity


@pytest.fixture(params=[10, 2**21])
def recorded(request, monkeypatch, tmp_path):
    """A model of 7 units and its code on 600 samples, recorded in blocks of 3 units."""
    monkeypatch.setattr(module, "BLOCK", 3)
    monkeypatch.setattr(module, "BUFFERED", request.param)
    torch.manual_seed(0)
    model, x_ND = Encoder(5, 7), torch.randn(600, 5)
    with torch.no_grad():
        model.linear.bias[2] = -100  # a dead unit
    done = []
    activity = Activity.record(model, x_ND, tmp_path, done.append)
    assert sum(done) == 600
    return activity, model.encode(x_ND).detach().numpy()


def test_each_unit_has_the_samples_that_activate_it(recorded):
    activity, codes_NK = recorded
    units = [unit for block in activity for unit in block]
    assert [len(block) for block in activity] == [3, 3, 1]
    assert [unit.number for unit in units] == list(range(7))
    for unit in units:
        expected_N = codes_NK[:, unit.number]
        assert unit.samples_E.tolist() == np.flatnonzero(expected_N > 0).tolist()
        assert (unit.values_E == expected_N[expected_N > 0]).all()
    assert len(units[2].samples_E) == 0
    asked = np.array([0, 599, 17, 17, 300])
    for unit in activity.block(0):
        assert (unit.at(asked) == codes_NK[asked, unit.number]).all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_an_activation_that_is_not_finite_is_refused(tmp_path, value):
    x_ND = torch.zeros(4, 2)
    x_ND[3, 1] = value
    with pytest.raises(RunError, match=r"samples 0 to 3: an activation is NaN or infinite"):
        Activity.record(Encoder(2, 3), x_ND, tmp_path, lambda done: None)
