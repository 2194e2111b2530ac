"""What the classes of this project declare about themselves is true."""

import inspect
from functools import partial

import pytest
import torch
from helpers.stacking import parts_give_the_same, stacks_give_the_same_bits
from torch import nn

from implicit_em import losses, models
from implicit_em.engine.modules import EncoderModule, module_class
from implicit_em.losses import Objective, StackedObjective, Term
from implicit_em.models import Encoder
from implicit_em.models.activations import ELEMENTWISE
from implicit_em.models.declarations import undeclared

MODELS = [model for model in vars(models).values() if hasattr(model, "weight")]
OPTIONS = {nn.Threshold: {"threshold": 0.1, "value": 0.05}}
ACTIVATIONS = [partial(cls, **OPTIONS.get(cls, {})) for cls in (*ELEMENTWISE, models.Abs)]
TERMS = [
    term
    for term in vars(losses).values()
    if inspect.isfunction(term)
    and term not in (losses.makes_sparse, losses.takes_codes, losses.takes_stacks)
]
TRIALS = {"takes_stacks": stacks_give_the_same_bits, "takes_parts": parts_give_the_same}


def holds(model, declaration):
    module = module_class(f"{type(model).__module__}.{type(model).__qualname__}")
    return TRIALS[declaration](model, module.outputs)


def build(cls):
    torch.manual_seed(0)
    return cls(64) if cls is models.Pixels else cls(64, 32)


@pytest.mark.parametrize("declaration", TRIALS)
@pytest.mark.parametrize("cls", MODELS)
def test_a_model_declares_what_is_true_of_it(cls, declaration):
    model = build(cls)
    assert (undeclared(model, declaration) == []) == holds(model, declaration)


@pytest.mark.parametrize("declaration", TRIALS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda one: one.func.__name__)
def test_activations_treat_each_element_by_itself(activation, declaration):
    model = Encoder(64, 32, activation())
    assert undeclared(model, declaration) == []
    assert holds(model, declaration)


@pytest.mark.parametrize("layer", [nn.Linear(32, 32), nn.LayerNorm(32), nn.PReLU(32)])
def test_layers_of_torch_take_parts_but_no_stacks(layer):
    model = Encoder(64, 32, nn.Sequential(layer, nn.Tanh()))
    assert undeclared(model, "takes_stacks") == [type(layer).__name__]
    assert undeclared(model, "takes_parts") == []
    assert holds(model, "takes_parts")


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_terms_that_take_stacks_give_each_replica_its_bits(term):
    assert term.takes_stacks
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 32, 64), "decoder": (3, 64, 32), "k": (3,)} | dict.fromkeys(
        ("x", "reconstruction", "auxiliary"), (3, 32, 64)
    )
    inputs = {
        name: torch.rand(shapes.get(name, (3, 32, 32)), generator=generator).requires_grad_()
        for name in Term(term).inputs
    }

    def differentiated(tensors):
        objective = StackedObjective(
            [Objective({"term": Term(term)})] * len(next(iter(tensors.values()))), torch.ones(())
        )
        tensors = {name: value.detach().requires_grad_() for name, value in tensors.items()}
        total, parts, starts = objective.differentiate(tensors)
        torch.autograd.backward(*zip(*starts, strict=True))
        return [
            total,
            *parts,
            *(value.grad for value in tensors.values() if value.grad is not None),
        ]

    together = differentiated(inputs)
    for number in range(3):
        alone = differentiated({k: v[number : number + 1] for k, v in inputs.items()})
        assert len(alone) == len(together)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[number])


class Levelled(Encoder):
    """Takes the mean of everything."""

    takes_stacks = takes_parts = True

    def forward(self, x):
        energies = super().forward(x)
        return energies / energies.mean()


class Noisy(Encoder):
    """Draws random numbers."""

    takes_stacks = takes_parts = True

    def forward(self, x):
        energies = super().forward(x)
        return energies + torch.randn(energies.shape)


class Counting(Encoder):
    """Counts its steps in a buffer."""

    takes_parts = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("steps", torch.tensor(0.0))

    def forward(self, x):
        self.steps += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("cls", "declaration"),
    [
        (Levelled, "takes_stacks"),
        (Levelled, "takes_parts"),
        (Noisy, "takes_stacks"),
        (Noisy, "takes_parts"),
        (Counting, "takes_parts"),
    ],
)
def test_a_false_declaration_is_found_out(cls, declaration):
    model = build(cls)
    assert undeclared(model, declaration) == []
    assert not TRIALS[declaration](model, EncoderModule.outputs)


class Doubled(Encoder):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_subclass_and_each_part_of_a_model_declare_for_themselves():
    assert undeclared(Doubled(64, 32), "takes_stacks") == ["Doubled"]
    assert undeclared(Encoder(64, 32, nn.RReLU()), "takes_parts") == ["RReLU"]
