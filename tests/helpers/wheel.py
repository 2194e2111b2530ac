"""A wheel of the project, installed into a fresh environment."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from helpers.paths import ROOT


def install_wheel(directory, without=()):
    """Return the command ``implicit-em`` of the environment, and the variables that it needs.

    The dependencies are those of the environment that runs the tests, but for some packages, which
    the new environment lacks. Neither environment knows this checkout.
    """
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", directory, ROOT], check=True)
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    (built,) = directory.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", built], check=True)
    packages = directory / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if re.split(r"[-.]", path.name)[0] not in {"implicit_em", *without}:
            os.symlink(path, packages / path.name)  # .pth files, which name checkouts, do nothing
    return directory / "venv" / "bin" / "implicit-em", {"PYTHONPATH": str(packages)}
