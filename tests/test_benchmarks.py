"""The measurements: their arithmetic, and the shapes of small ones. No speed is asserted."""

import json
import runpy
import sys
import warnings
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import epoch, gpu, harvest, sgemm, sparse, width
from benchmarks.clock import WITH_CLOCK, epoch_seconds, read_clocks, seconds_a_run_and_epoch
from benchmarks.common import (
    ACCELERATED,
    MIB,
    NOT_MEASURED,
    Device,
    Result,
    Target,
    devices,
    machine,
    spread,
)
from benchmarks.peers import race
from benchmarks.peers.task import HELD_OUT, Task
from benchmarks.sweeps import run_sweep
from implicit_em.base.errors import ConfigError


def clock(*boundaries):
    return {"boundaries": boundaries, "curves": [0.0] * (len(boundaries) - 1)}


def test_runs_at_the_same_time_share_it():
    assert epoch_seconds(clock(0, 5, 7, 10)) == [2, 3]
    assert seconds_a_run_and_epoch([clock(0, 5, 7, 10, 99)]) == 2.5
    together = [clock(0, 5, 7, 10, 99), clock(1, 6, 8, 11, 12)]
    assert seconds_a_run_and_epoch(together) == 6 / 4
    one_after_another = [clock(0, 5, 7, 10, 12), clock(20, 25, 27, 30, 31)]
    assert seconds_a_run_and_epoch(one_after_another) == 2.5, "the gap does not count"


def test_exponent_of_a_power():
    assert width.exponent([1, 4, 16], [3.0, 24.0, 192.0]) == 1.5


@pytest.mark.parametrize(
    ("measured", "at_least", "verdict"),
    [
        (0.4, False, "met"),
        (0.5, False, "missed"),
        (0.5, True, "met"),
        (0.3, True, "missed"),
        (None, False, "not measured"),
    ],
)
def test_verdict_of_a_target(measured, at_least, verdict):
    assert Target("x", measured, 0.4, at_least).verdict == verdict


@pytest.mark.parametrize("model", ["topk", "tied_topk", "spike_slab"])
def test_weights_and_moments_of_a_sparse_step_are_those_of_one_matrix_or_two(model):
    point = sparse.Point(model, units=1024, active=8, batch_size=64)
    found = sparse._memory(point, "cpu")
    numbers = (1 if model in sparse.TIED else 2) * 1024 * sparse.WIDTH + 1024 + sparse.WIDTH
    assert found["weights_MiB"] == pytest.approx(3 * 4 * numbers / MIB, abs=0.01)


def test_a_step_of_units_that_are_on_or_off_has_as_many_active_ones_and_searches_none():
    point = sparse.Point("spike_slab", units=1024, active=8, batch_size=256)
    samples_ND = sparse.random_samples("cpu")
    (replica,) = sparse.stack_of(point, samples_ND, 1.0).replicas
    code_BK = replica.model.encode(samples_ND[: point.batch_size])
    assert (code_BK > 0).sum() / point.batch_size == pytest.approx(8, rel=0.1)
    times = sparse._times(point, 1, "cpu")
    assert {"sparse_ms", "dense_ms", "topk_ms"} < set(times)
    assert times["search_ms"] == [0]


@pytest.mark.slow
def test_a_stacked_sweep_leaves_the_clocks_of_its_runs(small, tmp_path):
    settings = [*small, "seed=1,2", "trainer.max_epochs=3", "probe=none", WITH_CLOCK]
    assert run_sweep("stacked", settings, tmp_path / "sweep") > 0
    clocks = read_clocks(tmp_path)
    assert [len(clock["boundaries"]) for clock in clocks] == [4, 4]
    assert seconds_a_run_and_epoch(clocks) > 0


def test_a_sweep_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"error: .*optimizer"):
        run_sweep("basic", ["optimizer=none_such"], tmp_path)


@pytest.mark.slow
def test_results_are_printed_and_written(small, tmp_path, capsys, monkeypatch):
    settings = (*small, "metrics_every=1")
    parts = {
        "epoch": lambda quick: epoch.measure(epoch.Size(2, 1, settings, 2**12)),
        "sgemm": lambda quick: sgemm.measure(sgemm.Size(3, 1, 0.01, settings)),
        "width": lambda quick: width.measure(width.Size((512, 1024), (64,), 512, 0)),
    }
    monkeypatch.setattr(command, "PARTS", parts)
    assert command.main(["--quick", "--directory", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "README.md").read_text()
    points = {"epoch": 1, "sgemm": 3, "width": 2}
    for part, rows in points.items():
        result = json.loads((tmp_path / f"{part}.json").read_text())
        assert result["title"] in page
        absent = [row for row in result["rows"] if NOT_MEASURED in row.values()]
        more = 2 * (part == "epoch")  # with and without step logging, on a CPU
        assert len(result["rows"]) == rows * len(devices()) + len(absent) + more
        assert len(devices()) + len(absent) == 1 + len(ACCELERATED)
        assert result["machine"].keys() == machine().keys()
        for target in result["targets"]:
            assert target["name"] in page
            assert target["verdict"] in ("met", "missed")
    assert "project / plain" in printed
    assert "cuda, bf16-mixed" in page


def test_a_language_model_without_weights_is_not_measured(monkeypatch):
    def missing(lm):
        raise ConfigError(f"lm={lm.name}: its weights are not installed")

    monkeypatch.setattr(harvest, "find", missing)
    result = harvest.measure(harvest.QUICK)
    shown = [row["harvest, tokens/s"] for row in result.rows]
    assert all(text.startswith("not measured: lm=") for text in shown)
    assert {target.verdict for target in result.targets} == {"not measured"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would be measured")
def test_a_gpu_that_is_not_there_is_not_measured(capsys):
    with pytest.raises(SystemExit):
        command.main(["gpu"])
    assert "gpu: there is no CUDA device; --quick tries it on the CPU" in capsys.readouterr().err


@pytest.mark.slow
def test_the_trial_for_a_gpu_runs_on_the_cpu(small, monkeypatch):
    part = SimpleNamespace(measure=lambda size, on: Result("x", str(on[0]), {}, [{"a": size}]))
    settings = {"PARTS": [part], "MODELS": ("topk", "encoder", "spike_slab"), "UNITS": 64}
    settings |= {"devices": lambda: [Device("cpu")], "RUN": (*small, *gpu.RUN)}
    for name, value in settings.items():
        monkeypatch.setattr(gpu, name, value)
    waits, other = gpu.measure([3])
    assert all(NOT_MEASURED in row.values() for row in waits.rows)
    assert {target.verdict for target in waits.targets} == {"not measured"}
    assert (other.part, other.title, other.rows) == ("gpu_x", "cpu (cpu)", [{"a": 3}])


def test_what_waits_is_counted_or_named(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def waits():
        if modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nand more")
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    assert gpu._waits(waits, Device("cuda"), "warn") == 3
    assert gpu._waits(waits, Device("cuda"), "error") == "called a synchronizing CUDA operation"
    assert gpu._waits(lambda: None, Device("cpu"), "warn") == NOT_MEASURED
    assert modes == ["warn", 0, "error", 0]


@pytest.mark.parametrize(("further", "limit"), [((), [1 / 32]), ((race.UNLIMITED,), [])])
def test_this_project_limits_its_gradients_in_the_race(further, limit, tmp_path, monkeypatch):
    rng, limits, clip = np.random.default_rng(0), [], torch.nn.utils.clip_grad_norm_
    np.save(tmp_path / "x.npy", rng.standard_normal((HELD_OUT + 64, 32), np.float32))
    task = Task(str(tmp_path / "x.npy"), 32, 2, 16, steps=12, rate=1e-3, seed=0)

    def noted(parameters, max_norm):
        limits.append(max_norm)
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    monkeypatch.setattr(sys, "argv", ["here.py", json.dumps(asdict(task)), "2", *further])
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(race.SCRIPTS / "here.py"))
    assert limits == limit * 12 * 2


def test_the_race_holds_this_project_against_the_best_of_the_others():
    tools = {"this project": (2, 0.2), "SAELens": (8, 0.25), "dictionary_learning": (9, 0.1)}
    rows = {name: {"step_ms": spread([t]), "fvu": spread([f])} for name, (t, f) in tools.items()}
    assert [target.measured for target in race.targets_of(4096, rows)] == [0.25, 2]
