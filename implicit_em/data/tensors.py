"""Your own samples, from files of arrays."""

import json
import pickle
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from implicit_em.base.digest import FORMATS, digest_of, names_a_file, state_of
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.values import check_number, check_whole
from implicit_em.data.checks import check_split, check_whole_numbers
from implicit_em.data.mapped import LARGE, MappedFile, MappedSamples
from implicit_em.data.modules import ResidentDataModule
from implicit_em.data.sharing import Source

FILES = ("path", "labels", "test_path", "test_labels")
"""Settings that may name a file, in the order of the digest."""
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}
"""Types of the values in a .safetensors file, by their names there."""


class TensorDataModule(ResidentDataModule):
    """Samples from .npy, .npz, .safetensors or .pt files, with labels if there are any.

    Nothing is unpickled. All formats except .npz are mapped into memory, read-only. On a CPU they
    stay so if the test samples have their own file; otherwise the two splits are copies. Samples
    larger than ``mapped.LARGE`` always stay in their file, and batches are gathered from it.

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
        fraction = self.test_fraction
        check_number("test_fraction", fraction, lambda x: 0 < x < 1, "numbers between 0 and 1")
        check_whole("split_seed", self.split_seed, 0)
        check_whole("feature_dims", self.feature_dims, 1, or_null=True)

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
        files = [state_of(path) for path in names if isinstance(path, Path)]
        division = None if self.test_path else (self.test_fraction, self.split_seed)
        return Source((TensorDataModule, names, self.key, division, self.feature_dims), files)

    def _remarks(self) -> list[str]:
        if self.feature_dims is not None or len(self.sample_shape) == 1:
            return super()._remarks()
        remark = (
            f"data.path={self.path}: each sample of shape {self.sample_shape} is flattened to "
            f"{self.in_features:,} inputs; data.feature_dims=1 takes its rows as samples of "
            f"{self.sample_shape[-1]:,} inputs"
        )
        return [remark, *super()._remarks()]

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
        samples: Any
        samples, file = read_tensor(subject, path, self.key, besides=None if apart else labels)
        leading = samples.shape[: 1 if self.feature_dims is None else -self.feature_dims]
        if self.feature_dims is not None and not leading:
            raise ConfigError(
                f"{subject}: samples of shape {tuple(samples.shape)}; data.feature_dims="
                f"{self.feature_dims} leaves no dimension that counts them"
            )
        together = leading[1:].numel()
        samples = samples.flatten(0, len(leading) - 1) if len(leading) > 1 else samples
        if labels is None:
            targets = torch.zeros(samples.shape[:1], dtype=torch.int64)
        else:
            inside = (f"{labels_subject} in {subject}", path, labels)
            where = (labels_subject, labels) if apart else inside
            targets, _ = read_tensor(*where)
            if targets.shape == leading:
                targets = targets.flatten()
            elif targets.shape[:1] == leading[:1]:
                targets = targets.repeat_interleave(together, 0)
            check_whole_numbers(labels_subject, targets)
        if file is not None and samples.numel() * max(4, samples.itemsize) > LARGE:
            samples = MappedSamples([MappedFile(path, samples, file)])
        check_split(subject, samples, targets)
        return samples, targets.long(), together


def read_tensor(
    subject: str, path: Path, key: str | None = None, besides: str | None = None
) -> tuple[Tensor, mmap | None]:
    """Return an array of a file: the one that ``key`` names, or the only one ``besides`` another.

    If the format allows it, the array stays in the file, and its mapping is returned as well. The
    mapping is read-only: writing to the array ends the process.
    """
    try:
        with _opened(path) as (names, get, file):
            found = [name for name in names if (name != besides if key is None else name == key)]
            if len(found) != 1:
                what = "one is to be named by key" if key is None else f"none is named {key}"
                listed = ", ".join(map(str, names))
                raise ConfigError(f"{subject}: holds the arrays {listed}; {what}")
            array = get(found[0])
        if isinstance(array, np.ndarray):
            if array.dtype.kind in "US":
                raise ConfigError(
                    f"{subject}: holds text; allowed are numbers. For labels, save "
                    "np.unique(labels, return_inverse=True)[1]"
                )
            array = _as_tensor(array.astype(array.dtype.newbyteorder("="), copy=False))
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
    return array.detach(), file


Opened = tuple[Collection[Any], Callable[[Any], Any], mmap | None]


@contextmanager
def _opened(path: Path) -> Iterator[Opened]:
    """Yield the names of a file's arrays, a function that returns one of them, and the mapping."""
    if path.suffix == ".npz":
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            yield archive.files, archive.__getitem__, None
    elif path.suffix == ".npy":
        array: Any = np.lib.format.open_memmap(path, mode="r")
        # An array in the other byte order is copied.
        yield [path.stem], lambda _: array, array.base if array.dtype.isnative else None
    else:
        content: Any = np.memmap(path, mode="r")
        opened = _in_safetensors if path.suffix == ".safetensors" else _in_pt
        yield (*opened(path, content), content.base)


def _in_safetensors(path: Path, content: np.ndarray) -> tuple[Collection[str], Any]:
    with safe_open(path, framework="numpy") as checked:
        names = checked.keys()
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())

    def get(name: str) -> Tensor:
        entry = header[name]
        if (dtype := DTYPES.get(entry["dtype"])) is None:
            raise TypeError(f"{name} is of {entry['dtype']}; allowed are {', '.join(DTYPES)}")
        first, last = entry["data_offsets"]
        values = _as_tensor(content[start + first : start + last])
        return values.view(dtype).view(entry["shape"])

    return names, get


def _in_pt(path: Path, content: np.ndarray) -> tuple[Collection[Any], Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode  # a second, for this format alone

    # torch's own mapping is private and writable, which the system refuses beyond its memory.
    with FakeTensorMode():
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    fakes = loaded if isinstance(loaded, Mapping) else {path.stem: loaded}

    def get(name: Any) -> Any:
        fake = fakes[name]
        if not isinstance(fake, Tensor) or fake.layout is not torch.strided:
            return fake
        storage: Any = fake.untyped_storage()
        if (first := storage._checkpoint_offset) is None:
            raise TypeError("a file in torch's old format; save it again with torch.save")
        values = _as_tensor(content[first : first + storage.nbytes()]).view(fake.dtype)
        return values.as_strided(fake.shape, fake.stride(), fake.storage_offset())

    return fakes.keys(), get


def _as_tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # it is read-only
        return torch.from_numpy(array)


def _check_file(subject: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{subject}: no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{subject}: {error.strerror}") from error
