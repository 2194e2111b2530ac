"""What the classes of this project declare about themselves is true."""

import inspect
from functools import partial
from itertools import product

import pytest
import torch
from helpers.models import MODELS, OPTIONS, TIED
from helpers.stacking import parts_give_the_same, stacks_give_the_same_bits
from torch import nn
from torch.testing import assert_close

from implicit_em import losses, models
from implicit_em.engine.modules import EncoderModule, module_class
from implicit_em.losses import Objective, StackedObjective, Term
from implicit_em.models import Encoder
from implicit_em.models.activations import ELEMENTWISE
from implicit_em.models.declarations import undeclared

THRESHOLD = {nn.Threshold: {"threshold": 0.1, "value": 0.05}}
ACTIVATIONS = [partial(cls, **THRESHOLD.get(cls, {})) for cls in (*ELEMENTWISE, models.Abs)]
MARKS = (losses.makes_sparse, losses.takes_codes, losses.takes_stacks)
TERMS = [
    *(Term(f) for f in vars(losses).values() if inspect.isfunction(f)),
    *(Term(losses.lse, options={"reduction": reduction}) for reduction in ("mean", "count")),
    Term(losses.lse, options={"temperature": 2.0}),
    Term(losses.decorrelation, options={"unbiased": True}),
    Term(losses.decorrelation, options={"reduction": "mean"}),
]
EACH_TERM = pytest.mark.parametrize(
    "term",
    [term for term in TERMS if term.function not in MARKS],
    ids=lambda term: "-".join([term.function.__name__, *map(str, term.options.values())]),
)
TRIALS = {"takes_stacks": stacks_give_the_same_bits, "takes_parts": parts_give_the_same}


def holds(model, declaration):
    module = module_class(f"{type(model).__module__}.{type(model).__qualname__}")
    return TRIALS[declaration](model, module.outputs)


def build(cls):
    torch.manual_seed(0)
    return cls(64) if cls is models.Pixels else cls(64, 32, **OPTIONS.get(cls, {}))


@pytest.mark.parametrize("declaration", TRIALS)
@pytest.mark.parametrize("cls", MODELS + TIED)
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


def inputs_of(term, *leading, samples=32, units=32, width=64):
    """Random tensors that a term takes, in float64, by their names."""
    shapes = {"weight": (units, width), "decoder": (width, units), "k": ()}
    shapes |= {"prefixes": (samples, 3, width)} | dict.fromkeys(
        ("x", "target", "reconstruction", "auxiliary"), (samples, width)
    )
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {name: 2 * draw((*leading, *shapes.get(name, (samples, units)))) for name in term.inputs}


@EACH_TERM
def test_terms_that_take_stacks_give_each_replica_its_bits(term):
    assert term.function.takes_stacks
    inputs = {name: value.float() for name, value in inputs_of(term, 3).items()}

    def differentiated(tensors):
        objective = StackedObjective(
            [Objective({"term": term})] * len(next(iter(tensors.values()))), torch.ones(())
        )
        tensors = {name: value.detach().requires_grad_() for name, value in tensors.items()}
        total, parts, starts = objective.differentiate(tensors)
        torch.autograd.backward(*zip(*starts, strict=True))
        gradients = [value.grad for value in tensors.values() if value.grad is not None]
        return [total, *parts, *gradients]

    together = differentiated(inputs)
    for number in range(3):
        alone = differentiated({k: v[number : number + 1] for k, v in inputs.items()})
        assert len(alone) == len(together)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[number])


@EACH_TERM
def test_a_stack_of_any_shape_gives_each_replica_the_value_that_it_has_without_a_stack(term):
    inputs = {n: value.requires_grad_() for n, value in inputs_of(term, 2, 3).items()}
    if "energies" in inputs:
        inputs["energies"].data[1, 1, :, 2] = 0.1  # a unit that is dead
    found = term.function(**inputs, **term.options)
    assert found.shape == (2, 3)
    for place in product(range(2), range(3)):
        own = {name: value[place] for name, value in inputs.items()}
        assert_close(found[place], term.function(**own, **term.options))


@EACH_TERM
@pytest.mark.parametrize(("samples", "units"), [(5, 3), (3, 5)])
def test_the_gradient_of_a_term_is_its_slope(term, samples, units):
    inputs = inputs_of(term, samples=samples, units=units, width=4)
    learned = {term.inputs[0], "decoder"} & inputs.keys()
    for name in learned:
        value = inputs[name] - 1
        inputs[name] = (value + 0.1 * value.sign()).requires_grad_()  # away from the kink of l1
    assert torch.autograd.gradcheck(
        lambda *values: term.function(**dict(zip(inputs, values, strict=True)), **term.options),
        tuple(inputs.values()),
    )


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
    ("cls", "declaration"), [*product((Levelled, Noisy), TRIALS), (Counting, "takes_parts")]
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


def test_rows_are_a_decoder_where_the_body_of_the_class_says_so():
    class Tied(Encoder):
        decodes = True

    class Changed(Tied):
        def forward(self, x):
            return 2 * super().forward(x)

    model, x = Tied(6, 4), torch.randn(3, 6)
    assert torch.equal(model.reconstruct(x), model.encode(x) @ model.weight)
    with pytest.raises(ValueError, match=r"^Changed: its rows are no decoder; .*fit_decoder"):
        Changed(6, 4).reconstruct(x)
    assert torch.equal(models.Pixels(6).reconstruct(x), x)
