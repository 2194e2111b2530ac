"""The digest of a study's runs, and the changes that make a study a trial."""

import hashlib
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from implicit_em.config.fingerprint import affects_results, config_fingerprint


def digest(cfgs: Iterable[DictConfig], *more: str) -> str:
    """Return 16 hexadecimal digits that identify a set of runs, whatever their order and device.

    The texts ``more`` are hashed before the runs.
    """
    fingerprints = []
    for cfg in cfgs:
        cfg = cfg.copy()
        OmegaConf.update(cfg, "trainer", {"accelerator": "cpu", "threads": 1}, merge=True)
        fingerprints.append(config_fingerprint(cfg))
    text = ",".join([*more, *sorted(fingerprints)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trial_label(changes: Sequence[str]) -> str | None:
    """Return the label of a trial with these ``KEY=VALUE``; ``None`` if none affects results."""
    decisive = sorted(filter(affects_results, changes))
    return f"TRIAL with {', '.join(decisive)}" if decisive else None
