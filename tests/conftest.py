"""Fixtures: small data in MNIST's format, composed configurations, the command line."""

import gc
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from shutil import disk_usage

import pytest
from helpers import composing, hub_server
from helpers.lines import one_line
from helpers.paths import ROOT
from helpers.wandb_server import Server, serving
from hypothesis import settings
from omegaconf import DictConfig

# What is imported above is small: the process that hands out tests to workers needs no torch.
os.environ["OMP_NUM_THREADS"] = "1"
"""Two workers on two cores: threads of one would wait for those of the other."""
MEMORY = Path("/dev/shm")
"""Where tests write if there is room: files there are made, replaced and removed at once."""
if MEMORY.is_dir() and disk_usage(MEMORY).free > 2 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
settings.register_profile("untimed", deadline=None)  # a busy machine is no defect
settings.load_profile("untimed")
# If a test ends the service of a run, W&B logs an error up to 15 seconds later, in another test.
logging.getLogger("wandb.sdk.lib.asyncio_manager").propagate = False
gc.disable()
gc.set_threshold(2000, 10, 200)


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but never among what was imported: that is all of torch."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    with composing.once():
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures() -> Iterator[None]:
    """Draw the picture that each run leaves with few dots."""
    import matplotlib

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(matplotlib.rcParams, "savefig.dpi", 20)
        yield


@pytest.fixture(autouse=True)
def nothing_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process checks a configuration once; a test is like a process of its own."""
    monkeypatch.setattr("implicit_em.training.check._passed", set())


@pytest.fixture(scope="session")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, one for all tests."""
    return tmp_path_factory.mktemp("nowhere")


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> None:
    """Whoever runs the tests: no W&B login, no W&B settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(nowhere / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(nowhere / "wandb-config"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A W&B server on loopback, an account there, and wandb as in a new process."""
    import wandb

    from implicit_em.training.tracking import TolerantWandbLogger

    wandb.teardown()
    monkeypatch.setattr(TolerantWandbLogger, "unreachable", None)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield server
        wandb.teardown()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[hub_server.Hub]:
    """A hub on loopback with an account, and its client as in a new process with an empty cache."""
    from huggingface_hub import constants

    with hub_server.serving() as server, pytest.MonkeyPatch.context() as patch:
        settings = {"HF_ENDPOINT": server.url, "HF_TOKEN": hub_server.TOKEN}
        settings |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        for name, value in {**settings, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
            patch.setenv(name, value)
        importlib.reload(constants)
        yield server
    importlib.reload(constants)


@pytest.fixture(scope="session")
def small_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds 600 + 200 images of 8 x 8: ten noisy patterns, unpacked."""
    import numpy as np
    from helpers.data import SIDE, write_idx

    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (10, SIDE, SIDE)) * 200
    for prefix, count in (("train", 600), ("t10k", 200)):
        labels = np.arange(count, dtype=np.uint8) % 10
        noise = rng.integers(0, 56, (count, SIDE, SIDE))
        images = (patterns[labels] * rng.random((count, 1, 1)) + noise).astype(np.uint8)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    return root


@pytest.fixture(scope="session")
def small(small_mnist: Path) -> tuple[str, ...]:
    """Overrides of a run that takes a moment."""
    return (
        f"data.root={small_mnist}",
        "data.batch_size=64",
        "model.hidden=5",
        "trainer.max_epochs=2",
        "logger=csv",
        "picture=false",
    )


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """Compose the configuration with overrides, without Hydra's own node."""
    once = cache(partial(composing.composed, "train"))
    return lambda *overrides: once(*overrides).copy()


@pytest.fixture(scope="module")
def coarse() -> Iterator[None]:
    """Draw the figures of studies in no time."""
    from implicit_em_studies.shared.figures import STYLE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("implicit_em_studies.shared.figures.RESOLUTION", 20)
        patch.setitem(STYLE, "figure.constrained_layout.use", False)
        patch.setitem(STYLE, "pdf.fonttype", 3)  # quicker to write
        yield


@pytest.fixture
def command_line_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run a command that Hydra composes in this process, in an empty directory; gives its code."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    return composing.run_command


@pytest.fixture
def command_line(command_line_of: Callable[..., int]) -> Callable[..., int]:
    """Run ``implicit-em train ARGS`` in this process, in an empty directory; gives its code."""
    return partial(command_line_of, "train")


@pytest.fixture
def refused(command_line, capfd) -> Callable[..., str]:
    """Run ``implicit-em train ARGS``, which refuses them; gives the line that says why."""

    def refused(*arguments: str) -> str:
        capfd.readouterr()
        assert command_line(*arguments) == 2
        return one_line(capfd)

    return refused


@pytest.fixture
def sweep(command_line, small, tmp_path) -> Callable[..., tuple[int, Path]]:
    """Run a sweep into a directory; gives its exit code and that directory."""

    def sweep(*overrides: str, directory: str = "sweep") -> tuple[int, Path]:
        arguments = ["-m", *small, *overrides, f"hydra.sweep.dir={tmp_path / directory}"]
        return command_line(*arguments), tmp_path / directory

    return sweep


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the stacks that are made of runs that train together."""
    from implicit_em.engine import rendezvous

    sizes: list[int] = []

    class Counted(rendezvous.Stack):
        def __init__(self, replicas):
            sizes.append(len(replicas))
            super().__init__(replicas)

    monkeypatch.setattr(rendezvous, "Stack", Counted)
    return sizes


@pytest.fixture
def signalled() -> Callable[..., list[str]]:
    """Return the axes of a sweep of short jobs, of which that of seed 2 gets a signal."""

    def signalled(number: int, seeds: str = "1,2,3") -> list[str]:
        callback = ["+callbacks.signals._target_=helpers.kill.Kill"]
        callback += [f"+callbacks.signals.number={int(number)}"]
        return [f"seed={seeds}", "trainer.max_epochs=4", *callback]

    return signalled
