"""Nested dictionaries: each prefix of the units is a dictionary."""

import pytest
import torch
from helpers.draws import draw

from implicit_em.base.errors import ConfigError
from implicit_em.losses import mse, nested_mse
from implicit_em.models import BatchTopK, Matryoshka

WIDTH, UNITS, SAMPLES = 6, 40, 30
X = draw(SAMPLES, WIDTH, seed=1)


def made(cls=Matryoshka, **options):
    torch.manual_seed(0)
    return cls(WIDTH, UNITS, k=4, middle="mean", **options).double()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_prefixes_are_reconstructions_by_the_first_units_alone(tied, sparse):
    model = made(tied=tied, prefixes=[0.1, 0.5])
    model.start(X)
    outputs = model.sparse_outputs(X, X.numel() * UNITS) if sparse else model.training_outputs(X)
    code = outputs["energies"].dense() if sparse else outputs["energies"]
    assert (code > 0).sum() == 4 * SAMPLES
    found = [
        code[:, :width] @ model.decoder.weight[:, :width].T + model.decoder.bias
        for width in (4, 20, UNITS)
    ]
    assert not torch.allclose(found[0], found[1])
    assert torch.allclose(outputs["prefixes"], torch.stack(found, 1))
    assert torch.allclose(outputs["reconstruction"], found[-1])
    errors = torch.stack([(prefix - X).square().mean() for prefix in found])
    assert torch.allclose(nested_mse(outputs["prefixes"], X), errors.mean())


def test_without_prefixes_it_is_batch_topk():
    one, other = made(prefixes=[]), made(BatchTopK)
    found, expected = one.training_outputs(X), other.training_outputs(X)
    assert torch.allclose(found["reconstruction"], expected["reconstruction"])
    loss = nested_mse(found["prefixes"], X)
    assert torch.allclose(loss, mse(expected["reconstruction"], X))
    assert torch.equal(one.encode(X), other.encode(X))


@pytest.mark.parametrize(
    "prefixes",
    [[0.5, 0.25], [0.001], [0.5, 1.0], [0.5, 0.501], [float("nan")], 0.5, "half", [True]],
)
def test_prefixes_that_do_not_grow_are_refused(prefixes):
    with pytest.raises(ConfigError) as refused:
        made(prefixes=prefixes)
    assert str(refused.value) == (
        f"prefixes={prefixes}: allowed are lists of rising shares between 0 and 1, "
        "which make 1 to 39 of 40 units"
    )
