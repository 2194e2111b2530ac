"""Disks of a test's own, which can be full or read-only; skipped where none may be mounted."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        pytest.skip(f"no disk can be mounted here: {reason.strip()}")


@contextmanager
def small_disk(path: Path, size: str = "512k") -> Iterator[Path]:
    """Mount an empty disk of a size in a new directory."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # a log file may be open


def make_read_only(path: Path) -> None:
    """Let nobody write to a disk any more."""
    _mount("-o", "remount,ro", str(path))


def fill(path: Path) -> Path:
    """Write a file in a directory until its disk is full; gives the file."""
    ballast = path / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast
