"""The settings of the wing: their folder, and the OmegaConf resolvers that they use.

Nothing here loads torch: settings are composed for ``--help``, too.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from implicit_em.base.digest import UNREADABLE
from implicit_em.base.files import read_bytes

MANIFEST: Final = "manifest.json"
CONF = Path(__file__).parent / "conf"
"""Folder of the configuration files."""


def lm_name(name: str, permuted: int | None) -> str:
    """Return the name of a language model, or of its control, which a seed has permuted."""
    return name if permuted is None else f"{name}-permuted-{permuted}"


def digest_of_store(path: Any, ahead: Any = None) -> str | None:
    """Return ``digest_of_manifest`` of a store of activations; ``None`` where there is none."""
    try:
        content = read_bytes(Path(path).expanduser() / MANIFEST)
        return digest_of_manifest(content, ahead is not None)
    except (*UNREADABLE, LookupError):
        return None


@lru_cache(maxsize=4)  # one run asks several times: composing, and reading the store
def digest_of_manifest(content: bytes, is_plan: bool) -> str:
    """Return 16 hexadecimal digits over a manifest, which holds the digests of all files.

    If shards are made ahead of a training, the manifest is a plan, from which all shards follow.
    Then the digests of the shards are left out.
    """
    if is_plan:
        plan = json.loads(content)
        shards = [{**shard, "sha256": None} for shard in plan["shards"]]
        content = json.dumps({**plan, "shards": shards}, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


OmegaConf.register_new_resolver("digest_of_store", digest_of_store, replace=True)
OmegaConf.register_new_resolver("lm_name", lm_name, replace=True)
