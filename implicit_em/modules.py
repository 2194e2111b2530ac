"""The LightningModules: an encoder or a sparse autoencoder, its objective and its optimizer.

They fit under a bare ``pl.Trainer`` with any loader of images, and come back by
``load_from_checkpoint``: all that they are built from are plain dictionaries, in Hydra's notation.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from hydra.utils import get_class, get_method, instantiate
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from implicit_em.data import as_unit_float
from implicit_em.errors import NonFiniteLossError
from implicit_em.metrics import energy_metrics, final_metrics
from implicit_em.models import Encoder, SparseAutoencoder
from implicit_em.objective import Objective, Term

Spec = Mapping[str, Any]

DERIVED_LOSS: Spec = {
    "lse": {"_target_": "implicit_em.losses.lse"},
    "var": {"_target_": "implicit_em.losses.variance"},
    "tc": {"_target_": "implicit_em.losses.decorrelation"},
}
SAE_LOSS: Spec = {
    "mse": {"_target_": "implicit_em.losses.mse"},
    "l1": {"_target_": "implicit_em.losses.l1", "weight": 0.01},
}
ADAM: Spec = {"_target_": "torch.optim.Adam", "lr": 1e-3, "fused": True}


def build_objective(loss: Spec) -> Objective:
    """Build the objective from ``{name: {_target_: function, weight: 1.0, **options}}``."""
    terms = {}
    for name, spec in loss.items():
        options = {k: v for k, v in spec.items() if k not in ("_target_", "weight")}
        terms[name] = Term(get_method(spec["_target_"]), spec.get("weight", 1.0), options)
    return Objective(terms)


class EnergyModule(pl.LightningModule):
    """Base of both modules: objective, optimizer, epoch means, curves and final metrics.

    Batches are images, or tuples that begin with them, of any shape ``(B, ...)``. Each epoch logs
    the plain mean over its steps of the total and of each term, as ``train/loss`` and
    ``train/<term>``; a validation loader gives the curves ``monitor/<metric>``.

    Args:
        model: arguments of the network, ``in_features`` among them; ``_target_`` names another
            class than the usual one.
        loss: ``{name: {_target_: function, weight: 1.0, **options}}``.
        optimizer: ``_target_`` and arguments of a ``torch.optim`` optimizer.
        schedule: ``_target_`` and arguments of a function of progress in [0, 1] that gives a factor
            on the learning rate; a constant rate where none is given.

    Raises:
        ValueError: if the objective and the model do not fit each other.

    """

    network: ClassVar[type[nn.Module]]
    default_loss: ClassVar[Spec]
    provides: ClassVar[tuple[str, ...]]
    """Names of the tensors that a loss term may ask for."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Those of them without which a part of the model would not be trained."""
    reconstruction_metric: ClassVar[str]

    model: Any
    _diverged: Tensor

    def __init__(
        self,
        model: Spec,
        loss: Spec | None = None,
        optimizer: Spec | None = None,
        schedule: Spec | None = None,
    ) -> None:
        super().__init__()
        target = f"{self.network.__module__}.{self.network.__qualname__}"
        specs = {
            "model": {"_target_": target, **model},
            "loss": dict(loss or self.default_loss),
            "optimizer": dict(optimizer or ADAM),
            "schedule": dict(schedule or {}),
        }
        self.save_hyperparameters(specs, logger=False)
        self.model = instantiate(specs["model"])
        self.objective = build_objective(specs["loss"])
        self._check_fit()
        components = self.model.weight.shape[-2]
        self.curves = energy_metrics(components)
        self.finals = final_metrics(components, self.reconstruction_metric)
        # No buffer: Lightning would cast it to the run's precision, and optimizers read float32.
        self._diverged = torch.zeros(())
        self._losses: list[Tensor] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook some forty times a step; nn.Module's look whether the
        # value is a parameter costs a tenth of a millisecond for them.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _check_fit(self) -> None:
        for name, term in self.objective.terms.items():
            if missing := set(term.inputs) - set(self.provides):
                raise ValueError(
                    f"term {name} needs {', '.join(sorted(missing))}, which "
                    f"{type(self.model).__name__} does not have (it has {', '.join(self.provides)})"
                )
        if unused := set(self.requires) - self.objective.inputs:
            raise ValueError(
                f"none of its terms ({', '.join(self.objective.terms)}) uses the "
                f"{', '.join(sorted(unused))}, so that a part of {type(self.model).__name__} "
                "would never be trained"
            )

    @abstractmethod
    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return the tensors named in ``provides`` for inputs ``(B, D)``."""

    @abstractmethod
    def reconstruct(self, energies: Tensor) -> Tensor:
        """Return inputs ``(B, D)`` as the energies ``(B, K)`` describe them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies ``(B, K)`` of images ``(B, ...)``."""
        return self.outputs(self._inputs(x))["energies"]

    @staticmethod
    def _inputs(batch: Any) -> Tensor:
        images = batch if isinstance(batch, Tensor) else batch[0]
        return as_unit_float(images.flatten(1))

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, where there is one, the schedule over all steps."""
        optimizer = instantiate(self.hparams["optimizer"], _partial_=True)(self.model.parameters())
        if not self.hparams["schedule"]:
            return optimizer
        factor = instantiate(self.hparams["schedule"], _partial_=True)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, partial(_factor_at, factor=factor, steps=steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the objective of a batch; its parts wait on the device for the epoch's end."""
        total, parts = self.objective(self.outputs(self._inputs(batch)))
        value = total.detach()
        self._losses += [value, *(part.detach() for part in parts.values())]
        self._diverged.logical_or_((value * 0).ne(0))  # 0 * infinity and 0 * NaN are NaN
        return total

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Make a step, unless this loss or an earlier one was not finite.

        The flag stays on the device, so that no step waits for it: fused optimizers skip the update
        themselves, for others the weights are put back.
        """
        step = partial(super().optimizer_step, epoch, batch_idx, optimizer, optimizer_closure)
        if optimizer.param_groups[0].get("fused"):
            optimizer.optimizer.found_inf = self._diverged
            step()
            return
        parameters = list(self.model.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        step()
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(torch.where(self._diverged > 0, old, parameter))

    def on_fit_start(self) -> None:
        """Put the flag of a loss that was not finite on the device, lowered."""
        self._diverged = torch.zeros((), device=self.device)

    def on_train_epoch_start(self) -> None:
        """Forget the losses of an epoch that was broken off."""
        self._losses.clear()

    def on_train_epoch_end(self) -> None:
        """Log the means over the steps of the epoch, each step counting once.

        Raises:
            NonFiniteLossError: naming the first such step and its terms.

        """
        names = ["loss", *self.objective.terms]
        losses_ST = torch.stack(self._losses).double().cpu().view(-1, len(names))
        self._losses.clear()
        bad_ST = ~losses_ST.isfinite()
        if bad_ST.any():
            first = int(bad_ST.any(1).nonzero()[0])
            culprits = [name for name, bad in zip(names[1:], bad_ST[first, 1:], strict=True) if bad]
            step = self.trainer.fit_loop.total_batch_idx + 2 - len(losses_ST) + first
            raise NonFiniteLossError(
                f"the loss was not finite at step {step} (epoch {self.current_epoch + 1}); "
                f"terms: {', '.join(culprits) or 'their sum'}; the weights stayed as they were"
            )
        means_T = losses_ST.mean(0)
        self.log_dict({f"train/{n}": m for n, m in zip(names, means_T, strict=True)})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the curves."""
        self.curves.update(energies=self(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the curves."""
        self.log_dict({f"monitor/{k}": v.double() for k, v in self.curves.compute().items()})
        self.curves.reset()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the final metrics."""
        x = self._inputs(batch)
        energies = self(x)
        self.finals.update(energies=energies, preds=self.reconstruct(energies), target=x)

    def on_test_epoch_end(self) -> None:
        """Give the final metrics to the Trainer under their own names."""
        self.log_dict({k: v.double() for k, v in self.finals.compute().items()}, logger=False)
        self.finals.reset()


class EncoderModule(EnergyModule):
    """The derived model: an encoder alone, trained on its energies."""

    network = Encoder
    default_loss = DERIVED_LOSS
    provides = ("x", "energies", "weight")
    reconstruction_metric = "transpose_reconstruction_mse"

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return input, energies and weight."""
        return {"x": x, "energies": self.model(x), "weight": self.model.weight}

    def reconstruct(self, energies: Tensor) -> Tensor:
        """Decode with the transposed encoder matrix, ``E W``."""
        return energies @ self.model.weight


class SparseAutoencoderModule(EnergyModule):
    """The baseline: encoder and decoder, trained on reconstruction and sparsity."""

    network = SparseAutoencoder
    default_loss = SAE_LOSS
    provides = ("x", "energies", "weight", "reconstruction")
    requires = ("reconstruction",)
    reconstruction_metric = "reconstruction_mse"

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return input, activations (as energies), weight and reconstruction."""
        energies = self.model.encode(x)
        return {
            "x": x,
            "energies": energies,
            "weight": self.model.weight,
            "reconstruction": self.model.decode(energies),
        }

    def reconstruct(self, energies: Tensor) -> Tensor:
        """Decode with the decoder."""
        return self.model.decode(energies)


def module_class(model_target: str) -> type[EnergyModule]:
    """Return the LightningModule that trains a model class, given by its dotted path.

    Raises:
        ValueError: if the class is neither an ``Encoder`` nor a ``SparseAutoencoder``.

    """
    cls = get_class(model_target)
    for module in (EncoderModule, SparseAutoencoderModule):
        if issubclass(cls, module.network):
            return module
    raise ValueError(f"{model_target} must be a subclass of Encoder or SparseAutoencoder")


def _factor_at(step: int, factor: Any, steps: int) -> float:
    return factor(progress=min(step / steps, 1.0))
