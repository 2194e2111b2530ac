"""Controls: classical methods that scikit-learn fits in ``start``, before training.

With ``trainer.max_epochs=0`` a control stays as it starts. It is measured as a trained model is.
Once fitted, it needs only torch.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from implicit_em.base.values import check_whole
from implicit_em.models.encoder import Encoder
from implicit_em.models.linear import in_dtype_of
from implicit_em.models.sae import SparseAutoencoder

MOST_SWEEPS = 10_000
"""Largest number of sweeps with which NMF finds the codes of a sample."""


class Pixels(Encoder):
    """The inputs themselves.

    Args:
        in_features: width D of the input, and number of components.
        hidden: D, or ``None`` for D.

    Raises:
        ValueError: if ``hidden`` is another number.
    """

    takes_stacks = takes_parts = decodes = True

    def __init__(self, in_features: int, hidden: int | None = None) -> None:
        if hidden not in (None, in_features):
            raise ValueError(f"hidden={hidden}: must be null, as many as inputs")
        super().__init__(in_features, in_features, nn.Identity())
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


class _Factors(SparseAutoencoder):
    """Codes and reconstructions that are linear: ``a = W_e (x - mean)``, ``x' = W_d a + mean``."""

    takes_stacks = takes_parts = True

    def __init__(self, in_features: int, hidden: int = 64) -> None:
        super().__init__(in_features, hidden, nn.Identity())

    def _set(self, encoder_KD: np.ndarray, decoder_DK: np.ndarray, mean_D: np.ndarray) -> None:
        _copy(self.weight, encoder_KD)
        _copy(self.encoder.linear.bias, -encoder_KD @ mean_D)
        _copy(self.decoder.weight, decoder_DK)
        _copy(self.decoder.bias, mean_D)


class PCA(_Factors):
    """Principal components: coordinates along the K orthonormal directions of most variance.

    Args:
        in_features: width D of the input.
        hidden: number of components K, at most D.
    """

    takes_stacks = takes_parts = folds = True

    def start(self, x: Tensor) -> None:
        """Fit to the training samples ``(N, D)``."""
        from sklearn.decomposition import PCA as Fit

        fitted = Fit(len(self.weight), random_state=_seed()).fit(x.numpy())
        self._set(fitted.components_, fitted.components_.T, fitted.mean_)


class ICA(_Factors):
    """Independent components by FastICA, of unit variance (Hyvärinen and Oja 2000).

    Args:
        in_features: width D of the input.
        hidden: number of components K, at most D.
        iterations: maximum number of iterations of FastICA.
    """

    takes_stacks = takes_parts = folds = True

    def __init__(self, in_features: int, hidden: int = 64, iterations: int = 200) -> None:
        super().__init__(in_features, hidden)
        self.iterations = iterations

    def start(self, x: Tensor) -> None:
        """Fit to the training samples ``(N, D)``."""
        from sklearn.decomposition import PCA, FastICA

        # FastICA's own whitening divides by 0 where an input never varies. Where components are
        # nearly Gaussian, it takes the root of a nearly singular matrix. In float32, the result may
        # then be far from a rotation.
        samples = x.double().numpy()
        white = PCA(len(self.weight), whiten=True, random_state=_seed()).fit(samples)
        rotation = FastICA(whiten=False, max_iter=self.iterations, random_state=_seed())
        with _stopping_early():
            rotation_KK = rotation.fit(white.transform(samples)).components_
        scale_K1 = np.sqrt(white.explained_variance_)[:, None]
        self._set(
            rotation_KK @ (white.components_ / scale_K1),
            (white.components_ * scale_K1).T @ rotation_KK.T,
            white.mean_,
        )


class NMF(_Factors):
    """Non-negative matrix factorisation ``x = W_d a`` with ``W_d, a >= 0`` (Lee and Seung 1999).

    The columns of ``W_d`` have length 1. Coordinate descent finds the codes, which are the
    non-negative least-squares solution.

    Args:
        in_features: width D of the input, which must not be negative.
        hidden: number of components K.
        iterations: maximum number of iterations of the fit.
        sweeps: number of sweeps of the coordinate descent.
    """

    takes_parts = True

    def __init__(
        self, in_features: int, hidden: int = 64, iterations: int = 200, sweeps: int = 50
    ) -> None:
        super().__init__(in_features, hidden)
        check_whole("sweeps", sweeps, 1, MOST_SWEEPS)
        self.iterations = iterations
        self.sweeps = sweeps

    def start(self, x: Tensor) -> None:
        """Fit to the training samples ``(N, D)``."""
        from sklearn.decomposition import NMF as Fit

        fit = Fit(len(self.weight), init="nndsvda", max_iter=self.iterations, random_state=_seed())
        with _stopping_early():
            rows_KD = fit.fit(x.numpy()).components_
        lengths_K1 = np.linalg.norm(rows_KD, axis=1, keepdims=True)
        parts_KD = rows_KD / np.where(lengths_K1 > 0, lengths_K1, 1)
        self._set(parts_KD, parts_KD.T, np.zeros(x.shape[1]))

    @torch.no_grad()
    def encode(self, x: Any) -> Tensor:
        """Return the codes ``(..., K)`` of inputs ``(..., D)``."""
        parts = self.decoder.weight
        gram, target = parts.mT @ parts, in_dtype_of(parts, x) @ parts
        codes = torch.zeros_like(target)
        for _ in range(self.sweeps):
            for j, row in enumerate(gram):
                step = (target[..., j] - codes @ row) / row[j].clamp(min=1e-12)
                codes[..., j].add_(step).clamp_(min=0)
        return codes


class KMeans(Encoder):
    """Soft k-means: how much closer a centre is than the average one, ``max(0, mean_j z_j - z_j)``.

    The "triangle" code of Coates, Ng and Lee 2011 (An Analysis of Single-Layer Networks), with the
    distances z to the centres.

    Args:
        in_features: width D of the input.
        hidden: number of centres K.
    """

    takes_parts = True

    def start(self, x: Tensor) -> None:
        """Fit to the training samples ``(N, D)``."""
        from sklearn.cluster import KMeans as Fit

        fitted = Fit(len(self.weight), n_init=1, random_state=_seed()).fit(x.numpy())
        _copy(self.weight, fitted.cluster_centers_)

    def forward(self, x: Any) -> Tensor:
        """Return the codes ``(..., K)`` of inputs ``(..., D)``."""
        distances = torch.cdist(in_dtype_of(self.weight, x), self.weight)
        return self.activation(distances.mean(-1, keepdim=True) - distances)


class GaussianMixture(Encoder):
    """Gaussian mixture of diagonal covariances: ``E_j = -log pi_j - log N(x; mu_j, sigma_j)``.

    As in the derived model, ``softmax(-E)`` are the responsibilities.

    Args:
        in_features: width D of the input.
        hidden: number of components K.
        floor: constant added to the variance of each input; an input that never varies has none.
        iterations: maximum number of EM steps.
    """

    takes_parts = True
    precision: Tensor

    def __init__(
        self, in_features: int, hidden: int = 64, floor: float = 0.01, iterations: int = 500
    ) -> None:
        super().__init__(in_features, hidden, nn.Identity())
        self.floor = floor
        self.iterations = iterations
        self.register_buffer("precision", torch.ones(hidden, in_features))

    def start(self, x: Tensor) -> None:
        """Fit to the training samples ``(N, D)``."""
        from sklearn.mixture import GaussianMixture as Fit

        mixture = Fit(
            len(self.weight),
            covariance_type="diag",
            reg_covar=self.floor,
            max_iter=self.iterations,
            random_state=_seed(),
        )
        with _stopping_early():
            fitted = mixture.fit(x.numpy())
        log_scale_K = 0.5 * np.log(2 * np.pi * fitted.covariances_).sum(1)
        _copy(self.weight, fitted.means_)
        _copy(self.linear.bias, log_scale_K - np.log(fitted.weights_))
        _copy(self.precision, 1 / fitted.covariances_)

    def forward(self, x: Any) -> Tensor:
        """Return the energies ``(..., K)`` of inputs ``(..., D)``."""
        x = in_dtype_of(self.weight, x)
        scaled = self.weight * self.precision
        squares = x.square() @ self.precision.T - 2 * x @ scaled.T + (self.weight * scaled).sum(-1)
        return self.linear.bias + squares / 2


def _stopping_early() -> Any:
    """Return a context that hides the warning of a fit that ends at its maximum of iterations."""
    from sklearn.exceptions import ConvergenceWarning

    return warnings.catch_warnings(action="ignore", category=ConvergenceWarning)


@torch.no_grad()
def _copy(to: Tensor, values: np.ndarray) -> None:
    to.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _seed() -> int:
    """Return a seed that follows from torch's."""
    return int(torch.randint(2**31 - 1, ()))
