import pytest
import torch
from helpers.draws import draw
from torch.testing import assert_close

from implicit_em.losses import Objective, Term, decorrelation, lse, variance


def never(energies):
    raise AssertionError("a term of weight 0 was computed")


def scaled(weight, x, power=1, factor=1.0):
    return factor * weight.sum() - x.sum() ** power


def test_total_is_the_weighted_sum_of_its_unweighted_parts():
    energies = draw(9, 5)
    objective = Objective(
        {"lse": Term(lse), "var": Term(variance, 0.5), "tc": Term(decorrelation, 3)}
    )
    total, parts = objective({"energies": energies})
    assert list(parts) == ["lse", "var", "tc"]
    assert_close(parts["lse"], lse(energies))
    assert_close(parts["var"], variance(energies))
    assert_close(parts["tc"], decorrelation(energies))
    assert_close(total, lse(energies) + 0.5 * variance(energies) + 3 * decorrelation(energies))


def test_gradient_is_the_weighted_sum_of_the_terms_gradients():
    energies = draw(9, 5).requires_grad_()
    total, _ = Objective({"lse": Term(lse, 2), "tc": Term(decorrelation, 0.1)})(
        {"energies": energies}
    )
    (found,) = torch.autograd.grad(total, energies)
    (of_lse,) = torch.autograd.grad(lse(energies), energies)
    (of_tc,) = torch.autograd.grad(decorrelation(energies), energies)
    assert_close(found, 2 * of_lse + 0.1 * of_tc)


def test_a_term_of_weight_0_is_neither_computed_nor_reported_and_asks_for_nothing():
    off = {"never": Term(never, 0.0), "scaled": Term(scaled, 0.0)}
    objective = Objective({"lse": Term(lse), **off})
    assert objective.inputs == {"energies"}
    _, parts = objective({"energies": draw(9, 5)})
    assert list(parts) == list(objective.terms) == ["lse"]


@pytest.mark.parametrize("terms", [{}, {"lse": Term(lse, 0.0), "off": Term(never, 0)}])
def test_an_objective_without_a_weight_is_refused(terms):
    with pytest.raises(ValueError, match="at least one term whose weight is not 0"):
        Objective(terms)


def test_inputs_are_passed_by_parameter_name():
    outputs = {"energies": draw(2, 2), "x": draw(3, 4), "weight": draw(5, 4, seed=1)}
    objective = Objective({"scaled": Term(scaled)})
    assert objective.inputs == {"weight", "x"}
    total, _ = objective(outputs)
    assert_close(total, outputs["weight"].sum() - outputs["x"].sum())


def test_options_are_passed_and_ask_for_nothing():
    outputs = {"weight": draw(5, 4)}
    term = Term(scaled, options={"x": torch.tensor(3.0), "power": 2, "factor": 0.5})
    assert term.inputs == ("weight",)
    total, _ = Objective({"scaled": term})(outputs)
    assert_close(total, 0.5 * outputs["weight"].sum() - 9)
