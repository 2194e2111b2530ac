"""What a command loads: nothing that it does not need."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

TRAIN, COMMAND = ROOT / "train.py", ROOT / "implicit_em" / "cli" / "__main__.py"
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


def loaded(tmp_path, program, *arguments, code=0):
    """Run a program in a process of its own; gives the modules it has loaded."""
    command = [sys.executable, "-c", PROGRAM, program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == code, shown.stderr
    (line,) = [line for line in shown.stderr.splitlines() if line.startswith("loaded ")]
    return set(line.split())


@pytest.mark.parametrize(
    ("program", "arguments", "code"),
    [
        (TRAIN, ["--help"], 0),
        (TRAIN, ["--cfg", "job"], 0),
        (TRAIN, ["experiment=dynamics", "--cfg", "all"], 0),
        (TRAIN, ["loss=lsee"], 2),
        (COMMAND, ["harvest", "lm=smollm2", "--cfg", "job"], 0),
        (COMMAND, [], 0),
    ],
)
def test_what_does_not_train_loads_none_of_the_libraries(tmp_path, program, arguments, code):
    modules = loaded(tmp_path, program, *arguments, code=code)
    assert ("hydra" in modules) == bool(arguments)
    assert not modules & set(LIBRARIES.split())


@pytest.mark.slow
def test_a_run_loads_neither_other_loggers_nor_what_the_probe_needs(small, tmp_path):
    modules = loaded(tmp_path, TRAIN, *small, "trainer.max_epochs=1", "probe=none")
    assert "torch" in modules
    assert not modules & {"pandas", "sklearn", "tensorboard", "wandb"}


@pytest.mark.slow
def test_the_estimator_needs_no_configuration_no_account_and_no_file(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "from implicit_em.sklearn import ImplicitEM\n"
        "ImplicitEM(2, max_iter=1).fit(np.random.rand(20, 3)).transform(np.random.rand(5, 3))\n"
    )
    assert not {"hydra", "omegaconf", "wandb"} & loaded(tmp_path, program)
    assert list(tmp_path.iterdir()) == [program]
