"""Steps in bfloat16 under autocast: losses of float32, equal bits, results close to float32."""

import shutil
from functools import partial

import pytest
import torch
from helpers.models import mainly
from helpers.replicas import (
    IMAGES,
    Run,
    assert_as_alone,
    assert_same,
    blocks,
    configured,
    run,
    trained,
)
from torch.testing import assert_close

from implicit_em.data import as_unit_float
from implicit_em.engine.stack import Stack
from implicit_em.losses import Term, orthogonality
from implicit_em.models import JumpReLU
from implicit_em.models.topk import keep_largest

STEPS = 6
X = as_unit_float(IMAGES)
FAMILIES = {
    name: f"model={name} loss.auxk.weight=0.1 model.dead_after=1"
    for name in ("topk", "batch_topk", "tied_topk", "tied_batch_topk", "frozen_topk", "matryoshka")
}
FAMILIES |= {name: f"model={name}" for name in ("sae", "l1", "jump_relu", "gated", "hybrid")}
FAMILIES |= {"derived": "model=encoder", "derived with l0": "model=encoder model.l0=4"}
FAMILIES |= {"spike_slab": "model=spike_slab", "gated with l0": "model=gated model.l0=4"}
FAMILIES |= {
    "tied_topk swept": "model=tied_topk model.sweeps=3 model.refit=2",
    "spike_slab swept": "model=spike_slab model.sweeps=3",
}


@pytest.fixture(params=mainly(FAMILIES))
def build(composed, request):
    """Function from a seed and fields to a run of a family."""
    cfg = composed("model.hidden=32", "lr.value=0.01", *FAMILIES[request.param].split())

    def build(seed, **fields):
        module = configured(cfg, seed)
        if module.control is not None:
            module.model.place_biases(X, 0.1)
        fields |= {"control": module.control, "steps_in_all": STEPS}
        return Run(module.model, module.objective, module._optimizer, **fields)

    return build


def half():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture
def halved(monkeypatch):
    """Train each block under an autocast of its own, as a Trainer does with bf16-mixed."""
    monkeypatch.setattr(Stack, "train", half()(Stack.train))


def batches(count=2, seed=1):
    return blocks(seed, steps=STEPS, count=count)


def test_a_stack_and_blocks_of_any_length_give_the_same_bits(build, halved):
    (found, *_) = assert_as_alone([partial(build, seed) for seed in (1, 2, 3)], [batches()] * 3)
    (step_by_step,) = trained([build(1)], [batches(count=STEPS)])
    assert_same(found, step_by_step)


def test_a_run_goes_on_to_the_same_bits(build, halved):
    (whole,) = trained([build(1)], [batches()])
    first, second = batches()
    begun, goes_on = build(1), build(2)
    trained([begun], [[first]])
    for name in ("model", "optimizer", "control"):
        if getattr(begun, name) is not None:
            getattr(goes_on, name).load_state_dict(getattr(begun, name).state_dict())
    goes_on.steps_done = begun.steps_done
    ((losses, tensors),) = trained([goes_on], [[second]])
    assert_same((losses, tensors), (whole[0][-len(losses) :], whole[1]))


def test_results_are_close_to_those_of_float32_and_losses_are_float32(build):
    exact, found = build(1), build(1)
    ((expected, _),) = trained([exact], [batches()])
    with half():
        ((losses, _),) = trained([found], [batches()])
        measured = measurements(found.model)
    assert_close(losses, expected, rtol=0.03, atol=0.01 * expected[:, 0].abs().max().item())
    assert measured == pytest.approx(measurements(exact.model), rel=0.03)
    terms = losses[:, 1 : 1 + len(found.objective.terms)].T
    assert all((term != term.bfloat16()).any() or not term.any() for term in terms)


def measurements(model):
    """The share of active units, and the reconstruction error if there is a decoder."""
    with torch.no_grad():
        code = model.encode(X)
        errors = [(X - model.decode(code)).square().mean()] if hasattr(model, "decoder") else []
    return [float(number) for number in ((code > 0).double().mean(), *errors)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_give_about_the_same(build):
    short = [blocks(1, steps=2, count=1)]
    with half():
        ((expected, _),) = trained([build(1)], [short[0]])
        ((losses, _),) = trained([build(1, compiled=True)], short)
    scale = expected[:, 0].abs().max().item()
    assert_close(losses, expected, rtol=0.03, atol=0.01 * scale)


def test_layers_that_take_no_stacks_see_each_update(composed, halved):
    cfg = composed("model=topk", "model.hidden=24")
    assert_same(*(trained([configured(cfg, 1)], [batches(n)])[0] for n in (1, STEPS)))


def test_products_of_weights_in_a_term_are_exact():
    build = partial(run, terms={"one": Term(orthogonality)})
    ((expected, _),) = trained([build()], [blocks()])
    with half():
        ((losses, _),) = trained([build()], [blocks()])
    assert torch.equal(losses[0], expected[0])


def test_counts_that_bfloat16_lacks_are_exact():
    ones = torch.ones(2, 400, dtype=torch.bfloat16)
    assert keep_largest(ones, 257).sum(1, dtype=torch.int64).tolist() == [257, 257]
    with half():
        assert JumpReLU(4, 300, k=257).training_outputs(torch.ones(2, 4))["k"] == 257
