import numpy as np
import pytest
import torch

from implicit_em import Encoder
from implicit_em_studies.paper import identity


@pytest.fixture(scope="module")
def draws():
    return identity.draws()


def paper(draws, dtype, gradient="autograd"):
    (row,) = draws.query(
        "batch == 64 and components == 128 and scale == 1"
        f" and dtype == '{dtype}' and gradient == '{gradient}'"
    ).to_dict("records")
    return row


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-7), ("float64", 1e-15)])
def test_the_papers_draw_shows_the_identity(draws, dtype, bound):
    row = paper(draws, dtype)
    assert row["correlation"] == pytest.approx(1, abs=5e-5)
    assert 0 < row["max_error"] <= bound


def test_every_draw_stays_below_the_bound(draws):
    assert (draws["max_error"] <= draws["bound"]).all()
    assert (draws["max_true_error"] <= draws["bound"]).all()


def test_the_error_grows_with_the_energies_in_autograd_and_not_in_closed_form(draws):
    large = draws.query("dtype == 'float32' and scale == 10_000").set_index("gradient")["max_error"]
    small = paper(draws, "float32")["max_error"]
    assert large["autograd"] > 100 * small
    assert large["closed form"] <= 1e-7


def test_another_gradient_does_not_agree():
    energies = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    wrong = identity.agreement(energies, lambda e: torch.logsumexp(e, -1).sum())
    assert wrong["correlation"] < 0
    assert wrong["max_error"] > 1e-3


def test_a_single_component_takes_all_responsibility():
    result = identity.agreement(torch.tensor([[3.0]]))
    assert np.isnan(result["correlation"])
    assert result["max_error"] == 0


def test_the_identity_reaches_the_weights_of_an_encoder():
    torch.manual_seed(0)
    encoder = Encoder(20, 6)
    with torch.no_grad():
        encoder.weight.mul_(5)
    rows = identity.through_encoder(encoder, torch.rand(32, 20)).set_index(["at", "dtype"])
    assert (rows["correlation"] > 0.99999).all()
    assert (rows.xs("float32", level="dtype")["max_error"] < 1e-6).all()
    assert (rows.xs("float64", level="dtype")["max_error"] < 1e-14).all()
    assert encoder.weight.grad is None


def test_the_pairs_of_the_figure_are_those_of_the_draw(draws):
    gradient, responsibility = identity.pairs()
    assert gradient.shape == responsibility.shape == (64 * 128,)
    assert np.abs(gradient - responsibility).max() == pytest.approx(
        paper(draws, "float32")["max_error"]
    )
