"""Metrics of a layer of energies on a set of images, as torchmetrics classes.

Every metric takes ``energies`` of shape ``(B, K)``, batch by batch, and accumulates in float64. A
batch may be empty, as the part of a small batch that a process gets. ``energy_metrics``
collects several metrics for one pass over the images.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanMetric, MeanSquaredError, Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from implicit_em.metrics.sparse import add_products, csr_of, is_sparse

ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Relative variation of a constant by float32 rounding alone."""
SILENT_SHARE = 0.01
RECONSTRUCTION = ("reconstruction_mse", "transpose_reconstruction_mse")
"""Names of the reconstruction error: by a decoder, or by the transposed encoder."""
LARGEST_SHARE = 1 / 64
"""Largest share of active units at which products through the active units alone pay."""
GRAM_ROWS = 1024
"""Number of rows in a block of the samples' N x N matrix of inner products."""


def _add_sums(metric: Metric, **shapes: tuple[int, ...]) -> None:
    """Give a metric states that processes add up, and make all its states float64."""
    for name, shape in shapes.items():
        metric.add_state(name, torch.zeros(shape), dist_reduce_fx="sum")
    metric.set_dtype(torch.float64)


class EnergyMoments(Metric):
    """First and second moments of each component; base of the metrics of variances.

    Args:
        components: number of components K.
    """

    full_state_update = False
    count: Tensor
    sums_K: Tensor
    squares_K: Tensor

    def __init__(self, components: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _add_sums(self, count=(), sums_K=(components,), squares_K=(components,))

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        exact_BK = energies.to(torch.float64, copy=True)
        self.count += len(exact_BK)
        self.sums_K += exact_BK.sum(0)
        self.squares_K += exact_BK.square_().sum(0)

    @property
    def mean_K(self) -> Tensor:
        """Mean of each component."""
        return self.sums_K / self.count

    @property
    def variance_K(self) -> Tensor:
        """Unbiased variance of each component."""
        return (self.squares_K - self.count * self.mean_K.square()) / (self.count - 1)


class DeadUnits(EnergyMoments):
    """Number of components with ``Var(E_j) < threshold``: the paper's count.

    The threshold is absolute, so a unit that fires weakly on every image counts too.
    """

    def __init__(self, components: int, threshold: float = 0.01, **kwargs: Any) -> None:
        super().__init__(components, **kwargs)
        self.threshold = threshold

    def compute(self) -> Tensor:
        """Return the count, int64."""
        return (self.variance_K < self.threshold).sum()


class Redundancy(EnergyMoments):
    """``||Corr(E) - I||_F^2`` off the diagonal; NaN if fewer than two components vary.

    Components that do not vary beyond float32 rounding contribute 0. The metric stores the samples
    while they are fewer than the components, then only the K x K matrix of products: memory is
    O(min(N, K) K), time O(min(N, K) N K).
    """

    samples: Tensor | list[Tensor]
    products: Tensor | list[Tensor]

    def __init__(self, components: int, **kwargs: Any) -> None:
        super().__init__(components, **kwargs)
        self.add_state("samples", [], dist_reduce_fx="cat")
        self.add_state("products", [], dist_reduce_fx="cat")
        self._forget()

    def _forget(self) -> None:
        # Never empty lists: all processes must exchange tensors of equal dimensions and dtypes,
        # even if one has folded its samples, or had none.
        components = len(self.sums_K)
        self.samples = [torch.zeros(0, components, device=self.device)]
        self.products = [self.sums_K.new_zeros(0, components, components)]

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._forget()

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        super().update(energies)
        # A copy: the caller may reuse the memory.
        self.samples = [*self._batches, energies.detach().clone()]
        self._fold()

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        # ``merge_state`` and ``forward`` add a state by this method.
        super()._reduce_states(incoming_state)
        self._fold()

    def _fold(self) -> None:
        if not self._wide:
            empty = self._batches[-1].new_zeros(0, len(self.sums_K))
            # One matrix is added to in place: a copy of it would cost more than its products.
            one = isinstance(self.products, list) and [len(part) for part in self.products] == [1]
            total_KK = self.products[0][0] if one else dim_zero_cat(self.products).sum(0)
            self.products, self.samples = [self._with_batches(total_KK)[None]], [empty]

    @property
    def _wide(self) -> bool:
        return bool(self.count < len(self.sums_K))

    @property
    def _batches(self) -> list[Tensor]:
        # The exchange between processes joins the list into one tensor.
        return [self.samples] if isinstance(self.samples, Tensor) else self.samples

    @property
    def products_KK(self) -> Tensor:
        """Sum over the samples of the products of two components."""
        return self._with_batches(dim_zero_cat(self.products).sum(0))

    def _with_batches(self, total_KK: Tensor) -> Tensor:
        """Add the products of the samples that are stored, in place."""
        for batch_BK in self._batches:
            if len(batch_BK):
                _add_products(total_KK, batch_BK)
        return total_KK

    @property
    def covariance_KK(self) -> Tensor:
        """Unbiased covariance of the components."""
        mean_K = self.mean_K
        return (self.products_KK - self.count * mean_K.outer(mean_K)) / (self.count - 1)

    @property
    def correlation_KK(self) -> Tensor:
        """Correlation of the components; a component that does not vary has correlation 0."""
        covariance_KK = self.covariance_KK
        scale_K = _scale(self.mean_K, covariance_KK.diagonal())
        return covariance_KK * scale_K.outer(scale_K)

    def compute(self) -> Tensor:
        """Return the sum of the squared correlations, float64."""
        if self._wide:
            scale_K = _scale(self.mean_K, self.variance_K) / (self.count - 1).sqrt()
            total, diagonal_K = _squared_products(dim_zero_cat(self.samples), self.mean_K, scale_K)
        else:
            squares_KK = self.correlation_KK.square()
            total, diagonal_K = squares_KK.sum(), squares_KK.diagonal()
        return torch.where((diagonal_K > 0).sum() < 2, torch.nan, total - diagonal_K.sum())


def _add_products(total_KK: Tensor, energies_BK: Tensor) -> None:
    """Add ``E^T E`` in place; for a wide layer with few active units, through them alone."""
    in_numpy = energies_BK.device.type == "cpu" and energies_BK.dtype != torch.bfloat16
    if in_numpy and is_sparse(energies_BK.numpy(), LARGEST_SHARE):
        add_products(total_KK, csr_of(energies_BK.numpy()).astype(np.float64))
    else:
        exact_BK = energies_BK.double()
        total_KK += exact_BK.mT @ exact_BK


def _scale(mean_K: Tensor, variance_K: Tensor) -> Tensor:
    """Return 1 over each standard deviation; 0 for variation within float32 rounding."""
    varies_K = variance_K > (ROUNDING * mean_K).square()
    return torch.where(varies_K, variance_K, 1).rsqrt() * varies_K


def _squared_products(samples_NK: Tensor, mean_K: Tensor, scale_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``||Z^T Z||_F^2`` and the squared diagonal of ``Z^T Z``, Z centred and scaled.

    As ``||Z^T Z||_F = ||Z Z^T||_F``, one block of the symmetric N x N matrix is enough at a time.
    """
    blocks = samples_NK.split(GRAM_ROWS)
    total, diagonal_K = mean_K.new_zeros(()), torch.zeros_like(mean_K)
    for index, block_BK in enumerate(blocks):
        rows_BK = (block_BK - mean_K).mul_(scale_K)
        diagonal_K += rows_BK.square().sum(0)
        total += (rows_BK @ rows_BK.mT).square().sum()
        for later_BK in blocks[index + 1 :]:
            total += 2 * (rows_BK @ (later_BK - mean_K).mul_(scale_K).mT).square().sum()
    return total, diagonal_K.square()


class SilentUnits(Metric):
    """Number of components that never exceed a share of the layer's mean activation.

    It counts dead units at any scale: a factor on all energies does not change it.

    Args:
        components: number of components K.
        share: threshold, as a share of the mean of ``|E|`` over all images and components.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    peaks_K: Tensor

    def __init__(self, components: int, share: float = SILENT_SHARE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.add_state("peaks_K", torch.zeros(components), dist_reduce_fx="max")
        _add_sums(self, count=(), total=())

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        if not len(energies):
            return
        magnitudes_BK = energies.abs()
        self.count += magnitudes_BK.numel()
        self.total += magnitudes_BK.sum(dtype=torch.float64)
        self.peaks_K.copy_(self.peaks_K.maximum(magnitudes_BK.amax(0)))

    def compute(self) -> Tensor:
        """Return the count, int64."""
        return (self.peaks_K <= self.share * self.total / self.count).sum()


class InactiveUnits(Metric):
    """Number of components with ``E_j > 0`` for no image: dead units, as the field counts them.

    Args:
        components: number of components K.
    """

    full_state_update = False
    active_K: Tensor

    def __init__(self, components: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _add_sums(self, active_K=(components,))

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        self.active_K += (energies > 0).any(0)

    def compute(self) -> Tensor:
        """Return the count, int64."""
        return (self.active_K == 0).sum()


class _Mean(MeanMetric):
    """Mean of a quantity over the samples, in float64."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nan_strategy="disable", **kwargs)
        self.set_dtype(torch.float64)


class ResponsibilityEntropy(_Mean):
    """Mean over the images of ``H(softmax(-E))``, in nats; ln K for equal responsibilities."""

    def update(self, energies: Tensor) -> None:  # type: ignore[override]
        """Add a batch of energies ``(B, K)``."""
        gaps_BK = _gaps(energies)
        weights_BK = gaps_BK.neg().exp_()
        sums_B = weights_BK.sum(-1)
        # log r = -gap - log sum exp(-gap)
        super().update(sums_B.log() + weights_BK.mul_(gaps_BK).sum(-1) / sums_B)


class MaximumResponsibility(_Mean):
    """Mean over the images of the largest responsibility."""

    def update(self, energies: Tensor) -> None:  # type: ignore[override]
        """Add a batch of energies ``(B, K)``."""
        super().update(_gaps(energies).neg_().exp_().sum(-1).reciprocal())


def _gaps(energies_BK: Tensor) -> Tensor:
    """Return how far energies are above the least one of their sample, float64."""
    exact_BK = energies_BK.to(torch.float64, copy=True)
    return exact_BK.sub_(exact_BK.amin(-1, keepdim=True))


class L0(_Mean):
    """Mean over the images of the number of components with ``E_j > 0``."""

    def update(self, energies: Tensor) -> None:  # type: ignore[override]
        """Add a batch of energies ``(B, K)``."""
        super().update((energies > 0).sum(-1))


class Density(Metric):
    """Share of (image, component) pairs with ``|E_j| > threshold``, in float64."""

    full_state_update = False
    count: Tensor
    active: Tensor

    def __init__(self, threshold: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        _add_sums(self, count=(), active=())

    def update(self, energies: Tensor) -> None:
        """Add a batch of energies ``(B, K)``."""
        self.count += energies.numel()
        self.active += (energies.abs() > self.threshold).count_nonzero()

    def compute(self) -> Tensor:
        """Return the share."""
        return self.active / self.count


class UnexplainedVariance(Metric):
    """Fraction of variance unexplained, ``sum (x - x̂)² / sum (x - mean x)²``, in float64.

    Both sums run over images and inputs, and the mean is over the images. It is NaN if no input
    varies.
    """

    full_state_update = False
    raw: Callable[[Tensor], Tensor] | None = None
    """Map from normalised samples to measured samples; ``None`` to measure samples as given."""
    count: Tensor
    residual: Tensor
    squares: Tensor
    sums_D: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _add_sums(self, count=(), residual=(), squares=(), sums_D=())  # D follows from a batch

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch of images and their reconstructions, both ``(B, D)``."""
        pair = (target, preds) if self.raw is None else (self.raw(target), self.raw(preds))
        target_BD, preds_BD = (values.double() for values in pair)
        self.count += len(target_BD)
        self.residual += (target_BD - preds_BD).square().sum()
        self.squares += target_BD.square().sum()
        self.sums_D = self.sums_D + target_BD.sum(0)

    def compute(self) -> Tensor:
        """Return the fraction, float64."""
        level = self.sums_D.square().sum() / self.count
        variance = self.squares - level
        return self.residual / torch.where(variance > ROUNDING**2 * level, variance, torch.nan)


CURVES: Mapping[str, Callable[[int], Metric]] = {
    "dead_units": DeadUnits,
    "redundancy": Redundancy,
    "responsibility_entropy": lambda components: ResponsibilityEntropy(),
    "density": lambda components: Density(),
}
"""The metrics that are followed during training: functions of the number of components."""
FINAL: Mapping[str, Callable[[int], Metric]] = {
    **CURVES,
    "l0": lambda components: L0(),
    "inactive_units": InactiveUnits,
    "silent_units": SilentUnits,
    "maximum_responsibility": lambda components: MaximumResponsibility(),
}
"""The metrics of a trained model, beside its reconstruction error."""


def energy_metrics(components: int) -> MetricCollection:
    """Return the metrics to follow during training; they are updated with ``energies``."""
    return _collection({name: build(components) for name, build in CURVES.items()})


def final_metrics(components: int, reconstruction: str = "reconstruction_mse") -> MetricCollection:
    """Return all metrics of a trained model.

    They are updated with ``energies``, and with ``preds`` and ``target`` for the reconstruction.

    Args:
        components: number of components K.
        reconstruction: name of the mean squared reconstruction error.
    """
    metrics: dict[str, Any] = {name: build(components) for name, build in FINAL.items()}
    metrics[reconstruction] = MeanSquaredError().set_dtype(torch.float64)
    if reconstruction == RECONSTRUCTION[0]:
        metrics["fvu"] = UnexplainedVariance()
    return _collection(metrics)


def _collection(metrics: dict[str, Any]) -> MetricCollection:
    # Of a group, only the first metric is updated: its state holds the state of the second.
    return MetricCollection(metrics, compute_groups=[["redundancy", "dead_units"]])
