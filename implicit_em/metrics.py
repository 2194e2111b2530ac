"""What a set of images says about a layer of energies, as torchmetrics classes.

Every metric takes ``energies`` of shape ``(B, K)``, batch by batch, and accumulates in float64.
``energy_metrics`` collects them all, so that one pass over the images serves them together.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MeanSquaredError, Metric, MetricCollection

ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Relative variation that float32 rounding alone can give a constant."""
DEAD_VARIANCE = 0.01
ACTIVE_ENERGY = 0.01
SILENT_SHARE = 0.01


class EnergyMoments(Metric):
    """First and second moments of the energies; base of the metrics that need covariances.

    Args:
        components: number of components K.

    """

    full_state_update = False
    count: Tensor
    sums_K: Tensor
    products_KK: Tensor

    def __init__(self, components: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("count", zero, dist_reduce_fx="sum")
        self.add_state("sums_K", zero.new_zeros(components), dist_reduce_fx="sum")
        self.add_state("products_KK", zero.new_zeros(components, components), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        energies_BK = energies.double()
        self.count += len(energies_BK)
        self.sums_K += energies_BK.sum(0)
        self.products_KK += energies_BK.mT @ energies_BK

    @property
    def mean_K(self) -> Tensor:
        """Mean of each component."""
        return self.sums_K / self.count

    @property
    def covariance_KK(self) -> Tensor:
        """Unbiased covariance of the components."""
        mean_K = self.mean_K
        return (self.products_KK - self.count * mean_K.outer(mean_K)) / (self.count - 1)

    @property
    def varies_K(self) -> Tensor:
        """Whether each component varies beyond float32 rounding."""
        return self.covariance_KK.diagonal() > (ROUNDING * self.mean_K).square()

    @property
    def correlation_KK(self) -> Tensor:
        """Correlation of the components; rows and columns of those that do not vary are 0."""
        covariance_KK, varies_K = self.covariance_KK, self.varies_K
        scale_K = torch.where(varies_K, covariance_KK.diagonal(), 1).rsqrt() * varies_K
        return covariance_KK * scale_K.outer(scale_K)


class DeadUnits(EnergyMoments):
    """Number of components with ``Var(E_j) < threshold``: the paper's count.

    An absolute threshold: it also counts a unit that fires on every image but weakly.
    """

    def __init__(self, components: int, threshold: float = DEAD_VARIANCE, **kwargs: Any) -> None:
        super().__init__(components, **kwargs)
        self.threshold = threshold

    def compute(self) -> Tensor:
        """Return the count, int64."""
        return (self.covariance_KK.diagonal() < self.threshold).sum()


class Redundancy(EnergyMoments):
    """``||Corr(E) - I||_F^2`` off the diagonal; NaN where fewer than two components vary.

    Components that do not vary beyond float32 rounding contribute 0.
    """

    def compute(self) -> Tensor:
        """Return the sum of the squared correlations, float64."""
        squares_KK = self.correlation_KK.square()
        redundancy = squares_KK.sum() - squares_KK.diagonal().sum()
        return torch.where(self.varies_K.sum() < 2, torch.nan, redundancy)


class SilentUnits(Metric):
    """Number of components that are never active above a share of the layer's mean activation.

    The scale-free count of dead units: multiplying all energies by a constant does not change it.

    Args:
        components: number of components K.
        share: of the mean of ``|E|`` over all images and components.

    """

    full_state_update = False
    count: Tensor
    total: Tensor
    peaks_K: Tensor

    def __init__(self, components: int, share: float = SILENT_SHARE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("count", zero, dist_reduce_fx="sum")
        self.add_state("total", zero.clone(), dist_reduce_fx="sum")
        self.add_state("peaks_K", zero.new_zeros(components), dist_reduce_fx="max")
        self.set_dtype(torch.float64)

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        magnitudes_BK = energies.double().abs()
        self.count += magnitudes_BK.numel()
        self.total += magnitudes_BK.sum()
        self.peaks_K.copy_(torch.maximum(self.peaks_K, magnitudes_BK.amax(0)))

    def compute(self) -> Tensor:
        """Return the count, int64."""
        return (self.peaks_K <= self.share * self.total / self.count).sum()


class _Mean(MeanMetric):
    """Mean in float64 of a quantity of each sample."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nan_strategy="disable", **kwargs)
        self.set_dtype(torch.float64)


class ResponsibilityEntropy(_Mean):
    """Mean over the images of ``H(softmax(-E))``, in nats; ln K where nothing is told apart."""

    def update(self, energies: Tensor) -> None:  # type: ignore[override]
        """Add a batch of energies ``(B, K)``."""
        log_responsibilities_BK = (-energies.double()).log_softmax(-1)
        entropies_B = -(log_responsibilities_BK.exp() * log_responsibilities_BK).sum(-1)
        super().update(entropies_B)


class MaximumResponsibility(_Mean):
    """Mean over the images of the largest responsibility."""

    def update(self, energies: Tensor) -> None:  # type: ignore[override]
        """Add a batch of energies ``(B, K)``."""
        super().update((-energies.double()).softmax(-1).amax(-1))


class Density(_Mean):
    """Share of (image, component) pairs with ``|E_j| > threshold``."""

    def __init__(self, threshold: float = ACTIVE_ENERGY, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def update(self, energies: Tensor) -> None:  # type: ignore[override]
        """Add a batch of energies ``(B, K)``."""
        super().update((energies.abs() > self.threshold).double())


def energy_metrics(components: int) -> MetricCollection:
    """Return the curves that are worth following during training: ``update(energies=...)``."""
    return MetricCollection(
        {
            "dead_units": DeadUnits(components),
            "redundancy": Redundancy(components),
            "responsibility_entropy": ResponsibilityEntropy(),
            "density": Density(),
        },
        compute_groups=[
            ["dead_units", "redundancy"],
            ["responsibility_entropy"],
            ["density"],
        ],
    )


def final_metrics(components: int, reconstruction: str = "reconstruction_mse") -> MetricCollection:
    """Return all metrics of a trained model, its reconstruction error under the name given.

    They are updated with ``energies``, and ``preds`` and ``target`` for the reconstruction error.
    """
    collection = energy_metrics(components)
    collection.add_metrics(
        {
            "silent_units": SilentUnits(components),
            "maximum_responsibility": MaximumResponsibility(),
            reconstruction: MeanSquaredError().set_dtype(torch.float64),
        }
    )
    return collection
