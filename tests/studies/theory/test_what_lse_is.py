"""What is measured of LSE and of responsibilities, against loops over tiny arrays."""

from math import exp, log

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from implicit_em_studies.theory.lse import (
    Square,
    excess,
    first,
    forms,
    joint,
    probes_at_one,
    regimes,
    responsibilities,
)
from implicit_em_studies.theory.matching import purity

LABELS_N = np.array([0, 1, 1, 2, 0, 2, 1])


def energies(scale=1.0, silent=0.4):
    """Energies of 7 samples and 5 units, some of them 0."""
    random = np.random.default_rng(0)
    drawn = random.exponential(scale, (7, 5)) * (random.random((7, 5)) > silent)
    drawn[3] = [0.2, 0.0, 4.0, 0.0, 0.05]
    return drawn


def test_lse_and_its_forms():
    values = energies()
    for row, value, soft, count, l1 in zip(
        values, excess(values), *forms(values).values(), strict=True
    ):
        assert value == pytest.approx(log(5) - log(sum(exp(-e) for e in row)), abs=1e-14)
        assert value == pytest.approx(-log(1 - soft), abs=1e-14)
        assert soft == pytest.approx(sum(1 - exp(-e) for e in row) / 5, abs=1e-14)
        assert count == sum(e > 0 for e in row) / 5
        assert l1 == pytest.approx(sum(row) / 5)


@pytest.mark.parametrize(("scale", "form"), [(1e-6, "l1"), (1e6, "count")])
def test_small_energies_make_an_l1_and_large_ones_a_count(scale, form):
    random = np.random.default_rng(0)
    values = scale * (1 + random.random((50, 400))) * (random.random((50, 400)) > 0.99)
    found = regimes(values)
    assert found[f"{form}_explains"] == pytest.approx(1, abs=1e-3)
    assert found[f"{form}_slope"] == pytest.approx(1, abs=0.02)


def test_where_energies_stand():
    values = energies()
    active = [e for e in values.ravel() if e > 0]
    found = regimes(values)
    assert found["below"] == pytest.approx(sum(e < 0.1 for e in active) / len(active))
    assert found["above"] == pytest.approx(sum(e > 3 for e in active) / len(active))
    assert found["below"] + found["between"] + found["above"] == pytest.approx(1)
    assert found["survival"] == pytest.approx(sum(map(exp, -np.array(active))) / len(active))
    for name, form in forms(values).items():
        correlation = np.corrcoef(form, excess(values))[0, 1]
        assert found[f"{name}_explains"] == pytest.approx(correlation**2)


def test_a_form_that_does_not_vary_explains_nothing():
    found = regimes(1 + np.random.default_rng(0).random((6, 4)))
    assert np.isnan(found["count_explains"])
    assert found["l1_explains"] > 0


def test_responsibilities_by_loops():
    values = energies()
    shares, entropies = [], []
    for row in values:
        total = sum(exp(-e) for e in row)
        shares.append([exp(-e) / total for e in row])
        entropies.append(-sum(r * log(r) for r in shares[-1]))
    known = of_labels = 0.0
    for label in range(3):
        share = np.bincount(LABELS_N)[label] / 7
        of_labels -= share * log(share)
        for unit in range(5):
            both = sum(r[unit] for r, one in zip(shares, LABELS_N, strict=True) if one == label) / 7
            known += both * log(both / share / np.mean([r[unit] for r in shares]))
    found = responsibilities(values, LABELS_N)
    assert found["perplexity"] == pytest.approx(np.mean(np.exp(entropies)))
    assert found["perplexity_share"] == pytest.approx(np.mean(np.exp(entropies)) / 5)
    assert found["largest"] == pytest.approx(np.mean([max(r) for r in shares]))
    assert found["information"] == pytest.approx(known / of_labels)
    of_units = [np.mean([r[unit] for r in shares]) for unit in range(5)]
    of_sample = -sum(p * log(p) for p in of_units) - np.mean(entropies)
    assert found["of_sample"] == pytest.approx(of_sample)
    assert found["silent"] == np.mean([sum(e == 0 for e in row) for row in values])


@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_what_silent_units_allow(scale):
    """With a least energy of 0: perplexity >= silent units, information <= LSE + log K."""
    values = energies(scale)
    values[:, 0] = 0
    found = responsibilities(values, LABELS_N)
    of_label = -found["information"] * sum(p * log(p) for p in np.bincount(LABELS_N) / 7)
    assert found["perplexity"] >= found["silent"]
    assert of_label <= found["of_sample"] <= excess(values).mean()


def test_units_of_equal_energy_share_a_sample():
    values = np.array([[0.0, 2.0, 0.0], [1.0, 0.5, 3.0]])
    assert first(-values).tolist() == [[0.5, 0, 0.5], [0, 1, 0]]
    assert first(values).tolist() == [[0, 1, 0], [0, 0, 1]]
    shares = joint(first(-values), np.array([7, 9]))
    assert shares.tolist() == [[0.25, 0, 0.25], [0, 0.5, 0]]
    assert purity(shares) == 1


def test_purity_counts_the_commonest_label_of_each_unit():
    units = np.array([0, 0, 0, 1, 1, 2, 2])
    expected = sum(np.bincount(LABELS_N[units == unit]).max() for unit in range(3)) / 7
    assert purity(joint(np.eye(3)[units], LABELS_N)) == pytest.approx(expected)


def test_the_square():
    z = torch.linspace(-2, 2, 12, dtype=torch.float64).view(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(Square(), z)
    assert_close(Square()(z), torch.stack([Square()(one) for one in z]))
    assert_close(Square()(z), z * z / 2)


def test_softplus_of_the_negative_is_softplus_with_the_opposite_rows():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    softplus = torch.nn.functional.softplus
    opposite = torch.nn.functional.linear(x, -layer.weight, -layer.bias)
    assert_close(softplus(-layer(x)), softplus(opposite))


def test_probes_are_compared_with_those_of_temperature_1():
    rows = [
        ("ReLU", 1.0, 0.2, 0.90),
        ("ReLU", 1.0, 0.4, 0.94),
        ("ReLU", 0.1, 0.3, 0.91),
        ("ReLU", 0.1, 0.5, 0.91),
        ("Abs", 1.0, 1.0, 0.80),
        ("Abs", 0.1, 0.9, 0.70),
    ]
    table = pd.DataFrame(rows, columns=["activation", "temperature", "density", "probe_accuracy"])
    found = probes_at_one(table.assign(decay=0.1, seed=1))
    assert found == pytest.approx([0.9, 0.94, 0.92, np.nan, 0.8, 0.8], nan_ok=True)
