"""Labelled texts, and what a language model has at their last token.

The texts are the sets of two classes of the package sae-probes, of which only the files are read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from implicit_em.base import interruption
from implicit_em.base.digest import digest_of_file, digest_over
from implicit_em.base.errors import ConfigError, DamagedError, nearest, raising
from implicit_em.base.files import read_bytes
from implicit_em.base.progress import Progress
from implicit_em.language.contexts import Affixes
from implicit_em.language.models import LanguageModel
from implicit_em.language.store import Manifest, save_tensors

PACKAGES = {"sae_probes": "pip install --no-deps sae-probes", "zstandard": "pip install zstandard"}
"""Packages that are needed, which are not imported here, and what installs them."""
LONGEST = 1_024
"""Largest number of tokens of a text; a language model may have a smaller one."""
MOST = 5_000
"""Largest number of texts of a set."""
AT_ONCE = 4_096
"""Number of tokens that a language model reads at a time, if a text has no more."""
VECTORS = "vectors"


class LabelledSet(NamedTuple):
    """Texts, the numbers of their labels, int64, shape ``(N,)``, and a digest of the file."""

    texts: list[str]
    labels_N: np.ndarray
    digest: str


@cache
def files() -> dict[str, Path]:
    """Return the files of the sets of two classes, by the names of the sets.

    Raises:
        ConfigError: if a package is missing.
    """
    for name, command in PACKAGES.items():
        if find_spec(name) is None:
            raise ConfigError(f"--probes: the package {name} is missing; {command}")
    data = Path(str(getattr(find_spec("sae_probes"), "origin", None))).parent / "data"
    known = pd.read_csv(data / "probing_datasets_MASTER.csv.zst")
    binary = known[known["Data type"] == "Binary Classification"]["Dataset save name"]
    paths = [data / f"{name}.zst" for name in binary]
    return {path.name.partition(".")[0]: path for path in paths}


def read_set(name: str) -> LabelledSet:
    """Return the first texts of a set; raises as ``files``, or if there is no such set."""
    if name not in (paths := files()):
        raise ConfigError(f"--probes {name}: no such set; {nearest(name, paths)}")
    rows = pd.read_csv(paths[name])
    labels_N = np.unique(rows["target"], return_inverse=True)[1]
    return LabelledSet([*rows["prompt"][:MOST]], labels_N[:MOST], digest_of_file(paths[name])[:16])


def read_sets(names: Sequence[str]) -> dict[str, LabelledSet]:
    """Return sets by their names; without a name, all. Raises as ``read_set``."""
    return {name: read_set(name) for name in dict.fromkeys(names or files())}


def last_vectors(
    model: LanguageModel, texts: Sequence[str], affixes: Affixes, sites: Sequence[str]
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield rows of texts and the vectors of their last tokens that are no special ones.

    A text that is too long is cut on the left.

    Args:
        model: the language model.
        texts: the texts.
        affixes: special tokens around each text.
        sites: sites of the vectors, float32, of shape ``(B, D)`` for B rows.

    Raises:
        Interrupted: if a signal asked for it.
    """
    room = min(LONGEST, model.longest or LONGEST) - affixes.size
    own = model.tokenizer([*texts], add_special_tokens=False, verbose=False)["input_ids"]
    contexts = [[*affixes.prefix, *ids[-room:], *affixes.suffix] for ids in own]
    left = sorted(range(len(texts)), key=lambda row: len(contexts[row]))
    with model.reading(sites) as found:
        while left:
            interruption.stop_if_requested()
            rows = left[-max(1, AT_ONCE // len(contexts[left[-1]])) :]
            del left[-len(rows) :]
            ids = [torch.tensor(contexts[row]) for row in rows]
            mask_BL = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
            model.forward(pad_sequence(ids, True, model.padding_id), mask_BL)
            last_B = mask_BL.sum(1) - len(affixes.suffix) - 1
            at = (torch.arange(len(rows)), last_B)
            yield rows, {site: found[site].float().cpu()[at] for site in sites}


class LabelledTexts:
    """Labelled sets, and the vectors at the last token of each text, which a folder keeps.

    The folder has a file for each set and site, in a folder of its own for each language model. The
    names have digests of the language model's files and of the set.

    Args:
        manifest: manifest of a store, which says what the language model is.
        sites: sites whose vectors stand side by side.
        load: function that loads the language model, if vectors are missing.
        sets: the sets by their names.
        folder: the folder.
    """

    def __init__(
        self,
        manifest: Manifest,
        sites: Sequence[str],
        load: Callable[[], LanguageModel],
        sets: Mapping[str, LabelledSet],
        folder: Path,
    ) -> None:
        self.sites, self.load, self.sets = sites, load, sets
        self.affixes = Affixes(manifest.prefix, manifest.suffix)
        model, name = manifest.model, manifest.model["name"].rpartition("/")[2]
        digest = digest_over([model["name"], model["files"], *self.affixes, LONGEST])
        self.folder = folder / f"{name}-{digest}"

    def labels(self, name: str) -> np.ndarray:
        """Return the numbers of the labels of a set, int64, shape ``(N,)``."""
        return self.sets[name].labels_N

    def vectors(self, name: str) -> Tensor:
        """Return the vectors of a set that was read, float32, shape ``(N, D)``.

        Raises:
            DamagedError: if the file of them is damaged.
        """
        return torch.cat([self._kept(name, site) for site in self.sites], dim=1)

    def path(self, name: str, sites: Sequence[str], ending: str) -> Path:
        """Return the path of a file that keeps what was found of a set at some sites."""
        return self.folder / "+".join(sites) / f"{name}-{self.sets[name].digest}{ending}"

    def _file(self, name: str, site: str) -> Path:
        return self.path(name, [site], ".safetensors")

    def _kept(self, name: str, site: str) -> Tensor:
        path = self._file(name, site)
        with raising(DamagedError, f"{path}: damaged; delete it", Exception):
            return load(read_bytes(path))[VECTORS]

    def read_missing(self) -> None:
        """Let the language model read the sets whose vectors are missing, and keep them."""
        missing = {
            name: sites
            for name in self.sets
            if (sites := [site for site in self.sites if not self._file(name, site).exists()])
        }
        if not missing:
            return
        model = self.load()
        model.stop_after(self.sites)
        texts = sum(len(self.sets[name].texts) for name in missing)
        with Progress("reading labelled texts", texts, "texts") as progress:
            for name, sites in missing.items():
                found: dict[str, Tensor] = {}
                for rows, vectors in last_vectors(
                    model, self.sets[name].texts, self.affixes, sites
                ):
                    for site, vectors_BD in vectors.items():
                        shape = (len(self.sets[name].texts), vectors_BD.shape[1])
                        found.setdefault(site, vectors_BD.new_empty(shape))[rows] = vectors_BD
                    progress.advance(len(rows))
                for site, vectors_ND in found.items():
                    save_tensors(self._file(name, site), {VECTORS: vectors_ND})
