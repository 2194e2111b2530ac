"""A wheel of the project, installed into a fresh environment."""

import subprocess
import sys
import sysconfig
import venv

from helpers.paths import ROOT


def install_wheel(directory):
    """Return the command ``implicit-em`` of the environment, and the variables that it needs.

    The dependencies are those of the environment that runs the tests.
    """
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", directory, ROOT], check=True)
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    (built,) = directory.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", built], check=True)
    purelib = sysconfig.get_path("purelib")  # without its .pth files, which name this checkout
    return directory / "venv" / "bin" / "implicit-em", {"PYTHONPATH": purelib}
