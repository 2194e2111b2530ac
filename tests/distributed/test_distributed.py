"""Several processes take the steps of one: gradients, weights, metrics, files, failures."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import pytorch_lightning as pl
import torch
from helpers.paths import ROOT
from helpers.replicas import IMAGES, run
from helpers.results import results
from helpers.trainers import bare_trainer
from torch import nn
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from implicit_em.base.errors import ConfigError, NonFiniteLossError
from implicit_em.base.quiet import quieten
from implicit_em.data import Block, ResidentLoader
from implicit_em.distributed import GlobalBatch, Group
from implicit_em.distributed.processes import run_together
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.modules import EncoderModule
from implicit_em.engine.stack import Stack
from implicit_em.losses import (
    Term,
    decorrelation,
    gates_l1,
    gates_mse,
    l1,
    lse,
    mse,
    orthogonality,
    slab,
    target_l0,
    variance,
)
from implicit_em.metrics.energies import FINAL
from implicit_em.models import (
    Dictionary,
    Encoder,
    Gated,
    JumpReLU,
    SparseAutoencoder,
    SpikeSlab,
)
from implicit_em.training.check import check
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec


def balance(energies):
    """A term that this project does not know."""
    usage = (-energies).softmax(-1).mean(-2)
    return (usage * usage.log()).sum(-1)


def pull(energies, weight):
    """A term of samples and weights at once."""
    return (energies.mean((-2, -1)) * weight.square().mean((-2, -1))).exp()


class Layered(Encoder):
    """A model that makes no stack."""

    takes_parts = True

    def __init__(self, in_features, hidden):
        super().__init__(in_features, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, x):
        return super().forward(x) + self.second(x[..., : self.second.in_features]).tanh()


class Tied(Dictionary):
    """A dictionary of one matrix."""

    def __init__(self, in_features, hidden):
        super().__init__(in_features, hidden, tied=True)


class Transcoder(Dictionary):
    """A dictionary of a target that stands beside its input, with a linear path."""

    def __init__(self, width, hidden):
        super().__init__(width - 24, hidden, out_features=24, skip=True)


LSE, VAR, TC, ROWS = (Term(f) for f in (lse, variance, decorrelation, orthogonality))
SUMS = {"lse": LSE, "mean": Term(lse, options={"reduction": "mean"}), "orthogonality": ROWS}
DERIVED = {"lse": LSE, "var": VAR, "tc": TC}
L1 = {"mse": Term(mse), "l1": Term(l1, 0.01)}
SCORE = {"mse": Term(mse), "slab": Term(slab)}
OF_ENCODERS = {
    **{name: {name: term} for name, term in SUMS.items()},
    "var": {"var": VAR},
    "tc": {"tc": TC},
    "lse_var": {"lse": LSE, "var": VAR},
    "var_tc": {"var": VAR, "tc": TC},
    **dict.fromkeys(("lse_var_tc", "controlled", "sparse", "sparse or not"), DERIVED),
}
OF_LAYERED = {
    "all": {"lse": LSE, "var": VAR, "tc": Term(decorrelation, 2), "rows": Term(orthogonality, 3)},
    "own": {"lse": LSE, "balance": Term(balance, 10), "pull": Term(pull)},
}
LOSSES = {
    Encoder: OF_ENCODERS | OF_LAYERED,
    SparseAutoencoder: {
        "mse": {"mse": Term(mse)},
        "l1": {"l1": Term(l1)},
        **dict.fromkeys(("sae", "sparse"), L1),
    },
    Gated: {"sparse": {"mse": Term(mse), "l1": Term(gates_l1, 0.03), "gates": Term(gates_mse)}},
    JumpReLU: {"sparse": {"mse": Term(mse), "l0": Term(target_l0)}},
    Tied: dict.fromkeys(("sae", "sparse"), L1),
    Transcoder: dict.fromkeys(("sae", "sparse"), L1),
    SpikeSlab: dict.fromkeys(("controlled", "sparse", "sparse or not"), SCORE),
    Layered: OF_LAYERED,
}
SPARSE_UP_TO = {"sparse": 1.0, "sparse or not": 0.5}
"""Shares of active units; at the last one, some processes have codes and others have not."""
SIZES = [(32, 8), (33, 8), (9, 24)]  # samples of a batch and components
SINGLE = [(1, 8)]  # fewer samples than processes; only for what needs no statistics
CASES = [
    (network, loss, size)
    for network, losses in LOSSES.items()
    for loss, terms in losses.items()
    for size in SIZES + SINGLE * bool(set(terms) <= {*SUMS, "mse", "l1"})
]
KEYS = [(*case, torch.float64) for case in CASES]
KEYS += [(*case, torch.float32) for case in CASES if case[-1] == (33, 8)]
STEPS = 5


def steps(group, network, loss, size, dtype):
    """Take a step, or five; gives the first one's gradients, all losses and the last weights."""
    batch, hidden = size
    terms, share = LOSSES[network][loss], SPARSE_UP_TO.get(loss, 0.0)
    replica = run(hidden=hidden, terms=terms, network=network, dtype=dtype, sparse_up_to=share)
    if loss == "controlled":
        control = SparsityControl(hidden / 4, bool(replica.model.steered))
        replica.control, replica.steps_in_all = control, STEPS
    generator = torch.Generator().manual_seed(3)
    order = [torch.randint(0, len(IMAGES), (batch,), generator=generator) for _ in range(STEPS)]
    stack = Stack([replica], group)
    losses = [stack.train([Block(IMAGES, order[:1])])]
    replica.steps_done = 1
    parameters = list(replica.model.parameters())
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    if dtype == torch.float64:
        losses.append(stack.train([Block(IMAGES, order[1:])]))
    values = torch.cat(losses)
    if share:
        values = values[:, :-1]  # whether it was sparse: processes may differ
    return gradients, values, [p.detach().clone() for p in parameters]


def loader(group):
    """Batches of a user's own: whole ones, or those of one of two processes, of other sizes."""
    parts = [IMAGES[:24].split(8), IMAGES[24:50].split([9, 8, 9])]
    whole = [torch.cat(some) for some in zip(*parts, strict=True)]
    return DataLoader(whole if group.size == 1 else parts[group.rank], batch_size=None)


def fit(group, **flags):
    """Train a module under a Trainer with a user's own loader; gives its weights."""
    quieten()
    pl.seed_everything(5, verbose=False)
    module = EncoderModule({"in_features": 64, "hidden": 8}).double()
    bare_trainer(max_epochs=2, **flags).fit(module, loader(group))
    return [p.detach().clone() for p in module.model.parameters()]


def measure(group):
    """Return the steps of all cases, in both precisions."""
    return {key: steps(group, *key) for key in KEYS}


def take_part(rank, processes, directory):
    torch.set_num_threads(1)
    results, fitted = measure(Group(rank, processes)), None
    if processes == 2:
        flags = {"strategy": GlobalBatch(), "use_distributed_sampler": False}
        fitted = fit(Group(rank, 2), devices=2, **flags)
    torch.save(([*results.values()], fitted), directory / f"{rank}.pt")


def together(processes, directory):
    """Measure in several processes; gives the results of each.

    They are forked, because a spawned one would import for five seconds.
    """

    def forked(*arguments, **options):
        return start_processes(*arguments, **options | {"start_method": "fork"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("implicit_em.distributed.processes.start_processes", forked)
        run_together(take_part, (processes, directory), processes, "gloo")
    loaded = [torch.load(directory / f"{rank}.pt") for rank in range(processes)]
    return [dict(zip(KEYS, values, strict=True)) for values, _ in loaded], [f for _, f in loaded]


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def alone():
    return measure(Group())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return together(2, tmp_path_factory.mktemp("two"))


def distance(found, expected):
    """Largest difference, in units of the largest number expected."""
    found, expected = (torch.cat([t.flatten() for t in some]) for some in (found, expected))
    return float((found - expected).abs().max() / expected.abs().max())


def assert_equal_steps(found, expected, dtype):
    (gradients, losses, weights), most = found, 1e-5 if dtype == torch.float32 else 1e-12
    assert distance(gradients, expected[0]) <= most
    assert distance([losses[0]], [expected[1][0]]) <= most
    if dtype == torch.float64:
        torch.testing.assert_close(weights, expected[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k[0].__name__}-{k[1]}-{k[2]}-{k[3]}")
def test_two_processes_take_the_steps_of_one(two, alone, key):
    for found in two[0]:
        assert_equal_steps(found[key], alone[key], key[-1])
    for mine, yours in zip(*(found[key] for found in two[0]), strict=True):
        assert all(map(torch.equal, mine, yours)), "both processes have the same bits"


def test_a_bare_trainer_trains_on_the_batches_of_all_its_processes(two):
    expected = fit(Group())
    for found in two[1]:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_three_processes_take_the_steps_of_one(alone, tmp_path):
    for steps_by_case in together(3, tmp_path)[0]:
        for key, found in steps_by_case.items():
            assert_equal_steps(found, alone[key], key[-1])


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 5, 6, 33, 128])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_sample_is_in_one_part(samples, processes):
    everything = torch.arange(samples)
    parts = [everything[Group(rank, processes).part(samples)] for rank in range(processes)]
    assert torch.equal(torch.cat(parts), everything)
    assert max(map(len, parts)) == -(-samples // processes)


def test_the_loaders_of_two_processes_give_the_batches_of_one():
    inputs, labels = IMAGES[:23], torch.arange(23)
    whole = ResidentLoader(inputs, labels, 4, seed=1)
    parts = [ResidentLoader(inputs, labels, 4, seed=1, group=Group(r, 2)) for r in range(2)]
    for _ in range(2):
        for (x, y), *some in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat([own for own, _ in some]), x)
            assert torch.equal(torch.cat([own for _, own in some]), y)


DDP = ["trainer=ddp_cpu"]
MEASURED = (*FINAL, "final_loss", "transpose_reconstruction_mse", "ridge_fvu", "probe_accuracy")


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


@pytest.mark.slow
def test_a_run_of_two_processes_is_within_the_spread_over_seeds(composed, small, tmp_path):
    settings = [*small, "data.val_size=35", "model.hidden=16", "metrics_every=1"]
    cfg = composed(*settings, *DDP)
    found = train(cfg, tmp_path / "two")
    assert found["status"] == "completed"
    assert found["device"] == "2 x cpu"
    seeds = [train(composed(*settings, f"seed={s}"), tmp_path / str(s)) for s in (1, 2, 3)]
    for key in MEASURED:
        spread = max(m[key] for m in seeds) - min(m[key] for m in seeds)
        assert abs(found[key] - seeds[0][key]) <= spread, key
    assert found["final_loss"] == pytest.approx(seeds[0]["final_loss"], rel=1e-4)
    histories = [pd.read_csv(tmp_path / name / "history.csv") for name in ("two", "1")]
    assert histories[0].columns.tolist() == histories[1].columns.tolist()
    pd.testing.assert_frame_equal(*histories, rtol=1e-3)
    assert set(files(tmp_path / "two")) == set(files(tmp_path / "1"))
    assert train(cfg, tmp_path / "two") == found, "complete: reused"


def ranks(parent):
    """The processes that the training one has started, in their order."""
    children = sorted(parent.children(), key=lambda child: child.create_time())
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


ENDLESS = ["trainer.max_epochs=1000000", "metrics_every=1000000"]


@pytest.mark.parametrize(
    "typed", [["RReLU"], ["Dropout"], ["BatchNorm1d", "+activation.num_features=64"]]
)
def test_a_model_that_mixes_samples_or_draws_is_refused(composed, typed):
    name, *options = typed
    activation = [f"activation._target_=torch.nn.{name}", *options]
    check(RunSpec.of(composed(*activation)))
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: 2 devices; allowed is 1, as the"):
        check(RunSpec.of(composed(*activation, *DDP)))


def test_a_trainer_without_the_other_processes_says_so():
    with pytest.raises(ValueError, match="this is one process, and 2 are needed"):
        fit(Group(), devices=2, strategy=GlobalBatch())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["trainer.limit_train_batches=3"],
        ["callbacks=[best,early_stopping]", "metrics_every=1"],
        ["trainer.precision=64-true", "model=sae"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.gradient_clip_val=0.1", "lr=cosine", "optimizer=momentum"],
        ["trainer.devices=1"],
        ["callbacks=trajectory"],
        ["data.val_size=2", "trainer.devices=3", "metrics_every=1"],
    ],
)
def test_every_setting_trains_in_processes(composed, small, tmp_path, settings):
    two = train(composed(*small, *DDP, *settings), tmp_path / "two")
    alone = [setting for setting in settings if "devices" not in setting]
    one = train(composed(*small, *alone), tmp_path / "one")
    tolerance = 1e-2 if "bf16" in settings[0] else 1e-4
    assert two["final_loss"] == pytest.approx(one["final_loss"], rel=tolerance)
    assert set(files(tmp_path / "two")) == set(files(tmp_path / "one"))


@pytest.mark.slow
def test_one_process_tracks_the_run(composed, small, tmp_path):
    train(composed(*small, *DDP, "logger=wandb", "logger.mode=offline"), tmp_path)
    assert len([*tmp_path.glob("wandb/offline-run-*")]) == 1


@pytest.mark.slow
def test_a_diverging_run_fails_as_one_process_does(composed, small, tmp_path):
    with pytest.raises(NonFiniteLossError, match="not finite at step"):
        train(composed(*small, *DDP, "lr.value=1e25"), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["status"] == "failed"
    assert metrics["error"].startswith("the loss was not finite at step")


def command(*arguments):
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def start(directory, *arguments):
    """Start runs from the command line; gives it and its processes, when there is a checkpoint."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not [*directory.rglob("last.ckpt")]:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return process, ranks(psutil.Process(process.pid))


def end(process, others):
    """Wait for it and for its processes, at most a minute; gives the exit code and the output."""
    out, _ = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive
    return process.returncode, out


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_command_ends_with_one_when_a_process_is_killed(small, tmp_path, victim):
    process, others = start(tmp_path, *small, *DDP, *ENDLESS, "hydra.run.dir=run")
    assert len(others) == 2
    others[victim].kill()
    code, out = end(process, others)
    assert code == 1
    said = f"process {victim + 1} of 2 was killed by SIGKILL"
    assert f"failed: {said}" in out.splitlines()
    assert "Traceback" not in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["status"], metrics["error"]) == ("failed", said)


@pytest.mark.slow
def test_no_process_is_left_when_the_command_is_killed(small, tmp_path):
    process, others = start(tmp_path, *small, *DDP, *ENDLESS)
    process.kill()
    code, _ = end(process, others)
    assert code == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGINT, True),
        (signal.SIGUSR2, False),
    ],
)
def test_a_signal_saves_and_stops_and_the_run_goes_on_to_the_same_bits(
    composed, small, tmp_path, number, to_all
):
    blocks = ["data.batch_size=4", "checkpoint.steps=64"]  # three an epoch
    settings = [*small, *DDP, *blocks, "trainer.max_epochs=20", "metrics_every=5"]
    process, others = start(tmp_path, *settings, f"hydra.run.dir={tmp_path / 'run'}")
    for one in [*others, process] if to_all else [process]:
        os.kill(one.pid, number)
    code, out = end(process, others)
    assert code == 128 + number, out
    assert out.count("saving, then stopping") == 1
    assert "Traceback" not in out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["status"] == "interrupted"
    assert metrics["epochs"] < 20
    again = subprocess.run(
        command(f"resume={tmp_path / 'run'}"), cwd=tmp_path, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on after epoch" in again.stdout
    train(composed(*settings), tmp_path / "undisturbed")
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_job_whose_process_is_killed_does_not_stop_the_sweep(small, tmp_path):
    jobs = [*small, *DDP, "metrics_every=1000000", "trainer.max_epochs=1000000,2"]
    process, others = start(tmp_path, "-m", *jobs, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    others[1].kill()
    code, out = end(process, others)
    assert code == 1
    assert out.count(", completed") == 1, "one process prints"
    statuses = pd.read_csv(tmp_path / "sweep/summary.csv").set_index("directory")["status"]
    for name, status in statuses.items():
        assert status == ("failed" if "1000000" in name.partition("max_epochs")[2] else "completed")
    assert len(statuses) == 2
