"""Normalisation of samples by the statistics of training samples, and models that take raw ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from implicit_em.base.values import check_word
from implicit_em.models.declarations import declares
from implicit_em.models.linear import floating
from implicit_em.models.sae import SparseAutoencoder

Option = Literal["none", "centre", "standard", "scale", "l2", "zca"]
ROUNDING = 1e-6
"""Largest error, for normalised values near 1, that folding a normaliser into weights may make."""


class Normalizer(nn.Module):
    """Map of samples x to ``A (x - m)`` or, for ``l2``, to ``x / ||x||``, where 0 stays 0.

    It computes in float64: the difference of nearly equal numbers keeps their precision.

    Args:
        option: name of the normalisation; see ``fit_normalizer``.
        mean: mean m of the training samples, shape ``(D,)``; ``None`` for ``l2``.
        factor: symmetric matrix A, shape ``(D, D)``, or its diagonal, shape ``(D,)``.

    Raises:
        ValueError: if there is no such option, or if it needs other tensors.
    """

    mean: Tensor | None
    factor: Tensor

    def __init__(
        self, option: str, mean: Tensor | None = None, factor: Tensor | None = None
    ) -> None:
        super().__init__()
        check_word("normalize", option, [name for name in get_args(Option) if name != "none"])
        if mean is None or factor is None:
            fits = option == "l2" and mean is factor
        else:
            shapes = (mean.shape, 2 * mean.shape)
            fits = option != "l2" and mean.dim() == 1 and factor.shape in shapes
        if not fits:
            raise ValueError(f"normalize={option}: its statistics are of other shapes")
        self.option = option
        self.register_buffer("mean", None if mean is None else mean.double())
        self.register_buffer("factor", None if factor is None else factor.double())

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised samples of samples ``(..., D)``, in float32 or float64."""
        exact = x.double()
        if self.mean is None:
            changed = nn.functional.normalize(exact, dim=-1, eps=torch.finfo(exact.dtype).tiny)
        else:
            changed = self.turned(exact - self.mean)
        return changed.to(at_least_float32(x.dtype))

    def inverse(self, x: Tensor) -> Tensor:
        """Return the samples of normalised samples ``(..., D)``; for ``l2``, x itself."""
        if self.mean is None:
            return x
        return (self.turned_back(x) + self.mean).to(at_least_float32(x.dtype))

    def turned(self, x: Tensor) -> Tensor:
        """Return ``A x``, shape ``(..., D)``, float64."""
        factor = self.factor.double()
        return x.double() @ factor if factor.dim() == 2 else x.double() * factor

    def turned_back(self, x: Tensor) -> Tensor:
        """Return ``A^-1 x``, shape ``(..., D)``, float64."""
        factor = self.factor.double()
        return x.double() @ torch.linalg.inv(factor) if factor.dim() == 2 else x.double() / factor

    def sides(self, out_features: int | None) -> tuple["Normalizer", "Normalizer"]:
        """Return the normalisers of inputs and targets, which stand side by side in samples.

        Args:
            out_features: width of the targets; ``None`` if they are the inputs.
        """
        if out_features is None or self.mean is None:
            return self, self
        of_input, of_target = (
            Normalizer(self.option, self.mean[side], self.factor[(side,) * self.factor.dim()])
            for side in (slice(-out_features), slice(-out_features, None))
        )
        return of_input, of_target

    @classmethod
    def side_by_side(cls, parts: Sequence["Normalizer"]) -> "Normalizer":
        """Return the normaliser of samples that stand side by side, each with its own."""
        if len(parts) == 1:
            return parts[0]
        means, factors = [part.mean for part in parts], [part.factor for part in parts]
        join = torch.cat if factors[0].dim() == 1 else lambda each: torch.block_diag(*each)
        return cls(parts[0].option, torch.cat(means), join(factors))  # type: ignore[arg-type]


def fit_normalizer(option: str, blocks: Callable[[], Iterable[Tensor]]) -> Normalizer:
    """Fit a normaliser to the training samples.

    ``centre`` subtracts the mean of each column. ``standard`` also divides each column by its
    standard deviation. ``scale`` centres, and divides by one number, the root of the mean variance
    of the columns: the mean square of the values is then 1. ``zca`` centres, and multiplies by
    ``Sigma^(-1/2)`` (Bell and Sejnowski 1997), with the covariance shrunk as Ledoit and Wolf 2004
    do. ``l2`` divides each sample by its length. A column that never varies becomes 0.

    Args:
        option: ``centre``, ``standard``, ``scale``, ``zca`` or ``l2``.
        blocks: function that returns the samples in blocks ``(B, D)``, float64; called at most
            twice.
    """
    if option == "l2":  # which needs no statistics
        return Normalizer(option)
    count, total_D = 0, torch.zeros(())
    low_D, high_D = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    for x in blocks():
        count, total_D = count + len(x), total_D + x.sum(0)
        low_D, high_D = torch.minimum(low_D, x.amin(0)), torch.maximum(high_D, x.amax(0))
    # The mean of equal values may round to another value, and their variance to more than 0.
    mean_D = torch.where(low_D == high_D, low_D, total_D / count)
    squares, fourth = torch.zeros(()), torch.zeros(())
    for x in blocks() if option != "centre" else ():
        x = x - mean_D
        if option == "zca":
            squares, fourth = squares + x.T @ x, fourth + x.square().sum(1).square().sum()
        else:
            squares = squares + x.square().sum(0)
    return normalizer_of(option, count, mean_D, squares / count, fourth / count)


def normalizer_of(
    option: str, count: int, mean_D: Tensor, covariance: Tensor, fourth: Tensor
) -> Normalizer:
    """Return the normaliser of ``fit_normalizer``, from statistics of the training samples.

    Args:
        option: ``centre``, ``standard``, ``scale``, ``zca`` or ``l2``.
        count: number of samples N.
        mean_D: their mean, float64.
        covariance: their covariance about the mean, divided by N, shape ``(D, D)``, float64; only
            ``zca`` needs more than the diagonal, shape ``(D,)``.
        fourth: mean of the fourth power of their distance from the mean, float64.
    """
    if option == "l2":
        return Normalizer(option)
    if option == "centre":
        return Normalizer(option, mean_D, torch.ones_like(mean_D))
    if option == "zca":
        return Normalizer(option, mean_D, _whitening(covariance, fourth, count))
    variance_D = covariance.diagonal() if covariance.dim() == 2 else covariance
    if option == "scale":
        variance_D = variance_D.mean().expand_as(variance_D).contiguous()
    return Normalizer(option, mean_D, variance_D.rsqrt().where(variance_D > 0, 1))


def _whitening(covariance_DD: Tensor, fourth: Tensor, count: int) -> Tensor:
    """Return ``((1 - s) S + s mu I)^(-1/2)``, with the covariance S and mu the mean variance.

    Ledoit and Wolf 2004 (A well-conditioned estimator for large-dimensional covariance matrices):
    s is the mean of ``||x x^T - S||^2 / N``, relative to ``||S - mu I||^2`` and at most 1.
    """
    mean_variance = covariance_DD.diagonal().mean()
    squares = covariance_DD.square().sum()
    noise = (fourth - squares) / count
    spread = squares - len(covariance_DD) * mean_variance**2
    shrinkage = 1.0 if noise >= spread else noise / spread
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    values_D = (1 - shrinkage) * values_D + shrinkage * mean_variance
    varies = values_D > len(values_D) * torch.finfo(values_D.dtype).eps * values_D.max()
    return vectors_DD * values_D.rsqrt().where(varies, 1) @ vectors_DD.T


class Normalized(nn.Module):
    """A model on raw samples: a normaliser in front of the model, and a decoder behind it.

    Args:
        model: ``Encoder`` or ``SparseAutoencoder``, for normalised samples.
        normalizer: normaliser of the training samples; ``None`` for a model that takes raw samples.
        decoder: what decodes the energies of a model without a decoder, such as a ``RidgeDecoder``;
            ``None`` for the model's own decoder.
    """

    def __init__(
        self, model: Any, normalizer: Normalizer | None = None, decoder: Any | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.normalizer = normalizer
        self.decoder = decoder

    @property
    def weight(self) -> Tensor:
        """The model's matrix for normalised samples, shape ``(K, D)``."""
        return self.model.weight

    @property
    def rows(self) -> Tensor:
        """Rows ``(K, T)`` of the decoder, for normalised samples."""
        return self.decoder.weight if self.decoder else self.model.decoder.weight.detach().T

    def forward(self, x: Tensor) -> Tensor:
        """Return an encoder's energies or, if there is a decoder, reconstructions of samples."""
        decodes = self.decoder or isinstance(self.model, SparseAutoencoder)
        return self.reconstruct(x) if decodes else self.encode(x)

    def encode(self, x: Tensor) -> Tensor:
        """Return the energies or hidden activations ``(..., K)`` of raw samples ``(..., D)``."""
        return self.model.encode(self._normalized(x))

    def decode(self, energies: Tensor, x: Tensor | None = None) -> Tensor:
        """Return reconstructions ``(..., D)`` of raw samples from energies ``(..., K)``.

        A linear path needs the raw samples ``x``. Raises what the model's own ``decode`` raises, if
        there is no decoder.
        """
        inputs = [] if x is None or self.model.skip is None else [self._normalized(x)]
        found = (self.decoder or self.model.decode)(energies, *inputs)
        return found if self.normalizer is None else self._sides[1].inverse(found)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstructions of raw samples, both ``(..., D)``; for ``l2``, of length 1."""
        return self.decode(self.encode(x), x)

    @property
    def own_decoder(self) -> tuple[Tensor, Tensor] | None:
        """Weight ``(K, T)`` and bias ``(T,)`` of the model's own decoder, for raw samples."""
        own = self.model.own_decoder
        if own is None or self.normalizer is None or self.normalizer.mean is None:
            return own
        of_target = self._sides[1]
        return of_target.turned_back(own[0]), of_target.inverse(own[1])

    @property
    def out_features(self) -> int | None:
        """Width of a target that is not the input."""
        return self.model.out_features

    def sides(self, rows: Any) -> tuple[Any, Any]:
        """Return the inputs and targets of rows, as the model does."""
        return self.model.sides(rows)

    @property
    def _sides(self) -> tuple[Normalizer, Normalizer]:
        assert self.normalizer is not None
        return self.normalizer.sides(self.out_features)

    def _normalized(self, x: Tensor) -> Tensor:
        x, weight = floating(x), self.weight
        if self.normalizer is not None:  # before rounding: a mean may be far from 0
            x = self._sides[0](x.to(weight.device).double())
        return x.to(weight)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return the model's own responsibilities ``(..., K)`` for raw samples ``(..., D)``."""
        return self.model.responsibilities(self._normalized(x))


def taking_raw(model: Any, normalizer: Normalizer) -> nn.Module:
    """Return a model that takes raw samples, from one that takes normalised samples.

    The normaliser goes into the model's own layers if it is affine, the model's class declares
    ``folds`` (see ``models.declarations``), the weights' precision allows it, and there are no
    sweeps, which need columns of length 1. Otherwise a ``Normalized`` holds both.
    """
    if not declares(model, "folds") or model.swept or not _is_exact(normalizer, model.weight.dtype):
        return Normalized(model, normalizer)
    model.fold(normalizer)
    return model


def _is_exact(normalizer: Normalizer, dtype: torch.dtype) -> bool:
    """Return whether ``W A x + (b - W A m)``, rounded, is as good as ``W A (x - m) + b``.

    ``W A x`` and ``W A m`` are as large as ``A m``, so that their rounding errors may be a large
    part of their difference.
    """
    if normalizer.mean is None:
        return False
    level = normalizer.turned(normalizer.mean).abs().max()
    return bool(level.clamp(min=1) * torch.finfo(dtype).eps < ROUNDING)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype, or float32 for a less precise one."""
    return torch.promote_types(dtype, torch.float32)
