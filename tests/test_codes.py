"""Codes against dense matrices: products, maps, sums, and the gradients of all of them."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers.draws import draw
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from implicit_em import codes
from implicit_em.base.denormals import flushed_denormals
from implicit_em.codes import (
    Code,
    Layer,
    Pattern,
    active_units,
    at_units,
    positions,
    positive,
    smallest_positive,
)
from implicit_em.models import batch_topk, topk
from implicit_em.models.batch_topk import largest_of_all
from implicit_em.models.topk import keep_largest, largest_positive

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 15))
DENSITIES = st.sampled_from([0.0, 0.1, 0.5, 1.0])


def mask_of(shape, density, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def code_of(matrix, mask):
    pattern = Pattern.where(mask)
    return Code(entries(pattern, matrix), pattern)


def entries(pattern, matrix):
    return matrix.flatten()[pattern.flat_N]


@given(SHAPES, DENSITIES, st.integers(0, 99))
def test_a_code_holds_the_entries_of_its_mask(shape, density, seed):
    matrix, mask = draw(*shape, seed=seed), mask_of(shape, density, seed)
    code = code_of(matrix, mask)
    assert len(code.values_N) == mask.sum()
    assert torch.equal(code.dense(), matrix * mask)
    assert torch.equal(code.pattern.counts, mask.sum(1))
    across = Code(code.values_N[code.pattern.order_N], code.pattern.transposed)
    assert torch.equal(across.dense(), (matrix * mask).mT)
    assert torch.equal(positions(mask), mask.flatten().nonzero().squeeze(-1))


@given(SHAPES, DENSITIES, st.integers(0, 99))
def test_a_product_has_the_values_and_gradients_of_the_dense_one(shape, density, seed):
    mask = mask_of(shape, density, seed)
    matrix = draw(*shape, seed=seed).requires_grad_()
    table = draw(shape[1], 3, seed=seed + 1).requires_grad_()
    weights = draw(shape[0], 3, seed=seed + 2)
    expected = (matrix * mask) @ table
    found = code_of(matrix, mask) @ table
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_close(
        torch.autograd.grad(found, [matrix, table], weights),
        torch.autograd.grad(expected, [matrix, table], weights),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_product_passes_gradcheck():
    mask = mask_of((5, 6), 0.4)
    pattern = Pattern.where(mask)
    values = entries(pattern, draw(5, 6)).requires_grad_()
    table = draw(6, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: Code(v, pattern) @ t, [values, table])


def test_a_product_takes_a_transposed_table():
    code = code_of(draw(4, 6), mask_of((4, 6), 0.5))
    columns = draw(3, 6)
    assert_close(code @ columns.mT, code.dense() @ columns.mT)


@given(SHAPES, DENSITIES, st.integers(0, 99))
def test_sums_means_and_maps_are_those_of_the_dense_matrix(shape, density, seed):
    mask, by_unit = mask_of(shape, density, seed), draw(shape[1], seed=seed + 1)
    dense = draw(*shape, seed=seed) * mask
    code = code_of(dense, mask)
    assert_close(code.abs().mean((-2, -1)), dense.abs().mean()[None])
    assert_close(code.sum(-1), dense.sum(-1)[None])
    assert_close((code * by_unit).dense(), dense * by_unit)
    assert_close(code.pattern.sum_columns(code.values_N), dense.sum(0))
    assert_close(code.pattern.sum_rows(code.values_N), dense.sum(1))
    assert torch.equal(active_units(code), active_units(dense))
    assert torch.equal(smallest_positive(code), smallest_positive(dense))
    moved = at_units(lambda a, n: a * n.exp(), code, by_unit)
    assert_close(moved.dense(), at_units(lambda a, n: a * n.exp(), dense, by_unit))


def test_a_map_may_give_several_codes_and_passes_gradients_to_the_units():
    mask, scale = mask_of((5, 4), 0.5), draw(4).requires_grad_()
    first, second = code_of(draw(5, 4), mask).map(lambda a, s: (a * s, a + s), scale)
    assert first.pattern is second.pattern
    first.values_N.sum().backward()
    assert_close(scale.grad, (draw(5, 4) * mask).sum(0))


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("most", [0, 10**6])
@pytest.mark.parametrize("at_a_time", [2**26, 20], ids=["at once", "in parts"])
def test_a_layer_keeps_what_is_chosen_with_the_gradients_of_autograd(
    density, moved, most, at_a_time, monkeypatch
):
    monkeypatch.setattr(codes, "AT_A_TIME", at_a_time)
    linear = torch.nn.Linear(4, 7, dtype=torch.float64)
    origin = draw(4, seed=3).requires_grad_() if moved else None
    x, weights = draw(9, 4), draw(9, 7, seed=5)
    z = linear(x - origin if moved else x)
    bound = z.detach().flatten().quantile(1 - density).item() + (density == 0) - (density == 1)
    layer = Layer(linear, x, most, origin)
    found = layer.keep(lambda some: some > bound)
    mask = z > bound
    expected = z * mask
    assert isinstance(found, Code) == (most > 0 or density == 0)
    kept = found.values_N if isinstance(found, Code) else found
    dense = found.dense() if isinstance(found, Code) else found
    assert_close(dense, expected)
    slopes = weights[mask] if isinstance(found, Code) else weights
    parameters = [linear.weight, linear.bias, *([origin] if moved else [])]
    assert_close(
        torch.autograd.grad(kept, parameters, slopes),
        torch.autograd.grad(expected, parameters, weights),
    )


def test_a_choice_among_all_samples_sees_the_parts_together(monkeypatch):
    linear, x = torch.nn.Linear(4, 7), torch.randn(9, 4)
    layer = Layer(linear, x, 100)
    largest = partial(largest_of_all, count=5)
    expected = layer.keep(largest)
    monkeypatch.setattr(codes, "AT_A_TIME", 20)
    found = layer.keep(largest, among=partial(largest_positive, count=5))
    assert len(found.values_N) == 5
    assert_close(found.dense(), expected.dense())


@pytest.mark.parametrize("of_all", [False, True], ids=["of each sample", "of the batch"])
@pytest.mark.parametrize("some", [False, True], ids=["all units", "some units"])
@pytest.mark.parametrize("most", [0, 100])
@pytest.mark.parametrize("at_a_time", [2**26, 20], ids=["at once", "in parts"])
def test_a_fixed_number_of_the_largest_is_what_devices_would_have_to_wait_for(
    of_all, some, most, at_a_time, monkeypatch
):
    monkeypatch.setattr(codes, "AT_A_TIME", at_a_time)
    linear, x, slopes = torch.nn.Linear(4, 7, dtype=torch.float64), draw(9, 4), draw(9, 7, seed=5)
    units = torch.arange(7)[None] % 2 == 0 if some else torch.ones(1, 7, dtype=torch.bool)
    count = 30 if of_all else 4  # more than are above 0, in some samples and of some units
    z = linear(x)
    mask = (largest_of_all if of_all else largest_positive)(z.detach() * units, count)
    found = Layer(linear, x, most).keep_largest(count, units if some else None, of_all)
    assert isinstance(found, Code) == (most > 0)
    dense = found.dense() if isinstance(found, Code) else found
    assert_close(dense, z * mask)
    gradients = (torch.autograd.grad(one, linear.weight, slopes) for one in (dense, z * mask))
    assert_close(*gradients)
    with torch.no_grad():
        linear.weight[2, 1] = torch.nan
    found = Layer(linear, x, most).keep_largest(count, of_all=of_all)
    assert (found.values_N if isinstance(found, Code) else found).isnan().any(), "it is noticed"


def test_a_wide_layer_never_holds_the_pre_activations_of_all_samples(monkeypatch):
    monkeypatch.setattr(codes, "AT_A_TIME", 20)
    seen = []
    layer = Layer(torch.nn.Linear(4, 7), torch.randn(9, 4), 100)
    layer.keep(lambda z: seen.append(len(z)) or z > 0)
    assert seen == [2, 2, 2, 2, 1]


def test_what_is_kept_may_exceed_the_limit_in_parts_and_not_in_all(monkeypatch):
    monkeypatch.setattr(codes, "AT_A_TIME", 20)
    layer = Layer(torch.nn.Linear(4, 7), torch.randn(9, 4), 5)
    kept = layer.keep(partial(largest_of_all, count=5), among=partial(largest_positive, count=5))
    assert isinstance(kept, Code)


@pytest.mark.parametrize("at_a_time", [2**26, 20])
@pytest.mark.parametrize(
    "choose",
    [
        positive,
        lambda z: z > 0.5,
        partial(largest_positive, count=2),
        partial(largest_of_all, count=4),
    ],
)
def test_weights_that_are_not_finite_are_noticed(choose, at_a_time, monkeypatch):
    monkeypatch.setattr(codes, "AT_A_TIME", at_a_time)
    linear = torch.nn.Linear(4, 7)
    with torch.no_grad():
        linear.weight[3, 1] = torch.nan
    x = torch.randn(9, 4)
    assert Layer(linear, x, 100).keep(choose).dense().isnan().any()
    assert Layer(linear, x, 0).keep(choose).isnan().any(), "also if the result is dense"


def test_means_and_sums_of_a_code_refuse_what_they_do_not_compute():
    code = code_of(draw(4, 6), mask_of((4, 6), 0.5))
    with pytest.raises(ValueError, match=r"sum\(-2\): a code has the sum over -1 alone"):
        code.sum(-2)
    with pytest.raises(ValueError, match=r"mean\(-1\): a code has the mean over"):
        code.mean(-1)


def test_an_empty_code_in_float32_has_products_and_gradients():
    values = torch.zeros(0, requires_grad=True)
    table = torch.randn(6, 3, requires_grad=True)
    product = Code(values, Pattern.where(torch.zeros(4, 6, dtype=torch.bool))) @ table
    assert torch.equal(product, torch.zeros(4, 3))
    product.sum().backward()
    assert torch.equal(table.grad, torch.zeros(6, 3))


CASES = {
    "random": lambda z: z,
    "ties": lambda z: (z * 4).round() / 4,
    "few positive": lambda z: z - 3 * (torch.arange(len(z)) % 2)[:, None],
    "a poor bound": lambda z: z + 3 * (torch.arange(z.shape[1]) < 200),
    "mostly 0": lambda z: (z - 2).relu(),
    "one row": lambda z: z[:1],
    "double": lambda z: z.double(),
}


@pytest.mark.parametrize("count", [0, 1, 500, 20_000, 200_000, 300_000])
@pytest.mark.parametrize("long", [1, topk.LONG])
def test_the_largest_of_many_are_those_of_a_full_search(count, long, monkeypatch):
    monkeypatch.setattr(batch_topk, "LONG", long)
    z = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    z[50:60] = z[0]  # equal ones, also at the edge
    z = (z * 64).round() / 64
    chosen = largest_of_all(z, count)
    positives = z.clamp(min=0).flatten()
    order = positives.argsort(descending=True, stable=True)[:count]
    expected = torch.zeros_like(positives, dtype=torch.bool)
    expected[order] = True
    assert torch.equal(chosen.flatten(), expected & (positives > 0))


@pytest.mark.parametrize("context", [nullcontext, flushed_denormals])
def test_equal_elements_count_in_each_row_by_itself(context):
    z = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [1.0, 0.0, 0.0]])
    expected = [[True, True, False], [True, False, False], [True, False, False]]
    with context():
        assert largest_positive(z, 2).tolist() == expected
        assert largest_positive(z[1:], 2).tolist() == expected[1:]


@pytest.mark.parametrize("count", [1, 7, 60])
@pytest.mark.parametrize("wide", [1, topk.WIDE])
@pytest.mark.parametrize("case", CASES)
def test_the_largest_of_each_row_are_the_first_of_a_stable_sort(count, wide, case, monkeypatch):
    monkeypatch.setattr(topk, "WIDE", wide)
    z = CASES[case](torch.randn(20, 1000, generator=torch.Generator().manual_seed(1)))
    order = (-z).sort(dim=-1, stable=True).indices[:, :count]
    expected = torch.zeros_like(z, dtype=torch.bool).scatter(-1, order, True) & (z > 0)
    assert torch.equal(largest_positive(z, count), expected)
    assert torch.equal(keep_largest(z.relu(), count) > 0, expected)


def test_a_compiled_search_finds_the_same():
    z = torch.randn(4, 30)
    compiled = torch.compile(keep_largest, backend="eager")
    assert torch.equal(compiled(z, 3), keep_largest(z, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_a_row_of_any_length_can_be_searched(count):
    for units in range(1, 120):
        chosen = largest_positive(torch.arange(1.0, units + 1).repeat(2, 1), count)
        assert chosen.sum(-1).tolist() == [min(count, units)] * 2
