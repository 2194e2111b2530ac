"""Units that are on or off: the identities of their energy, in float64, against the definitions."""

from functools import partial
from itertools import product

import pytest
import torch
from helpers.draws import draw
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.func import grad, jacrev, vmap
from torch.nn.functional import normalize
from torch.testing import assert_close

from implicit_em.losses import decorrelation, lse, mse, slab, variance
from implicit_em.models import SpikeSlab, spike_slab
from implicit_em.models.linear import SharedInput
from implicit_em.models.spike_slab import free_energy, gate

WIDTH, UNITS, SAMPLES = 5, 4, 6
numbers = st.floats(-1e3, 1e3)
temperatures = st.floats(1e-3, 1e3)
seeds = st.integers(0, 10**6)
few = settings(max_examples=25)
held_or_not = pytest.mark.parametrize("held", [True, False])


def made(seed=0, units=UNITS, temperature=0.15, log_odds=5.0, **options):
    """A model with random rows, biases and middle, of which some units are on, off and between."""
    model = SpikeSlab(
        *(WIDTH, units),
        temperature=temperature,
        log_odds=log_odds,
        **{"unit_columns": False, "scaled": False} | options,
    ).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.6 * draw(*parameter.shape, seed=seed + number))
    return model


def samples(seed=0):
    return 1.3 * draw(SAMPLES, WIDTH, seed=seed + 99)


def loss(model, x):
    """Half of the squared error and the slab's term, per sample."""
    outputs = model.training_outputs(x)
    terms = mse(outputs["reconstruction"], x) + slab(outputs["slab"], outputs["decoder"])
    return terms * x.shape[-1] / 2


def parts(model):
    """Rows, biases and middle of a model, as tensors that a test may differentiate by."""
    own = model.weight, model.encoder.linear.bias, model.decoder.bias
    return [part.detach().clone().requires_grad_() for part in own]


def activations(x, rows, bias, middle):
    return ((x - middle) @ rows.T + bias).relu()


def energy(x, states, rows, bias, middle, threshold):
    """The energy with the units given, ``|x - m|^2 / 2 + sum_j s_j e_j``."""
    on = threshold - activations(x, rows, bias, middle).square() / 2
    return (x - middle).square().sum(-1) / 2 + (states * on).sum(-1)


def matched(function, x, temperature):
    """Score matching of ``exp(-function / T)`` times T^2, by its definition (Hyvärinen 2005).

    The constant ``-T D`` is left out. ``function`` takes a sample; gives a value for each.
    """
    slopes, curvatures = vmap(grad(function))(x), vmap(jacrev(grad(function)))(x)
    laplacian = curvatures.diagonal(dim1=-2, dim2=-1).sum(-1)
    return slopes.square().sum(-1) / 2 + temperature * (x.shape[-1] - laplacian)


def states_of(r_BK):
    """All states of independent units, each with its chance for each sample."""
    for states in product((0.0, 1.0), repeat=r_BK.shape[-1]):
        states = torch.tensor(states, dtype=torch.float64)
        yield states, (states * r_BK + (1 - states) * (1 - r_BK)).prod(-1)


def expected(x, r_BK, rows, bias, middle, temperature, threshold):
    """The same of the energy with the units given, over all states of independent units."""
    total = 0.0
    for states, chance in states_of(r_BK):
        function = partial(energy, states=states, rows=rows, bias=bias, middle=middle)
        total += chance * matched(partial(function, threshold=threshold), x, temperature)
    return total.mean()


def marginal(x, rows, bias, middle, temperature, threshold, unit=free_energy):
    """Score matching of the free energy."""

    def function(x):
        on = threshold - activations(x, rows, bias, middle).square() / 2
        return (x - middle).square().sum(-1) / 2 + unit(on, temperature).sum(-1)

    return matched(function, x, temperature).mean()


def half_of_the_variance(model, x, r_BK):
    """Half of the posterior's variance of the reconstruction, a mean over samples."""
    a = model.energies(x).sub(model.log_odds * model.temperature).mul(-2)
    return ((r_BK * (1 - r_BK) * a) @ model.weight.square().sum(-1)).mean() / 2


def threshold_of(model):
    """The temperature, and the energy of a unit that is on without evidence."""
    return model.temperature, model.log_odds * model.temperature


def softplus(energies, temperature):
    """The free energy of a unit that is on or off, without the bounded support."""
    return -temperature * (-energies / temperature).exp().log1p()


@given(e=numbers, t=temperatures)
@example(e=0.0, t=1.0)
@example(e=3.0, t=1.0)
@example(e=-3.0, t=1.0)
def test_the_slope_of_the_free_energy_is_the_responsibility(e, t):
    e = torch.tensor(e, dtype=torch.float64, requires_grad=True)
    value = free_energy(e, t)
    (slope,) = torch.autograd.grad(value, e)
    assert_close(slope, gate(e, t), rtol=1e-9, atol=1e-12)
    assert 0 <= slope <= 1
    # It is within 9/16 T of the energy of a unit that takes the better of both states.
    assert min(e.item(), 0) - 9 / 16 * t * (1 + 1e-9) - 1e-12 <= value <= min(e.item(), 0) + 1e-12


@given(e=st.floats(-0.999, 0.999), t=temperatures)
def test_the_gate_has_the_slope_that_is_written(e, t):
    energies = torch.tensor(3 * e * t, dtype=torch.float64, requires_grad=True)
    s = 0.5 - e / 2
    (slope,) = torch.autograd.grad(gate(energies, t), energies)
    assert slope.item() == pytest.approx(-s * (1 - s) / t, rel=1e-9)


def test_the_gate_is_the_sigmoid_at_its_middle_and_has_ends():
    e = torch.tensor([0.0, 3.0, -3.0, 4.0, -4.0], dtype=torch.float64, requires_grad=True)
    values = gate(2 * e, 2.0)
    assert values.tolist() == [0.5, 0, 1, 0, 1]
    values.sum().backward()
    assert e.grad.tolist() == [-0.25, 0, 0, 0, 0]
    assert gate(torch.tensor(2.9), 1.0) > 0
    assert gate(torch.tensor(-2.9), 1.0) < 1


@few
@given(seed=seeds, log_odds=st.floats(3.01, 30))
def test_the_free_energy_has_the_responsibilities_and_the_reconstruction_as_slopes(seed, log_odds):
    model, x = made(seed, log_odds=log_odds), samples(seed).requires_grad_()
    e = model.energies(x).detach().requires_grad_()
    (r,) = torch.autograd.grad(free_energy(e, model.temperature).sum(), e)
    assert_close(r, model.responsibilities(x))
    assert_close(model.encode(x), r * activations(x, *parts(model)))
    (slope,) = torch.autograd.grad(model.free_energy(x).sum(), x)
    found = model.encode(x) @ model.weight - (x - model.decoder.bias)
    assert_close(-slope, found, rtol=1e-9, atol=1e-12)
    assert_close(model.reconstruct(x) - x, found)
    assert_close(model.free_energy(x)[0], model.free_energy(x[0]))
    assert_close(model.reconstruct(x)[0], model.reconstruct(x[0]))


@pytest.mark.parametrize("odds", [None, -3.0, 3.0], ids=["z = 0", "off", "fully on"])
def test_the_slope_of_the_free_energy_is_continuous(odds):
    model = made(units=1)
    row, middle = model.weight[0].detach(), model.decoder.bias.detach()
    z = 0.0 if odds is None else (2 * (model.log_odds + odds) * model.temperature.item()) ** 0.5

    def slope(model, z):
        along = (z - model.encoder.linear.bias) / row.square().sum() * row
        return (model.reconstruct(middle + along) - along).detach()

    assert_close(slope(model, z - 1e-9), slope(model, z + 1e-9), rtol=0, atol=1e-7)
    jump = (2 * model.log_odds * model.temperature.item()) ** 0.5
    hard = [slope(model.hard(), jump + step) for step in (-1e-9, 1e-9)]
    assert (hard[0] - hard[1]).norm() > 0.1 * jump, "the hard limit has a step"


def assert_same_slopes(found, model, expected, of):
    """Compare a loss of a model with one of its parts, and both gradients."""
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    found.backward()
    own = model.weight.grad, model.encoder.linear.bias.grad, model.decoder.bias.grad
    for mine, theirs in zip(own, torch.autograd.grad(expected, of), strict=True):
        assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_without_holding_the_loss_is_score_matching_of_the_free_energy(seed):
    model, x, of = made(seed, held=False), samples(seed), None
    of = parts(model)
    assert_same_slopes(loss(model, x), model, marginal(x, *of, *threshold_of(model)), of)


@pytest.mark.parametrize("seed", range(4))
def test_the_slabs_term_is_the_divergence_of_the_reconstruction(seed):
    model, x = made(seed, held=False), samples(seed)
    jacobian = vmap(jacrev(model.reconstruct))(x)
    divergence = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1).mean()
    outputs = model.training_outputs(x)
    found = slab(outputs["slab"], outputs["decoder"]) * WIDTH / 2
    assert_close(found, (model.temperature * divergence).squeeze())
    assert divergence > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_holding_it_is_that_of_the_energy_with_the_units_given_over_all_their_states(seed):
    model, x = made(seed), samples(seed)
    of, r = parts(model), model.responsibilities(x).detach()
    assert ((r > 0) & (r < 1)).any()
    assert_same_slopes(loss(model, x), model, expected(x, r, *of, *threshold_of(model)), of)


@few
@given(seed=seeds)
def test_held_responsibilities_leave_out_at_least_half_of_the_posteriors_variance(seed):
    model, x = made(seed), samples(seed)
    r = model.responsibilities(x)
    held = loss(model, x)
    model.held = False
    assert loss(model, x) - held >= half_of_the_variance(model, x, r) - 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_with_the_sigmoid_it_would_be_half_of_the_variance(seed):
    model, x = made(seed), samples(seed)
    of, at = parts(model), threshold_of(model)
    r = torch.sigmoid(-model.energies(x) / model.temperature).detach()
    gap = marginal(x, *of, *at, softplus) - expected(x, r, *of, *at)
    assert_close(gap, half_of_the_variance(model, x, r), rtol=1e-9, atol=1e-12)


@held_or_not
@few
@given(a=st.lists(st.floats(0, 4), min_size=1, max_size=6), t=st.floats(0.05, 5))
def test_the_closed_gradient_of_a_step_is_its_slope(held, a, t):
    t = torch.tensor([t], dtype=torch.float64)
    a = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    ends = (2 * (5.0 + torch.tensor([-3.0, 3.0])) * t).sqrt()
    a.data += 1e-3 * ((a[:, None] - ends).abs() < 1e-4).any(1)  # the slope of s (1 - s) jumps there
    if not held:
        assert gradcheck(lambda a: spike_slab._Step.apply(a, t, 5.0, False), a)
        return
    r = gate(5 * t - a.square() / 2, t).detach()
    by_definition = r * a, t * r + r * (1 - r) * a.square() / 2
    for found, value in zip(spike_slab._Step.apply(a, t, 5.0, True), by_definition, strict=True):
        assert_close(found, value)
        slopes = [torch.autograd.grad(one.sum(), a, retain_graph=True)[0] for one in (found, value)]
        assert_close(*slopes)


def moved(model, rows, bias=1.0, temperature=1.0, middle=None):
    """The model with other rows, and biases and temperature times a factor."""
    other = made(units=len(model.weight), log_odds=model.log_odds, held=model.held)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.weight.copy_(rows)
        other.encoder.linear.bias.mul_(bias)
        other.temperature.mul_(temperature)
        if middle is not None:
            other.decoder.bias.copy_(middle)
    return other


def derived(rows, bias, x):
    """The paper's objective of a derived model with these rows."""
    energies = nn.functional.linear(x, rows, bias).relu()
    return lse(energies) + variance(energies) + decorrelation(energies)


@held_or_not
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_sees_the_data_up_to_rotation_and_scale_and_the_papers_sees_no_map(seed, held):
    model, x = made(seed, units=6, held=held), samples(seed)
    rows, middle = model.weight.detach(), model.decoder.bias.detach()
    before, code = loss(model, x), model.encode(x)
    assert (code > 0).sum() > SAMPLES

    rotation, _ = torch.linalg.qr(draw(WIDTH, WIDTH, seed=seed))
    turned = moved(model, rows @ rotation.T, middle=middle @ rotation.T)
    assert_close(turned.encode(x @ rotation.T), code)
    assert_close(loss(turned, x @ rotation.T), before)

    scaled = moved(model, rows, 3.0, 9.0, 3 * middle)
    assert_close(scaled.encode(3 * x), 3 * code)
    assert_close(loss(scaled, 3 * x), 9 * before)

    change = draw(WIDTH, WIDTH, seed=seed + 1)
    mapped, back = x @ change.T, torch.linalg.inv(change)
    other = moved(model, rows @ back, middle=middle @ change.T)
    assert_close(other.encode(mapped), code, rtol=1e-9, atol=1e-9)
    assert abs(loss(other, mapped) / before - 1) > 0.05, "the same code, another loss"
    bias = model.encoder.linear.bias
    assert_close(derived(rows @ back, bias, mapped), derived(rows, bias, x), rtol=1e-10, atol=0)


@pytest.mark.parametrize("threshold", [0.5, 1.5])
def test_as_the_temperature_falls_the_code_becomes_hard_and_the_slabs_term_0(threshold):
    t = 1e-9
    model, x = made(temperature=t, log_odds=threshold**2 / 2 / t), samples()
    z = model.pre_activations(x)
    assert ((z > threshold).sum(0) > 0).sum() > 1
    hard = z * (z > threshold)
    assert_close(model.encode(x), hard)
    assert_close(model.hard().encode(x), hard)
    assert_close(model.hard().reconstruct(x), hard @ model.weight + model.decoder.bias)
    error = (x - model.decoder.bias - hard @ model.weight).square().sum(1).mean() / 2
    assert_close(loss(model, x), error, rtol=1e-7, atol=0)


@pytest.mark.parametrize("options", [{}, {"subtract_bias": False}, {"units": 1}, {"units": 9}])
def test_the_hard_model_is_on_where_the_responsibility_exceeds_one_half(options):
    model, x = made(**options), samples()
    r, hard = model.responsibilities(x), model.hard()
    on = r > 0.5
    assert on.any()
    assert not on.all()
    assert_close(hard.encode(x), model.pre_activations(x) * on)
    assert_close(hard.weight, model.weight)


@held_or_not
def test_a_dead_unit_has_no_part_in_anything(held):
    model, x = made(held=held), samples()
    with torch.no_grad():
        model.encoder.linear.bias[1] = -100
    value = loss(model, x)
    value.backward()
    assert (model.encode(x)[:, 1] == 0).all()
    assert (model.responsibilities(x)[:, 1] == 0).all()
    assert (model.weight.grad[1] == 0).all()
    assert model.encoder.linear.bias.grad[1] == 0
    others = [0, 2, 3]
    alone = made(units=3, held=held)
    with torch.no_grad():
        alone.weight.copy_(model.weight[others])
        alone.encoder.linear.bias.copy_(model.encoder.linear.bias[others])
        alone.decoder.bias.copy_(model.decoder.bias)
    assert_close(loss(alone, x), value)


@held_or_not
@pytest.mark.parametrize("units", [1, UNITS])
def test_the_loss_of_a_batch_is_the_mean_over_batches_of_one(units, held):
    model, x = made(units=units, held=held), samples()
    alone = torch.stack([loss(model, one) for one in x.split(1)])
    assert alone.std() > 0.1
    assert_close(loss(model, x), alone.mean())


@held_or_not
@pytest.mark.parametrize("size", [1e3, 1e9, 1e17])
def test_huge_activations_are_finite(size, held):
    model = made(held=held).float()
    x = (size * samples()).float()
    outputs = model.training_outputs(x)
    terms = mse(outputs["reconstruction"], x) + slab(outputs["slab"], outputs["decoder"])
    terms.backward()
    tensors = [*outputs.values(), model.energies(x), model.responsibilities(x)]
    tensors += [terms, *(p.grad for p in model.parameters())]
    assert all(tensor.isfinite().all() for tensor in tensors)
    z = model.pre_activations(x)
    assert_close(outputs["energies"], z.relu())
    assert_close(outputs["slab"], model.temperature * (z > 0))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_the_temperature_is_placed_so_that_a_share_of_the_activations_is_not_0(share, monkeypatch):
    model, x = made(units=8), draw(400, WIDTH)
    model.place_biases(x, share)
    positive = (model.pre_activations(x) > 0).double().mean().item()
    found = (model.encode(x) > 0).double().mean().item()
    assert found == pytest.approx(min(share, positive / 2), abs=1 / 400)
    assert model.initial == model.temperature
    monkeypatch.setattr(spike_slab, "PLACED", 800)
    model.place_biases(x, share)
    assert (model.encode(x) > 0).double().mean().item() == pytest.approx(found, abs=0.1)
    placed = model.temperature.clone()
    model.decoder.bias.data.zero_()
    model.place_biases(torch.zeros_like(x), share)
    assert torch.equal(model.temperature, placed), "no unit says anything"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature=0: allowed are finite numbers above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"log_odds": 3}, "log_odds=3: allowed are finite numbers above 3"),
        ({"held": "yes"}, "held=yes: allowed are true, false"),
        ({"tied": False}, "tied=false: allowed is true"),
        ({"activation": nn.Softplus()}, "activation=Softplus.*: allowed is relu"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SpikeSlab(WIDTH, UNITS, **options)


@pytest.mark.parametrize("subtract_bias", [False, True])
def test_a_scaled_model_multiplies_the_code_as_the_sample_is(subtract_bias):
    model, x = made(scaled=True, subtract_bias=subtract_bias), samples()
    bias = model.decoder.bias.detach()
    middle = bias if subtract_bias else torch.zeros_like(bias)
    code, factor = model.encode(x), draw(SAMPLES, 1, seed=7).abs() + 0.01
    assert 0 < (code > 0).double().mean() < 1
    longer = middle + factor * (x - middle)
    assert torch.allclose(model.encode(longer), factor * code, rtol=1e-10)
    moved = factor * (model.reconstruct(x) - bias)
    assert torch.allclose(model.reconstruct(longer) - bias, moved, rtol=1e-10)
    assert torch.allclose(model.responsibilities(longer), model.responsibilities(x))
    assert (model.encode(middle.expand_as(x)) == 0).all()
    root = (x - middle).square().mean(-1, keepdim=True).sqrt()
    plain = made(scaled=False, subtract_bias=False)
    plain.load_state_dict(model.state_dict())
    plain.decoder.bias.data.zero_()
    y = ((x - middle) / root).requires_grad_()
    assert torch.allclose(code, root * plain.encode(y))
    scaled, ordinary = model.training_outputs(x), plain.training_outputs(y)
    assert torch.allclose(scaled["slab"], root.square() * ordinary["slab"])
    free_energies = plain.free_energy(y)
    (slope,) = torch.autograd.grad(free_energies.sum(), y)
    expected = root * (y - slope) + bias
    assert torch.allclose(model.reconstruct(x), expected), "a step down the energy reconstructs"
    if subtract_bias:
        assert torch.allclose(model.free_energy(x), free_energies)


def test_a_step_of_a_scaled_model_moves_its_middle_as_the_decoders_bias_alone():
    model, x = made(scaled=True, subtract_bias=True), samples()
    (slope,) = torch.autograd.grad(loss(model, x), model.decoder.bias)
    assert_close(slope, (model.reconstruct(x) - x).mean(0))


def test_a_stack_subtracts_the_middle_of_each_replica():
    alone = [made(seed, scaled=True, subtract_bias=True) for seed in (0, 1)]
    stack, x = made(scaled=True, subtract_bias=True), samples()
    states = [model.state_dict() for model in alone]
    for name, own in [*stack.named_parameters(), *stack.named_buffers()]:
        own.data = torch.stack([state[name] for state in states])
    outputs = stack.training_outputs(SharedInput(x[None], [2]))
    for number, model in enumerate(alone):
        for name, own in model.training_outputs(x).items():
            if name != "decoder":
                assert_close(outputs[name][number], own)


def test_samples_of_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="must be floating point"):
        SpikeSlab(WIDTH, UNITS).encode(torch.ones(2, WIDTH, dtype=torch.int64))


def with_unit_rows(model):
    with torch.no_grad():
        model.weight.copy_(normalize(model.weight, dim=1))
    return model


def variational(model, x, r_BK):
    """``E_q |x - m - sum_j s_j c_j w_j|^2 / 2``; in q, units are on with r, and ``c = a``."""
    a = model.pre_activations(x).relu()
    residuals = (
        chance * (x - model.decoder.bias - (states * a) @ model.weight).square().sum(-1)
        for states, chance in states_of(r_BK)
    )
    return sum(residuals).mean() / 2


def tangential(grad, rows):
    return grad - (grad * rows).sum(1, keepdim=True) * rows


@few
@given(seed=seeds)
def test_the_step_is_the_tangential_gradient_of_a_variational_free_energy(seed):
    """Of ``p(x | s, c) = N(m + sum_j s_j c_j w_j, T I)``, where r is held; also with the gate."""
    model, x = with_unit_rows(made(seed)), samples(seed)
    r_BK = model.responsibilities(x).detach()
    parameters = [model.weight, model.encoder.linear.bias, model.decoder.bias]
    of_step = torch.autograd.grad(loss(model, x), parameters)
    of_energy = torch.autograd.grad(variational(model, x, r_BK), parameters)
    rows = model.weight.detach()
    assert_close(tangential(of_step[0], rows), tangential(of_energy[0], rows))
    assert_close(of_step[1:], of_energy[1:])


@few
@given(seed=seeds)
def test_the_e_step_updates_each_unit_as_if_all_units_were_off(seed):
    """For the sigmoid, without biases: what makes the free energy least in r_j and c_j."""
    model = with_unit_rows(made(seed))
    nn.init.zeros_(model.encoder.linear.bias)
    x, (temperature,), odds = draw(1, WIDTH, seed=seed + 9), model.temperature, model.log_odds
    with torch.no_grad():
        r_K = torch.sigmoid(-model.energies(x)[0] / temperature)
        centred = x[0] - model.decoder.bias

        def free(unit, r, c):
            off, on = (
                (centred - s * c * model.weight[unit]).square().sum() / (2 * temperature)
                for s in (0, 1)
            )
            value = (1 - r) * off + r * (on + odds)  # up to a constant of the prior
            return value + torch.special.xlogy(r, r) + torch.special.xlogy(1 - r, 1 - r)

        a_K = model.pre_activations(x)[0].relu()
        for unit in range(UNITS):
            least = free(unit, r_K[unit], a_K[unit])
            for r in torch.linspace(0, 1, 21, dtype=torch.float64):
                for c in (a_K[unit] * 0.9, a_K[unit], a_K[unit] + 0.1):
                    assert least <= free(unit, r, c) + 1e-9


def test_the_e_step_is_no_sweep_and_may_raise_the_free_energy():
    """Two equal rows that fit a sample are both switched on, and explain it twice."""
    model = SpikeSlab(2, 2, scaled=False, temperature=0.01, log_odds=5.0).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        model.encoder.linear.bias.zero_()
        model.decoder.bias.zero_()
    x = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert_close(model.responsibilities(x), torch.ones(1, 2, dtype=torch.float64))
    assert variational(model, x, one).item() == pytest.approx(0, abs=1e-12)
    assert variational(model, x, torch.ones_like(one)).item() == pytest.approx(2.0)


@pytest.mark.parametrize("seed", range(3))
def test_unit_rows_of_an_overcomplete_model_leave_no_density(seed):
    """``exp(-F / T)`` grows along directions in which the squared activations exceed 1."""
    model = with_unit_rows(made(seed, units=8 * WIDTH))
    x = normalize(draw(200, WIDTH, seed=seed), dim=1)
    with torch.no_grad():
        excess = nn.functional.linear(x, model.weight).relu().square().sum(1)
        far = [model.free_energy(model.decoder.bias + length * x) for length in (1e3, 2e3)]
    assert (excess > 1).double().mean() > 0.95, "almost everywhere"
    assert ((far[1] - far[0] < 0) == (excess > 1)).all()
