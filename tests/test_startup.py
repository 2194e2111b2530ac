"""What a command loads: nothing that it does not need."""

import subprocess
import sys

import pytest
from helpers.paths import ROOT

LIBRARIES = """
matplotlib numpy pandas pydantic pytorch_lightning rich scipy sklearn tensorboard torch torchmetrics
torchvision transformers wandb
"""
PROGRAM = """
import runpy, sys
path, *_ = sys.argv = sys.argv[1:]
try:
    runpy.run_path(path, run_name="__main__")
finally:
    print("loaded", *sys.modules, file=sys.stderr)
"""


def loaded(tmp_path, *arguments, code=0, program="train.py"):
    """Run ``python train.py ARGS`` in a process of its own; gives the modules it has loaded."""
    command = [sys.executable, "-c", PROGRAM, str(ROOT / program), *arguments]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == code, shown.stderr
    (line,) = [line for line in shown.stderr.splitlines() if line.startswith("loaded ")]
    return set(line.split())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["experiment=dynamics", "--cfg", "all"], 0),
        (["loss=lsee"], 2),
    ],
)
def test_what_does_not_train_loads_none_of_the_libraries(tmp_path, arguments, code):
    modules = loaded(tmp_path, *arguments, code=code)
    assert "hydra" in modules
    assert not modules & set(LIBRARIES.split())


def test_the_configuration_of_a_harvest_is_shown_without_the_libraries(tmp_path):
    arguments = ["harvest", "lm=smollm2", "--cfg", "job"]
    assert not loaded(tmp_path, *arguments, program="implicit_em/cli/__main__.py") & set(
        LIBRARIES.split()
    )


@pytest.mark.slow
def test_a_run_loads_neither_other_loggers_nor_what_the_probe_needs(small, tmp_path):
    modules = loaded(tmp_path, *small, "trainer.max_epochs=1", "probe=none")
    assert "torch" in modules
    assert not modules & {"pandas", "sklearn", "tensorboard", "wandb"}
