"""Sweeps over what is not yet explained, against sweeps of one sample written out here."""

import itertools

import pytest
import torch
from helpers.draws import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from implicit_em.base.errors import ConfigError
from implicit_em.codes import Code, Pattern
from implicit_em.models import BatchTopK, Matryoshka, SpikeSlab, TopK, sweeps
from implicit_em.models.normalizing import Normalized, Normalizer, taking_raw

WIDTH, UNITS, SAMPLES = 6, 14, 9
FAMILIES = {
    "topk": lambda **options: TopK(WIDTH, UNITS, k=3, **options),
    "tied_topk": lambda **options: TopK(WIDTH, UNITS, k=3, tied=True, **options),
    "batch_topk": lambda **options: BatchTopK(WIDTH, UNITS, k=3, **options),
    "spike_slab": lambda **options: SpikeSlab(
        WIDTH, UNITS, **{"temperature": 0.02, "log_odds": 8.0, "scaled": False} | options
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family, **options):
    """A model in float64, whose bias is not 0 and whose untied rows are not its columns."""
    torch.manual_seed(0)
    model = FAMILIES[family](**options).double()
    with torch.no_grad():
        model.decoder.bias.add_(0.1 * draw(WIDTH, seed=1))
        model.encoder.linear.bias.add_(0.1 * draw(UNITS, seed=2))
        if not model.tied:
            model.encoder.weight.add_(0.1 * draw(UNITS, WIDTH, seed=3))
        model.after_step()  # lengths of 1 in float64
    if family == "batch_topk":
        model.threshold.copy_(torch.linspace(1.0, 0.9, len(model.threshold)))
    return model


def samples(count=SAMPLES, seed=5):
    return draw(count, WIDTH, seed=seed)


def chosen(model, proposals_K, sweep):
    """What a sweep of reading keeps of one sample, and the shares of the units."""
    a_K = proposals_K.clamp(min=0)
    if isinstance(model, SpikeSlab):
        r_K = gate_of(model, a_K)
        return a_K * (r_K > 0), r_K
    least = (
        model.threshold[min(sweep, len(model.threshold) - 1)]
        if isinstance(model, BatchTopK)
        else a_K.sort().values[-model.k - 1]
    )
    a_K = a_K * (a_K > least)
    return a_K, (a_K > 0).double()


def gate_of(model, a_K):
    energies_K = model.log_odds * model.temperature - a_K.square() / 2
    s_K = (0.5 - energies_K / (6 * model.temperature)).clamp(0, 1)
    return s_K.square() * (3 - 2 * s_K)


def energy(model, rest_D, r_K, c_K):
    """The free energy of a code, but for what r alone gives."""
    return rest_D.square().sum() / 2 + (r_K * (1 - r_K) * c_K.square()).sum() / 2


def swept(model, x_D):
    """The amplitudes and shares of one sample after the sweeps and the refit of reading."""
    columns_DK, bias_D = model.decoder.weight, model.decoder.bias
    to_explain_D = x_D - bias_D
    linear = model.encoder.linear
    c_K, r_K = chosen(model, linear.weight @ to_explain_D + linear.bias, 0)
    for sweep in range(1, model.read_sweeps):
        rest_D = to_explain_D - columns_DK @ (r_K * c_K)
        slope_K = columns_DK.T @ rest_D - (1 - r_K) * c_K
        p_K = slope_K * (r_K > 0)
        bend = (columns_DK @ (r_K * p_K)).square().sum() + (r_K * (1 - r_K) * p_K**2).sum()
        mu = (r_K * p_K * p_K).sum() / bend if bend > 0 else 1
        c_K, r_K = chosen(model, c_K + mu * slope_K, sweep)
    if model.refit:
        on = (r_K > 0).nonzero()[:, 0]
        r_N, columns_DN = r_K[on], columns_DK[:, on] * r_K[on]
        # The least free energy, with r held: a linear system, which may have many solutions.
        bend_NN = columns_DN.T @ columns_DN + (r_N * (1 - r_N)).diag()
        c_K = torch.zeros_like(c_K)
        c_K[on] = (torch.linalg.pinv(bend_NN) @ (columns_DN.T @ to_explain_D)).clamp(min=0)
    return c_K, r_K


@every_family
@pytest.mark.parametrize("read", [1, 2, 5])
def test_codes_are_those_of_sweeps_written_out(family, read):
    model = model_of(family, sweeps=2, read_sweeps=read)
    x = samples()
    expected = torch.stack([torch.mul(*swept(model, one)) for one in x])
    assert_close(model.encode(x), expected)
    assert (expected > 0).any(0).sum() > 5
    if read > 1:
        assert not torch.allclose(model.encode(x), model_of(family).encode(x))


@every_family
@pytest.mark.parametrize("read", [1, 3])
def test_a_long_refit_gives_the_least_free_energy(family, read):
    model = model_of(family, read_sweeps=read, refit=12)
    x = samples()
    found, expected = model.encode(x), torch.stack([torch.mul(*swept(model, one)) for one in x])
    assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(found, model_of(family, read_sweeps=read).encode(x))


@every_family
def test_entries_of_a_code_are_those_of_a_tensor(family):
    model = model_of(family, sweeps=3, refit=2)
    x = samples()
    for reading in (False, True):
        dense, sparse = model.inferred(x, reading=reading), model.inferred(x, 1000, reading)
        assert isinstance(sparse.kept, Code)
        assert_close(sparse.kept.dense() * (sparse.kept.dense() > 0), _on(model, dense.kept))
        assert_close(model.coded(sparse).dense(), model.coded(dense))
        assert_close(sparse.proposals.z_BK.clamp(min=0), dense.proposals)


def _on(model, kept):
    """What is kept, without activations of units of spike_slab that are off."""
    return kept * (model.shares(kept, reading=True) > 0)


@every_family
def test_the_step_is_the_best_one_along_the_slope(family):
    model = model_of(family)
    x = samples() - model.decoder.bias.detach()
    kept = model.inferred(samples(), reading=True).kept.detach()
    units, c, r = model._units(model.decoder.weight.detach().mT, kept, True)
    match = units.match(x - units.decode(r * c))
    step = sweeps.best_step(units, r, c, match).requires_grad_()
    moved = c + step * (match - (1 - r) * c) * (r > 0)
    energies = energy(model, x - units.decode(r * moved), r, moved)
    (slope,) = torch.autograd.grad(energies, step)
    assert_close(slope, torch.zeros_like(slope), atol=1e-10, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12), st.booleans())
def test_a_step_of_a_refit_never_raises_the_free_energy(seed, steps, active, soft):
    columns = nn.functional.normalize(draw(UNITS, WIDTH, seed=seed), dim=1)
    mask = draw(SAMPLES, UNITS, seed=seed + 1).argsort(-1) < active
    r = mask * (draw(SAMPLES, UNITS, seed=seed + 2).sigmoid() if soft else 1.0)
    c, x = mask * draw(SAMPLES, UNITS, seed=seed + 3).abs(), samples(seed=seed + 4)
    pattern = Pattern.where(mask)
    values_N = [each.flatten()[pattern.flat_N] for each in (r, c)]
    entries, everywhere = sweeps._Entries(columns, pattern), sweeps._Everywhere(columns)

    def refit(count):
        rest = x - (r * c) @ columns
        own_N = sweeps.refitted(entries, *values_N, rest, count)
        return sweeps.refitted(everywhere, r, c, rest, count), entries.code(own_N).dense()

    # Without the cut at 0, which may raise it.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "relu", lambda values: values)
        of_steps = [refit(count) for count in range(steps + 1)]
    values = []
    for found, of_entries in of_steps:
        assert_close(found, of_entries)
        values.append(energy(None, x - (r * found) @ columns, r, found))
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(values))


OPTIONS = {
    "all": {"sweeps": 3},
    "last": {"sweeps": 3, "through": "last"},
    "refit": {"refit": 2},
    "all, refit": {"sweeps": 2, "refit": 3},
}


def losses_of(model, x, most):
    """A loss of all that a training step gives, with a random weight for each number."""
    outputs = model.training_outputs(x) if most is None else model.sparse_outputs(x, most)
    dense = [v.dense() if isinstance(v, Code) else v for n, v in outputs.items() if n != "decoder"]
    return sum((values * draw(*values.shape, seed=7)).sum() for values in dense)


def hold_all_but_the_last(monkeypatch, model):
    """Let the code before the last sweep be the same for all weights."""
    own, fixed = type(model).keep, {}

    def keep(self, proposals, sweep, reading):
        kept = own(self, proposals, sweep, reading)
        return kept if sweep == self.sweeps - 1 else fixed.setdefault(sweep, kept.detach())

    monkeypatch.setattr(type(model), "keep", keep)


@pytest.mark.parametrize("most", [None, 1000], ids=["tensor", "entries"])
@pytest.mark.parametrize(
    ("family", "option"),
    [
        *((family, option) for family in ("topk", "tied_topk", "batch_topk") for option in OPTIONS),
        ("spike_slab", "all"),
        ("spike_slab", "last"),
    ],
)
def test_gradients_are_right_with_the_step_size_held(monkeypatch, family, option, most):
    options = OPTIONS[option]
    if family == "spike_slab":
        options = options | {"held": False}
    if "through" in options and family in ("topk", "batch_topk"):
        options = options | {"tied": True}
    model = model_of(family, **options)
    monkeypatch.setattr(sweeps, "best_step", lambda units, r, *_: 0.7 + 0 * units.sum(r))
    if "through" in options:
        hold_all_but_the_last(monkeypatch, model)
    names = [name for name, _ in model.named_parameters()]

    def loss(x, *values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, parameters, (x,))

    monkeypatch.setattr(type(model), "forward", lambda self, x: losses_of(self, x, most))
    assert gradcheck(loss, (samples(4), *model.parameters()))


def test_a_refit_with_shares_has_the_right_gradient():
    mask = draw(SAMPLES, UNITS, seed=1).argsort(-1) < 4
    pattern = Pattern.where(mask)
    r_N = draw(SAMPLES * 4, seed=2).sigmoid()

    def refit(columns, c_N, x):
        units = sweeps._Entries(columns, pattern)
        return sweeps.refitted(units, r_N, c_N, x - units.decode(r_N * c_N), 3)

    columns = nn.functional.normalize(draw(UNITS, WIDTH, seed=3), dim=1)
    inputs = columns, draw(SAMPLES * 4, seed=4).abs(), samples()
    assert gradcheck(refit, [each.requires_grad_() for each in inputs])


@pytest.mark.parametrize("family", ["tied_topk", "spike_slab"])
@pytest.mark.parametrize("refit", [0, 2])
@pytest.mark.parametrize("most", [None, 1000], ids=["tensor", "entries"])
def test_a_held_code_has_the_gradient_of_the_m_step(family, refit, most):
    model = model_of(family, sweeps=3, refit=refit, through="held")
    x = samples()
    outputs = model.training_outputs(x) if most is None else model.sparse_outputs(x, most)
    ((outputs["reconstruction"] - x).square().sum() / 2).backward()
    h, w = model.encode(x), model.weight
    assert_close(w.grad, h.T @ (outputs["reconstruction"].detach() - x))
    assert model.encoder.linear.bias.grad is None


def test_what_one_sweep_holds_is_what_em_holds():
    held = model_of("tied_topk", through="held")
    plain, x = model_of("tied_topk"), samples()
    assert torch.equal(held.encode(x), plain.encode(x))
    assert held.training_outputs(x)["energies"].grad_fn is None


def test_later_sweeps_hear_what_others_explain(monkeypatch):
    """With step size 1, the energies are those of the page: e_j of what all others leave."""
    model = model_of("spike_slab", read_sweeps=2)
    monkeypatch.setattr(sweeps, "best_step", lambda *_: 1.0)
    x = samples()
    h, rows = model_of("spike_slab").encode(x), model.weight
    of_others = torch.stack(
        [
            ((x - model.decoder.bias - h @ rows + h[:, j : j + 1] * rows[j]) @ rows[j])
            for j in range(UNITS)
        ],
        dim=1,
    )
    expected = model.log_odds * model.temperature - of_others.clamp(min=0).square() / 2
    assert_close(model.energies(x), expected)


def test_sweeps_find_active_units_that_one_pass_confuses():
    torch.manual_seed(0)
    planted = draw(500, 64, seed=1).argsort(-1) < 4
    amplitudes = planted * (1 + draw(500, 64, seed=2).abs())
    right = []
    for read in (1, 10):
        torch.manual_seed(0)
        model = TopK(32, 64, k=4, tied=True, read_sweeps=read).double()
        model.after_step()
        found = model.encode(amplitudes @ model.weight)
        right.append(((found > 0) == planted).all(-1).double().mean().item())
    assert right[0] < 0.4 < 0.6 < right[1], right


@every_family
@pytest.mark.parametrize("entries", [None, 10**6], ids=["tensor", "entries"])
def test_the_limits_are_finite(family, entries):
    model = model_of(family, sweeps=3, refit=3).float()
    if hasattr(model, "k"):
        model.k = UNITS  # more than dimensions: rows are linearly dependent
    bias = model.decoder.bias.detach()
    cases = [bias[None], bias[None] + 1e-30, bias + 1e12 * samples(1).float(), 0 * bias[None]]
    for x in [*cases, torch.cat(cases)]:
        model.zero_grad()
        outputs = model.training_outputs(x) if entries is None else model.sparse_outputs(x, entries)
        code = outputs["energies"]
        assert (code.dense() if isinstance(code, Code) else code).isfinite().all()
        outputs["reconstruction"].sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_code_of_nothing_stays_nothing():
    model = model_of("tied_topk", read_sweeps=3, refit=2)
    with torch.no_grad():
        model.encoder.linear.bias.sub_(100)
    assert (model.encode(1e-3 * samples()) >= 0).all()
    x = model.decoder.bias.detach().repeat(2, 1)
    assert not model.encode(x).any()


def test_each_sweep_of_a_batch_has_a_threshold():
    model = model_of("batch_topk", sweeps=3, momentum=1.0)
    model.training_outputs(samples())
    assert len(set(model.threshold.tolist())) == 3
    longer = model_of("batch_topk", sweeps=3, read_sweeps=4)
    longer.threshold.copy_(model.threshold)
    places = []
    own = BatchTopK.keep

    def keep(self, proposals, sweep, reading):
        kept = own(self, proposals, sweep, reading)
        places.append((kept[kept > 0].min() > self.threshold[min(sweep, 2)]).item())
        return kept

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BatchTopK, "keep", keep)
        longer.encode(samples())
    assert places == [True] * 4


def test_wide_layers_are_read_by_their_entries_and_may_be_trained_after():
    torch.manual_seed(0)
    model = TopK(WIDTH, 1200, k=3, tied=True, sweeps=3, refit=1)
    x = samples(24).float().view(2, 12, WIDTH)
    dense = model.encode(x)
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            assert model._reads_entries()
            assert_close(model.encode(x), dense.detach(), atol=1e-5, rtol=1e-4)
    model.sparse_outputs(x.flatten(0, 1), 10**6)["reconstruction"].sum().backward()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (TopK, {"sweeps": 0}, "sweeps=0"),
        (TopK, {"read_sweeps": 0}, "read_sweeps=0"),
        (TopK, {"refit": -1}, "refit=-1"),
        (TopK, {"through": "some"}, "through=some: allowed are all, last, held"),
        (TopK, {"through": "held"}, "through=held without tied=true: allowed is all"),
        (TopK, {"sweeps": 2, "unit_columns": False}, "sweeps=2.*needs unit_columns=true"),
        (TopK, {"refit": 2, "subtract_bias": False}, "refit=2.*needs subtract_bias=true"),
        (TopK, {"read_sweeps": 2, "out_features": 5}, "read_sweeps=2.*and no target"),
        (TopK, {"sweeps": 2, "activation": nn.GELU()}, "sweeps=2.*needs activation=relu"),
        (Matryoshka, {"sweeps": 2}, "sweeps=2.*a prefix would need sweeps of its own"),
        (SpikeSlab, {"refit": 2, "held": False}, "held=false with refit: allowed is true"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(make, options, message):
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        make(WIDTH, UNITS, **options)


def test_a_swept_model_has_no_free_energy_of_its_input_and_no_hard_twin():
    model = model_of("spike_slab", sweeps=2)
    for refused in (lambda: model.free_energy(samples()), model.hard):
        with pytest.raises(ConfigError, match="sweeps=2"):
            refused()
    assert_close(
        model.responsibilities(samples()),
        model.shares(model.inferred(samples(), reading=True).kept, reading=True),
    )


def test_columns_keep_their_lengths_in_front_of_raw_samples():
    model = model_of("tied_topk", sweeps=2)
    normalizer = Normalizer("scale", torch.zeros(WIDTH), torch.full((WIDTH,), 2.0))
    raw = taking_raw(model, normalizer)
    assert isinstance(raw, Normalized)
