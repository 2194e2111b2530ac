"""The derived encoder as a scikit-learn estimator."""

from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.optim import Adam

from implicit_em.base.errors import NonFiniteLossError
from implicit_em.base.threads import torch_threads
from implicit_em.data import Block, ResidentLoader
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.sparse import largest_share
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.losses import Objective, Term, decay, decorrelation, lse, variance
from implicit_em.models import Encoder


class ImplicitEM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A decoder-free sparse autoencoder, trained by implicit EM (Oursland 2026, arXiv 2601.06478).

    The K components have energies ``E = relu(W x + b)``; a low energy explains a sample well. Their
    responsibilities are ``softmax(-E)``. Adam minimises ``lse_weight * LSE + var_weight * variance
    + tc_weight * decorrelation + decay_weight * decay``, with the terms of ``implicit_em.losses``.
    Samples are used without scaling: scale the features first if their scales differ.

    It is no ``DensityMixin`` and has no ``score``: a layer whose energies are all 0 would score
    best. Select models by the step that follows in a pipeline.

    Args:
        n_components: number of components K.
        lse_weight: weight of the LSE term, a sum over the batch; its share grows with
            ``batch_size``.
        var_weight: weight of the variance term, which keeps components alive.
        tc_weight: weight of the decorrelation term, which keeps components different.
        decay_weight: weight of the weight decay, with which energies do not grow for ever.
        l0: mean number of active components of a sample to train for: a factor on ``lse_weight`` is
            controlled. ``None`` leaves the weight as it is.
        lr: learning rate of Adam.
        max_iter: number of epochs of ``fit``; it does not stop early.
        batch_size: number of samples in a step, at least 2.
        random_state: seed of the initial weights and of the order of the batches.
        n_jobs: number of torch threads in training, as joblib counts them. ``None`` is one thread:
            the fastest for a small layer, with the same bits on any number of cores.

    Attributes:
        encoder_: the ``implicit_em.Encoder``, in the precision of the samples, float64 or float32.
        components_: weight rows, shape ``(K, D)``.
        n_iter_: number of epochs trained so far.
        n_features_in_: width D of the samples.
        feature_names_in_: names of the samples' columns, if they have names.
    """

    encoder_: Encoder
    n_iter_: int
    n_features_in_: int
    _control: SparsityControl | None = None

    def __init__(
        self,
        n_components: int = 64,
        *,
        lse_weight: float = 1.0,
        var_weight: float = 1.0,
        tc_weight: float = 1.0,
        decay_weight: float = 0.0,
        l0: float | None = None,
        lr: float = 1e-3,
        max_iter: int = 100,
        batch_size: int = 128,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.lse_weight = lse_weight
        self.var_weight = var_weight
        self.tc_weight = tc_weight
        self.decay_weight = decay_weight
        self.l0 = l0
        self.lr = lr
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> "ImplicitEM":
        """Train new weights for ``max_iter`` epochs.

        Args:
            X: samples of shape ``(N, D)`` with N >= 2.
            y: ignored.

        Raises:
            ValueError, TypeError: if the samples or a parameter are not valid.
            NonFiniteLossError: if training diverges.
        """
        self._check_parameters()
        samples = self._samples(X, reset=True, least=2)
        self._begin(samples)
        self._train(samples, self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "ImplicitEM":
        """Train for one more epoch on these samples; arguments and errors are those of ``fit``.

        ``max_iter`` repeated calls with the same samples give the result of ``fit``. With ``l0``,
        the control counts on that many calls.
        """
        self._check_parameters()
        first = not hasattr(self, "encoder_")
        if not first and len(self.components_) != self.n_components:
            raise ValueError(
                f"n_components == {self.n_components}, but {len(self.components_)} are trained; "
                "fit begins anew."
            )
        target = self._control and self._control.target.item()
        if not first and target != self.l0:
            raise ValueError(f"l0 == {self.l0}, but {target} is trained for; fit begins anew.")
        samples = self._samples(X, reset=first, least=2)
        if first:
            self._begin(samples)
        self._train(samples, 1)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the energies of samples, shape ``(N, K)``: the activations of the layer."""
        return self._energies(X).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the responsibilities of the components, ``softmax(-E)``, shape ``(N, K)``."""
        return (-self._energies(X)).softmax(-1).numpy()

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the log-likelihood of samples, ``log sum_j exp(-E_j)``, shape ``(N,)``.

        The mixture is not normalised: compare samples under one model, not models.
        """
        return (-self._energies(X)).logsumexp(-1).numpy()

    @property
    def components_(self) -> np.ndarray:
        """Weight rows, shape ``(K, D)``."""
        return self.encoder_.weight.detach().numpy()

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_parameters(self) -> None:
        for name, least in (("n_components", 1), ("max_iter", 1), ("batch_size", 2)):
            check_scalar(getattr(self, name), name, Integral, min_val=least)
        for name in ("lse_weight", "var_weight", "tc_weight", "decay_weight", "lr"):
            value = getattr(self, name)
            bounds = "neither" if name == "lr" else "both"
            check_scalar(value, name, Real, min_val=0, include_boundaries=bounds)
            if not np.isfinite(value):
                raise ValueError(f"{name} == {value}, must be finite.")
        if self.l0 is not None:
            ends = {"min_val": 0, "max_val": self.n_components, "include_boundaries": "right"}
            check_scalar(self.l0, "l0", Real, **ends)
            if np.isnan(self.l0):  # which no bound refuses
                raise ValueError(f"l0 == {self.l0}, must be finite.")
            if self.lse_weight == 0:
                raise ValueError(f"l0 == {self.l0}, needs lse_weight above 0.")
        if self.n_jobs is not None:
            check_scalar(self.n_jobs, "n_jobs", Integral)
        effective_n_jobs(self.n_jobs)  # refuses 0

    def _samples(self, X: Any, reset: bool, least: int = 1) -> Tensor:
        dtype = [np.float64, np.float32] if reset else self.components_.dtype
        array = validate_data(
            self,
            X,
            reset=reset,
            dtype=dtype,
            order="C",
            force_writeable=True,  # torch warns of read-only arrays
            ensure_min_samples=least,
        )
        return torch.from_numpy(array)

    def _energies(self, X: Any) -> Tensor:
        check_is_fitted(self)
        with torch.no_grad():
            return self.encoder_(self._samples(X, reset=False))

    def _begin(self, samples: Tensor) -> None:
        """Draw new weights, and the seed for the order of the batches."""
        self._seed = int(check_random_state(self.random_state).randint(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self.encoder_ = Encoder(samples.shape[1], self.n_components).to(samples.dtype)
        self._control = None if self.l0 is None else SparsityControl(float(self.l0))
        self._optimizer = Adam(self.encoder_.parameters(), lr=float(self.lr), fused=True)
        self.n_iter_ = 0

    def _train(self, samples: Tensor, epochs: int) -> None:
        functions = {"lse": lse, "var": variance, "tc": decorrelation, "decay": decay}
        weights = {name: float(getattr(self, f"{name}_weight")) for name in functions}
        objective = Objective({name: Term(functions[name], weights[name]) for name in functions})
        self._optimizer.param_groups[0]["lr"] = float(self.lr)
        labels = samples.new_zeros(len(samples))
        loader = ResidentLoader(samples, labels, self.batch_size, seed=self._seed)
        replica = BareReplica(
            self.encoder_,
            objective,
            self._optimizer,
            control=self._control,
            steps_in_all=self.max_iter * len(loader),
        )
        replica.sparse_up_to = largest_share("auto", replica)
        stack = Stack([replica])
        parts = [part for part in (self.encoder_, self._optimizer, self._control) if part]
        for epoch in range(self.n_iter_, self.n_iter_ + epochs):
            loader.set_epoch(epoch)
            replica.steps_done = epoch * len(loader)
            before = [deepcopy(part.state_dict()) for part in parts]
            with torch_threads(effective_n_jobs(self.n_jobs)):
                losses = stack.train([Block(samples, list(loader.index_batches()))])
            if not losses.isfinite().all():
                for part, state in zip(parts, before, strict=True):
                    part.load_state_dict(state)
                raise NonFiniteLossError(
                    f"lr={self.lr}: the loss was not finite in epoch {epoch + 1}; the weights are "
                    "those of the epoch's start; use a smaller rate, or scale the samples"
                )
            self.n_iter_ = epoch + 1
