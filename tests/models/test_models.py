import pytest
import torch
from torch import nn
from torch.testing import assert_close

from implicit_em.models import Abs, Encoder, SampledEncoder, SparseAutoencoder


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_encoder_keeps_leading_dimensions(shape):
    encoder = Encoder(6, 5)
    x = torch.randn(*shape, 6)
    assert encoder(x).shape == (*shape, 5)
    assert encoder.responsibilities(x).shape == (*shape, 5)
    assert_close(encoder(x).reshape(-1, 5), encoder(x.reshape(-1, 6)))


def test_energies_are_the_activated_linear_map_which_is_rectified_by_default():
    encoder, default = Encoder(6, 5, nn.Softplus()), Encoder(6, 5)
    default.load_state_dict(encoder.state_dict())
    x = torch.randn(4, 6)
    z = x @ encoder.weight.T + encoder.linear.bias
    assert_close(encoder(x), z.exp().add(1).log())
    assert_close(default(x), z.clamp(min=0))
    assert encoder.weight.shape == (5, 6)


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


def test_sampled_rows_start_towards_different_samples_from_their_mean():
    x = torch.rand(40, 784)
    encoder = SampledEncoder(784, 8)
    encoder.start(x)
    away = x - x.mean(0)
    cosines = nn.functional.cosine_similarity(encoder.weight[:, None], away, dim=-1)
    assert_close(cosines.max(1).values, torch.ones(8))
    assert cosines.argmax(1).unique().numel() == 8
    assert_close(encoder.linear(x.mean(0)), torch.zeros(8), rtol=0, atol=1e-5)
    drawn = Encoder(784, 200).weight.norm(dim=1).mean()
    assert_close(encoder.weight.norm(dim=1), drawn.expand(8), rtol=0.02, atol=0)
    first = encoder.weight.detach().clone()
    encoder.start(x)
    assert not torch.equal(encoder.weight, first), "the samples are drawn"


def test_a_row_that_starts_from_the_mean_itself_is_zero():
    encoder = SampledEncoder(6, 3)
    encoder.start(torch.ones(3, 6))
    assert (encoder.weight == 0).all()


def test_sampled_rows_need_as_many_samples():
    with pytest.raises(ValueError, match="hidden=5: more than the 4 training samples"):
        SampledEncoder(6, 5).start(torch.rand(4, 6))
