import math
import shutil
from contextlib import suppress

import pytest
import pytorch_lightning as pl
import torch
from helpers.trainers import WITHOUT_REMARKS, bare_trainer
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from implicit_em.base.errors import NonFiniteLossError
from implicit_em.data import ResidentLoader
from implicit_em.engine.modules import EncoderModule, SparseAutoencoderModule, module_class
from implicit_em.losses import decorrelation, l1, lse, mse, variance
from implicit_em.metrics.energies import FINAL
from implicit_em.models import Encoder

pytestmark = WITHOUT_REMARKS

MODEL = {"in_features": 64, "hidden": 5}
FROZEN = {"_target_": "torch.optim.SGD", "lr": 0.0}
BOTH_TYPES = (EncoderModule, SparseAutoencoderModule)
BOTH = pytest.mark.parametrize("module_type", BOTH_TYPES)
SAMPLES, BATCH, STEPS = 22, 4, 6


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images():
    return torch.rand(SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def plain_loader(x=None, batch_size=BATCH):
    x = images() if x is None else x
    return DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size)


def resident_loader():
    pixels = (images() * 255).to(torch.uint8).flatten(1)
    return ResidentLoader(pixels, torch.arange(SAMPLES), BATCH, seed=0)


def trainer(**flags):
    return bare_trainer(**{"max_epochs": 2, **flags})


def fitted(module, *loaders, **flags):
    """The Trainer that has fitted the module."""
    fit = trainer(**flags)
    fit.fit(module, *loaders)
    return fit


def reloaded(module_type, fit):
    """The module of the checkpoint that a Trainer has left."""
    path = fit.checkpoint_callback.best_model_path
    return module_type.load_from_checkpoint(path, weights_only=True)


class Watch(pl.Callback):
    """The rates, losses and weights of each step, and the mean loss that an epoch's end finds."""

    def __init__(self):
        self.rates, self.losses, self.weights, self.means = [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.weights.append([p.detach().clone() for p in module.model.parameters()])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def on_train_epoch_end(self, trainer, module):
        self.means.append(trainer.callback_metrics["train/loss"].item())


class Poisoned:
    """Five batches an epoch; the third one of the second epoch is multiplied by ``value``."""

    def __init__(self, value):
        self.value = value
        self.epoch = 0

    def __len__(self):
        return 5

    def __iter__(self):
        self.epoch += 1
        for batch, x in enumerate(images().flatten(1).split(BATCH)[:5], start=1):
            poison = (self.epoch, batch) == (2, 3)
            yield (self.value * x if poison else x), torch.zeros(len(x), dtype=torch.int64)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@BOTH
def test_a_compiled_step_trains_to_nearly_the_same_weights(module_type):
    trained = []
    for compiled in (False, True):
        torch.manual_seed(0)
        module = module_type(MODEL, compiled=compiled)
        trainer(max_epochs=1).fit(module, resident_loader())
        trained.append([p.detach() for p in module.model.parameters()])
    assert_close(*trained, rtol=1e-3, atol=1e-4)


@BOTH
@pytest.mark.parametrize("loader", [plain_loader, resident_loader])
def test_fits_under_a_bare_trainer(module_type, loader):
    module, watch = module_type(MODEL), Watch()
    fit = fitted(module, loader(), callbacks=[watch])
    assert fit.global_step == len(watch.losses) == 2 * STEPS
    assert sum(watch.losses[STEPS:]) < sum(watch.losses[:STEPS])
    terms = module.objective.terms
    assert set(fit.callback_metrics) == {"train/loss", *(f"train/{name}" for name in terms)}


@BOTH
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_a_target_is_followed_and_comes_back_from_a_checkpoint(module_type, precision, tmp_path):
    module = module_type(MODEL, schedule={"_target_": "implicit_em.schedules.cosine"}, l0=2)
    flags = {"precision": precision, "enable_checkpointing": True, "default_root_dir": tmp_path}
    fit = fitted(module, plain_loader(), **flags)
    (name,) = module.objective.sparse
    assert {"control/l0", f"control/{name}_weight"} <= set(fit.callback_metrics)
    assert module.control.running.dtype == torch.float64
    assert module.control.integral != 0
    loaded = reloaded(module_type, fit)
    assert dict(loaded.hparams) == dict(module.hparams)
    assert loaded.objective.terms == module.objective.terms
    assert loaded.control.state_dict() == module.control.state_dict()


def test_a_target_needs_the_end_of_the_training():
    for options in ({"l0": 2}, {"schedule": {"_target_": "implicit_em.schedules.cosine"}}):
        with pytest.raises(ValueError, match=r"lr\.schedule and l0 need a Trainer with max_epochs"):
            trainer(max_epochs=-1).fit(EncoderModule(MODEL, **options), plain_loader())


@pytest.mark.parametrize("step", ["fit", "validate", "test"])
def test_a_target_that_would_be_ignored_is_refused(step):
    x = images().flatten(1)
    loader = DataLoader(TensorDataset(x, torch.arange(len(x)), x + 1), BATCH)
    message = r"^batch\[2\]: values of torch\.float32 and shape \(4, 64\); allowed .* labels"
    with pytest.raises(ValueError, match=message):
        getattr(trainer(), step)(EncoderModule(MODEL), loader)


def test_a_batch_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match=r"^batch: a dict that does not begin with a tensor"):
        EncoderModule(MODEL)({"x": images()})


def test_bytes_and_floats_give_the_same_energies():
    module = EncoderModule(MODEL)
    pixels = (images() * 255).to(torch.uint8)
    assert torch.equal(module(pixels), module(pixels.flatten(1) / 255))
    assert torch.equal(module([pixels, None]), module(pixels))


@BOTH
def test_the_logged_losses_are_plain_means_over_the_steps(module_type):
    module = module_type(MODEL, optimizer=FROZEN)
    fit = fitted(module, plain_loader())
    totals, weighted = [], []
    parts = {name: [] for name in module.objective.terms}
    for x in images().flatten(1).split(BATCH):
        energies = module(x).detach()
        values = {"lse": lse(energies), "var": variance(energies), "tc": decorrelation(energies)}
        if module_type is SparseAutoencoderModule:
            values = {"mse": mse(module.model(x).detach(), x), "l1": l1(energies)}
        factors = {"l1": 0.01}
        totals.append(sum(factors.get(name, 1) * value for name, value in values.items()))
        weighted.append(totals[-1] * len(x))
        for name, value in values.items():
            parts[name].append(value)
    series = {"loss": totals, **parts}
    expected = {f"train/{name}": torch.stack(v).double().mean() for name, v in series.items()}
    assert_close(fit.callback_metrics, expected, rtol=1e-6, atol=1e-6)
    by_sample = torch.stack(weighted).double().sum() / SAMPLES
    assert abs(by_sample - expected["train/loss"]) > 1e-3 * abs(by_sample), "the case tells nothing"


@BOTH
def test_a_validation_loader_gives_the_curves(module_type):
    module = module_type(MODEL, optimizer=FROZEN)
    fit = fitted(module, plain_loader(), plain_loader(batch_size=10))
    energies = module(images()).detach().double()
    curves = {k: v for k, v in fit.callback_metrics.items() if k.startswith("monitor/")}
    assert curves == {
        "monitor/dead_units": (energies.var(0) < 0.01).sum(),
        "monitor/redundancy": pytest.approx(decorrelation(energies).item()),
        "monitor/responsibility_entropy": pytest.approx(
            torch.distributions.Categorical(logits=-energies).entropy().mean().item()
        ),
        "monitor/density": pytest.approx((energies.abs() > 0.01).double().mean().item()),
    }


@BOTH
def test_the_final_metrics_are_given_under_their_own_names(module_type):
    module = module_type(MODEL)
    test = trainer()
    test.test(module, plain_loader(batch_size=10), verbose=False)
    energies, x = module(images()).detach(), images().flatten(1)
    if module_type is EncoderModule:
        name, decoded = "transpose_reconstruction_mse", energies @ module.model.weight
        names = [name]
    else:
        name, decoded = "reconstruction_mse", module.model(x)
        names = ["reconstruction_mse", "fvu"]
    found = {k: v.item() for k, v in test.callback_metrics.items()}
    assert set(found) == {*FINAL, *names}
    assert found[name] == pytest.approx(mse(decoded, x).item())
    assert found["redundancy"] == pytest.approx(decorrelation(energies.double()).item())


def test_a_weight_of_the_objective_is_applied_and_its_options_passed():
    loss = {
        "lse": {"_target_": "implicit_em.losses.lse", "weight": 3.0, "reduction": "mean"},
        "off": {"_target_": "implicit_em.losses.orthogonality", "weight": 0.0},
    }
    module = EncoderModule(MODEL, loss, FROZEN)
    fit = fitted(module, plain_loader(batch_size=SAMPLES))
    value = lse(module(images()).detach(), "mean")
    assert set(fit.callback_metrics) == {"train/loss", "train/lse"}
    assert fit.callback_metrics["train/lse"].item() == pytest.approx(value.item())
    assert fit.callback_metrics["train/loss"].item() == pytest.approx(3 * value.item())


COSINE = {"_target_": "implicit_em.schedules.cosine"}
TORCH = "torch.optim.lr_scheduler"
STEP_LR = {"_target_": f"{TORCH}.StepLR", "step_size": 1, "gamma": 0.5}
SEQUENCE = {
    "_target_": f"{TORCH}.SequentialLR",
    "schedulers": [{**STEP_LR, "gamma": 2}, {**STEP_LR, "gamma": 0.1}],
    "milestones": [2],
    "interval": "step",
}
PLATEAU = {"_target_": f"{TORCH}.ReduceLROnPlateau", "monitor": "train/lse", "patience": 0}
PLATEAU |= {"threshold": 1e9, "threshold_mode": "abs"}
HALF = [(1 + math.cos(math.pi * share / 24)) / 2 for share in range(25)]
"""Half a cosine."""


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (None, [1] * 2 * STEPS),
        (COSINE, HALF[::2]),
        (
            {**COSINE, "warmup": 1 / 3, "final": 0.1},
            [0, 0.25, 0.5, 0.75, *(0.1 + 0.9 * factor for factor in HALF[::3])],
        ),
        (STEP_LR, [1] * STEPS + [0.5] * STEPS),
        ({**STEP_LR, "interval": "step", "step_size": STEPS}, [1] * STEPS + [0.5] * STEPS),
        (SEQUENCE, [1, 2, *(10**-step for step in range(2 * STEPS - 2))]),
        (PLATEAU, [1] * 2 * STEPS + [0.1] * STEPS),
    ],
)
def test_a_schedule_sets_the_rate_of_each_step(schedule, rates):
    """A thirteenth rate is that which is left at the end."""
    watch, optimizer = Watch(), {"_target_": "torch.optim.SGD", "lr": 0.5, "momentum": 0.9}
    module = EncoderModule(MODEL, optimizer=optimizer, schedule=schedule)
    fit = fitted(module, plain_loader(), callbacks=[watch], max_epochs=len(rates) // STEPS)
    found = [*watch.rates, fit.optimizers[0].param_groups[0]["lr"]]
    assert found[: len(rates)] == pytest.approx([0.5 * rate for rate in rates], abs=1e-12)


def test_a_callback_finds_the_means_of_the_epoch_at_its_end():
    watch = Watch()
    trainer(callbacks=[watch]).fit(EncoderModule(MODEL), plain_loader())
    first, second = watch.losses[:STEPS], watch.losses[STEPS:]
    assert watch.means == pytest.approx([sum(first) / STEPS, sum(second) / STEPS])


def test_an_epoch_that_is_cut_short_has_its_means():
    fit = fitted(EncoderModule(MODEL), plain_loader(), max_epochs=-1, max_steps=STEPS + 2)
    assert fit.callback_metrics["train/loss"].isfinite()


def test_gradients_are_clipped():
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}
    clip = {"_target_": "torch.nn.utils.clip_grad_norm_", "max_norm": 1e-3}
    module = EncoderModule(MODEL, optimizer=sgd, clip=clip)
    before = [parameter.detach().clone() for parameter in module.model.parameters()]
    trainer(max_steps=1).fit(module, plain_loader())
    steps = [b - a.detach() for b, a in zip(before, module.model.parameters(), strict=True)]
    assert torch.cat([step.flatten() for step in steps]).norm() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_after_backward"])
def test_a_callback_that_waits_for_a_hook_within_a_step_is_refused(hook):
    callback = type("Curious", (pl.Callback,), {hook: lambda *_: None})()
    with pytest.raises(ValueError, match=f"Curious: {hook} is never called"):
        trainer(callbacks=[callback]).fit(EncoderModule(MODEL), plain_loader())


def test_scaled_gradients_are_refused(monkeypatch):
    module, fit = EncoderModule(MODEL), trainer()
    monkeypatch.setattr(fit.precision_plugin, "scaler", object(), raising=False)
    with pytest.raises(ValueError, match="allowed are 32-true, bf16-mixed"):
        fit.fit(module, plain_loader())


@pytest.mark.parametrize(
    "optimizer",
    [
        {"_target_": "torch.optim.Adam", "fused": True},
        {"_target_": "torch.optim.SGD", "lr": 1e-3, "momentum": 0.9, "fused": True},
        {"_target_": "torch.optim.Adam"},
        {"_target_": "torch.optim.RMSprop", "momentum": 0.9},
    ],
    ids=lambda spec: "_".join(str(v) for v in spec.values()),
)
@pytest.mark.parametrize(
    ("value", "terms"), [(math.nan, "lse, var, tc"), (math.inf, "lse, var, tc"), (1e25, "var")]
)
def test_a_loss_that_is_not_finite_takes_the_weights_back_and_names_step_and_terms(
    optimizer, value, terms
):
    module, watch = EncoderModule(MODEL, optimizer=optimizer), Watch()
    with pytest.raises(NonFiniteLossError, match=rf"at step 8 \(epoch 2\); terms: {terms};"):
        trainer(callbacks=[watch]).fit(module, Poisoned(value))
    assert len(watch.weights) == 10, "the epoch goes on to its end"
    assert not torch.equal(watch.weights[7][0], watch.weights[5][0])
    for before, after in zip(watch.weights[5], module.model.parameters(), strict=True):
        assert torch.equal(after, before)


def test_a_loss_that_is_not_finite_takes_the_control_back_too():
    class Noting(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.state = {k: v.clone() for k, v in pl_module.control.state_dict().items()}

    module, watch = EncoderModule(MODEL, l0=2), Noting()
    with pytest.raises(NonFiniteLossError, match="epoch 2"):
        trainer(callbacks=[watch]).fit(module, Poisoned(math.nan))
    assert watch.state["integral"] != 0
    for name, value in module.control.state_dict().items():
        assert torch.equal(value, watch.state[name]), name


def test_terms_that_are_finite_but_for_their_sum_are_told_apart():
    loss = {"lse": {"_target_": "implicit_em.losses.lse", "weight": 1e39}}
    with pytest.raises(NonFiniteLossError, match=r"at step 1 \(epoch 1\); terms: their sum"):
        trainer().fit(EncoderModule(MODEL, loss), plain_loader())


LSE = {"lse": {"_target_": "implicit_em.losses.lse"}}
MSE = {"mse": {"_target_": "implicit_em.losses.mse"}}


@pytest.mark.parametrize(
    ("module_type", "other", "loss", "message"),
    [
        (*BOTH_TYPES[::-1], LSE, "reconstruction, so that a part of SparseAutoencoder"),
        (*BOTH_TYPES, MSE, "term mse needs reconstruction, which Encoder does not"),
        (*BOTH_TYPES[::-1], {**LSE, "mse": {**MSE["mse"], "weight": 0.0}}, "would never be tra"),
    ],
)
def test_a_loss_that_does_not_fit_the_model_is_refused(module_type, other, loss, message):
    with pytest.raises(ValueError, match=message):
        module_type(MODEL, loss)
    other(MODEL, loss)


class Wider(Encoder):
    pass


def test_a_models_class_decides_who_trains_it():
    assert module_class(f"{__name__}.Wider") is EncoderModule
    assert module_class("implicit_em.models.SparseAutoencoder") is SparseAutoencoderModule
    with pytest.raises(ValueError, match=r"torch\.nn\.Linear must be a subclass"):
        module_class("torch.nn.Linear")


def test_an_epoch_broken_off_leaves_no_losses_behind():
    class Stop(pl.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("stopped")

    module = EncoderModule(MODEL, optimizer=FROZEN)
    with suppress(RuntimeError):
        trainer(callbacks=[Stop()]).fit(module, plain_loader(100 * images()))
    fit = fitted(module, plain_loader(batch_size=SAMPLES), max_epochs=1)
    expected = module.objective(module.outputs(module.model, images().flatten(1)))[0]
    assert fit.callback_metrics["train/loss"].item() == pytest.approx(expected.item())


def test_a_model_itself_is_refused():
    with pytest.raises(ValueError, match=r"^model: a Encoder; allowed are arguments in a dict"):
        EncoderModule(Encoder(64, 5))
