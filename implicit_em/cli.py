"""The command line around Hydra: one clear line for a wrong one, a summary after a sweep."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from implicit_em.base import interruption
from implicit_em.base.errors import (
    ConfigError,
    Interrupted,
    RefusedError,
    RunError,
    WriteError,
    one_line,
)
from implicit_em.config.mistakes import explain
from implicit_em.sweeps import launchers
from implicit_em.sweeps.callback import CheckCallback

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
GROUP_NEEDS_A_NAME = "Config group override must be a string or a list"


def run(main: Callable[[], Any], conf: Path, config: str) -> int:
    """Run a ``@hydra.main`` function on the command line's arguments.

    Bad input gives one line on stderr; ``HYDRA_FULL_ERROR=1`` gives the traceback. After a sweep
    its summary is written and printed, also when jobs failed.

    Args:
        main: the decorated function.
        conf: directory of its configuration files.
        config: name of the primary one.

    Returns:
        The exit code: 0, 1 for a run or job that failed, 2 for bad input, and 128 more than the
        number of the signal that interrupted it: 130 after Ctrl-C, 143 after SIGTERM.

    """
    full_error = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and leaves the printing to us
    try:
        with interruption.ending():
            code = _run(main, conf, config, full_error)
    except Interrupted as interrupted:
        code = 128 + interrupted.signal
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    finally:
        complete = _summarise()
    return code or (0 if complete else FAILED)


def _summarise() -> bool:
    """Summarise the sweep of this process, if there is one; gives whether it is complete."""
    directory = CheckCallback.sweep_directory
    if directory is None or not directory.exists():
        return True
    from implicit_em.sweeps.summary import summarise

    try:
        return summarise(directory)
    except WriteError as error:
        print(f"error: {error}", file=sys.stderr)
        return False


def _run(main: Callable[[], Any], conf: Path, config: str, full_error: bool) -> int:
    try:
        main()
    except RefusedError as refused:
        if full_error:
            raise refused.error from None
        print(f"error: {refused}", file=sys.stderr)
        return REFUSED
    except RunError as error:
        if full_error:
            raise
        return REFUSED if isinstance(error, ConfigError) else FAILED  # the run has said why
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        composing = not isinstance(error, ValueError) or GROUP_NEEDS_A_NAME in str(error)
        if full_error or not composing:
            raise
        print(f"error: {_explain(error, conf, config)}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        reason = one_line(error) if isinstance(error, OSError) else launchers.lost(error)
        if full_error or reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return FAILED
    return 0


def _explain(error: Exception, conf: Path, config: str) -> str:
    arguments = get_args_parser().parse_args()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        if arguments.config_dir:
            loader.get_search_path().prepend(
                provider="command-line", path=f"file://{Path(arguments.config_dir).resolve()}"
            )
        return explain(error, arguments.overrides, loader, config)
