import pytest
import torch
from torch import nn
from torch.testing import assert_close

from implicit_em.models import Abs, Encoder, SparseAutoencoder


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_encoder_keeps_leading_dimensions(shape):
    encoder = Encoder(6, 5)
    x = torch.randn(*shape, 6)
    assert encoder(x).shape == (*shape, 5)
    assert encoder.responsibilities(x).shape == (*shape, 5)
    assert_close(encoder(x).reshape(-1, 5), encoder(x.reshape(-1, 6)))


def test_energies_are_the_activated_linear_map():
    encoder = Encoder(6, 5, nn.Softplus())
    x = torch.randn(4, 6)
    z = x @ encoder.weight.T + encoder.linear.bias
    assert_close(encoder(x), z.exp().add(1).log())
    assert encoder.weight.shape == (5, 6)


def test_relu_is_the_activation_where_none_is_given():
    encoder = Encoder(6, 5)
    x = torch.randn(40, 6)
    assert_close(encoder(x), encoder.linear(x).clamp(min=0))
    assert (encoder(x) == 0).any()


def test_abs_is_the_magnitude_and_passes_a_gradient_on_both_sides():
    z = torch.tensor([-2.0, 3.0], requires_grad=True)
    energies = Abs()(z)
    energies.sum().backward()
    assert energies.tolist() == [2, 3]
    assert z.grad.tolist() == [-1, 1]


@pytest.mark.parametrize(("model", "parameters"), [(Encoder, 50_240), (SparseAutoencoder, 101_200)])
def test_parameters_at_the_papers_size(model, parameters):
    assert sum(p.numel() for p in model(784, 64).parameters()) == parameters


def test_responsibilities_are_softmax_of_minus_the_energies():
    encoder = Encoder(6, 5)
    x = torch.randn(4, 6)
    likelihoods = (-encoder(x)).exp()
    found = encoder.responsibilities(x)
    assert_close(found, likelihoods / likelihoods.sum(-1, keepdim=True))
    assert_close(found.sum(-1), torch.ones(4))


def test_initialisation_is_that_of_linear_layers():
    torch.manual_seed(3)
    first, second = nn.Linear(784, 64), nn.Linear(64, 784)
    torch.manual_seed(3)
    encoder = Encoder(784, 64)
    torch.manual_seed(3)
    sae = SparseAutoencoder(784, 64)
    assert torch.equal(encoder.linear.weight, first.weight)
    assert torch.equal(encoder.linear.bias, first.bias)
    assert torch.equal(sae.weight, first.weight)
    assert torch.equal(sae.decoder.weight, second.weight)
    assert torch.equal(sae.decoder.bias, second.bias)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_autoencoder_decodes_what_it_encodes(shape):
    sae = SparseAutoencoder(6, 5, nn.LeakyReLU(0.3))
    x = torch.randn(*shape, 6)
    activations = sae.encode(x)
    z = x @ sae.weight.T + sae.encoder.linear.bias
    assert_close(activations, torch.where(z > 0, z, 0.3 * z))
    assert_close(sae.decode(activations), activations @ sae.decoder.weight.T + sae.decoder.bias)
    assert_close(sae(x), sae.decode(activations))
    assert sae(x).shape == x.shape
