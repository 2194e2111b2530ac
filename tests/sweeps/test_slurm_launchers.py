"""The launchers for Slurm: what times out is saved and requeued by submitit, stacks are tasks."""

import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import pytorch_lightning as pl
from helpers.results import announced, assert_jobs_equal
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton

from implicit_em.distributed import GlobalBatch
from implicit_em.sweeps.summary import read_jobs
from implicit_em.training.spec import RunSpec

submitit = pytest.importorskip("submitit", reason='pip install -e ".[cluster]"')

from submitit.core.utils import DelayedSubmission, JobPaths  # noqa: E402
from submitit.slurm.slurm import SlurmJobEnvironment  # noqa: E402


class OneNode:
    """Stands in for submitit's executor: a task runs here, under submitit's own handler of signals.

    It runs from its pickle, and again from that which submitit writes, until it is not requeued.
    """

    requeued: ClassVar[list] = []
    tasks: ClassVar[list] = []

    def __init__(self, cluster, folder, slurm_max_num_timeout):
        assert cluster == "slurm"
        self.folder = Path(str(folder).replace("%j", "task"))
        self.timeouts = slurm_max_num_timeout

    def update_parameters(self, timeout_min, slurm_setup, **parameters):
        self.minutes = timeout_min

    def map_array(self, function, *columns):
        rows = enumerate(zip(*columns, strict=True))
        results = [self.run(number, function, row) for number, row in rows]
        return [SimpleNamespace(results=partial(list, [result])) for result in results]

    def run(self, number, function, arguments):
        paths = JobPaths(self.folder, job_id=str(number))
        OneNode.tasks.append(number)
        paths.folder.mkdir(parents=True, exist_ok=True)
        task = DelayedSubmission(function, *arguments)
        task.set_timeout(self.minutes, self.timeouts)
        task.dump(paths.submitted_pickle)
        while True:
            task = DelayedSubmission.load(paths.submitted_pickle)
            SlurmJobEnvironment()._handle_signals(paths, task)
            before = len(OneNode.requeued)
            try:
                return task.result()
            except SystemExit:
                assert len(OneNode.requeued) == before + 1


@pytest.fixture(autouse=True)
def in_a_task(monkeypatch, tmp_path):
    """Make this process a task of Slurm, as far as one can tell from the environment."""
    values = {"NTASKS": 1, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 5}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.touch(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def one_node(monkeypatch, command_line):
    """Let the launchers for Slurm run their tasks in this process."""
    from implicit_em import cli  # noqa: F401  (which tells Hydra its version, once)

    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    singletons = dict(Singleton._instances)  # a task has those of the pickle
    monkeypatch.setattr(submitit, "AutoExecutor", OneNode)
    monkeypatch.setattr(OneNode, "requeued", [])
    monkeypatch.setattr(OneNode, "tasks", [])
    monkeypatch.setattr(
        SlurmJobEnvironment, "_requeue", lambda self, countdown: OneNode.requeued.append(countdown)
    )
    yield
    Singleton._instances = singletons
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_lightning_leaves_requeuing_to_submitit_and_a_task_starts_its_processes_itself(
    composed, small, tmp_path
):
    spec = RunSpec.of(composed(*small))
    trainer = spec.build_trainer(logger=False, default_root_dir=tmp_path)
    assert pl.plugins.environments.SLURMEnvironment.detect()
    environment = trainer._accelerator_connector.cluster_environment
    assert not isinstance(environment, pl.plugins.environments.SLURMEnvironment)
    io = "{_target_: pytorch_lightning.plugins.io.AsyncCheckpointIO}"
    typed = RunSpec.of(composed(*small, f"+trainer.plugins=[{io}]"))
    both = typed.build_trainer(logger=False, default_root_dir=tmp_path)._accelerator_connector
    assert type(both.cluster_environment) is type(environment), "plugins join those of a run"
    two = RunSpec.of(composed(*small, "trainer=ddp_cpu"))
    trainer = two.build_trainer(logger=False, default_root_dir=tmp_path)
    assert isinstance(trainer.strategy, GlobalBatch)
    assert trainer.world_size == 2


@pytest.mark.slow  # make test-slurm shows the same on a real Slurm
def test_what_times_out_is_saved_requeued_and_goes_on(sweep, signalled, capfd):
    axes = [*signalled(signal.SIGUSR2), "probe=none"]
    limits = ["hydra.launcher.timeout_min=5"]
    code, alone = sweep(*axes, "hydra/launcher=slurm", *limits, directory="alone/sweep")
    assert code == 0
    assert OneNode.tasks == [0, 1, 2]
    assert OneNode.requeued == [19], "of the 20 times that it may"
    assert not announced(capfd.readouterr().out)

    limits += ["hydra.launcher.max_stack=2"]
    code, stacked = sweep(*axes, "hydra/launcher=slurm_stacked", *limits, directory="stacked/sweep")
    assert code == 0
    assert OneNode.tasks[3:] == [0, 1]
    assert OneNode.requeued == [19, 19]
    said = announced(capfd.readouterr().out)
    assert said == ["2 jobs together:", "2 jobs together:", "One job by itself:"], "the first twice"

    code, undisturbed = sweep(*axes, directory="alone/undisturbed")
    assert code == 0
    for directory in (alone, stacked):
        (run,) = directory.glob("*seed=2*")
        assert "goes on after epoch" in (run / "train.log").read_text()
        assert len(assert_jobs_equal(directory, undisturbed)) == 3


def test_what_times_out_too_often_is_said_in_a_line_and_kept(sweep, signalled, capfd):
    axes = [*signalled(signal.SIGUSR2, seeds="1,2"), "probe=none"]
    limits = ["hydra.launcher.timeout_min=5", "hydra.launcher.max_num_timeout=0"]
    code, directory = sweep(*axes, "hydra/launcher=slurm_stacked", *limits)
    assert code == 1
    assert not OneNode.requeued
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    (line,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: submitit: Job not requeued because: timed-out too many times.")
    assert read_jobs(directory)["status"].tolist() == ["interrupted"] * 2
