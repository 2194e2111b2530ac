"""What a study is pinned by: a digest of its runs, and the changes that make it a trial."""

import hashlib
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from implicit_em.config.fingerprint import affects_results, config_fingerprint


def digest(cfgs: Iterable[DictConfig], *more: str) -> str:
    """Return 16 hexadecimal digits that identify a set of runs, whatever their order and device.

    Args:
        cfgs: composed configurations of the runs.
        more: texts that are hashed before them.

    """
    return hashlib.sha256(
        ",".join([*more, *sorted(map(_on_any_device, cfgs))]).encode()
    ).hexdigest()[:16]


def _on_any_device(cfg: DictConfig) -> str:
    """Return the fingerprint that a run would have on one thread of a CPU."""
    cfg = cfg.copy()
    OmegaConf.update(cfg, "trainer", {"accelerator": "cpu", "threads": 1}, merge=True)
    return config_fingerprint(cfg)


def trial_label(changes: Sequence[str]) -> str | None:
    """Return the label of a trial; ``None`` if no change affects results.

    Args:
        changes: ``KEY=VALUE`` from the command line.

    """
    decisive = sorted(filter(affects_results, changes))
    return f"TRIAL with {', '.join(decisive)}" if decisive else None
