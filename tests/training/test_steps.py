"""Single steps are logged: the values are those of the definition, and no weight changes."""

import io
import logging
import re
from functools import cache, partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from helpers.breaking import broken_off
from helpers.replicas import IMAGES, blocks, equal, run, trained
from helpers.results import results
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from implicit_em.codes import Code
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.stack import Stack
from implicit_em.losses import Term, auxk, l1, lse, mse
from implicit_em.models import Encoder, SparseAutoencoder, TopK
from implicit_em.training.history import EpochProgress
from implicit_em.training.run import train
from implicit_em.training.steps import StepLog, interval

MEAN = (IMAGES / 255).mean(0)
SPARSE = {"mse": Term(mse), "l1": Term(l1)}
REVIVED = {"mse": Term(mse), "auxk": Term(auxk)}
PLAIN = ["step", "samples", "loss", "loss/mse", "loss/l1", "l0", "fvu", "lr", "l0_factor"]
MONITORED = ["monitor/l0", "monitor/fvu", "monitor/inactive_units"]


@pytest.mark.parametrize(
    ("setting", "count", "epoch", "expected"),
    [
        ("auto", 977, 977, 5),
        ("auto", 50, 50, 1),
        ("auto", 19 * 469, 469, 45),
        ("auto", 20 * 469, 469, 0),
        (7, 100 * 469, 469, 7),
        (0, 977, 977, 0),
    ],
)
def test_auto_logs_about_two_hundred_steps_of_few_epochs(setting, count, epoch, expected):
    assert interval(setting, count, epoch) == expected


def test_an_error_before_the_training_and_further_processes_leave_the_file_as_it_is(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("step,loss\n1,0.5\n")
    log, module = StepLog(path, "auto", None), SimpleNamespace(logged=[])
    log.on_exception(SimpleNamespace(is_global_zero=True), module, RuntimeError())
    log.steps, module.logged = 10, [object()]
    log.on_save_checkpoint(SimpleNamespace(is_global_zero=False), module, {})
    assert path.exists()
    assert not module.logged


class Watched(SparseAutoencoder):
    """Keeps what a step computes."""

    takes_stacks = steps_sparsely = True

    def _outputs(self, activations, **others):
        self.seen = super()._outputs(activations, **others)
        return self.seen


@pytest.mark.parametrize("sparse_up_to", [0.0, 1.0])
def test_l0_and_fvu_are_those_of_the_definition(sparse_up_to):
    one = run(0, 32, SPARSE, Watched, log_every=1, training_mean=MEAN, sparse_up_to=sparse_up_to)
    stack = Stack([one])
    for block in blocks(count=6):
        (values,) = stack.train([block])
        x, seen = IMAGES[block.batches[0]] / 255, (one.model if sparse_up_to else stack.model).seen
        active = seen["energies"]
        assert isinstance(active, Code) == bool(sparse_up_to)
        active = active.dense() if sparse_up_to else active
        residual = (x - seen["reconstruction"].detach()).square().sum()
        spread = (x - MEAN).square().sum()
        assert values[-2].item() == pytest.approx((active > 0).sum().item() / len(x))
        assert values[-1].item() == pytest.approx((residual / spread).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("network", "terms", "count", "options"),
    [
        (Encoder, None, 2, {}),
        (Encoder, None, 1, {"sparse_up_to": 1.0}),
        (Encoder, {"lse": Term(lse)}, 2, {}),
        (SparseAutoencoder, {"mse": Term(mse)}, 2, {"hidden": 40}),
        (TopK, REVIVED, 3, {}),
        (TopK, REVIVED, 1, {"sparse_up_to": 1.0}),
    ],
)
def test_a_step_is_the_same_whether_it_is_logged_or_not(network, terms, count, options):
    mean = MEAN if issubclass(network, SparseAutoencoder) else None

    def make(log_every):
        own = {"hidden": 32, "steps_in_all": 6, "log_every": log_every, "training_mean": mean}
        control = (lambda: SparsityControl(3.0)) if "lse" in (terms or ()) else (lambda: None)
        own |= options
        return [
            run(n, terms=terms, network=network, control=control(), **own) for n in range(count)
        ]

    batches = [blocks(seed) for seed in range(count)]
    plain = trained(make(0), batches)
    for every in (1, 4):
        for (values, tensors), (expected, others) in zip(
            trained(make(every), batches), plain, strict=True
        ):
            assert equal(tensors, others)
            assert torch.equal(values[:, :-2], expected)
            logged = values[:, -2].isfinite()
            assert logged.nonzero()[:, 0].tolist() == list(range(every - 1, 6, every))
            assert torch.equal(values[:, -1].isfinite(), logged & (mean is not None))


class Fetched(TorchDispatchMode):
    """Counts how often the host waits for a value."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_host_waits_for_no_value_of_a_step():
    counts = []
    for every in (0, 1):
        sparse = {"network": SparseAutoencoder, "terms": SPARSE, "training_mean": MEAN}
        stack = Stack([run(seed, log_every=every, **sparse) for seed in range(2)])
        with Fetched() as fetched:
            stack.train([blocks(0)[0], blocks(1)[0]])
        counts.append(fetched.count)
    assert counts[0] == counts[1], "those of the optimizer"


@pytest.fixture(scope="module")
def settings(small):
    return [*small, "model=sae", "probe=none", "trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def of(tmp_path_factory, composed, settings):
    """Train with overrides once; gives the directory."""

    @cache
    def trained_once(*overrides):
        directory = tmp_path_factory.mktemp("steps") / "run"
        train(composed(*settings, *overrides), directory)
        return directory

    return trained_once


def test_each_step_is_a_row_whose_mean_is_the_epochs(of):
    found = pd.read_csv(of("trainer.log_every_n_steps=1") / "steps.csv")
    assert list(found) == [*PLAIN, *MONITORED]
    assert found["step"].tolist() == [*range(1, 21)]
    assert found["samples"].tolist() == [*range(64, 577, 64), 600, *range(664, 1177, 64), 1200]
    history = pd.read_csv(of("trainer.log_every_n_steps=1") / "history.csv")
    for name in ("loss", "loss/mse", "loss/l1"):
        column = f"train/{name.rpartition('/')[2]}"
        means = found.groupby((found["step"] - 1) // 10)[name].mean()
        assert means.tolist() == pytest.approx(history[column].tolist(), rel=1e-12)
    assert (found["lr"] == 0.001).all()
    assert found["l0_factor"].isna().all()
    assert found[["l0", "fvu"]].notna().all(axis=None)
    assert found["monitor/fvu"].iloc[-1] == pytest.approx(found["fvu"].iloc[-1], rel=0.1)


def test_the_results_do_not_depend_on_what_is_logged(of):
    runs = [of(f"trainer.log_every_n_steps={every}") for every in (0, "auto", 3)]
    assert results(runs[0]) == results(runs[1]) == results(runs[2])
    assert not (runs[0] / "steps.csv").exists()
    assert pd.read_csv(runs[2] / "steps.csv")["loss"].notna().sum() == 6


def test_a_control_and_a_schedule_are_followed(of):
    directory = of("model.l0=3", "lr=cosine", "trainer.log_every_n_steps=1")
    found, history = (pd.read_csv(directory / name) for name in ("steps.csv", "history.csv"))
    means = found.groupby((found["step"] - 1) // 10)[["l0", "l0_factor"]].mean()
    assert means["l0"].tolist() == pytest.approx(history["control/l0"].tolist())
    weight = 0.01  # of conf/loss/sae.yaml
    expected = (history["control/l1_weight"] / weight).tolist()
    assert means["l0_factor"].tolist() == pytest.approx(expected)
    assert found["lr"].is_monotonic_decreasing
    assert found["lr"].nunique() == 20


@pytest.mark.parametrize("damage", ["none", "missing", "half a row", "a later row"])
def test_a_run_goes_on_with_the_rows_before_its_checkpoint(
    of, composed, settings, tmp_path, monkeypatch, damage
):
    overrides = "checkpoint.steps=4", "trainer.log_every_n_steps=2"
    monkeypatch.setattr("implicit_em.data.modules.BLOCK", 2)
    whole, directory = of(*overrides), tmp_path / "run"
    broken_off(monkeypatch, composed(*settings, *overrides), directory, block=9)
    path = directory / "steps.csv"
    rows = path.read_text().splitlines(keepends=True)
    assert 2 * (len(rows) - 1) == 16, "all that was logged, also after the checkpoint"
    later = rows[-1].replace("16,", "18,", 1)
    changed = {"half a row": [*rows[:3], rows[3][:9]], "a later row": [*rows, later]}
    path.write_text("".join(changed.get(damage, rows)))
    if damage == "missing":
        path.unlink()
    train(composed(*settings, *overrides), directory)
    assert results(directory) == results(whole)
    found, expected = path.read_text().splitlines(), (whole / "steps.csv").read_text().splitlines()
    if damage in ("none", "a later row"):
        assert found == expected
    else:
        assert set(found) < set(expected)


def test_a_measurement_is_in_eval_mode_and_leaves_the_modes_as_they_are(tmp_path):
    model, seen = Encoder(64, 5), []
    model.activation.eval()
    before = [part.training for part in model.modules()]
    model.register_forward_hook(lambda *_: seen.extend(p.training for p in model.modules()))
    log = StepLog(tmp_path / "steps.csv", "auto", None)
    log._x = torch.rand(10, 64)
    log._measure(SimpleNamespace(model=model, training_mean=None, device="cpu"))
    assert [part.training for part in model.modules()] == before
    assert any(before)
    assert seen == [False] * len(before)


def test_a_terminal_of_eighty_columns_shows_the_numbers(monkeypatch):
    screen = io.StringIO()
    terminal = partial(Console, force_terminal=True, width=80, file=screen)
    monkeypatch.setattr("rich.console.Console", terminal)
    shown = EpochProgress(3)
    shown.show_step(12_345, 100_000, {"loss": -1234.567, "l0": 1032.25, "fvu": 0.12345})
    shown.log_metrics({"train/loss": 1.0})
    shown.close()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()[-1]
    assert len(last) <= 80
    assert last.endswith(" 12345/100000 steps  loss -1235  L0 1032  FVU 0.1235 -:--:--")


def test_a_log_has_a_line_a_tenth_of_the_steps(caplog):
    caplog.set_level(logging.INFO, "implicit_em")
    shown = EpochProgress(2)
    for step in range(20, 101):
        shown.show_step(step, 100, {"loss": 0.25, "l0": 8.0} if step > 20 else {})
        shown.log_metrics({"train/loss": 1.0})
    assert [line.rpartition("  ")[0] for line in caplog.messages] == [
        f"training: {step} of 100 steps  loss 0.25  L0 8" for step in range(30, 101, 10)
    ]
