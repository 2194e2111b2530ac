"""Your own samples, from files of arrays."""

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from implicit_em.base.digest import FORMATS, digest_of, names_a_file
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.data.checks import check_split, check_whole_numbers
from implicit_em.data.modules import ResidentDataModule
from implicit_em.data.sharing import Source

FILES = ("path", "labels", "test_path", "test_labels")
"""Settings that may name a file, in the order of the digest."""


class TensorDataModule(ResidentDataModule):
    """Samples from .npy, .npz, .safetensors or .pt files, with labels if there are any.

    Nothing is unpickled. All formats except .npz are memory-mapped, and stay so on a CPU if the
    test samples have their own file. Otherwise the two splits are copies.

    Args:
        path: file of the samples ``(N, ...)``: uint8, which is scaled to [0, 1], or floating point.
        labels: file of the labels ``(N,)``, whole numbers, or their name in the file of the
            samples; ``None`` puts all samples in one class, and nothing is probed.
        key: name of the samples in a file of several arrays.
        test_path: file of the test samples, with the same names; ``None`` holds out
            ``test_fraction`` of the samples.
        test_labels: file of the test labels; needed if ``labels`` and ``test_path`` are files.
        test_fraction: share of the samples in the test split.
        split_seed: seed of the test split; the run's own seed does not affect it.
        digest: digest of the files and names, from ``base.digest.digest_of``; other content is
            refused. ``None`` accepts any content.
        kwargs: arguments of ``ResidentDataModule``.

    Raises:
        ConfigError: if a file cannot be opened, or the settings contradict each other.
    """

    def __init__(
        self,
        path: str | Path,
        labels: str | Path | None = None,
        key: str | None = None,
        test_path: str | Path | None = None,
        test_labels: str | Path | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        digest: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.labels, self.key = path, labels, key
        self.test_path, self.test_labels = test_path, test_labels
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.digest = digest
        self._check_settings()

    def _check_settings(self) -> None:
        for setting in FILES:
            name = getattr(self, setting)
            if names_a_file(name):
                _check_file(f"{setting}={name}", Path(name))
            elif setting == "path" or (name is not None and setting != "labels"):
                raise ConfigError(f"{setting}={name}: allowed are files {', '.join(FORMATS)}")
        expected = self.test_path is not None and names_a_file(self.labels)
        if (self.test_labels is not None) != expected:
            raise ConfigError(
                f"test_labels={self.test_labels}: must be given where there are files test_path "
                "and labels, and only there"
            )
        if not isinstance(self.test_fraction, float) or not 0 < self.test_fraction < 1:
            raise ConfigError(
                f"test_fraction={self.test_fraction}: allowed are numbers between 0 and 1"
            )
        if not isinstance(self.split_seed, int) or self.split_seed < 0:
            raise ConfigError(f"split_seed={self.split_seed}: allowed are whole numbers from 0 on")

    def prepare_data(self) -> None:
        """Refuse files whose content has changed."""
        found = self.digest and digest_of(*self._names())
        if found != self.digest:
            raise ConfigError(
                f"digest={self.digest}: the content of path={self.path}, or of the files beside "
                f"it, is another: {found}"
            )

    def _names(self) -> list[Any]:
        return [getattr(self, setting) for setting in FILES]

    def source(self) -> Source | None:
        """Return the files with their state, and the settings that select from them."""
        if type(self).read is not TensorDataModule.read:
            return None
        names = [Path(n).resolve() if names_a_file(n) else n for n in self._names()]
        states = [path.stat() for path in names if isinstance(path, Path)]
        files = [(state.st_ino, state.st_size, state.st_mtime_ns) for state in states]
        division = None if self.test_path else (self.test_fraction, self.split_seed)
        return Source((TensorDataModule, names, self.key, division), files)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the samples ``(N, ...)`` and labels ``(N,)``, int64, of a split."""
        if self.test_path is not None and not train:
            labels = self.test_labels if names_a_file(self.labels) else self.labels
            return self._read("test_path", self.test_path, "test_labels", labels)
        samples, targets = self._read("path", self.path, "labels", self.labels)
        if self.test_path is not None:
            return samples, targets
        order = np.random.default_rng(self.split_seed).permutation(len(samples))
        tested = round(self.test_fraction * len(samples))
        rows = torch.from_numpy(np.sort(order[tested:] if train else order[:tested]))
        return samples[rows], targets[rows]

    def _read(self, setting: str, path: Any, labels_setting: str, labels: Any) -> Any:
        subject, labels_subject = f"{setting}={path}", f"{labels_setting}={labels}"
        apart = names_a_file(labels)
        samples = read_tensor(subject, Path(path), self.key, besides=None if apart else labels)
        if labels is None:
            targets = torch.zeros(samples.shape[:1], dtype=torch.int64)
        else:
            where = (labels_subject, Path(labels)) if apart else (subject, Path(path), labels)
            targets = read_tensor(*where)
            check_whole_numbers(labels_subject, targets)
        check_split(subject, samples, targets)
        return samples, targets.long()


def read_tensor(
    subject: str, path: Path, key: str | None = None, besides: str | None = None
) -> Tensor:
    """Return an array of a file: the one that ``key`` names, or the only one ``besides`` another.

    It is memory-mapped if the format allows it.
    """
    try:
        with _opened(path) as (names, get):
            found = [name for name in names if (name != besides if key is None else name == key)]
            if len(found) != 1:
                what = "one is to be named by key" if key is None else f"none is named {key}"
                listed = ", ".join(map(str, names))
                raise ConfigError(f"{subject}: holds the arrays {listed}; {what}")
            array = get(found[0])
        if isinstance(array, np.ndarray):
            array = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        if not isinstance(array, Tensor) or array.layout is not torch.strided:
            raise ConfigError(
                f"{subject}: holds a {type(array).__name__}; allowed are dense arrays"
            )
        if array.numel() * array.element_size() > array.untyped_storage().nbytes():
            raise ConfigError(f"{subject}: is of shape {tuple(array.shape)}, but holds less")
    except ConfigError:
        raise
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{subject}: holds more than tensors, and is not unpickled") from error
    except Exception as error:  # a damaged file can cause any
        raise ConfigError(f"{subject}: {type(error).__name__}: {one_line(error)}") from error
    return array.detach()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Collection[Any], Callable[[Any], Any]]]:
    """Yield the names of a file's arrays, and a function that returns one of them."""
    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, mode="c")  # writable, but changes stay in memory
        yield [path.stem], lambda _: array
    elif path.suffix == ".npz":
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            yield archive.files, archive.__getitem__
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as tensors:
            yield tensors.keys(), tensors.get_tensor
    else:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        arrays = loaded if isinstance(loaded, Mapping) else {path.stem: loaded}
        yield arrays.keys(), arrays.__getitem__


def _check_file(subject: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{subject}: no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{subject}: {error.strerror}") from error
