"""What runs on a CPU runs on another device, which ``helpers.device`` simulates.

One process takes all paths: such a device cannot be removed from a process.
"""

import json
import os
import subprocess
import sys

import pytest
from helpers.device_paths import CONTROLLED, FAMILIES, SWEPT
from helpers.paths import ROOT

WITHOUT_CODES = ("mixture",)
DENSE = [f"{name} dense" for name in FAMILIES] + [f"{name} l0" for name in CONTROLLED]
SPARSE = [f"{name} sparse" for name in FAMILIES if name not in WITHOUT_CODES]
DENSE += [f"{name} swept dense" for name in SWEPT]
SPARSE += [f"{name} swept sparse" for name in SWEPT]
COMMANDS, SLOW = ("run", "stacked", "sparse", "estimator"), ("language", "resume")
QUICKLY = """
from implicit_em.base.imports import quick_imports
with quick_imports():
    from helpers.device_paths import show
show()
"""
OF_ENERGIES = ("encoder", "sampled", "hybrid")
"""Families whose decorrelation asks whether a unit is active in most samples."""


def found_by(*commands):
    """What a process finds that nothing else has used: a fork inherits threads of other tests."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", QUICKLY, *commands],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    return found_by(*COMMANDS)


@pytest.mark.parametrize("path", [*DENSE, *SPARSE, *COMMANDS])
def test_a_path_ends_as_it_does_on_a_cpu(found, path):
    assert found[path]["agrees"], found[path].get("error", found[path])


@pytest.mark.slow
def test_a_harvest_and_a_run_that_goes_on_end_as_they_do_on_a_cpu():
    found = found_by(*SLOW)
    assert all(found[path]["agrees"] for path in SLOW), found


def test_samples_lie_on_the_device(found):
    assert found["run"]["resident"]


def test_a_tensor_that_a_step_makes_on_the_cpu_is_caught(found):
    assert found["fault"]["agrees"]


@pytest.mark.parametrize("path", DENSE)
def test_the_host_waits_for_no_dense_step(found, path):
    assert found[path]["step"] == found[path]["block"] == {}


@pytest.mark.parametrize("path", SPARSE)
def test_the_host_waits_for_a_sparse_step_as_little_as_can_be(found, path):
    name = path.split()[0]
    sweeps = 2 if "swept" in path else 1
    expected = {} if "topk" in name or name == "matryoshka" else {"nonzero": sweeps}
    assert found[path]["step"] == expected | ({"scalar": 1} if name in OF_ENERGIES else {})
    assert found[path]["block"] == {}


def test_an_epoch_copies_its_losses_to_the_host_and_nothing_else(found):
    assert found["run"]["epoch"] == {"to_host": 1}
