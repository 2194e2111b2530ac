"""The control of L0: its law, its place in a step, and where the biases start."""

import math
from functools import partial

import pytest
import torch
from helpers.replicas import IMAGES, assert_as_alone, blocks, run, trained
from hypothesis import given
from hypothesis import strategies as st

from implicit_em.data import Block, as_unit_float
from implicit_em.engine import control
from implicit_em.engine.control import SparsityControl, State, law, start_near
from implicit_em.engine.modules import EncoderModule
from implicit_em.engine.stack import Stack, outputs_of, stack_models
from implicit_em.losses import (
    Term,
    decorrelation,
    gates_l1,
    gates_mse,
    l1,
    lse,
    makes_sparse,
    mse,
    slab,
    variance,
)
from implicit_em.models import (
    Dictionary,
    Encoder,
    Gated,
    SampledEncoder,
    SparseAutoencoder,
    SpikeSlab,
)

DERIVED = {"lse": Term(lse, warmup=3), "var": Term(variance), "tc": Term(decorrelation)}
RECONSTRUCTING = {"mse": Term(mse), "l1": Term(l1, 0.03)}
GATED = {"mse": Term(mse), "l1": Term(gates_l1, 0.03), "gates": Term(gates_mse)}
SCORE = {"mse": Term(mse), "slab": Term(slab)}
FAMILIES = {
    Encoder: DERIVED,
    SampledEncoder: DERIVED,
    SparseAutoencoder: RECONSTRUCTING,
    Dictionary: RECONSTRUCTING,
    Gated: GATED,
}
counts = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def followed(l0s, target, start=0.0, end=1.0):
    """The factors of a training whose steps have these L0, and its last state."""
    state = State(*map(number, (target, 0, 0)))
    factors = []
    for step, l0 in enumerate(l0s):
        progress = start + (end - start) * step / len(l0s)
        state, factor = law(state, number(l0), number(target), number(progress))
        factors.append(factor.item())
    return factors, state


def reference(l0s, target):
    """The same by the formula, in Python's own numbers."""
    integral, held, factors = 0.0, 0.0, []
    for step, l0 in enumerate(l0s):
        progress = step / len(l0s)
        error = math.log(l0 / target)
        error = max(-control.LARGEST_ERROR, min(control.LARGEST_ERROR, error))
        rate = (1 - progress**2) * control.FIRST_RATE + progress**2 * control.LAST_RATE
        integral += rate * error
        integral = max(-control.WIDEST, min(control.WIDEST, integral))
        exponent = integral + control.GAIN * error
        if progress < control.HOLD:
            held = (1 - control.AVERAGING) * held + control.AVERAGING * exponent
        factors.append(math.exp(exponent if progress < control.HOLD else held))
    return factors


def test_the_law_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    l0s = (40 * torch.rand(500, generator=generator, dtype=torch.float64)).tolist()
    assert followed(l0s, 8.0)[0] == pytest.approx(reference(l0s, 8.0), rel=1e-12)


def simulated(speed, steps=1500, target=8.0, needed=4.0, drift=0.0):
    """L0 of a training in which its logarithm falls as the factor exceeds the one needed.

    It does so with inertia, as with Adam. ``speed`` is the change in a step if the factor is e
    times too large. ``drift`` is the change of the needed factor's logarithm in all: features that
    grow need less of a penalty.
    """
    state, log_l0, change, l0s = State(*map(number, (target, 0, 0))), 4.0, 0.0, []
    for step in range(steps):
        l0s.append(math.exp(log_l0))
        state, factor = law(state, number(l0s[-1]), number(target), number(step / steps))
        too_large = math.log(factor.item() / needed) - drift * step / steps
        change = 0.9 * change - 0.1 * speed * too_large
        log_l0 = min(log_l0 + change, 5.5)
    return l0s


@pytest.mark.parametrize("power", [1, 3, 5])
def test_l0_that_follows_at_once_comes_to_its_target_without_a_swing(power):
    state, l0s, target = State(*map(number, (8.0, 0, 0))), [400.0], number(8.0)
    for step in range(60):
        state, factor = law(state, number(l0s[-1]), target, number(step / 60), prompt=True)
        l0s.append(400 / factor.item() ** power)
    assert l0s == pytest.approx(sorted(l0s, reverse=True), rel=1e-9)
    assert l0s[-1] == pytest.approx(8, rel=1e-3)


def test_a_step_sets_the_temperature_of_the_next_one():
    replica = controlled(3, network=SpikeSlab, terms=SCORE, dtype=torch.float64)
    started, fresh = replica.model.temperature.clone(), SparsityControl(3, prompt=True)
    ((found, _),) = trained([replica], [blocks()])
    for step, (l0, temperature) in enumerate(found[:, -2:]):
        factor = fresh.update(l0, number(step / 6))
        assert temperature == started * factor.to(started.dtype)
    assert replica.model.temperature == temperature != started
    assert replica.model.initial == started


@pytest.mark.parametrize("drift", [0, -2])
@pytest.mark.parametrize("speed", [0.01, 0.03, 0.1, 0.2])
def test_l0_settles_whether_units_respond_slowly_or_fast(speed, drift):
    assert simulated(speed, drift=drift)[-200:] == pytest.approx([8.0] * 200, rel=0.05)


@given(l0s=counts, target=st.floats(0.01, 1e4))
def test_the_factor_is_bounded_whatever_happens(l0s, target):
    factors, state = followed(l0s * 5, target)
    bound = control.WIDEST + control.GAIN * control.LARGEST_ERROR
    assert all(0 < factor <= math.exp(bound) * (1 + 1e-9) for factor in factors)
    assert abs(state.integral) <= control.WIDEST


def test_at_the_end_the_factor_is_constant_whatever_l0_does():
    before, after = [12.0] * 1194, [0.0, 3.0, 1e6, 8.0, 0.0, 30.0]
    held, _ = followed(before + after, 8.0)
    constant = held[-len(after) :]
    assert len(set(constant)) == 1
    assert 1 < constant[0] < held[1193]


def test_held_out_samples_that_are_denser_lower_the_target_of_the_batches():
    led, plain = SparsityControl(8.0), SparsityControl(8.0)
    for _ in range(20):
        led.compare(number(10.0))
    assert led.ratio == pytest.approx(1.25, rel=1e-4)
    on_target = [module.update(number(8.0), number(0.5)).item() for module in (led, plain)]
    assert on_target[1] == 1 < on_target[0]
    for l0, ratio in ((1e9, control.MOST_APART), (0.0, 1 / control.MOST_APART)):
        for _ in range(40):
            led.compare(number(l0))
        assert led.ratio == pytest.approx(ratio)


@given(data=st.data())
def test_replicas_are_controlled_to_the_same_bits_in_any_company(data):
    replicas = data.draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    draw = partial(torch.rand, replicas, generator=generator, dtype=torch.float64)
    alone = [SparsityControl(target) for target in (20 * draw() + 0.1).tolist()]
    together = stack_models([SparsityControl(one.target.item()) for one in alone])
    for progress in (0.3, 0.7, 0.9):
        l0, shares = 40 * draw(), progress + 0.05 * draw()
        found = together.update(l0, shares)
        expected = [c.update(x, p) for c, x, p in zip(alone, l0, shares, strict=True)]
        assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_state_keeps_its_precision(dtype):
    module = SparsityControl(1 / 3)
    module.integral.fill_(0.1)
    module.to(dtype)
    assert (module.target, module.integral) == (number(1 / 3), number(0.1))


def controlled(target, steps=6, **options):
    replica = run(steps_in_all=steps, **options)
    replica.control = SparsityControl(target, bool(replica.model.steered))
    return replica


@pytest.mark.parametrize(
    ("network", "hidden"),
    [*((network, 32) for network in (*FAMILIES, SpikeSlab)), (Encoder, 5), (SparseAutoencoder, 5)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_controlled_run_trains_as_alone(network, hidden, dtype):
    terms = FAMILIES.get(network, SCORE)
    options = {"network": network, "terms": terms, "hidden": hidden, "dtype": dtype}
    build = [
        partial(controlled, target, steps, seed=seed, **options)
        for seed, (target, steps) in enumerate([(2, 6), (3.5, 6), (2, 60), (4, 9)])
    ]
    assert_as_alone(build, [blocks(seed // 2, count=3) for seed in range(4)])


@pytest.mark.parametrize("network", FAMILIES)
def test_a_step_has_the_users_weight_times_the_factor_without_warm_up(network):
    terms = FAMILIES[network]
    replica = controlled(3, steps=6, network=network, terms=terms, dtype=torch.float64)
    before = [p.detach().clone() for p in replica.model.parameters()]
    ((found, _),) = trained([replica], [blocks()])
    first = as_unit_float(IMAGES[blocks()[0].batches[0]]).double()
    for parameter, value in zip(replica.model.parameters(), before, strict=True):
        parameter.data = value
    energies = outputs_of(replica.model, first)["energies"]
    assert found[0, -2] == pytest.approx((energies > 0).double().sum(1).mean().item(), rel=1e-6)

    (name,) = replica.objective.sparse
    term, fresh, column = terms[name], SparsityControl(3), 1 + list(terms).index(name)
    for step, values in enumerate(found):
        factor = fresh.update(values[-2], number(step / 6))
        weight = term.weight * factor
        assert values[-1].item() == pytest.approx(weight.item(), rel=1e-12)
        weights = [one.weight for one in terms.values()]
        weights[column - 1] = weight
        total = sum(w * v for w, v in zip(weights, values[1:-2], strict=True))
        assert values[0].item() == pytest.approx(total.item(), rel=1e-9)


def test_one_factor_holds_for_all_terms_that_make_sparse_also_a_users_own():
    @makes_sparse
    def own(energies):
        return energies.square().mean((-2, -1))

    terms = {"lse": Term(lse), "own": Term(own, 4.0), "var": Term(variance)}
    ((values, _),) = trained([controlled(3, terms=terms)], [blocks()])
    assert values.shape[1] == 1 + 3 + 1 + 2
    torch.testing.assert_close(values[:, -1], 4 * values[:, -2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_goes_backward_at_its_own_temperature(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    options = {"network": SpikeSlab, "terms": SCORE, "dtype": torch.float64}
    options["optimizer"] = torch.optim.SGD
    plain, compiled = (
        trained([controlled(3, compiled=one, **options)], [blocks(steps=2)])[0]
        for one in (False, True)
    )
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("units", [5, 300])
@pytest.mark.parametrize("network", FAMILIES)
def test_each_unit_starts_with_the_same_share_of_active_samples(network, units):
    torch.manual_seed(0)
    model = network(64, units).double()
    x = as_unit_float(IMAGES).double()
    if model.start:
        model.start(x)
    model.place_biases(x, 0.2)
    active = (model.encode(x) > 0).double().mean(0)
    assert active == pytest.approx(0.2 * torch.ones(units), abs=1.1 / len(x))
    if isinstance(model, Gated):
        gates = model.training_outputs(x)["gates"] > 0
        assert torch.equal(gates, model.encode(x) > 0)


@pytest.mark.parametrize(("target", "share"), [(2, 0.125), (5, 0.3125), (8, 0.5), (32, 0.5)])
def test_an_autoencoder_starts_with_twice_the_target_or_half_of_all(target, share):
    model, x = SparseAutoencoder(64, 32), as_unit_float(IMAGES)
    start_near(target, model, lambda: x)
    assert (model.encode(x) > 0).float().mean().item() == pytest.approx(share, abs=0.005)


def test_the_derived_model_starts_as_it_is():
    model, x = Encoder(64, 32), as_unit_float(IMAGES)
    before = model.linear.bias.clone()
    start_near(2, model, lambda: x)
    assert torch.equal(model.linear.bias, before)


@pytest.mark.parametrize(
    ("network", "terms"),
    [
        (Encoder, DERIVED),
        (Dictionary, RECONSTRUCTING),
        (Gated, GATED),
        (SpikeSlab, SCORE),
    ],
    ids=["encoder", "l1", "gated", "spike_slab"],
)
def test_the_target_is_reached(network, terms):
    steps, target = 800, 8
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 32, generator=generator).abs()
    replica = controlled(target, steps, terms=terms, network=lambda _, k: network(32, k))
    replica.optimizer.param_groups[0]["lr"] = 3e-3
    if replica.model.start:
        replica.model.start(x)
    start_near(target, replica.model, lambda: x)
    batches = [torch.randint(0, 1000, (32,), generator=generator) for _ in range(steps)]
    Stack([replica]).train([Block(x, batches)])
    with torch.no_grad():
        reached = (replica.model.encode(x) > 0).float().sum(1).mean().item()
    assert reached == pytest.approx(target, rel=0.05)


def test_a_module_refuses_what_it_cannot_be_led_to():
    model = {"in_features": 64, "hidden": 5}
    for l0 in (0, -1, 5.5):
        with pytest.raises(ValueError, match=rf"^l0={l0}: must be above 0 and at most 5"):
            EncoderModule(model, l0=l0)
    loss = {"var": {"_target_": "implicit_em.losses.variance"}}
    with pytest.raises(ValueError, match=r"^l0=2: none of the loss terms \(var\) makes"):
        EncoderModule(model, loss, l0=2)
