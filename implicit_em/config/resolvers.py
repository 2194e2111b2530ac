"""OmegaConf resolvers that ``conf/`` uses; importing this module registers them."""

import os
import secrets
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from implicit_em.base.digest import digest_of
from implicit_em.base.threads import cores


@cache
def token() -> str:
    """Return four hexadecimal digits that distinguish runs started in the same second."""
    return secrets.token_hex(2)


def first_given(*values: Any) -> Any:
    """Return the first value that is not null."""
    return next((value for value in values if value is not None), None)


def data_root(*, _parent_: DictConfig) -> str:
    """Return the folder of the data set whose ``root`` is resolved: ``data``, or the checkout's.

    The first of the two that holds the data set is chosen. If neither does, the first that holds
    any file is chosen, or else ``data``; the data set will be downloaded there.
    """
    here, checkout = Path("data"), Path(__file__).parents[2] / "data"
    name = str(OmegaConf.select(_parent_, "dataset._target_")).rpartition(".")[2]
    for holds in (lambda root: _has_files(root / name), _has_files):
        if holds(here):
            return str(here)
        if holds(checkout):
            return str(checkout)
    return str(here)


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def gpu_in_turn(number: int) -> str:
    """Return the CUDA device of a sweep's job: the jobs take the visible devices in turn."""
    import torch

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    devices = visible or [str(index) for index in range(torch.cuda.device_count())]
    return devices[number % len(devices)] if devices else ""


def options(*groups: str) -> str:
    """Return the options of config groups, a line for each group, while Hydra composes or helps."""
    loader = GlobalHydra.instance().config_loader()
    return "\n".join(f"  {group}: {', '.join(loader.get_group_options(group))}" for group in groups)


_RESOLVERS = (cores, data_root, first_given, gpu_in_turn, options)
for _resolver in _RESOLVERS:
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)
OmegaConf.register_new_resolver("digest", digest_of, replace=True)
OmegaConf.register_new_resolver("token", token, use_cache=True, replace=True)
