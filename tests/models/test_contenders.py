"""The sparse autoencoders that the derived model is compared with: what each is known for."""

from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from helpers.models import mainly
from helpers.paths import ROOT
from helpers.replicas import IMAGES, assert_as_alone, blocks, configured, trained
from torch.testing import assert_close

from implicit_em import load
from implicit_em.codes import Code
from implicit_em.data import as_unit_float
from implicit_em.engine.modules import EnergyModule
from implicit_em.engine.rendezvous import arrange
from implicit_em.engine.stack import Stack, stack_models, takes_stacks
from implicit_em.losses import auxk, mse, target_l0
from implicit_em.models import BatchTopK, Dictionary, Gated, JumpReLU, TopK, dictionary
from implicit_em.models.dictionary import geometric_median
from implicit_em.models.linear import SharedInput
from implicit_em.models.topk import keep_largest
from implicit_em.training.run import train

CONTENDERS = {
    "l1": "loss.l1.weight=0.1",
    "l1_norm": "loss.l1.weight=0.1",
    "topk": "model.l0=3",
    "tied_topk": "model.l0=3",
    "batch_topk": "model.l0=3",
    "tied_batch_topk": "model.l0=3",
    "matryoshka": "model.l0=3",
    "jump_relu": "model.l0=3",
    "gated": "loss.l1.weight=0.1",
    "hybrid": "loss.tc.weight=0.1",
}
REVIVING = ("topk", "tied_topk", "batch_topk", "tied_batch_topk", "matryoshka")
UNIT = [name for name in CONTENDERS if name != "l1_norm"]
X = as_unit_float(IMAGES)


@pytest.fixture
def contender(composed, monkeypatch):
    """Build a contender's LightningModule, started from the images."""
    monkeypatch.setattr(EnergyModule, "steps_done", 100)  # without a Trainer, which counts them
    composed = cache(composed)

    def contender(name, *overrides, seed=0):
        cfg = composed(f"model={name}", "model.hidden=32", "lr.value=0.01", *overrides)
        module = configured(cfg, seed)
        module.model.start(X)
        return module

    return contender


def stacks_of(modules):
    """The number of stacks that runs with the same block make."""
    requests = [SimpleNamespace(module=one, block=blocks(1)[0]) for one in modules]
    return len(arrange(requests, 1))


@pytest.mark.parametrize("name", mainly(CONTENDERS))
def test_a_familys_sweep_of_seed_rate_and_sparsity_trains_as_each_alone(name, contender):
    dead_soon = ["model.dead_after=96"] if name in REVIVING else []
    build = [
        partial(contender, name, *dead_soon, *overrides, seed=seed)
        for seed, overrides in enumerate([[], ["lr.value=0.003"], [CONTENDERS[name]], []])
    ]
    assert takes_stacks(build[0]().model)
    together = assert_as_alone(build, [blocks(1), blocks(1), blocks(1), blocks(2)])
    rows = [tensors["encoder.linear.weight"] for _, tensors in together]
    for make, found in zip(build, rows, strict=True):
        assert not torch.equal(found, make().model.weight)
    assert not torch.equal(rows[0], rows[2])


def slope_of(model):
    """Return the gradient of the decoder's matrix."""
    return model.weight.grad.mT if model.tied else model.decoder.weight.grad


def test_runs_of_any_temperature_and_target_train_as_alone(contender):
    company = [
        ["model.l0=null", "model.temperature=0.02"],
        ["model.l0=null", "model.temperature=0.05", "lr.value=0.003"],
        ["model.l0=null", "model.temperature=0.02", "loss.slab.weight=0.5"],
    ]
    build = [partial(contender, "spike_slab", *own, seed=seed) for seed, own in enumerate(company)]
    assert_as_alone(build, [blocks(1), blocks(1), blocks(2)])
    assert stacks_of([make() for make in build]) == 1
    other = contender("spike_slab", "model.l0=null", "model.log_odds=9")
    assert stacks_of([build[0](), other]) == 2


@pytest.mark.parametrize("name", mainly(UNIT))
def test_columns_of_the_decoder_have_length_1_after_each_step(name, contender):
    module = contender(name)
    stack = Stack([module])
    for block in blocks(1, steps=6, count=6):
        before = module.model.decoder.weight.detach().clone()
        stack.train([block])
        columns, slope = module.model.decoder.weight.detach(), slope_of(module.model)
        assert_close(columns.norm(dim=0), torch.ones(32), rtol=1e-6, atol=0)
        assert not torch.equal(columns, before)
        assert ((before * slope).sum(0).abs() <= 1e-5 * slope.norm()).all(), "along the columns"


@pytest.mark.parametrize("frozen", ["encoder", "decoder", "near"])
def test_what_is_frozen_keeps_its_random_start_alone_and_in_company(frozen, contender):
    """At a rate that turns every free column far away from its start."""
    build = [
        partial(contender, "frozen_topk", f"model.frozen={frozen}", "lr.value=0.3", seed=seed)
        for seed in (0, 1)
    ]
    together = assert_as_alone(build, [blocks(1, steps=40), blocks(2, steps=40)])
    for make, (_, tensors) in zip(build, together, strict=True):
        before = make().model.state_dict()
        encoder, decoder = "encoder.linear.weight", "decoder.weight"
        for name in (encoder, decoder):
            assert torch.equal(tensors[name], before[name]) == (name.startswith(frozen))
        cosines = (tensors[decoder] * before[decoder]).sum(0)
        if frozen == "near":
            assert cosines.min() == pytest.approx(0.8, abs=1e-5)
            assert_close(tensors[decoder].norm(dim=0), torch.ones(32))
            assert torch.equal(tensors["start_columns"], before[decoder])
        elif frozen == "encoder":
            assert cosines.min() < 0.7, "nothing holds it"
    moved = {name for name, _ in build[0]().model.named_parameters()}
    left = [name for name in (encoder, decoder) if name not in moved]
    assert all(name.startswith(frozen) for name in left), "no optimizer sees it"
    assert len(left) == (frozen != "near")


def test_columns_are_turned_back_the_shortest_way():
    model = TopK(64, 32, frozen="near")
    start = model.decoder.weight.detach().clone()
    with torch.no_grad():
        model.decoder.weight.copy_(torch.randn(64, 32))
    free = model.decoder.weight.detach().clone()
    model.after_step()
    near = model.decoder.weight.detach()
    assert_close((near * start).sum(0), torch.full((32,), 0.8))
    across = free - start * (free * start).sum(0)
    assert_close(near - 0.8 * start, 0.6 * across / across.norm(dim=0))


def test_free_columns_change_their_lengths(contender):
    module = contender("l1_norm")
    assert_close(module.model.decoder.weight.norm(dim=0), torch.full((32,), 0.1))
    trained([module], [blocks(1)])
    assert module.model.decoder.weight.norm(dim=0).std() > 1e-3


@pytest.mark.parametrize("name", CONTENDERS)
def test_the_encoder_starts_as_the_decoder_transposed(name, contender):
    model = contender(name).model
    assert torch.equal(model.weight, model.decoder.weight.T)
    assert (model.encoder.linear.bias == 0).all()


@pytest.mark.parametrize("middle", ["zero", "mean", "median"])
def test_the_decoders_bias_starts_in_the_middle(middle):
    model = Dictionary(64, 32, middle=middle)
    model.start(X)
    expected = {"zero": torch.zeros(64), "mean": X.mean(0), "median": geometric_median(X)}
    assert torch.equal(model.decoder.bias.detach(), expected[middle])
    z = (X - model.decoder.bias) @ model.weight.T
    assert_close(model.encode(X), z.relu(), rtol=1e-4, atol=1e-5)
    model.subtract_bias = False
    assert_close(model.encode(X), (X @ model.weight.T).relu())


@pytest.mark.parametrize("way", ["dense", "stacked", "sparse"])
@pytest.mark.parametrize("cls", [Dictionary, TopK, BatchTopK, JumpReLU, Gated])
def test_a_tied_matrix_gets_the_gradients_of_encoder_and_decoder(cls, way):
    x = X.double()
    tied, free = (cls(64, 32, tied=tied).double() for tied in (True, False))
    tied.start(x)
    free.load_state_dict(tied.state_dict() | {"decoder.weight": tied.decoder.weight})
    stepped = stack_models([tied]) if way == "stacked" else tied
    for model in (stepped, free):
        model.dead_after = 1
        if way == "stacked" and model.tied:
            outputs = model.training_outputs(SharedInput(x[None], [1]))
        elif way == "sparse" and model.tied:
            outputs = model.sparse_outputs(x, x.numel())
            assert isinstance(outputs["energies"], Code)
        else:
            outputs = model.training_outputs(x)
        parts = [outputs[name] for name in ("reconstruction", "auxiliary") if name in outputs]
        sum((part - x).square().sum() for part in parts).backward()
    expected = {name: parameter.grad for name, parameter in free.named_parameters()}
    expected["encoder.linear.weight"] += expected.pop("decoder.weight").T
    found = {name: parameter.grad for name, parameter in stepped.named_parameters()}
    assert found.keys() == expected.keys()
    for name, slope in expected.items():
        assert slope.norm() > 0
        assert_close(found[name].view_as(slope), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
def test_columns_keep_their_length_in_blocks_as_in_one(tied, monkeypatch):
    models = [Dictionary(64, 96, tied=tied) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    slope = torch.randn(64, 96)
    for model, columns in zip(models, (96, 32), strict=True):
        monkeypatch.setattr(dictionary, "COLUMNS", columns)
        weight = model.decoder.weight.detach()
        if tied:
            model.weight.grad = slope.T.clone()
        else:
            model.decoder.weight.grad = slope.clone()
        model.before_step()
        assert_close((weight * slope_of(model)).sum(0), torch.zeros(96), rtol=0, atol=1e-5)
        weight.add_(slope_of(model))
        model.after_step()
        assert_close(weight.norm(dim=0), torch.ones(96))
    assert_close(models[0].decoder.weight, models[1].decoder.weight)


def test_the_geometric_median_has_the_least_summed_distance_and_ignores_outliers():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    x[:20] += 1000
    median = geometric_median(x, tolerance=1e-7)
    assert median.norm() < 0.3 < x.mean(0).norm()
    least = (x - median).norm(dim=1).sum()
    for step in torch.eye(3):
        assert (x - median - 0.01 * step).norm(dim=1).sum() > least
        assert (x - median + 0.01 * step).norm(dim=1).sum() > least


@pytest.mark.parametrize("count", [1, 5, 64])
def test_of_each_row_the_largest_are_kept_and_get_a_gradient(count):
    z = torch.randn(4, 16, 64, requires_grad=True)
    kept = keep_largest(z, count)
    assert ((kept != 0).sum(-1) == count).all()
    smallest = z.topk(count).values[..., -1:]
    assert torch.equal(kept, z.where(z >= smallest, 0))
    kept.sum().backward()
    assert torch.equal(z.grad, (kept != 0).float())


def test_of_equal_activations_the_first_are_kept_in_any_company():
    z = torch.randint(1, 4, (3, 50, 40)).float()
    kept = keep_largest(z, [2, 7, 30])
    for alone, together, count in zip(z, kept, [2, 7, 30], strict=True):
        assert torch.equal(keep_largest(alone, count), together)
        assert ((together > 0).sum(-1) == count).all()
        places = (-alone).sort(dim=-1, stable=True).indices[:, :count]
        assert torch.equal(together > 0, torch.zeros_like(alone).scatter(-1, places, 1) > 0)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_topk_has_exactly_k_active_units(k, contender):
    module = contender("topk", f"model.l0={k}")
    trained([module], [blocks(1)])
    candidates = (Dictionary.encode(module.model, X) > 0).sum(1)
    assert (candidates >= k).float().mean() > 0.9
    for energies in (module(X), module.model.training_outputs(X)["energies"]):
        assert torch.equal((energies > 0).sum(1), candidates.clamp(max=k))


def test_batch_topk_has_k_active_units_on_average(contender):
    module = contender("batch_topk", "model.l0=4", "+model.momentum=0.1")
    trained([module], [blocks(1, steps=60)])
    outputs = module.model.training_outputs(X)
    counts = (outputs["energies"] > 0).sum(1)
    assert counts.sum() == 4 * len(X)
    assert len(counts.unique()) > 2, "a sample's own number differs"
    found = (module(X) > 0).sum(1).float().mean()
    assert_close(found, torch.tensor(4.0), rtol=0.1, atol=0)


def test_what_batch_topk_encodes_does_not_depend_on_the_batch():
    model = BatchTopK(64, 32, k=4)
    for _ in range(100):
        model.training_outputs(X[:100])
    smallest = keep_largest(Dictionary.encode(model, X[:100]).flatten(), 400)
    smallest = smallest[smallest > 0].min()
    assert_close(model.threshold, (smallest * (1 - 0.99**100))[None])
    assert_close(model.encode(X)[:3], model.encode(X[:3]))
    before = model.threshold.clone()
    model.encode(X)
    assert torch.equal(model.threshold, before)


def test_a_batch_without_activity_leaves_the_threshold():
    model = BatchTopK(64, 32, k=4)
    model.threshold.fill_(0.5)
    with torch.no_grad():
        model.encoder.linear.bias.fill_(-100)
    assert (model.training_outputs(X)["energies"] == 0).all()
    assert model.threshold == 0.5


@pytest.mark.parametrize("tied", [False, True])
def test_units_that_are_silent_for_long_are_dead_and_learn_from_what_is_missing(tied):
    # Three batches and one sample of the fourth: a batch counts as a whole.
    model = TopK(64, 32, k=2, dead_after=3 * len(X) + 1, subtract_bias=False, tied=tied)
    with torch.no_grad():
        model.encoder.linear.bias[:5] = -0.5
        model.weight[:5] = 0.01
    for _ in range(3):
        assert (model.training_outputs(X)["auxiliary"] == 0).all()
    with torch.no_grad():
        model.encoder.linear.bias[:5] = 1e-3
    outputs = model.training_outputs(X)
    assert (model.silent_samples[:5] == 4 * len(X)).all()
    loss = auxk(outputs["auxiliary"], outputs["reconstruction"], X)
    loss.backward()
    dead = model.silent_samples > 3 * len(X)
    assert 5 <= dead.sum() < 32
    revived = Dictionary.encode(model, X) * dead
    assert torch.equal((slope_of(model) != 0).any(0), (revived > 0).any(0))
    assert model.decoder.bias.grad is None
    missing = X - outputs["reconstruction"]
    assert_close(loss, (revived @ model.decoder.weight.T - missing).square().mean())


@pytest.mark.parametrize(("features", "revived"), [(1, None), (4, 0)])
def test_the_dead_are_revived_by_as_many_as_there_are(features, revived):
    model = TopK(features, 6, k=1, revived=revived, dead_after=1)
    x = torch.tensor([[1.0], [-1.0]]).expand(2, features)
    outputs = [model.training_outputs(x)["auxiliary"] for _ in range(3)][-1]
    assert outputs.shape == x.shape
    assert (outputs.abs().sum() > 0) == (revived is None)


def test_an_active_unit_is_not_dead():
    model = TopK(64, 32, k=32, dead_after=1)
    model.training_outputs(X)
    assert (model.silent_samples == 0).any()
    assert auxk(torch.zeros(2, 8, 64), torch.zeros(2, 8, 64), torch.ones(2, 8, 64)).eq(0).all()


@pytest.mark.parametrize("threshold", [0.3, 0.05])
def test_a_units_jump_and_its_pseudo_derivatives(threshold):
    model = JumpReLU(64, 32, k=3, threshold=threshold, bandwidth=0.2, middle="zero")
    z = (X @ model.weight.T).relu()
    outputs = model.training_outputs(X)
    assert torch.equal(outputs["active"], (z > threshold).float())
    assert_close(outputs["energies"], z * (z > threshold))
    assert torch.equal(outputs["energies"], model.encode(X))
    torch.manual_seed(0)
    of_activations, of_active = torch.randn(2, *z.shape)
    (outputs["energies"] * of_activations + outputs["active"] * of_active).sum().backward()
    near = ((z - threshold).abs() < 0.1) & (z > 0)  # ReLU's zeros are near none
    slope = -((threshold * of_activations + of_active) * near / 0.2).sum(0)
    assert near.sum() > 100
    assert_close(model.log_threshold.grad, threshold * slope, rtol=1e-4, atol=1e-4)
    expected = (of_activations * (z > threshold)).sum(0)
    assert_close(model.encoder.linear.bias.grad, expected, rtol=1e-4, atol=1e-4)


def test_a_gate_opens_and_the_magnitude_says_how_far():
    model = Gated(64, 32, middle="mean")
    model.start(X)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (model.log_scale, model.magnitude_bias, model.encoder.linear.bias):
            parameter.normal_()
    shared = (X - model.decoder.bias) @ model.weight.T
    gate = shared + model.encoder.linear.bias
    magnitude = model.log_scale.exp() * shared + model.magnitude_bias
    outputs = model.training_outputs(X)
    assert_close(outputs["energies"], (gate > 0) * magnitude.relu(), rtol=1e-4, atol=1e-5)
    assert_close(outputs["gates"], gate.relu(), rtol=1e-4, atol=1e-5)
    expected = gate.relu() @ model.decoder.weight.T + model.decoder.bias
    assert_close(outputs["auxiliary"], expected, rtol=1e-4, atol=1e-5)
    mse(outputs["auxiliary"], X).backward()
    assert model.decoder.weight.grad is None
    assert model.weight.grad.norm() > 0
    assert model.magnitude_bias.grad is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(TopK, k=33), "k=33: allowed are whole numbers from 1 to 32"),
        (partial(TopK, k=2.5), "k=2.5: allowed are whole numbers"),
        (partial(TopK, dead_after=0.5), "dead_after=0.5: allowed are whole numbers from 1 on"),
        (partial(TopK, revived=-1), "revived=-1: allowed are null and whole numbers from 0 on"),
        (partial(BatchTopK, momentum=7), "momentum=7: allowed are numbers above 0, up to 1"),
        (partial(JumpReLU, bandwidth=0), "bandwidth=0: allowed are finite numbers above 0"),
        (partial(JumpReLU, threshold=float("inf")), "threshold=inf: allowed are finite"),
        (partial(Dictionary, unit_columns="maybe"), "unit_columns=maybe: allowed are true, false"),
        (partial(Dictionary, tied="yes"), "tied=yes: allowed are true, false"),
        (partial(Dictionary, middle="mode"), "middle=mode: allowed are zero, mean, median"),
        (partial(TopK, frozen="all"), "frozen=all: allowed are null, encoder, decoder, near"),
        (partial(TopK, frozen="near", tied=True), "frozen=near with tied=true: allowed is null"),
        (
            partial(TopK, frozen="near", unit_columns=False),
            "unit_columns=false with frozen=near: allowed is true",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(64, 32)


@pytest.mark.slow
@pytest.mark.parametrize("k", [4, 8, 16])
def test_jump_relu_comes_to_its_target_on_mnist(k, composed, tmp_path):
    cfg = composed(
        *("model=jump_relu", f"model.l0={k}", "trainer.max_epochs=5"),
        *(f"data.root={ROOT / 'data'}", "probe=none", "logger=csv"),
    )
    found = 64 * train(cfg, tmp_path / "run")["density"]
    # Density counts activities above 0.01, which every threshold exceeds.
    assert load(tmp_path / "run").log_threshold.exp().min() > 0.01
    assert found == pytest.approx(k, rel=0.05)


def test_the_number_of_active_units_is_drawn_to_the_target():
    active = torch.zeros(2, 10, 8)
    active[0, :, :4] = 1
    active[1, :5, :4] = 1
    assert_close(target_l0(active, torch.tensor([4.0, 4.0])), torch.tensor([0.0, 0.25]))
    assert_close(target_l0(active[0], torch.tensor(2.0)), torch.tensor(1.0))
