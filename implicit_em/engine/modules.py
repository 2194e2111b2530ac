"""The LightningModules: an encoder or a sparse autoencoder, its objective and its optimizer.

A bare ``pl.Trainer`` fits them with any loader of images, and ``load_from_checkpoint`` restores
them: they are built from plain dictionaries in Hydra's notation.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import get_class, get_method, instantiate
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from implicit_em.base.errors import ConfigError, DamagedError, NonFiniteLossError
from implicit_em.base.settings import differences, listed
from implicit_em.data import Block, BlockLoader, as_unit_float
from implicit_em.distributed import GlobalBatch, Group
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.rendezvous import current
from implicit_em.engine.schedulers import build_schedule, interval_of, step_after_epoch
from implicit_em.engine.sparse import Sparse, largest_share
from implicit_em.engine.stack import Stack, outputs_of
from implicit_em.losses import Objective, Term
from implicit_em.metrics import energy_metrics, final_metrics
from implicit_em.models import Encoder, SparseAutoencoder
from implicit_em.models.declarations import undeclared

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
HOOKS_WITHIN_A_STEP = (
    "on_before_backward",
    "on_after_backward",
    "on_before_zero_grad",
    "on_before_optimizer_step",
)
"""Hooks that only Lightning's own optimization calls; here a stack makes the step."""
ADAM: Spec = {"_target_": "torch.optim.Adam", "lr": 1e-3, "fused": True}


class Controlled(NamedTuple):
    """A setting that a control of L0 multiplies by its factor, which is one for all settings."""

    name: str
    """Name of its column."""
    key: str
    """The setting, such as ``model.temperature``."""
    base: float
    """Value that the factor multiplies."""


class LoggedSteps(NamedTuple):
    """Steps of a block that are logged."""

    steps: range
    """Numbers of these steps in the training, from 1."""
    rates: list[float]
    """Learning rate of each step."""
    values_PT: Tensor
    """Values of each step, on the training device: ``columns``, then L0 and the FVU."""


def build_objective(loss: Spec) -> Objective:
    """Return the objective of a dictionary as ``EnergyModule`` takes it."""
    terms = {}
    for name, spec in loss.items():
        function = get_method(spec["_target_"])
        options = {k: v for k, v in spec.items() if k not in ("_target_", "weight", "warmup")}
        terms[name] = Term(function, spec.get("weight", 1.0), options, spec.get("warmup", 0))
    return Objective(terms)


class EnergyModule(pl.LightningModule):
    """Base of both modules: objective, optimizer, epoch means, curves and final metrics.

    A batch is a tensor of images of any shape ``(B, ...)``, or a tuple that begins with one.
    Integer labels behind it are ignored; floating-point values raise ``ValueError``. A model with
    ``out_features`` takes inputs and targets, as a tuple of two floating-point tensors or side by
    side in one. Each epoch logs the mean over its steps of the total and of each term, as
    ``train/loss`` and ``train/<term>``. A validation loader adds the curves ``monitor/<metric>``. A
    ``Stack`` of this module alone, or of several, makes the steps.

    Args:
        model: arguments of the network, with ``in_features``; ``_target_`` may name a subclass.
        loss: terms as ``{name: {_target_: function, weight: 1.0, warmup: 0, **options}}``.
        optimizer: ``_target_`` and arguments of a ``torch.optim`` optimizer.
        schedule: ``_target_`` and arguments of a function from progress in [0, 1] to a factor on
            the learning rate, or of a class of ``torch.optim.lr_scheduler``; ``None`` for a
            constant rate. A scheduler of torch steps after each epoch or, with ``interval: step``,
            after each optimizer step. ``ReduceLROnPlateau`` watches the epoch's mean that
            ``monitor`` names, by default ``train/loss``. ``schedulers`` lists the parts of a
            composed scheduler.
        clip: ``_target_`` and arguments of a function that clips the gradients of an iterable of
            parameters, e.g. ``torch.nn.utils.clip_grad_norm_``.
        compiled: whether ``torch.compile`` compiles the forward pass of a step; it may then round
            differently.
        sparse: ``on`` to take steps through the active units alone, ``off`` for steps through all,
            ``auto`` to choose by the width, the device and the share of active units. The gradients
            differ by rounding alone.
        l0: target of the mean number of active units in a sample. A ``SparsityControl`` then
            multiplies the weights of all terms that declare ``makes_sparse`` by one factor. Each
            epoch also logs the means of ``control/l0`` and of ``control/<term>_weight``. ``None``
            leaves the weights as they are.

    Raises:
        ValueError: if ``model`` is no dictionary; if the objective needs a tensor that the model
            lacks, or leaves a part of the model untrained; if ``l0`` is out of range, or no term
            makes units sparse.
    """

    network: ClassVar[type[nn.Module]]
    default_loss: ClassVar[Spec]
    reconstruction_metric: ClassVar[str]
    outputs = staticmethod(outputs_of)

    model: Any

    def __init__(
        self,
        model: Spec,
        loss: Spec | None = None,
        optimizer: Spec | None = None,
        schedule: Spec | None = None,
        clip: Spec | None = None,
        compiled: bool = False,
        l0: float | None = None,
        sparse: Sparse = "auto",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        target = f"{self.network.__module__}.{self.network.__qualname__}"
        if not isinstance(model, Mapping):
            raise ConfigError(
                f"model: a {type(model).__name__}; allowed are arguments in a dictionary, which "
                "checkpoints hold; module.model.load_state_dict takes weights"
            )
        specs: dict[str, Any] = {
            "model": {"_target_": target, **model},
            "loss": dict(loss or self.default_loss),
            "optimizer": dict(optimizer or ADAM),
            "schedule": dict(schedule or {}),
            "clip": dict(clip or {}),
            "compiled": compiled,
            "l0": l0,
            "sparse": sparse,
        }
        self.save_hyperparameters(specs, logger=False)
        self.model = instantiate(specs["model"])
        self.objective = build_objective(specs["loss"])
        self._check_fit()
        components = self.model.weight.shape[-2]
        self._check_target(l0, components)
        self.control = None if l0 is None else SparsityControl(l0, bool(self.model.steered))
        self.curves = energy_metrics(components)
        self.finals = final_metrics(components, self.reconstruction_metric)
        self._clip = instantiate(specs["clip"], _partial_=True) if specs["clip"] else None
        self.compiled = compiled
        self.sparse_up_to = 0.0
        self.log_every = 0
        self.training_mean: Tensor | None = None
        self.logged: list[LoggedSteps] = []
        """Steps that were logged; whoever sets ``log_every`` takes them out."""
        self._rates: list[float] = []
        self._losses: list[Tensor] = []
        self._at_epoch_start: list[Tensor] = []

    def _check_fit(self) -> None:
        provides = ("x", "target", "energies", "weight", *self.model.provides)
        for name, term in self.objective.terms.items():
            if missing := set(term.inputs) - set(provides):
                raise ValueError(
                    f"term {name} needs {', '.join(sorted(missing))}, which "
                    f"{type(self.model).__name__} does not have (it has {', '.join(provides)})"
                )
        if unused := set(self.model.requires) - self.objective.inputs:
            raise ValueError(
                f"none of its terms ({', '.join(self.objective.terms)}) uses the "
                f"{', '.join(sorted(unused))}, so that a part of {type(self.model).__name__} "
                "would never be trained"
            )

    def _check_target(self, l0: float | None, components: int) -> None:
        if l0 is None:
            return
        if not 0 < l0 <= components:
            raise ConfigError(f"l0={l0}: must be above 0 and at most {components}, all units")
        if self.model.steered and not self.model.steered.base:
            name = type(self.model).__name__
            raise ConfigError(f"l0={l0}: {name} takes this number as {self.model.steered.name}")
        if not self.controlled:
            raise ConfigError(
                f"l0={l0}: none of the loss terms ({', '.join(self.objective.terms)}) makes the "
                "units sparse; such terms are lse, l1, l1_norm and gates_l1, and your own that "
                "declare makes_sparse"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies ``(B, K)`` of images ``(B, ...)``, or of the images of a batch."""
        return self.model.encode(self.model.sides(self._inputs(x))[0])

    def _rows(self, batch: Any) -> Tensor:
        """Return inputs and targets side by side, ``(B, D + T)``, or inputs without targets."""
        rows, targets = self._inputs(batch), self.model.out_features
        width = self.model.weight.shape[-1]
        if targets is not None and rows.shape[-1] != width + targets:
            raise ConfigError(
                f"batch: {rows.shape[-1]} values of a sample; with out_features={targets} allowed "
                f"are inputs and targets, {width} + {targets}, side by side or as a tuple of two"
            )
        return rows

    def _inputs(self, batch: Any) -> Tensor:
        images, *others = [batch] if isinstance(batch, Tensor) else batch
        if not isinstance(images, Tensor):
            raise ConfigError(
                f"batch: a {type(batch).__name__} that does not begin with a tensor; allowed is a "
                "tensor of inputs, or a tuple that begins with one"
            )
        is_target = self.model.out_features is not None and bool(others)
        if is_target and isinstance(others[0], Tensor) and others[0].is_floating_point():
            images = torch.cat([as_unit_float(images.flatten(1)), others.pop(0).flatten(1)], dim=1)
        for place, other in enumerate(others, start=1):
            if isinstance(other, Tensor) and (other.is_floating_point() or other.is_complex()):
                raise ConfigError(
                    f"batch[{place}]: values of {other.dtype} and shape {tuple(other.shape)}; "
                    "allowed beside the inputs are integer labels, which are ignored"
                )
        return as_unit_float(images.flatten(1)).to(self.model.weight.dtype)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with the schedule if there is one."""
        optimizer = instantiate(self.hparams["optimizer"], _partial_=True)(self.model.parameters())
        schedule = self.hparams["schedule"]
        if not schedule:
            return optimizer
        self._interval = interval_of(schedule)
        scheduler = build_schedule(schedule, optimizer, self._steps())
        scheduled = {"scheduler": scheduler, "interval": self._interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduled}

    def _steps(self) -> int:
        """Return how often the schedule steps in the whole training."""
        return (self.trainer.max_epochs or 0) if self._interval == "epoch" else self.steps_in_all

    @property
    def steps_in_all(self) -> int:
        """Number of optimizer steps of the whole training."""
        if math.isinf(self.trainer.estimated_stepping_batches):
            raise ValueError("trainer: lr.schedule and l0 need a Trainer with max_epochs")
        batches = int(self.trainer.estimated_stepping_batches)
        loader = self.trainer.train_dataloader
        if isinstance(loader, BlockLoader):
            return batches * len(loader.resident) // len(loader)
        return batches

    def on_train_start(self) -> None:
        """Join the runs that train together, or make a stack of this run alone."""
        if reason := refusal_of_devices(self, self.trainer):
            raise ValueError(f"trainer: {reason}")
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            for hook in HOOKS_WITHIN_A_STEP:
                if is_overridden(hook, callback, pl.Callback):
                    raise ValueError(f"{type(callback).__name__}: {hook} is never called")
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"trainer.precision={self.trainer.precision}: gradients are not scaled; "
                "allowed are 32-true, bf16-mixed, bf16-true and 64-true"
            )
        self._losses = [losses.to(self.device) for losses in self._losses]  # from a checkpoint
        sparse = self.hparams["sparse"]
        self.sparse_up_to = largest_share(sparse, self, self.trainer.precision)
        (self._optimizer,) = self.trainer.optimizers
        self._scheduler: Any = self.lr_schedulers()
        self._train: Callable[[Block], Tensor]
        if (together := current()) is not None:
            self._train = partial(together.train, self)
        else:
            stack = Stack([self], Group.of(self.trainer))
            self._train = lambda block: stack.train([block])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Train on a batch or a block of batches, and return the objective of the last step."""
        if not isinstance(batch, Block):  # each process gets its part of a batch, but whole blocks
            inputs = Group.of(self.trainer).join(self._rows(batch))
            batch = Block(inputs, [torch.arange(len(inputs))])
        losses_ST = self._train(batch).squeeze(-1)
        if self.log_every:
            losses_ST = self._log_steps(losses_ST)
        self._losses.append(losses_ST)
        _count_steps(self.trainer, len(losses_ST))
        if self.trainer.is_last_batch:  # callbacks' ``on_train_epoch_end`` precedes the module's
            self._log_means()
        return losses_ST[-1, 0]

    def _log_steps(self, values_ST: Tensor) -> Tensor:
        """Store the values of the steps that are logged, and return what counts for the epoch."""
        steps = range(self.steps_done + 1, self.steps_done + 1 + len(values_ST))
        some = slice(-steps.start % self.log_every, None, self.log_every)
        rates, self._rates = self._rates or [self._optimizer.param_groups[0]["lr"]] * len(steps), []
        if steps[some]:
            self.logged.append(LoggedSteps(steps[some], rates[some], values_ST[some]))
        return values_ST[:, :-2]

    @property
    def bare_optimizer(self) -> Optimizer | None:
        """The optimizer, if there is neither a schedule nor a limit on the gradients."""
        return self._optimizer if self._scheduler is None and self._clip is None else None

    @property
    def steps_done(self) -> int:
        """Number of optimizer steps before this call of ``training_step``."""
        return self.trainer.global_step

    def update(self) -> None:
        """Clip the gradients, and make a step of the optimizer and of a schedule over steps."""
        if self._clip is not None:
            self._clip(self.model.parameters())
        if self.log_every:
            self._rates.append(self._optimizer.param_groups[0]["lr"])
        self._optimizer.step()
        if self._scheduler is not None and self._interval == "step":
            self._scheduler.step()

    def on_train_epoch_start(self) -> None:
        """Note the weights and the control, and forget the losses of an interrupted epoch."""
        self._losses.clear()
        self._at_epoch_start = [value.detach().clone() for value in self._state()]

    def _state(self) -> list[Tensor]:
        control = [] if self.control is None else self.control.buffers()
        return [*self.model.parameters(), *self.model.buffers(), *control]

    def on_train_epoch_end(self) -> None:
        """Make a step of a schedule over epochs; log the means if the epoch was cut short."""
        if self._losses:
            self._log_means()
        if self._scheduler is not None and self._interval == "epoch":
            means = self.trainer.callback_metrics
            step_after_epoch(self._scheduler, self.hparams["schedule"], means)

    @property
    def controlled(self) -> list[Controlled]:
        """Settings that a control of L0 changes."""
        if steered := self.model.steered:
            base = float(getattr(self.model, steered.base))
            return [Controlled(steered.name, f"model.{steered.name}", base)]
        weights = {name: float(self.objective.terms[name].weight) for name in self.objective.sparse}
        return [Controlled(f"{n}_weight", f"loss.{n}.weight", w) for n, w in weights.items()]

    @property
    def columns(self) -> list[str]:
        """Names of the values of each step; L0 and the FVU follow if steps are logged."""
        columns = [f"train/{name}" for name in ("loss", *self.objective.terms)]
        if self.control is not None:
            columns += ["control/l0", *(f"control/{setting.name}" for setting in self.controlled)]
        return [*columns, "train/sparse_steps"] if self.sparse_up_to else columns

    @torch.no_grad()
    def _log_means(self) -> None:
        """Log the means over the steps, or restore the weights if a loss was not finite."""
        losses_ST = torch.cat(self._losses).double().cpu()
        self._losses.clear()
        bad_ST = ~losses_ST.isfinite()
        if bad_ST.any():
            for value, before in zip(self._state(), self._at_epoch_start, strict=True):
                value.copy_(before)
            first = int(bad_ST.any(1).nonzero()[0])
            terms = list(self.objective.terms)
            found = zip(terms, bad_ST[first, 1 : 1 + len(terms)], strict=True)
            culprits = [name for name, bad in found if bad]
            step = self.trainer.global_step - len(losses_ST) + 1 + first
            raise NonFiniteLossError(
                f"the loss was not finite at step {step} (epoch {self.current_epoch + 1}); "
                f"terms: {', '.join(culprits) or 'their sum'}; the weights are those that this "
                "epoch began with"
            )
        means_T = losses_ST.mean(0)
        means = dict(zip(self.columns, means_T, strict=True))
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save this model's part of the stack; within an epoch, also the losses so far."""
        checkpoint["state_dict"] = {k: v.clone() for k, v in checkpoint["state_dict"].items()}
        if self._losses:
            losses = torch.cat(self._losses)
            checkpoint["epoch_so_far"] = {"losses": losses, "weights": self._at_epoch_start}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on within the epoch that was interrupted; refuse the checkpoint of another model."""
        there, here = (
            {name: tuple(tensor.shape) for name, tensor in state.items()}
            for state in (checkpoint["state_dict"], self.state_dict())
        )
        if found := differences(there, here):
            raise DamagedError(
                f"the checkpoint is another model's or an earlier version's: {listed(found)}"
            )
        # Lightning converts the module only after this: float64 would be rounded to float32.
        name, _ = next(self.model.named_parameters())
        self.model.to(checkpoint["state_dict"][f"model.{name}"].dtype)
        if so_far := checkpoint.get("epoch_so_far"):
            self._losses = [so_far["losses"]]
            self._at_epoch_start = so_far["weights"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch, or this process's part of it, to the curves."""
        self.curves.update(energies=self(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the curves."""
        self.log_dict({f"monitor/{k}": v.double() for k, v in self.curves.compute().items()})
        self.curves.reset()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch, or this process's part of it, to the final metrics."""
        x, target = self.model.sides(self._rows(batch))
        energies = self.model.encode(x)
        decoded = self.decoded(energies, x)
        if decoded.shape != target.shape:  # as of a model that transforms its input
            decoded = torch.full_like(target, torch.nan)
        self.finals.update(energies=energies, preds=decoded, target=target)

    def decoded(self, energies: Tensor, x: Tensor) -> Tensor:
        """Return the reconstructions ``(B, D)`` that are measured."""
        return self.model.decode(energies, x)

    def on_test_epoch_end(self) -> None:
        """Pass the final metrics to the Trainer under their own names."""
        self.log_dict({k: v.double() for k, v in self.finals.compute().items()}, logger=False)
        self.finals.reset()


class EncoderModule(EnergyModule):
    """The derived model: an encoder alone, trained on its energies."""

    network = Encoder
    default_loss = DERIVED_LOSS
    reconstruction_metric = "transpose_reconstruction_mse"

    def decoded(self, energies: Tensor, x: Tensor) -> Tensor:
        """Return ``E W``, the product with the transposed encoder matrix, shape ``(B, D)``.

        ``E W`` reconstructs the input. For another target, nothing is measured: the width is 0.
        """
        decoded = energies @ self.model.weight
        return decoded if self.model.out_features is None else decoded[:, :0]


class SparseAutoencoderModule(EnergyModule):
    """Any model that reconstructs, by a decoder or by its own rows; the baseline is one of them.

    Without ``loss``, the terms are ``mse`` and ``l1`` for any network. For TopK, give the terms of
    ``conf/loss/topk.yaml``: ``loss={"mse": {"_target_": "implicit_em.losses.mse"}, "auxk":
    {"_target_": "implicit_em.losses.auxk", "weight": 1 / 32}}``. For SpikeSlab, give the terms
    of ``conf/loss/score.yaml``.
    """

    network = SparseAutoencoder
    default_loss = SAE_LOSS
    reconstruction_metric = "reconstruction_mse"


def module_class(model_target: str) -> type[EnergyModule]:
    """Return the LightningModule that trains the model class of a dotted path."""
    cls = get_class(model_target)
    for module in (EncoderModule, SparseAutoencoderModule):
        if issubclass(cls, module.network):
            return module
    raise ValueError(f"{model_target} must be a subclass of Encoder or SparseAutoencoder")


def refusal_of_devices(module: EnergyModule, trainer: pl.Trainer) -> str | None:
    """Return why several devices would not take the steps of one; ``None`` if they would."""
    if trainer.world_size == 1:
        return None
    allowed = f"{trainer.world_size} devices; allowed is 1"
    if not isinstance(trainer.strategy, GlobalBatch):
        return (
            f"{allowed}, or any number with trainer=ddp_cpu and trainer=ddp, where the statistics "
            "of the objective are those of the whole batch"
        )
    if module.compiled:
        return f"{allowed} with trainer.compile=true"
    if classes := undeclared(module.model, "takes_parts"):
        return (
            f"{allowed}, as the class {classes[0]} does not declare takes_parts = True: that it "
            "treats each sample of a batch by itself, draws no random numbers and changes no state"
        )
    return None


def _count_steps(trainer: pl.Trainer, steps: int) -> None:
    """Count the steps of a ``training_step``, of which Lightning expects one at most."""
    loop = trainer.fit_loop.epoch_loop
    progress = loop.manual_optimization.optim_step_progress
    for counts in (progress.total, progress.current):
        counts.ready += steps
        counts.completed += steps
    loop._batches_that_stepped += steps - 1
