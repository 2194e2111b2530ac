"""Your own samples, from files of arrays."""

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from implicit_em.base.digest import (
    FORMATS,
    digest_of,
    digest_of_file,
    digest_over,
    names_a_file,
    state_of,
)
from implicit_em.base.errors import ConfigError, DamagedError, one_line
from implicit_em.base.values import check_number, check_whole
from implicit_em.data.arrays import (
    ArrayOnDisk,
    in_safetensors,
    refuse_beyond_memory,
    unchanged,
)
from implicit_em.data.checks import check_split, check_whole_numbers
from implicit_em.data.modules import ResidentDataModule
from implicit_em.data.on_disk import LARGE, SamplesOnDisk

FILES = ("path", "labels", "test_path", "test_labels")
"""Settings that may name a file, in the order of the digest."""
FLOAT32 = 4
"""Bytes of a number in training; that of a file may be as small as one byte."""


class TensorDataModule(ResidentDataModule):
    """Samples from .npy, .npz, .safetensors or .pt files, with labels if there are any.

    No code of a file is run. Samples larger than ``on_disk.LARGE`` stay in a .npy or .safetensors
    file, and each batch is read from it. If the file changes after ``prepare_data``, reading it
    raises ``DamagedError``, and so does saving a checkpoint. Arrays of .npz and .pt files, and
    arrays whose rows do not follow one another, are read into memory whatever their size.

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
        feature_dims: number of last dimensions that make a sample; ``None`` for all but the first.
            The other dimensions count samples. Labels have their shape, or ``(N,)``: one label
            for all samples of a row of the file. The test split divides the rows.
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
        feature_dims: int | None = None,
        digest: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        names: tuple[Any, ...] = (path, labels, test_path, test_labels)
        self.path, self.labels, self.test_path, self.test_labels = (
            Path(name).expanduser() if names_a_file(name) else name for name in names
        )
        self.key, self.feature_dims = key, feature_dims
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.digest = digest
        self._content: dict[Any, str] = {}  # the digest of each file
        for setting, name in zip(FILES, self._names(), strict=True):
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
        check_number("test_fraction", test_fraction, lambda x: 0 < x < 1, "numbers between 0 and 1")
        check_whole("split_seed", split_seed, 0)
        check_whole("feature_dims", feature_dims, 1, or_null=True)

    def prepare_data(self) -> None:
        """Refuse files whose content has changed."""
        if self.digest is None:
            return
        names = self._names()
        self._content = {name: digest_of_file(name) for name in names if names_a_file(name)}
        found = digest_over([self._content.get(name, name) for name in names])
        if found != self.digest:
            raise ConfigError(
                f"digest={self.digest}: the content of path={self.path}, or of the files beside "
                f"it, is another: {found}"
            )

    def _names(self) -> list[Any]:
        return [getattr(self, setting) for setting in FILES]

    def source(self) -> Any:
        """Return the files with their state, and the settings that select from them."""
        if type(self).read is not TensorDataModule.read:
            return None
        names = [Path(n).resolve() if names_a_file(n) else n for n in self._names()]
        files = [state_of(path) for path in names if isinstance(path, Path)]
        division = None if self.test_path else (self.test_fraction, self.split_seed)
        return TensorDataModule, names, self.key, division, self.feature_dims, files

    def _remarks(self) -> list[str]:
        if self.feature_dims is not None or len(self.sample_shape) == 1:
            return super()._remarks()
        remark = (
            f"data.path={self.path}: each sample of shape {self.sample_shape} is flattened to "
            f"{self.in_features:,} inputs; data.feature_dims=1 takes its rows as samples of "
            f"{self.sample_shape[-1]:,} inputs"
        )
        return [remark, *super()._remarks()]

    def content_digest(self) -> str | None:
        """Return 16 hexadecimal digits over the content of the files."""
        return digest_of(*self._names())

    def read(self, train: bool) -> tuple[Any, Tensor]:
        """Return the samples ``(N, ...)`` and labels ``(N,)``, int64, of a split."""
        if self.test_path is not None and not train:
            labels = self.test_labels if names_a_file(self.labels) else self.labels
            return self._read("test_path", self.test_path, "test_labels", labels)[:2]
        samples, targets, together = self._read("path", self.path, "labels", self.labels)
        if self.test_path is not None:
            return samples, targets
        count = len(samples) // together
        order = np.random.default_rng(self.split_seed).permutation(count)
        tested = round(self.test_fraction * count)
        chosen = np.sort(order[tested:] if train else order[:tested])
        rows = torch.from_numpy((chosen[:, None] * together + np.arange(together)).ravel())
        return samples[rows], targets[rows]

    def _read(self, setting: str, path: Any, labels_setting: str, labels: Any) -> Any:
        """Return samples, labels, and the number of samples in each row of the file."""
        subject, labels_subject = f"{setting}={path}", f"{labels_setting}={labels}"
        apart = names_a_file(labels)
        array = self._array(subject, path, self.key, besides=None if apart else labels)
        leading = array.shape[: 1 if self.feature_dims is None else -self.feature_dims]
        if self.feature_dims is not None and not leading:
            raise ConfigError(
                f"{subject}: samples of shape {tuple(array.shape)}; data.feature_dims="
                f"{self.feature_dims} leaves no dimension that counts them"
            )
        together = leading[1:].numel()
        shape = array.shape if not leading else (leading.numel(), *array.shape[len(leading) :])
        samples: Any
        if isinstance(array, Tensor):
            samples = array.reshape(shape)
        else:
            array = replace(array, shape=torch.Size(shape))
            large = array.shape.numel() * max(FLOAT32, array.dtype.itemsize) > LARGE
            samples = SamplesOnDisk([[array]]) if large else array.whole()
        if labels is None:
            targets = torch.zeros(samples.shape[:1], dtype=torch.int64)
        else:
            inside = (f"{labels_subject} in {subject}", path, labels)
            found = self._array(*((labels_subject, labels) if apart else inside))
            targets = found if isinstance(found, Tensor) else found.whole()
            if targets.shape == leading:
                targets = targets.flatten()
            elif targets.shape[:1] == leading[:1]:
                targets = targets.repeat_interleave(together, 0)
            check_whole_numbers(labels_subject, targets)
        check_split(subject, samples, targets)
        return samples, targets.long(), together

    def _array(
        self, subject: str, path: Path, key: str | None = None, besides: str | None = None
    ) -> Tensor | ArrayOnDisk:
        """Return an array of a file: the one of name ``key``, or the only one ``besides`` another.

        It stays in the file if its rows follow one another there.
        """
        try:
            with unchanged(path, sha256=self._content.get(path)) as file:
                arrays = FORMATS_READ[path.suffix](file)
                found = [n for n in arrays if (n != besides if key is None else n == key)]
                if len(found) != 1:
                    what = "one is to be named by key" if key is None else f"none is named {key}"
                    listed = ", ".join(map(str, arrays))
                    raise ConfigError(f"{subject}: holds the arrays {listed}; {what}")
                return _numbers(subject, arrays[found[0]])
        except (ConfigError, DamagedError):
            raise
        except pickle.UnpicklingError as error:
            raise ConfigError(
                f"{subject}: holds more than dense tensors, and is not unpickled"
            ) from error
        except Exception as error:  # a damaged file can cause any
            raise ConfigError(f"{subject}: {type(error).__name__}: {one_line(error)}") from error


def _in_numpy(file: IO[bytes]) -> Mapping[str, Any]:
    """Return the arrays of a .npy or .npz file; a large one stays where its rows follow."""
    path, size = Path(file.name), os.fstat(file.fileno()).st_size
    if path.suffix == ".npy" and FLOAT32 * size > LARGE:
        header: Any = np.load(path, mmap_mode="r")  # nothing is read of what is mapped
        if header.flags.c_contiguous and header.dtype.isnative and header.dtype.kind in "biuf":
            dtype = torch.from_numpy(np.empty(0, header.dtype)).dtype
            return {path.stem: ArrayOnDisk.found(file, header.offset, dtype, header.shape)}
    refuse_beyond_memory(size)
    found = np.load(file)
    return {path.stem: found} if isinstance(found, np.ndarray) else found


def _in_torch(file: IO[bytes]) -> Mapping[str, Any]:
    """Return the tensors of a file that ``torch.save`` has written."""
    refuse_beyond_memory(os.fstat(file.fileno()).st_size)
    found = torch.load(file, map_location="cpu", weights_only=True)
    return found if isinstance(found, dict) else {Path(file.name).stem: found}


FORMATS_READ: Mapping[str, Callable[[IO[bytes]], Mapping[str, Any]]] = {
    **{".npy": _in_numpy, ".npz": _in_numpy, ".pt": _in_torch, ".safetensors": in_safetensors}
}
"""Functions that return the arrays of a file by their names."""


def _numbers(subject: str, array: Any) -> Tensor | ArrayOnDisk:
    """Return an array of a file, contiguous unless it stays there, or raise ``ConfigError``."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind in "US":
            raise ConfigError(
                f"{subject}: holds text; allowed are numbers. For labels, save "
                "np.unique(labels, return_inverse=True)[1]"
            )
        array = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if not isinstance(array, Tensor):
        if isinstance(array, ArrayOnDisk):
            return array
        kind = type(array).__name__
        raise ConfigError(f"{subject}: holds a {kind}; allowed are dense arrays")
    if array.layout != torch.strided:
        raise ConfigError(f"{subject}: holds a sparse tensor; allowed are dense arrays")
    refuse_beyond_memory(0 if array.is_contiguous() else array.nbytes)
    return array.detach().contiguous()


def _check_file(subject: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{subject}: no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{subject}: {error.strerror}") from error
