"""The whole model in one file: train the derived encoder on MNIST, and measure what it has learned.

    python examples/derived_in_one_file.py

This imports nothing of implicit_em. It trains the same model with the same objective, and measures
the same figures, as ``make train`` does. The framework adds the rest: other models, losses and data
sets, sweeps, comparisons, runs that go on after an interruption.

The idea (Oursland 2026, arXiv 2601.06478): one linear layer and an activation give an energy for
each of K components, E = relu(W x + b). The components form a mixture. The posterior probability of
component j for an image is its responsibility, r_j = softmax(-E)_j. The negative log-likelihood of
the image is LSE = -log sum_j exp(-E_j), up to normalisation. The gradient of LSE at E_j is exactly
r_j. So a forward pass is the E-step of expectation maximisation, and a backward pass a step of
the M-step. There is no decoder.

Names end with the dimensions of their tensors: N images of a data set, B images of a batch, D
pixels, K components.
"""

from collections.abc import Iterator
from statistics import fmean

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Adam, Optimizer
from torchvision.datasets import MNIST

COMPONENTS = 64
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
EPOCHS = 100
SEED = 1


def mnist(train: bool) -> tuple[Tensor, Tensor]:
    """Return images of pixels in [0, 1], shape (N, D), and their digits, shape (N,)."""
    data = MNIST("data", train=train, download=True)  # unpacks the archives that are there already
    return data.data.flatten(1) / 255, data.targets


def new_encoder(pixels: int) -> nn.Sequential:
    """Return the whole model: E = relu(W x + b)."""
    return nn.Sequential(nn.Linear(pixels, COMPONENTS), nn.ReLU())


def terms(energies_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms of the objective for a batch. The loss is their sum."""
    # LSE: -log sum_j exp(-E_j), summed over the batch. The mixture explains the images.
    lse = -torch.logsumexp(-energies_BK, dim=1).sum()
    # Variance: -sum_j log(Var(E_j) + 1e-6). No component dies; with LSE alone, all would.
    variance = -torch.log(energies_BK.var(dim=0) + 1e-6).sum()
    # Decorrelation: sum_{i != j} Corr(E_i, E_j)^2. No two components are the same.
    standardised_BK = normalize(energies_BK - energies_BK.mean(dim=0), dim=0)
    correlation_KK = standardised_BK.T @ standardised_BK
    decorrelation = (correlation_KK - correlation_KK.diagonal().diag()).square().sum()
    return lse, variance, decorrelation


def step(encoder: nn.Module, optimizer: Optimizer, images_BD: Tensor) -> float:
    """Move the weights down the gradient of the loss, once, and return the loss."""
    lse, variance, decorrelation = terms(encoder(images_BD))
    loss = lse + variance + decorrelation
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def batches(images_ND: Tensor) -> Iterator[Tensor]:
    """Yield the batches of an epoch, shape (B, D), in a new order. The last may be smaller."""
    for rows_B in torch.randperm(len(images_ND)).split(BATCH_SIZE):
        yield images_ND[rows_B]


def train(images_ND: Tensor) -> tuple[nn.Module, float]:
    """Return a trained encoder, and the mean loss over the steps of its last epoch."""
    encoder = new_encoder(images_ND.shape[1])
    optimizer = Adam(encoder.parameters(), lr=LEARNING_RATE)
    for epoch in range(1, EPOCHS + 1):
        loss = fmean(step(encoder, optimizer, images_BD) for images_BD in batches(images_ND))
        print(f"epoch {epoch}/{EPOCHS}  loss {loss:.2f}")
    return encoder, loss


def probe_accuracy(
    energies_NK: Tensor, digits_N: Tensor, test_energies_NK: Tensor, test_digits_N: Tensor
) -> float:
    """Return the share of test images whose digit a linear classifier reads off the energies."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    probe.fit(energies_NK.numpy(), digits_N.numpy())
    return probe.score(test_energies_NK.numpy(), test_digits_N.numpy())


def figures(energies_NK: Tensor) -> dict[str, float]:
    """Return what the energies of test images say about the encoder."""
    _, _, redundancy = terms(energies_NK)
    return {
        "dead units": (energies_NK.var(dim=0) < 0.01).sum().item(),  # components that do not vary
        "redundancy": redundancy.item(),  # the same formula as the third term of the objective
        "density": (energies_NK > 0.01).double().mean().item(),  # share of energies that are not 0
    }


def main() -> None:
    """Train on the 60,000 training images, measure on the 10,000 test images, and print."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # more would not make so small a layer faster
    images_ND, digits_N = mnist(train=True)
    test_images_ND, test_digits_N = mnist(train=False)
    encoder, final_loss = train(images_ND)
    with torch.no_grad():
        energies_NK, test_energies_NK = encoder(images_ND), encoder(test_images_ND)
    accuracy = probe_accuracy(energies_NK, digits_N, test_energies_NK, test_digits_N)
    measured = {**figures(test_energies_NK), "probe accuracy": accuracy, "final loss": final_loss}
    for name, value in measured.items():
        print(f"{name:14}  {value:.5g}")


if __name__ == "__main__":
    main()
