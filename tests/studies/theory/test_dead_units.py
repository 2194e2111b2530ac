"""Remedies for dead units: what each does in a step."""

from types import SimpleNamespace

import pytest
import torch
from helpers.draws import draw
from torch.testing import assert_close

from implicit_em.models import SpikeSlab
from implicit_em_studies.theory import dead_units
from implicit_em_studies.theory.dead_units import (
    Annealing,
    Auxiliary,
    Guarded,
    Prior,
    Restarted,
    guard,
)

X = 3 * draw(200, 6, dtype=torch.float32)
DEAD = 4


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(dead_units, "DEAD_AFTER", 3)


def made(kind):
    """A model of 9 units, one of which no sample activates."""
    torch.manual_seed(0)
    model = kind(6, 9, log_odds=4.0, temperature=0.05)
    scaled = X / X.square().mean(-1, keepdim=True).sqrt()
    model.encoder.linear.bias.data[DEAD] = 0.2 - (scaled @ model.weight[DEAD]).max()
    assert (model.encode(X) > 0).any(0).tolist() == [unit != DEAD for unit in range(9)]
    return model


def test_dead_units_reconstruct_what_is_left():
    model = made(Auxiliary)
    for _ in range(2):
        assert not model.training_outputs(X)["auxiliary"].any()
    auxiliary = model.training_outputs(X)["auxiliary"]
    scale = X.square().mean(-1, keepdim=True).sqrt()
    a = torch.relu(model.pre_activations(X / scale))[:, [DEAD]]
    assert a.any()
    assert_close(auxiliary, a * scale * model.weight[DEAD])


def test_dead_units_start_anew_and_are_active_then():
    model = made(Restarted)
    rows = model.weight.clone()
    for _ in range(2):
        model.training_outputs(X)
    assert torch.equal(model.weight, rows)
    outputs = model.training_outputs(X)
    assert (outputs["energies"] > 0).any(0).all()
    kept = [unit for unit in range(9) if unit != DEAD]
    assert torch.equal(model.weight[kept], rows[kept])
    assert_close(model.weight[DEAD].norm().detach(), torch.tensor(1.0))


def test_rare_units_have_higher_log_odds_of_being_off():
    model = made(Prior)
    plain = made(SpikeSlab)
    assert_close(model.training_outputs(X)["energies"], plain.training_outputs(X)["energies"])
    model.training_outputs(X)
    assert int(model.log_odds.argmax()) == DEAD
    assert float(model.log_odds[DEAD]) > 4 > float(model.log_odds.min())


def test_the_guard_has_a_gradient_where_a_code_has_none():
    model = made(Guarded)
    outputs = model.training_outputs(X)
    levels = outputs["levels"]
    assert_close(guard(levels), -(levels.var(0) + 1e-6).log().sum())
    (of_code,) = torch.autograd.grad(
        outputs["energies"].sum(), model.encoder.weight, retain_graph=True
    )
    (of_guard,) = torch.autograd.grad(guard(levels), model.encoder.weight)
    assert not of_code[DEAD].any()
    assert of_guard[DEAD].any()


def test_annealing_leads_l0_from_half_of_the_units_to_its_target():
    module = SimpleNamespace(
        hparams={"l0": 4},
        model=SimpleNamespace(weight=torch.zeros(128, 6)),
        control=SimpleNamespace(target=torch.zeros(())),
    )
    targets = []
    for epoch in range(8):
        trainer = SimpleNamespace(current_epoch=epoch, max_epochs=8)
        Annealing().on_train_epoch_start(trainer, module)
        targets.append(float(module.control.target))
    assert targets == pytest.approx([64, 32, 16, 8, 4, 4, 4, 4])
