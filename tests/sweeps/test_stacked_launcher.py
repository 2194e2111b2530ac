"""Sweeps that train as stacks, through the command line: each job is as the basic launcher's."""

import logging
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.composing import composed
from helpers.paths import ROOT
from helpers.processes import wait_for
from helpers.results import announced, assert_jobs_equal, finished, metrics_of
from hydra.test_utils.launcher_common_tests import LauncherTestSuite

from hydra_plugins.stacked_launcher.stacked_launcher import _shareable
from implicit_em.sweeps import stacked
from implicit_em.sweeps.summary import read_jobs
from implicit_em.training.spec import RunSpec

STACKED = "hydra/launcher=stacked"
LAST_BATCH_FILLS_ITS_LANES = "model.hidden=8"


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """On any machine; and the threads that a job chose are that job's alone."""
    monkeypatch.setattr(stacked, "cores", lambda: 2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def sweep(sweep):
    return partial(sweep, LAST_BATCH_FILLS_ITS_LANES)


def messages(run):
    """The lines of a job's log, without their dates."""
    log = run / "train.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split(" ", 2)[2] for line in lines]


def test_a_stacked_sweep_equals_the_basic_launchers_file_by_file(sweep, stacks, capfd):
    axes = ["seed=1,2", "loss=lse,lse_var_tc", "picture=true"]
    code, found = sweep(*axes, STACKED)
    assert code == 0
    out = capfd.readouterr().out
    assert announced(out) == ["4 jobs together:"]
    assert "training 4 runs: 8 of 8 epochs" in out
    assert stacks[:2] == [2, 2], "a stack for each objective and core"

    stacks.clear()
    code, expected = sweep(*axes, directory="basic")
    assert code == 0
    assert not stacks
    names = assert_jobs_equal(found, expected)
    assert len(names) == 4
    assert len({(found / name / "model.safetensors").read_bytes() for name in names}) == 4
    for name in names:
        # A process remarks on its samples once, whichever run reads them first.
        together, alone = (
            [line for line in messages(directory / name) if ": data: " not in line]
            for directory in (found, expected)
        )
        own = [line for line in alone if "training: " not in line]
        *common, last = together
        assert common == own, "no line of another job's"
        assert "completed: final loss" in last, "in place of a table"
        probe = f"linear probe: {100 * metrics_of(found / name)['probe_accuracy']:.2f} %"
        assert sum(probe in line for line in own) == 1


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        ("model.l0=2,5 trainer.max_epochs=3", [2]),
        pytest.param("trainer.sparse=on,off seed=1,2", [2, 1, 1], marks=pytest.mark.slow),
        pytest.param("model=topk model.l0=2,3 lr.value=0.01", [2], marks=pytest.mark.slow),
        pytest.param(
            "model=sae seed=1,2 lr=cosine,step,plateau trainer.gradient_clip_val=0.1 "
            "optimizer=momentum metrics_every=1 trainer.max_epochs=3",
            [6],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_sweep_of_a_family_equals_the_basic_launchers(sweep, stacks, monkeypatch, axes, sizes):
    monkeypatch.setattr(stacked, "cores", lambda: 1)
    axes = [*axes.split(), "model.hidden=32", "probe=none"]
    code, found = sweep(*axes, STACKED)
    assert (code, stacks) == (0, sizes)
    code, expected = sweep(*axes, directory="basic")
    assert (code, stacks) == (0, sizes), "runs alone meet nobody"
    assert len(assert_jobs_equal(found, expected)) == sum(sizes)


def memory_of(spec):
    return stacked.memory_of(spec, spec.build_data().in_features)


def groups(jobs, most):
    return stacked.groups(_shareable(jobs), most)


@pytest.fixture
def jobs(small):
    """Compose a job for each seed, as the launcher does."""

    def jobs(*overrides, seeds=5):
        one = composed("train", *small, *overrides, return_hydra_config=True)
        several = [one.copy() for _ in range(seeds)]
        for seed, job in enumerate(several):
            job.seed = seed
            job.hydra.overrides.task = [*overrides, f"seed={seed}"]
        return several

    return jobs


@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [3, 2]), (99, [5])])
def test_max_stack_limits_a_group_and_no_random_number_is_drawn(jobs, most, sizes):
    state = torch.get_rng_state()
    found = groups(jobs(), most)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(group) for group in found] == sizes
    assert [position for group in found for position in group] == list(range(5))


@pytest.mark.parametrize(
    ("holds", "sizes"), [(5.1, [5]), (3.0, [3, 2]), (1.3, [1] * 5), (0.1, [1] * 5)]
)
def test_a_group_that_memory_would_not_hold_is_split(jobs, monkeypatch, holds, sizes):
    five = jobs()
    of_one = memory_of(_shareable(five)[0])
    available = int(holds * of_one / stacked.SHARE_OF_MEMORY)
    monkeypatch.setattr(stacked, "_available", lambda key: available)
    assert [len(group) for group in groups(five, 99)] == sizes


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=64-true",
        "trainer.threads=2",
        "trainer.threads=null",
        "hydra.job.chdir=true",
        "activation={_target_: torch.nn.RReLU}",
        "data.val_size=599",
    ],
)
def test_jobs_that_use_what_a_process_has_once_run_by_themselves(jobs, override):
    assert groups(jobs(override, seeds=2), 99) == [[0], [1]]
    assert groups(jobs(override, seeds=1) + jobs(seeds=2), 99) == [[0], [1, 2]]


def test_a_job_whose_directory_another_has_comes_after_it(jobs):
    profiler = "+trainer.profiler={_target_: pytorch_lightning.profilers.SimpleProfiler}"
    assert groups(jobs(profiler, seeds=2), 99) == [[0, 1]], "all in one process"
    assert groups([*jobs(seeds=2), *jobs(seeds=1)], 99) == [[0, 1], [2]]


def test_memory_grows_with_what_training_takes(composed, small):
    def memory(*overrides):
        return memory_of(RunSpec.of(composed(*small, *overrides)))

    parameters = 4 * (64 * 1024 + 1024)
    assert memory("model.hidden=1024") > 8 * parameters
    assert memory("model.hidden=1024", "model=sae") > memory("model.hidden=1024") + 7 * parameters
    assert memory("data.batch_size=600") > 5 * memory("data.batch_size=60")


def test_a_diverging_job_fails_alone(sweep, stacks, capfd):
    axes = ["lr.value=1e-3,1e-2,1e20", "probe=none"]
    code, found = sweep(*axes, STACKED)
    assert code == 1
    assert capfd.readouterr().out.count("failed: the loss was not finite") >= 1
    assert sum(stacks[:2]) == 3
    code, expected = sweep(*axes, directory="basic")
    assert code == 1
    assert_jobs_equal(found, expected)
    jobs = read_jobs(found).set_index("job")["status"]
    assert sorted(jobs) == ["completed", "completed", "failed"]
    (failed,) = [run for run in found.glob("*/") if metrics_of(run)["status"] == "failed"]
    assert "not finite at step" in metrics_of(failed)["error"]
    assert "not finite at step" in (found / "summary.md").read_text()
    assert sum("failed: the loss" in line for line in messages(failed)) == 1
    assert not (failed / "model.safetensors").exists()
    others = [run for run in found.glob("*/") if run != failed]
    assert not any("failed" in line for run in others for line in messages(run))


def test_a_job_that_fails_after_the_end_of_another_fails_alone(sweep):
    schedule = ["lr=step", "lr.schedule.step_size=30", "lr.schedule.gamma=1e30"]
    code, directory = sweep(*schedule, "trainer.max_epochs=1,33", "probe=none", STACKED)
    assert code == 1
    jobs = read_jobs(directory)
    assert sorted(jobs["status"]) == ["completed", "failed"]
    assert "not finite at step" in " ".join(jobs["error"].dropna())


def test_max_stack_limits_a_stack_and_a_job_whose_data_cannot_be_split_fails_by_itself(
    sweep, capfd
):
    at_most = "hydra.launcher.max_stack=2"
    code, directory = sweep("data.val_size=0,10,20,599", "probe=none", STACKED, at_most)
    alone = 2 * ["One job by itself:"]
    assert announced(capfd.readouterr().out) == ["2 jobs together:", *alone]
    assert code == 2
    jobs = read_jobs(directory)
    assert sorted(jobs["status"]) == [*3 * ["completed"], "failed"]
    assert jobs["error"].str.contains("val_size=599").sum() == 1


def epochs_done(run):
    history = run / "history.csv"
    return history.read_text().count("\n") - 1 if history.exists() else 0


@pytest.mark.slow
def test_a_sweep_goes_on_after_kill_9(sweep, small, tmp_path, stacks):
    arguments = ["-m", *small, LAST_BATCH_FILLS_ITS_LANES]
    axes = ["trainer.max_epochs=2,40", "seed=1,2", "probe=none"]
    directory = tmp_path / "sweep"
    command = [sys.executable, str(ROOT / "train.py"), *arguments, *axes, STACKED]
    process = subprocess.Popen(
        [*command, f"hydra.sweep.dir={directory}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: len(list(directory.glob("*max_epochs=2/metrics.json"))) == 2, process)
        long = list(directory.glob("*max_epochs=40"))
        wait_for(lambda: all(epochs_done(run) >= 3 for run in long), process)
    finally:
        process.kill()
        process.wait()
    assert len(long) == 2
    assert not any((run / "metrics.json").exists() for run in long)
    assert set(read_jobs(directory)["status"]) == {"completed", "unfinished"}
    done = [epochs_done(run) for run in long]
    before = finished(directory)

    code, _ = sweep(*axes, STACKED)
    assert code == 0
    assert before.items() <= finished(directory).items(), "not trained again"
    assert stacks[0] == 1, "two runs, on two cores"
    for run, epochs in zip(long, done, strict=True):
        (line,) = [line for line in messages(run) if "goes on after epoch" in line]
        after = int(line.split()[-3])
        assert epochs - 1 <= after <= epochs + 1
    _, undisturbed = sweep(*axes, directory="basic")
    assert_jobs_equal(directory, undisturbed)


@pytest.mark.slow
def test_two_sweeps_in_one_directory_wait_for_each_other(small, tmp_path):
    settings = [*small, "trainer.max_epochs=20", "probe=none", f"hydra.sweep.dir={tmp_path / 's'}"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *settings, STACKED]
    processes = [
        subprocess.Popen([*command, seeds], cwd=tmp_path, stdout=subprocess.DEVNULL)
        for seeds in ("seed=1,2,3,4", "seed=4,3,2,1")
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert read_jobs(tmp_path / "s")["status"].tolist() == ["completed"] * 4


def test_the_launcher_returns_the_jobs_in_their_order(hydra_sweep_runner, small, tmp_path):
    def task(cfg):
        return cfg.seed, cfg.trainer.threads, threading.current_thread().name

    runner = hydra_sweep_runner(
        calling_file=str(ROOT / "train.py"),
        calling_module=None,
        task_function=task,
        config_path="conf",
        config_name="train",
        overrides=[*small, STACKED, "seed=2,1", "trainer.threads=1,2"],
        temp_dir=tmp_path / "sweep",
    )
    with runner as done:
        (returned,) = done.returns
        assert [job.return_value[:2] for job in returned] == [(2, 1), (2, 2), (1, 1), (1, 2)]
        own_thread = [job.return_value[2] != "MainThread" for job in returned]
        assert own_thread == [True, False, True, False]
        assert [job.hydra_cfg.hydra.job.num for job in returned] == [0, 1, 2, 3]
        for job in returned:
            assert f"seed={job.return_value[0]}" in job.overrides
            directory = Path(job.hydra_cfg.hydra.runtime.output_dir)
            assert f"seed={job.return_value[0]}" in directory.name


@pytest.mark.parametrize(("launcher_name", "overrides"), [("stacked", ["hydra.job.chdir=true"])])
class TestHydrasOwnSuite(LauncherTestSuite):
    """All of it; its jobs are no trainings, and so run one by one.

    The suite expects what Hydra 1.1 does by default: that a job changes into its directory.
    """


def test_a_job_that_has_ended_takes_no_lines_of_the_next_one():
    class Ended(threading.Thread):
        ident = property(lambda self: threading.get_ident())  # the system may give it to the next

    log, said = logging.getLogger("implicit_em"), [[], []]
    with stacked._handlers_by_thread() as assign:
        for number, lines in enumerate(said):
            handler = logging.Handler()
            handler.emit = lambda record, lines=lines: lines.append(record.getMessage())
            logging.root.addHandler(handler)
            thread = Ended(target=log.warning, args=("job %d", number))
            assign(thread)
            thread.start()
            thread.join()
    assert said == [["job 0"], ["job 1"]]
