"""Layers on layers: the model, its terms, layers in turn, and what is measured of them."""

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from helpers.draws import draw
from helpers.stacking import stacks_give_the_same_bits
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from implicit_em.engine.modules import EncoderModule, build_objective
from implicit_em.engine.stack import outputs_of
from implicit_em.models import Encoder
from implicit_em.models.declarations import undeclared
from implicit_em_studies.shared.measurements import Measurement
from implicit_em_studies.theory.depth import SHOWN, Deep, InTurn, lower_terms, measure, mixture

DECAY = 0.1
ALIVE = 15
"""Seed of a net in which all units vary on the samples drawn here."""
LOSS = {
    "lse": {"_target_": "implicit_em.losses.lse"},
    "var": {"_target_": "implicit_em.losses.variance"},
    "tc": {"_target_": "implicit_em.losses.decorrelation"},
    "decay": {"_target_": "implicit_em.losses.decay", "weight": DECAY},
    "lower": {"_target_": "implicit_em_studies.theory.depth.lower_terms"},
}


def deep(layers=3, joint=True):
    torch.manual_seed(ALIVE)
    return Deep(6, 5, layers=layers, joint=joint).double()


def plain_layer(weight, bias, x):
    """The input of the next layer, and energies and objective of this one, written out."""
    energies = torch.relu(x @ weight.T + bias)
    correlations = torch.corrcoef(energies.T)
    loss = -(-energies).logsumexp(-1).sum()
    loss = loss - (energies.var(0) + 1e-6).log().sum()
    loss = loss + correlations.square().sum() - correlations.diagonal().square().sum()
    loss = loss + DECAY / 2 * weight.square().sum()
    return energies / (energies.square().mean(-1, keepdim=True) + 1e-6).sqrt(), energies, loss


def plain_net(parameters, x, joint):
    energies, losses = [], []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        above, own, loss = plain_layer(weight, bias, x)
        x = above if joint else above.detach()
        energies.append(own)
        losses.append(loss)
    return energies, sum(losses)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("joint", [True, False])
def test_energies_and_gradients_are_those_written_out(layers, joint):
    model, x = deep(layers, joint), draw(40, 6)
    parameters = [p for linear in model.linears for p in (linear.weight, linear.bias)]
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    energies, expected = plain_net(copies, x, joint)
    outputs = outputs_of(model, x)
    total, _ = build_objective(LOSS)(outputs)
    for found, own in zip(model.each(x), energies, strict=True):
        assert_close(found, own)
    assert_close(model(x), energies[-1])
    assert_close(outputs["lower"], torch.stack(energies[:-1]))
    assert_close(total, expected)
    expected.backward()
    total.backward()
    for parameter, copy in zip(parameters, copies, strict=True):
        assert_close(parameter.grad, copy.grad)


@pytest.mark.parametrize("joint", [True, False])
def test_the_last_layers_terms_reach_lower_layers_only_if_joint(joint):
    model = deep(joint=joint)
    model(draw(40, 6)).square().sum().backward()
    assert [linear.weight.grad is not None for linear in model.linears] == [joint, joint, True]


def test_the_first_layer_starts_as_a_layer_alone():
    torch.manual_seed(ALIVE)
    assert_close(Encoder(6, 5).double().weight, deep().linears[0].weight)


def test_one_layer_is_no_deep_net():
    with pytest.raises(ValueError, match="layers=1: must be at least 2"):
        Deep(6, layers=1)


def test_a_silent_layer_gives_zeros():
    model = deep()
    nn.init.constant_(model.linears[0].bias, -100)
    assert_close(model.each(draw(3, 6))[1], torch.relu(model.linears[1].bias).expand(3, 5))


def test_terms_of_lower_layers_have_their_gradients_and_take_stacks():
    lower, weight = draw(2, 2, 5, 3).requires_grad_(), draw(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lower_terms, (lower, weight))
    lower, weight = draw(2, 3, 32, 32).float(), draw(2, 32, 96).float()
    alone = [lower_terms(one[None], own[None]) for one, own in zip(lower, weight, strict=True)]
    assert torch.equal(lower_terms(lower, weight), torch.cat(alone))


@pytest.mark.parametrize("joint", [True, False])
def test_a_stack_gives_the_bits_of_its_runs(joint):
    model = Deep(32, 32, layers=3, joint=joint)
    assert undeclared(model, "takes_stacks") == []
    assert stacks_give_the_same_bits(model, outputs_of)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_layers_in_turn_are_trained_to_their_end_one_by_one():
    steps, x = 3, draw(40, 6)
    torch.manual_seed(ALIVE)
    spec = {"_target_": "implicit_em_studies.theory.depth.Deep", "in_features": 6, "hidden": 5}
    module = EncoderModule({**spec, "layers": 3, "joint": False}, LOSS).double()
    model = module.model
    inputs, expected = x, []
    for linear in model.linears:
        parameters = [p.detach().clone().requires_grad_() for p in linear.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            plain_layer(*parameters, inputs)[-1].backward()
            optimizer.step()
        inputs = plain_layer(*parameters, inputs)[0].detach()
        expected += parameters
    trainer = pl.Trainer(
        max_epochs=3 * steps, accelerator="cpu", callbacks=[InTurn()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x), len(x)))
    found = [p for linear in model.linears for p in linear.parameters()]
    for parameter, own in zip(found, expected, strict=True):
        assert_close(parameter.detach(), own.detach())


def test_layer_by_layer_the_lower_two_of_three_layers_are_a_net_of_two(monkeypatch):
    rows = [{"layers": 3, "layer": n, "units": 64} | dict.fromkeys(SHOWN, n) for n in (1, 2, 3)]
    families = [f"depth_{way}" for way in ("turns", "together", "joint")]
    found = pd.DataFrame({"family": families, "seed": 1, "rows": [rows] * 3})
    monkeypatch.setattr(Measurement, "of", lambda self, runs, workers: found)
    layers = measure([])["layers"].groupby(["way", "layers"])["probe_accuracy"].agg(list).to_dict()
    assert layers == {
        ("turns", 2): [1, 2],
        ("together", 2): [1, 2],
        ("turns", 3): [1, 2, 3],
        ("together", 3): [1, 2, 3],
        ("joint", 3): [1, 2, 3],
    }


def test_what_upper_units_are_made_of():
    # Lower units: two of class 0, one of class 1, a dead one. Upper units: of class 0, of 1, dead.
    lower = np.array([[9, 1], [8, 2], [1, 9], [0, 0]])
    upper = np.array([[10, 0], [4, 6], [0, 0]])
    weight = np.array([[6.0, 3.0, 1.0, -5.0], [0.05, -1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = mixture(weight, upper, lower)
    assert found["carried"] == 3  # of 3, 2 and 4
    assert found["agreement"] == pytest.approx((9 / 10 + 1 / 1.05) / 2)
    assert found["chance"] == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_dead_units_are_made_of_nothing():
    found = mixture(np.ones((2, 3)), np.zeros((2, 4), int), np.ones((3, 4), int))
    assert found["carried"] == 3
    assert np.isnan(found["agreement"])
    assert np.isnan(found["chance"])
