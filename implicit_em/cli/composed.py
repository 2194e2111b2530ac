"""Commands that Hydra composes, such as ``train``."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base import errors, interruption
from implicit_em.base.arguments import Parser
from implicit_em.config import CONF
from implicit_em.config.composing import REFUSALS, composing, explain
from implicit_em.sweeps import launchers
from implicit_em.sweeps.callback import CheckCallback

TRAIN = "train"
"""The command, with a primary configuration of its name."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=TRAIN)
def _train(cfg: DictConfig) -> Any:
    from implicit_em.training.run import train

    with logged_errors():
        return train(cfg)


@contextmanager
def logged_errors() -> Iterator[None]:
    """Mark an error that is already logged; in a sweep, Hydra gets the error and goes on."""
    # Read now: the end of another job that trains together makes Hydra forget it.
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        yield
    except errors.RunError as error:
        if in_sweep:
            raise
        raise errors.EndedError(error) from error


def train(arguments: Sequence[str]) -> int:
    """Train one run or, with -m, a sweep.

    A sweep ends with its summary, even if jobs failed.
    """
    try:
        code = compose_and_run(_train, TRAIN, arguments)
    finally:
        complete = _summarise()
    return code or (0 if complete else errors.FAILED)


def compose_and_run(task: Callable[[], Any], config: str, arguments: Sequence[str]) -> int:
    """Let Hydra compose a primary configuration from the arguments and run a task.

    Bad input prints one line on stderr; ``HYDRA_FULL_ERROR=1`` prints the traceback instead.

    Returns:
        Exit code: 0 for success, 1 for a failed run or job, 2 for bad input, and 128 plus the
        number of the signal that interrupted it: 130 after Ctrl-C, 143 after SIGTERM.
    """
    sys.argv = [f"implicit-em {config}"]  # Hydra reads its arguments from here
    sys.argv += [
        # Shells leave ~ as it is after the = of an override, and Hydra refuses it.
        re.sub(r"(?<=[=,])~(?=/)", os.path.expanduser("~"), word)
        for word in _options_first(arguments)
    ]
    full_error = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise the error instead of printing it
    try:
        with interruption.ending():
            return _run(task, config, full_error)
    except errors.Interrupted as interrupted:
        return 128 + interrupted.signal
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED


def _options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the overrides last: Hydra's parser wants them in one place."""
    parser = get_args_parser()
    parser.error = partial(Parser.error, parser)  # type: ignore[method-assign, arg-type]
    overrides = parser.parse_intermixed_args(arguments).overrides
    return [word for word in arguments if word not in overrides] + overrides


def _summarise() -> bool:
    """Summarise the sweep of this process, if any, and return whether it is complete."""
    directory = CheckCallback.sweep_directory
    if directory is None or not directory.exists():
        return True
    from implicit_em.sweeps.summary import summarise

    try:
        return summarise(directory)
    except errors.RunError as error:  # of a full disk, or of a directory that was removed
        print(f"error: {error}", file=sys.stderr)
        return False


def _run(task: Callable[[], Any], config: str, full_error: bool) -> int:
    try:
        task()
    except (errors.EndedError, errors.RunError) as ended:
        error = ended.error if isinstance(ended, errors.EndedError) else ended
        if full_error:
            raise error from None
        if refusal := getattr(ended, "refusal", None):
            print(f"error: {refusal}", file=sys.stderr)
        refused = refusal or isinstance(error, errors.ConfigError)
        return errors.REFUSED if refused else errors.FAILED
    except Exception as error:
        code, reason = _reason(error, config)
        if full_error or reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return code
    return 0


def _reason(error: Exception, config: str) -> tuple[int, str | None]:
    """Return the exit code and one line for an error, or no line if it needs its traceback."""
    composing = not HydraConfig.initialized() and CheckCallback.sweep_directory is None
    if isinstance(error, REFUSALS if composing else HydraException | OmegaConfBaseException):
        return errors.REFUSED, _explain(error, config)
    reason = errors.one_line(error) if isinstance(error, OSError) else launchers.lost(error)
    return errors.FAILED, reason


def _explain(error: Exception, config: str) -> str:
    arguments = get_args_parser().parse_args()
    with composing(config, arguments.overrides, CONF) as loader:
        if arguments.config_dir:
            loader.get_search_path().prepend(
                provider="command-line", path=f"file://{Path(arguments.config_dir).resolve()}"
            )
        return " ".join(explain(error, arguments.overrides, loader, config).split())
