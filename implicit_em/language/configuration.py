"""The settings of the wing: their folder, and the OmegaConf resolvers that they use."""

from pathlib import Path

from omegaconf import OmegaConf

from implicit_em.base.digest import digest_of_store

CONF = Path(__file__).parent / "conf"
"""Folder of the configuration files."""


def lm_name(name: str, permuted: int | None) -> str:
    """Return the name of a language model, or of its control, which a seed has permuted."""
    return name if permuted is None else f"{name}-permuted-{permuted}"


OmegaConf.register_new_resolver("digest_of_store", digest_of_store, replace=True)
OmegaConf.register_new_resolver("lm_name", lm_name, replace=True)
