"""A wheel trains outside of any checkout, also where the extra ``language`` is not installed."""

import os
import subprocess

import pytest
from helpers.wheel import install_wheel

from implicit_em.sweeps.summary import read_jobs

pytestmark = pytest.mark.slow
OF_EXTRAS = ("transformers", "accelerate", "gguf", "pyarrow", "datasets")
"""Packages of the extras ``language`` and ``hub``."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return install_wheel(tmp_path_factory.mktemp("wheel"), without=OF_EXTRAS)


@pytest.fixture
def run(wheel, tmp_path):
    """Run ``implicit-em`` in an empty directory; gives what it printed, and its errors."""
    command, environment = wheel

    def run(*arguments, code=0):
        done = subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_a_run_is_trained_evaluated_and_explored(run, small, tmp_path):
    run("train", *small, "hydra.run.dir=run")
    assert (tmp_path / "run/metrics.json").exists()
    assert "probe accuracy" in run("evaluate", "run").stdout
    run("explore", "run")
    assert (tmp_path / "run/explore/index.html").exists()


@pytest.mark.parametrize("launcher", ["stacked", "joblib_local hydra.launcher.n_jobs=2"])
def test_a_sweep_is_trained_and_summarised(run, small, tmp_path, launcher):
    sweep = ["-m", *f"hydra/launcher={launcher}".split(), "hydra.sweep.dir=sweep"]
    run("train", *sweep, *small, "seed=1,2")
    assert list(read_jobs(tmp_path / "sweep")["status"]) == ["completed"] * 2
    assert "2 jobs" in run("summarise", "sweep").stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("recover --quick trainer.max_epoch=1", "error: trainer.max_epoch=1: no such"),
        (
            "harvest lm=minilm store=store",
            'error: lm=minilm: transformers is missing; pip install -e ".[language]"',
        ),
    ],
)
def test_what_cannot_run_is_one_line(run, arguments, line):
    refused = run(*arguments.split(), code=2).stderr
    assert refused.startswith(line)
    assert refused.count("\n") == 1
