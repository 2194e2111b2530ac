"""A run that breaks off goes on to the same bits, whatever it trains and wherever it breaks off."""

from functools import partial

import numpy as np
import pytest
from helpers.breaking import break_off, broken_off, every_block, steps_of
from helpers.models import MODEL_OF_OPTIMIZER
from helpers.paths import ROOT
from helpers.results import results
from helpers.stores import make_store

from implicit_em.training import run as training
from implicit_em.training.history import HistoryLogger
from implicit_em.training.run import train

OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (ROOT / "conf" / "lr").glob("*.yaml"))
TORCH = "_target_: torch.optim.lr_scheduler."
TWO = f"schedulers: [{{{TORCH}LinearLR}}, {{{TORCH}ExponentialLR, gamma: 0.9}}]"
EACH_STEP = {
    "StepLR": "step_size: 3",
    "MultiStepLR": "milestones: [3, 12]",
    "ConstantLR": "factor: 0.5",
    "LinearLR": "total_iters: 9",
    "ExponentialLR": "gamma: 0.9",
    "PolynomialLR": "total_iters: 15",
    "CosineAnnealingLR": "T_max: 30",
    "CosineAnnealingWarmRestarts": "T_0: 6",
    "CyclicLR": "base_lr: 1e-4, max_lr: 1e-2, step_size_up: 4, cycle_momentum: true",
    "OneCycleLR": "max_lr: 1e-2, total_steps: 30",
    "ChainedScheduler": TWO,
    "SequentialLR": f"{TWO}, milestones: [12]",
}
EACH_EPOCH = {
    "ReduceLROnPlateau": "patience: 0, threshold: 1e9, threshold_mode: abs",
    "StepLR": "step_size: 1",
}
ARGUMENTS = [(name, f"{arguments}, interval: step") for name, arguments in EACH_STEP.items()]
RANDOM = ["activation={_target_: torch.nn.RReLU}"]
STOPPING = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2"]
STOPPING += ["callbacks.early_stopping.min_delta=1e9", "metrics_every=1"]
TENSORS = ["data=tensors", "data.path=X.npy", "data.normalize=zca", "trainer.precision=64-true"]
STORE = ["data=activations", "data.path=store", "data.label=kind", "data.val_size=40"]
STORE += ["data.batch_size=32", "checkpoint.steps=1", "trainer.max_epochs=3"]


def at_block(number):
    """Break off before a block of two steps; an epoch has five of them."""
    return partial(broken_off, block=number)


def with_a_damaged_checkpoint(monkeypatch, cfg, directory):
    broken_off(monkeypatch, cfg, directory, block=9)
    last = directory / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])


between_two_files = partial(
    break_off,
    place=HistoryLogger,
    name="save",
    when=lambda history: len(history.column("train/loss")) == 3,
)
before_it_measures = partial(break_off, place=training, name="evaluate_module")


def in_turn(optimizer, lr):
    """Whether a pair is among the few in which each optimizer and each schedule is."""
    first, second = OPTIMIZERS.index(optimizer), SCHEDULES.index(lr)
    return first % len(SCHEDULES) == second % len(OPTIMIZERS)


def case(settings, breaks, taken, fast=True):
    """Settings, how the run breaks off, and the steps that it takes when it goes on."""
    name = f"{' '.join(settings)}, {taken} steps left"
    return pytest.param(settings, breaks, taken, id=name, marks=[] if fast else pytest.mark.slow)


EVERY_2, EVERY_4 = ["checkpoint.steps=2"], ["checkpoint.steps=4"]
LED = [*EVERY_2, "model.l0=3", "model.hidden=32", "trainer.max_epochs=4", "probe=none"]
SPARSE = ["trainer.sparse=on", "model.hidden=24", "checkpoint.steps=1"]
SPARSELY = ("encoder", "tied_batch_topk", "gated")
HALF = ("encoder", "spike_slab")
MOMENTUM, LONG = ["optimizer=momentum"], ["trainer.max_epochs=6"]
CASES = [
    *(
        case([f"optimizer={o}", f"lr={lr}", *EVERY_4, *of_model], at_block(9), 6, in_turn(o, lr))
        for o in OPTIMIZERS
        for lr in SCHEDULES
        for of_model in [["metrics_every=1", f"model={MODEL_OF_OPTIMIZER.get(o, 'encoder')}"]]
    ),
    *(
        case([*MOMENTUM, *EVERY_4, schedule, "trainer.max_epochs=3"], at_block(9), 16, fast)
        for name, arguments in [*ARGUMENTS, *EACH_EPOCH.items()]
        for schedule in [f"lr.schedule={{{TORCH}{name}, {arguments}}}"]
        for fast in [name in ("SequentialLR", "ReduceLROnPlateau")]
    ),
    *(
        case([*EVERY_2, *settings], at_block(block), 20 - 2 * (block - 1), fast)
        for settings in ([], ["model=sae"], RANDOM)
        for block in range(2, 11)
        for fast in [(block == 5 and settings != ["model=sae"]) or (block == 10 and not settings)]
    ),
    *(
        case([*LED, f"trainer.precision={bits}-true"], at_block(block), 42 - 2 * block, fast)
        for bits in (32, 64)
        for block in (6, 8, 14, 19)
        for fast in [bits == 32 and block in (8, 19)]
    ),
    *(
        case([*LED, "trainer.precision=bf16-mixed", f"model={m}"], at_block(8), 26, m != "encoder")
        for m in HALF
    ),
    *(case([*SPARSE, f"model={m}"], at_block(3), 16, m == "gated") for m in SPARSELY),
    case(["model=batch_topk", "model.l0=2", *EVERY_4, "probe=none"], at_block(9), 6),
    case(["checkpoint.epochs=2", "trainer.max_epochs=5"], at_block(19), 30),
    case(EVERY_2, with_a_damaged_checkpoint, 6),
    *(case([*STORE, f"data.buffer={size}"], at_block(18), 26) for size in ("2e9", "3000")),
    case([*TENSORS, "trainer.max_epochs=4"], at_block(6), 8),
    case(LONG, between_two_files, 30),
    case([*LONG, *RANDOM], between_two_files, 30, fast=False),
    case([*LONG, *MOMENTUM, "lr=cosine"], between_two_files, 30, fast=False),
    case([*LONG, *STOPPING], between_two_files, 0),
    *(case([*LONG, *some], before_it_measures, 0) for some in ([], STOPPING)),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with samples and a store."""
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "X.npy", np.random.default_rng(0).normal(size=(300, 8)).cumsum(1) + 3)
    shards = [("train", [300, 200, 250, 150]), ("validation", [60, 50]), ("test", [80, 40])]
    make_store(folder / "store", shards)
    return folder


@pytest.fixture(scope="module")
def undisturbed():
    """Results of runs that nothing broke off, by their settings."""
    return {}


@pytest.mark.parametrize(("settings", "breaks", "taken"), CASES)
def test_a_run_that_broke_off_goes_on_to_the_same_bits(
    composed, small, tmp_path, monkeypatch, inputs, undisturbed, settings, breaks, taken
):
    monkeypatch.chdir(inputs)
    every_block(monkeypatch, 2)  # of an epoch's ten batches
    cfg = composed(*(small[1:] if "data=" in settings[0] else small), *settings)
    if str(settings) not in undisturbed:
        train(cfg, tmp_path / "undisturbed")
        undisturbed[str(settings)] = results(tmp_path / "undisturbed")
    breaks(monkeypatch, cfg, tmp_path / "again")
    assert steps_of(monkeypatch, cfg, tmp_path / "again") == taken
    assert results(tmp_path / "again") == undisturbed[str(settings)]
