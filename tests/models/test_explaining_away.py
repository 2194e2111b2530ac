"""What the page on explaining away states, in float64, with sweeps that are written out here."""

from itertools import product
from typing import NamedTuple

import pytest
import torch
from helpers.draws import draw
from torch import Tensor, nn
from torch.autograd import grad
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import logsigmoid, normalize
from torch.testing import assert_close

from implicit_em.models import SpikeSlab, TopK, spike_slab


class Models(NamedTuple):
    """M models of K units, each with one sample, less m. A rate of 0 is the flat prior."""

    x_MD: Tensor
    rows_MKD: Tensor
    temperature_M1: Tensor
    log_odds_M1: Tensor
    rate_M1: Tensor


def models(count, units, width, seed=0, temperatures=(0.01, 3.0)):
    """Random models with rows of any length; each second one has an exponential prior."""
    low, high = temperatures
    share = torch.special.ndtr(draw(count, 1, seed=seed + 1))
    return Models(
        2 * draw(count, width, seed=seed),
        draw(count, units, width, seed=seed + 2),
        low * (high / low) ** share,
        4 * draw(count, 1, seed=seed + 3),
        draw(count, 1, seed=seed + 4).abs() * (torch.arange(count) % 2)[:, None],
    )


def nothing(model):
    """Responsibilities and strengths before the first sweep, both ``(M, K)``."""
    return torch.zeros(2, *model.rows_MKD.shape[:2], dtype=torch.float64)


def unexplained(model, r, c):
    """What the code ``r c`` leaves of the sample, ``(M, D)``."""
    return model.x_MD - ((r * c)[:, None] @ model.rows_MKD)[:, 0]


def squares(model):
    return model.rows_MKD.square().sum(-1)


def sigmoid(energies, temperature):
    return torch.sigmoid(-energies / temperature)


def log_sum_exp(energies, temperature):
    """The free energy of a unit that is on or off, with the sigmoid as its slope."""
    return temperature * logsigmoid(energies / temperature)


def coin(r):
    """The entropy of a coin."""
    return -torch.special.xlogy(r, r) - torch.special.xlogy(1 - r, 1 - r)


def of_the_gate(r):
    """What the gate has in place of the coin's entropy: ``U(e) = min_r (r e - T h(r))``."""
    e = 6 * torch.sin(torch.asin(1 - 2 * r) / 3)
    return r * e - spike_slab.free_energy(e, 1.0)


def heard(model, r, c):
    """Strengths and energies of all units, each given the others."""
    explained = squares(model) * r * c
    evidence = (model.rows_MKD @ unexplained(model, r, c)[..., None])[..., 0] + explained
    strengths = (evidence - model.rate_M1 * model.temperature_M1).relu() / squares(model)
    threshold = model.log_odds_M1 * model.temperature_M1
    return strengths, threshold - squares(model) * strengths.square() / 2


def parallel(model, r, c, shift=0.0, unit=sigmoid):
    """One sweep that updates all units at once."""
    strengths, energies = heard(model, r, c)
    return unit(energies + shift, model.temperature_M1), strengths


def updates(model, r, c, shift=0.0, unit=sigmoid, sweeps=1):
    """Sweeps that update one unit after the other; gives what each update leads to."""
    for chosen in torch.eye(r.shape[-1], dtype=torch.bool).repeat(sweeps, 1):
        new_r, new_c = parallel(model, r, c, shift, unit)
        r, c = torch.where(chosen, new_r, r), torch.where(chosen, new_c, c)
        yield r, c


def sequential(model, r, c, shift=0.0, sweeps=1):
    *_, last = updates(model, r, c, shift, sweeps=sweeps)
    return last


def free_energy(model, r, c, shift=0.0, h=coin):
    """F of each model, ``(M)``, with the shifts of the energies."""
    t = model.temperature_M1
    spread = squares(model) * r * (1 - r) * c.square() / 2
    prior = (model.log_odds_M1 * t + shift) * r + model.rate_M1 * t * r * c
    return unexplained(model, r, c).square().sum(-1) / 2 + (spread + prior - t * h(r)).sum(-1)


def all_states(units):
    return torch.tensor(list(product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def log_joint(model, c):
    """The log of ``p(x, s | c)`` for all states of the units, ``(2^K, M)``."""
    scale = model.temperature_M1.sqrt()
    return torch.stack(
        [
            Normal(unexplained(model, s, c), scale).log_prob(torch.zeros(())).sum(-1)
            + Bernoulli(logits=-model.log_odds_M1).log_prob(s).sum(-1)
            for s in all_states(c.shape[-1])
        ]
    )


def constant(model):
    """What ``F / T`` leaves out: the terms without q, rows or the sample."""
    (_, units, width), t = model.rows_MKD.shape, model.temperature_M1
    normal = width / 2 * (2 * torch.pi * t).log()
    return (normal - units * logsigmoid(model.log_odds_M1))[:, 0]


def flat(model):
    return model._replace(rate_M1=torch.zeros_like(model.rate_M1))


def some_code(model, seed):
    shape = model.rows_MKD.shape[:2]
    return torch.sigmoid(2 * draw(*shape, seed=seed)), draw(*shape, seed=seed + 1).abs()


def test_f_is_the_free_energy_of_the_normalised_model():
    """By its definition, over all states of the units; the strengths are parameters."""
    model = flat(models(50, 4, 3))
    r, c = some_code(model, 9)
    log_q = torch.stack([Bernoulli(r).log_prob(s).sum(-1) for s in all_states(4)])
    expected = (log_q.exp() * (log_q - log_joint(model, c))).sum(0)
    found = free_energy(model, r, c) / model.temperature_M1[:, 0] + constant(model)
    assert_close(found, expected)


def test_f_bounds_the_likelihood_at_given_strengths_and_meets_it_if_rows_are_orthogonal():
    model = flat(models(50, 4, 5, temperatures=(0.3, 3.0)))
    for orthogonal in (False, True):
        if orthogonal:
            basis = torch.linalg.qr(model.rows_MKD.mT)[0].mT
            model = model._replace(rows_MKD=basis * torch.linspace(0.5, 2, 4)[:, None].double())
        r, c = sequential(model, *nothing(model), sweeps=20)
        bound = free_energy(model, r, c) / model.temperature_M1[:, 0] + constant(model)
        gap = bound + log_joint(model, c).logsumexp(0)
        assert (gap > -1e-9).all()
        assert (gap.max() < 1e-9) == orthogonal


def many_models():
    """1,000 models of ten sizes, and for each a random code or an empty one."""
    for seed in range(10):
        model = models(100, 1 + seed, 2 + seed // 2, seed=10 * seed)
        start = torch.arange(100)[:, None] % 3 > 0
        yield model, *(start * part for part in some_code(model, seed))


@pytest.mark.parametrize(
    ("unit", "h"), [(sigmoid, coin), (spike_slab.gate, of_the_gate)], ids=["sigmoid", "gate"]
)
def test_no_update_of_a_sequential_sweep_raises_f(unit, h):
    for model, r, c in many_models():
        before = free_energy(model, r, c, h=h)
        for new_r, new_c in updates(model, r, c, unit=unit, sweeps=5):
            after = free_energy(model, new_r, new_c, h=h)
            assert (after - before <= 1e-12 * (1 + before.abs())).all()
            before = after


def test_some_parallel_sweeps_raise_f():
    raised = []
    for model, r, c in many_models():
        for _ in range(5):
            before = free_energy(model, r, c)
            r, c = parallel(model, r, c)
            raised.append(free_energy(model, r, c) - before > 1e-3 * (1 + before.abs()))
    assert 0.1 < torch.cat(raised).double().mean() < 0.5


def test_an_update_lowers_f_to_that_without_the_unit_plus_the_free_energy_of_the_unit():
    for model, r, c in many_models():
        for unit, (new_r, new_c) in enumerate(updates(model, r, c)):
            others = torch.arange(r.shape[1]) != unit
            alone = log_sum_exp(heard(model, r, c)[1], model.temperature_M1)[:, unit]
            assert_close(
                free_energy(model, new_r, new_c), free_energy(model, r * others, c) + alone
            )
            r, c = new_r, new_c


def test_the_first_parallel_sweep_leaves_out_what_pairs_of_units_explain_twice():
    """Its F has a sum over pairs beside what each unit lowers it by alone."""
    for model, _, _ in many_models():
        none = nothing(model)
        r, c = parallel(model, *none)
        alone = log_sum_exp(heard(model, *none)[1], model.temperature_M1).sum(1)
        parts = (r * c)[..., None] * model.rows_MKD
        twice = (parts @ parts.mT).triu(1).sum((1, 2))
        assert_close(free_energy(model, r, c), model.x_MD.square().sum(1) / 2 + alone + twice)


def test_energies_hear_how_much_the_rows_of_others_overlap():
    model = flat(models(20, 4, 3))
    r, c = some_code(model, 9)
    r.requires_grad_()
    strengths, energies = heard(model, r, c)
    for unit in range(4):
        (slopes,) = grad(energies[:, unit].sum(), r, retain_graph=True)
        overlap = (model.rows_MKD @ model.rows_MKD[:, unit, :, None])[..., 0]
        expected = strengths[:, unit, None] * overlap * c
        expected[:, unit] = 0
        assert_close(slopes, expected)


def converging():
    """Models of which most units are between on and off."""
    model = models(20, 6, 4, seed=3, temperatures=(1.0, 3.0))
    return model._replace(log_odds_M1=model.log_odds_M1 / 4)


def at_the_end(model, shift=0.0):
    r, c = sequential(model, *nothing(model), shift, sweeps=150)
    for found, swept in zip((r, c), parallel(model, r, c, shift), strict=True):
        assert_close(found, swept, rtol=0, atol=1e-12)
    return r, c


def test_the_slope_by_an_energy_is_the_responsibility_at_a_converged_point_and_before_it_is_not():
    model = converging()
    shift = (0.1 * draw(20, 6, seed=8)).requires_grad_()
    r, c = at_the_end(model, shift)
    (slopes,) = grad(free_energy(model, r, c, shift).sum(), shift)
    assert_close(slopes, r.detach(), rtol=0, atol=1e-10)

    for sweep in (parallel, sequential):
        r, c = sweep(model, *nothing(model), shift)
        (slopes,) = grad(free_energy(model, r, c, shift).sum(), shift)
        assert ((slopes - r).abs().amax(1) > 1e-2).double().mean() > 0.5


def test_holding_the_code_is_exact_at_a_converged_point_and_before_it_is_not():
    model = converging()
    rows = model.rows_MKD.clone().requires_grad_()
    model = model._replace(rows_MKD=rows)
    for sweep, exact in ((lambda m, r, c: at_the_end(m), True), (parallel, False)):
        r, c = sweep(model, *nothing(model))
        (through,) = grad(free_energy(model, r, c).sum(), rows, retain_graph=True)
        (held,) = grad(free_energy(model, r.detach(), c.detach()).sum(), rows)
        assert ((through - held).abs().max() < 1e-9) == exact


def test_the_first_parallel_sweep_is_the_encoder_of_spike_slab_up_to_its_gate():
    encoder = SpikeSlab(5, 8, scaled=False, temperature=0.25, log_odds=5.0).double()
    with torch.no_grad():
        encoder.decoder.bias.copy_(draw(5, seed=1))
        rows, middle = normalize(draw(8, 5), dim=1), encoder.decoder.bias
        encoder.weight.copy_(rows)
        nn.init.zeros_(encoder.encoder.linear.bias)
        x = 2 * draw(50, 5, seed=2)
        model = of_one(rows, x - middle, 0.25, 5.0)
        assert_close(encoder.energies(x), heard(model, *nothing(model))[1])
        r, c = parallel(model, *nothing(model), unit=spike_slab.gate)
        assert_close(encoder.responsibilities(x), r)
        assert_close(encoder.encode(x), r * c)
    e = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    assert 0.056 < (spike_slab.gate(e, 1.0) - sigmoid(e, 1.0)).abs().max() < 0.06


def of_one(rows, x, temperature, log_odds, rate=0.0):
    """One model, of many samples."""
    numbers = (x.new_full((len(x), 1), v) for v in (temperature, log_odds, rate))
    return Models(x, rows.expand(len(x), *rows.shape), *numbers)


def m_step(x, r, c):
    h = r * c
    second = h.T @ h + (r * (1 - r) * c.square()).sum(0).diag()
    return torch.linalg.solve(second, h.T @ x)


@pytest.mark.parametrize("seed", range(3))
def test_the_m_step_makes_f_least(seed):
    x = 2 * draw(30, 4, seed=seed)
    model = of_one(draw(6, 4, seed=seed + 1), x, 0.5, 1.0)
    r, c = sequential(model, *nothing(model))

    def mean_f(rows):
        return free_energy(of_one(rows, x, 0.5, 1.0), r, c).mean()

    best = m_step(x, r, c).requires_grad_()
    (slope,) = grad(mean_f(best), best)
    assert slope.abs().max() < 1e-12
    for number in range(20):
        near = best + 10.0 ** -(number % 4) * draw(6, 4, seed=number)
        assert mean_f(near) > mean_f(best)
    lengths = best.norm(dim=1, keepdim=True)
    scaled = free_energy(of_one(best / lengths, x, 0.5, 1.0), r, c * lengths.T)
    assert_close(scaled.mean(), mean_f(best), msg="lengths are a convention")


def test_sequential_sweeps_and_m_steps_never_raise_f():
    x, rows = 2 * draw(40, 4, seed=5), draw(6, 4, seed=6)
    model = of_one(rows, x, 0.5, 1.0)
    r, c = nothing(model)
    values = [free_energy(model, r, c).mean()]
    for _ in range(30):
        r, c = sequential(model, r, c)
        values.append(free_energy(model, r, c).mean())
        model = of_one(m_step(x, r, c), x, 0.5, 1.0)
        values.append(free_energy(model, r, c).mean())
    falls = -torch.stack(values).diff()
    assert (falls > -1e-12).all()
    assert (falls[:10] > 1e-6).all(), "each half of EM has its share"


def test_cold_sweeps_are_iterative_hard_thresholding():
    """Where the threshold of each sample lets k units be on; the first is the k-sparse code."""
    rows, x, k, cold = normalize(draw(12, 6), dim=1), draw(40, 6, seed=1), 3, 1e-9
    topk = TopK(6, 12, k=k, tied=True, subtract_bias=False).double()
    topk.weight.data.copy_(rows)
    h_BK = torch.zeros(40, 12, dtype=torch.float64)
    model = of_one(rows, x, cold, 0.0)
    r, c = nothing(model)
    for sweep in range(4):
        h_BK = keep(h_BK + (x - h_BK @ rows) @ rows.T, k)
        strengths = heard(model, r, c)[0].sort(descending=True).values
        halfway = strengths[:, k - 1 : k + 1].mean(1, keepdim=True)
        r, c = parallel(model._replace(log_odds_M1=halfway.square() / (2 * cold)), r, c)
        assert_close(r * c, h_BK)
        if sweep == 0:
            assert_close(topk.encode(x), h_BK)
    assert not torch.equal(topk.encode(x) > 0, h_BK > 0), "later sweeps choose other units"


def test_cold_sequential_sweeps_descend_on_a_squared_error_and_a_price_of_units():
    rows, x, price = normalize(draw(12, 6), dim=1), draw(40, 6, seed=1), 0.05
    model = of_one(rows, x, 1e-9, price / 1e-9)
    for r, c in updates(model, *nothing(model)):
        h = r * c
        cost = (x - h @ rows).square().sum(1) / 2 + price * (h > 0).sum(1)
        assert_close(free_energy(model, r, c), cost, rtol=0, atol=1e-7)


def test_updates_of_the_unit_that_explains_most_are_matching_pursuit():
    rows, x = normalize(draw(12, 6), dim=1), draw(40, 6, seed=1)
    model = of_one(rows, x, 1e-9, 1.0)
    r, c = nothing(model)
    h_BK = torch.zeros(40, 12, dtype=torch.float64)
    for _ in range(5):
        match, best = ((x - h_BK @ rows) @ rows.T).max(1, keepdim=True)
        h_BK = h_BK.scatter_add(1, best, match)
        chosen = torch.zeros_like(h_BK, dtype=torch.bool).scatter(1, best, value=True)
        new = parallel(model, r, c)
        r, c = torch.where(chosen, new[0], r), torch.where(chosen, new[1], c)
        assert_close(r * c, h_BK)


def test_units_that_are_always_on_with_exponential_strengths_do_soft_thresholding():
    rows, x = normalize(draw(12, 6), dim=1), draw(40, 6, seed=1)
    model = of_one(rows, x, 0.5, -1e9, rate=0.4)
    h_BK, (r, c) = torch.zeros(40, 12, dtype=torch.float64), nothing(model)
    for _ in range(4):
        h_BK = (h_BK + (x - h_BK @ rows) @ rows.T - 0.4 * 0.5).relu()
        r, c = parallel(model, r, c)
        assert_close(r * c, h_BK)


def keep(z_BK, k):
    """The k largest entries above 0 of each sample."""
    values, units = z_BK.relu().topk(k)
    return torch.zeros_like(z_BK).scatter(1, units, values)


def hard_sweeps(rows, x, k, sweeps):
    h_BK = torch.zeros(len(x), len(rows), dtype=torch.float64)
    for _ in range(sweeps):
        h_BK = keep(h_BK + (x - h_BK @ rows) @ rows.T, k)
    return h_BK


def pursue(rows, x, k):
    """Orthogonal matching pursuit, of positive matches."""
    h_BK = torch.zeros(len(x), len(rows), dtype=torch.float64)
    for h_K, x_D in zip(h_BK, x, strict=True):
        taken = []
        for _ in range(k):
            taken.append(int((rows @ (x_D - h_K @ rows)).argmax()))
            h_K[taken] = torch.linalg.lstsq(rows[taken].T, x_D).solution
    return h_BK


def found(h_BK, truth_BK):
    """In which samples the active units are the true ones."""
    return ((h_BK > 0) == (truth_BK > 0)).all(1)


def bounds(rows, least):
    """Numbers of active units below which one sweep, and a pursuit, find them."""
    overlaps = (rows @ rows.T).fill_diagonal_(0).abs().max()
    return (1 + least / overlaps) / 2, (1 + 1 / overlaps) / 2


def two_bases():
    """Two orthonormal bases of 64 dimensions, whose vectors overlap by 1/8."""
    signs = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return torch.cat([torch.eye(64, dtype=torch.float64), signs / 8])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_bounds_hold_with_the_worst_overlaps_and_one_faint_unit(k):
    """Rows of active units point apart, and each other row overlaps with all of them."""
    overlap, least = 0.95 / (2 * k - 1), torch.linspace(0.01, 1, 100, dtype=torch.float64)
    signs = torch.ones(2 * k, 2 * k, dtype=torch.float64)
    signs[:k, :k] = -1
    rows = torch.linalg.cholesky((overlap * signs).fill_diagonal_(1))
    truth_BK = (torch.arange(2 * k) < k).double().repeat(100, 1)
    truth_BK[:, k - 1] = least
    x = truth_BK @ rows
    of_one_sweep, of_pursuit = bounds(rows, least)
    assert k < of_pursuit
    assert_close(pursue(rows, x, k), truth_BK)
    right = found(hard_sweeps(rows, x, k, 1), truth_BK)
    assert right[k < of_one_sweep].all()
    assert torch.equal(right, least * (1 - overlap) > 2 * overlap * (k - 1))


@pytest.mark.parametrize("least", [0.9, 0.1])
def test_one_sweep_needs_amplitudes_that_are_alike_and_a_pursuit_does_not(least):
    rows, k = two_bases(), 4
    units = torch.special.ndtr(draw(300, 128, seed=1)).topk(k).indices
    amplitudes = least + (1 - least) * torch.special.ndtr(draw(300, k, seed=2))
    amplitudes[:, 0], amplitudes[:, 1] = least, 1
    truth_BK = torch.zeros(300, 128, dtype=torch.float64).scatter(1, units, amplitudes)
    x = truth_BK @ rows
    of_one_sweep, of_pursuit = bounds(rows, least)
    assert k < of_pursuit
    assert_close(pursue(rows, x, k), truth_BK)
    share = found(hard_sweeps(rows, x, k, 1), truth_BK).double().mean()
    assert share == 1 if k < of_one_sweep else share < 0.2


def test_parallel_sweeps_may_never_find_what_a_pursuit_finds():
    """Within its bound, they switch for ever between two supports, both of them wrong."""
    signs = torch.tensor([[0, -1, 1, 1], [-1, 0, 1, 1], [1, 1, 0, -1], [1, 1, -1, 0]])
    rows = torch.linalg.cholesky(torch.eye(4, dtype=torch.float64) + 0.33 * signs)
    truth_BK = torch.tensor([[1.0, 0.5, 0, 0]], dtype=torch.float64)
    x = truth_BK @ rows
    assert bounds(rows, 0.5)[1] > 2
    assert_close(pursue(rows, x, 2), truth_BK)
    late = [hard_sweeps(rows, x, 2, sweeps) > 0 for sweeps in (1000, 1001, 1002)]
    assert torch.equal(late[0], late[2])
    assert not torch.equal(late[0], late[1])
    assert not any(units[0, 1] for units in late)
