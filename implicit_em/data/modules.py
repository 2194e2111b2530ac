"""Lightning data modules whose samples stay in memory."""

import hashlib
import socket
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from implicit_em.base.digest import state_of
from implicit_em.base.errors import ConfigError, one_line
from implicit_em.base.threads import torch_threads
from implicit_em.base.values import check_word
from implicit_em.data import sharing
from implicit_em.data.arrays import rows_at_once
from implicit_em.data.checks import check_labels
from implicit_em.data.on_disk import Samples, SamplesOnDisk
from implicit_em.data.resident import BlockLoader, ResidentLoader, as_unit_float, in_one_window
from implicit_em.data.sharing import Splits
from implicit_em.distributed import Group
from implicit_em.models.normalizing import Normalizer, Option, fit_normalizer

BLOCK = 64
"""Maximum number of batches in a block."""
EVALUATION_BATCH = 2_000
Final = Literal["test", "validation"]
FAR_APART = 1_000
"""Ratio of the columns' ranges above which normalisation is advised."""
PATIENCE = 10.0
"""Seconds without an answer after which a download is given up."""


class ResidentDataModule(pl.LightningDataModule):
    """Base of the data modules; a subclass implements ``read``.

    The training device holds one copy of the samples, shape ``(N, D)``. Modules with equal
    ``source`` and normalisation share it. Samples of a large file stay there, as ``SamplesOnDisk``.

    Args:
        batch_size: number of samples in a training batch.
        val_size: number of training samples held out for validation; at 0, the curves over training
            are measured on a fixed choice of 10,000 training samples.
        seed: seed of the order of the batches; the split does not depend on it.
        final: samples that a trained model is measured on: those for testing, or those held out for
            validation, to choose settings without the test samples.
        normalize: normalisation of the samples, by statistics of the training samples that are not
            held out: ``none``, ``centre``, ``standard``, ``scale``, ``l2`` or ``zca``; see
            ``models.normalizing.fit_normalizer``.
        drop_last: whether to leave out the last batch of an epoch if it would be smaller.

    Raises:
        ValueError: if ``final`` or ``normalize`` is another word, or ``final`` is ``validation``
            with fewer than 2 held out.
    """

    def __init__(
        self,
        batch_size: int = 128,
        val_size: int = 0,
        seed: int = 0,
        final: Final = "test",
        normalize: Option = "none",
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        check_word("final", final, get_args(Final))
        check_word("normalize", normalize, get_args(Option))
        if final == "validation" and val_size < 2:
            raise ValueError(f"final=validation: needs val_size of at least 2, not {val_size}")
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.final = final
        self.normalize = normalize
        self.drop_last = drop_last
        self.sample_shape: tuple[int, ...] = ()
        self.out_features: int | None = None
        """Width of the target that stands behind each sample; ``None`` without one."""
        self.parts: dict[str, slice] = {}
        """Columns of each site of a language model, in what is to be explained."""
        self.on_progress: Callable[[], None] = lambda: None
        self._splits: Splits | None = None

    def shuffle(self, rows: Tensor, generator: np.random.Generator) -> list[Tensor]:
        """Return the rows in the order of an epoch: windows, which follow one another."""
        return in_one_window(rows, generator)

    @abstractmethod
    def read(self, train: bool) -> tuple[Any, Tensor]:
        """Return the samples ``(N, ...)``, uint8 or float, and the labels ``(N,)`` of a split."""

    def source(self) -> Any:
        """Return what determines the result of ``read``, with the state of its files.

        Modules with equal sources share what was read; ``None`` shares nothing.
        """
        return None

    @staticmethod
    def for_one_run(settings: Mapping[str, Any]) -> str | None:
        """Return why only one run of a sweep can use these ``data`` settings; ``None`` if all can.

        Two runs exclude each other if their reasons are equal.
        """
        return None

    @staticmethod
    def refusal(settings: Mapping[str, Any], epochs: int, processes: bool) -> str | None:
        """Return why a run cannot train on these ``data`` settings; ``None`` if it can.

        Args:
            settings: the settings, which need not have been checked.
            epochs: the number of epochs.
            processes: whether several processes train the run.
        """
        return None

    @classmethod
    def placed(
        cls, settings: Mapping[str, Any], metadata: Mapping[str, Any], out_features: int | None
    ) -> Mapping[str, Any]:
        """Return ``data`` settings at the place that the metadata of another tool's model name.

        Args:
            settings: the settings, as they were typed.
            metadata: what a model's configuration says of its origin, such as ``hook_name``.
            out_features: width of the model's target; ``None`` if it explains its input.

        Raises:
            ConfigError: if the settings contradict the metadata.
        """
        return settings

    def origin(self) -> dict[str, Any]:
        """Return where the samples come from, as entries of ``metrics.json`` and of exports.

        ``site`` is the place in a language model, ``None`` for other samples. ``target``, only
        with ``out_features``, is what the model explains.
        """
        target = {} if self.out_features is None else {"target": "+".join(self.parts)}
        return {"site": None, **target}

    def content_digest(self) -> str | None:
        """Return 16 hexadecimal digits over the samples and labels as they were read.

        Call it after ``setup``, before ``normalize_by``. ``None`` if samples lie in a file that
        only a subclass knows.
        """
        found = hashlib.sha256()
        for values in (part for name in ("train", "test") for part in self.split(name)):
            if isinstance(values, SamplesOnDisk):
                return None
            found.update(values.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()[:16]

    def truth(self, train: bool = False) -> Any | None:
        """Return the features that the samples were drawn from, or ``None`` if nobody knows them.

        Args:
            train: whether for the training samples in place of the final ones.

        Returns:
            A ``superposition.Truth``, or ``None``.
        """
        return None

    def seen(self, samples: Samples, labels: Tensor) -> Any | None:
        """Return what a viewer shows of samples in place of images or vectors.

        Args:
            samples: samples ``(N, D)`` of this module.
            labels: their labels ``(N,)``.

        Returns:
            A ``viewer.seen.Seen``, or ``None`` where the numbers of a sample are all there is.
        """
        return None

    def inside(self, purpose: str, lm: str | None = None) -> Any:
        """Return what can be measured inside the language model that the samples come from.

        Args:
            purpose: what it is needed for, as the start of an error's message.
            lm: folder, GGUF file or name on the hub of the language model; ``None`` for the place
                that its settings name.

        Raises:
            ConfigError: if the samples come from no language model.
        """
        raise ConfigError(f"{purpose}: the data are from no language model; needs data=activations")

    @property
    def in_features(self) -> int:
        """Width D of a flattened sample, its target not counted."""
        return int(np.prod(self.sample_shape)) - (self.out_features or 0)

    def setup(self, stage: str | None = None) -> None:
        """Read and normalise both splits, unless a module with the same source has done so."""
        if self._splits and (self.normalizer or self.normalize == "none"):
            return
        source = self.source()
        if self.normalize == "none":
            self._splits = self._read_once(source)
        else:
            named = source and (source, self.normalize, self.val_size)
            self._splits = sharing.read_once(named, lambda: self._normalized(source))
        self.sample_shape = self._splits.sample_shape

    def _read_once(self, source: Any) -> Splits:
        """Return both splits as they are read."""
        splits = sharing.read_once(source, lambda: Splits(self.read))
        size = len(splits.on(splits.home, "train")[0])
        if self.val_size > size - 2:
            raise ValueError(f"val_size={self.val_size}: must leave at least 2 of {size} samples")
        return splits

    def _normalized(self, source: Any) -> Splits:
        raw = self._splits = self._read_once(source)  # fitting needs the number of samples
        return raw.normalized(self._fitted(raw))

    def _fitted(self, splits: Splits) -> Normalizer:
        """Fit a normaliser to the training samples, by one thread: its bits can be repeated."""
        samples, rows = splits.on(splits.home, "train")[0], self.train_indices().to(splits.home)
        parts = rows.split(rows_at_once(samples.shape))
        with torch_threads(1):
            return fit_normalizer(
                self.normalize,
                lambda: (as_unit_float(samples.index_select(0, part)).double() for part in parts),
            )

    @property
    def normalizer(self) -> Normalizer | None:
        """Normaliser that was applied to the samples; ``None`` if they are as they were read."""
        return self._splits.normalizer if self._splits else None

    @property
    def normalized_by(self) -> str | None:
        """SHA-256 of statistics that were not fitted by this module; ``None`` without any."""
        return None

    def normalize_by(self, normalizer: Normalizer) -> None:
        """Normalise the samples that were read, by the statistics of other samples."""
        assert self._splits, "setup() comes first"
        self._splits = self._splits.normalized(normalizer)

    def remarks(self) -> list[str]:
        """Return what the user should know about the samples, one remark per line.

        Of the modules that share the samples, only the first returns any.
        """
        assert self._splits, "setup() comes first"
        said, self._splits.remarked = self._splits.remarked, True
        return [] if said else self._remarks()

    def _remarks(self) -> list[str]:
        if self.normalizer is not None:
            return []
        samples, rows = self.split("train")[0], self.train_indices()
        some = rows[:: -(-len(rows) // rows_at_once(samples.shape))].to(samples.device)
        x = as_unit_float(samples.index_select(0, some)).double()
        ranges_D = x.amax(0) - x.amin(0)
        ratio = float(ranges_D.max() / ranges_D.where(ranges_D > 0, torch.inf).min())
        mean, spread = float(x.mean(0).norm()), float(x.std(0).norm())
        if ratio > FAR_APART:
            return [
                f"data: the ranges of the columns differ by a factor of {ratio:,.0f}, so a few "
                "columns decide; data.normalize=standard gives each column variance 1"
            ]
        if mean > spread:
            return [
                f"data: the mean of the samples has length {mean:.3g}, their spread only "
                f"{spread:.3g}; data.normalize=centre subtracts the mean"
            ]
        return []

    def split(self, name: str) -> tuple[Any, Tensor]:
        """Return samples ``(N, D)`` and labels of ``train`` or ``test``, on the training device.

        Samples of a large file are ``SamplesOnDisk`` in place of a tensor. Do not write to them:
        other modules may share them.
        """
        assert self._splits, "setup() comes first"
        device = self.trainer.strategy.root_device if self.trainer else self._splits.home
        return self._splits.on(device, name)

    def starting_samples(self, most: int | None = None) -> Tensor:
        """Return the training samples that are not held out, shape ``(N, D)``, as floats.

        Args:
            most: largest number of them, a fixed choice; ``None`` for all.

        Raises:
            ConfigError: if they lie in a file that memory has no room for.
        """
        samples: Samples = self.split("train")[0]
        rows = self._shuffled()[self.val_size :][:most].sort().values
        chosen = samples[rows.to(samples.device)]
        return as_unit_float(chosen.in_memory() if isinstance(chosen, SamplesOnDisk) else chosen)

    def train_indices(self) -> Tensor:
        """Return the rows of the training samples that are not held out, int64."""
        return self._shuffled()[self.val_size :].sort().values

    @property
    def epoch_size(self) -> int:
        """Number of training samples of an epoch."""
        return len(self.train_indices())

    @property
    def progress(self) -> str:
        """Text that stands beside the steps of a training; it may be empty."""
        return ""

    def monitored_indices(self) -> Tensor:
        """Return the rows held out, or else a fixed choice of the training samples, int64."""
        return self._shuffled()[: self.val_size or 10_000].sort().values

    def final_samples(self) -> tuple[Any, Tensor]:
        """Return the samples ``(N, D)`` and labels that a trained model is measured on."""
        return self.split("test") if self.final == "test" else self.monitored()

    def monitored(self) -> tuple[Any, Tensor]:
        """Return the samples and labels of ``monitored_indices``."""
        samples, labels = self.split("train")
        indices = self.monitored_indices()
        return samples[indices.to(samples.device)], labels[indices.to(labels.device)]

    def _shuffled(self) -> Tensor:
        assert self._splits, "setup() comes first"
        size = len(self._splits.on(self._splits.home, "train")[0])
        return torch.from_numpy(np.random.default_rng(0).permutation(size))

    def probed(self, labels: Tensor) -> Tensor:
        """Return which samples of a split a probe takes, given their labels; int64."""
        return torch.arange(len(labels))

    def state_dict(self) -> dict[str, Any]:
        """Return no state; raise ``DamagedError``, and save nothing, if a file has changed."""
        if self._splits:
            self._splits.check()
        return {}

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Return the batch as it is: its data lie on the device already."""
        return batch

    def train_dataloader(self) -> ResidentLoader | BlockLoader:
        """Return batches of the training samples, in a new order each epoch.

        A Trainer gets blocks of batches, unless one of its flags or callbacks counts batches.
        """
        loader = self._training_batches()
        if self.trainer is None or _counts_batches(self.trainer):
            return loader
        model: Any = self.trainer.lightning_module.model
        size = block_size(self.batch_size, model.weight.shape[-2], self.in_features)
        return BlockLoader(loader, size)

    def _training_batches(self, kind: type[ResidentLoader] = ResidentLoader) -> ResidentLoader:
        return self._loader(
            *self.split("train"),
            self.batch_size,
            kind,
            indices=self.train_indices(),
            seed=self.seed,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
        )

    def val_dataloader(self) -> ResidentLoader:
        """Return batches of the samples on which the curves over training are measured."""
        rows = self.monitored_indices()
        return self._loader(*self.split("train"), EVALUATION_BATCH, indices=rows)

    def test_dataloader(self) -> ResidentLoader:
        """Return batches of the samples that a trained model is measured on, in order."""
        return self._loader(*self.final_samples(), EVALUATION_BATCH)

    def _loader(
        self,
        inputs: Any,
        labels: Tensor,
        size: int,
        kind: type[ResidentLoader] = ResidentLoader,
        **options: Any,
    ) -> ResidentLoader:
        group = Group.of(self.trainer) if self.trainer else Group()
        return kind(inputs, labels, size, group=group, **options)


def fixed_choice(samples: int, most: int | None) -> Tensor:
    """Return the rows of at most ``most`` of N samples, always the same, in order; int64."""
    rows = np.random.default_rng(0).permutation(samples)[:most]
    return torch.from_numpy(np.sort(rows))


def block_size(batch_size: int, components: int, in_features: int) -> int:
    """Return the number of batches in a block, from sizes alone: a resumed run has the same."""
    operations = 4 * batch_size * components * in_features
    # 4e9 operations take about 0.1 s, and a run can stop only between blocks.
    return int(min(max(4e9 // operations, 1), BLOCK))


def _counts_batches(trainer: pl.Trainer) -> bool:
    flags = (
        trainer.max_steps != -1,
        trainer.min_steps is not None,
        trainer.limit_train_batches != 1.0,
        trainer.val_check_interval != 1.0,
        trainer.overfit_batches != 0,  # type: ignore[attr-defined]
    )
    hooks = ("on_train_batch_start", "on_train_batch_end")
    parts: list[tuple[Any, type]] = [(trainer.lightning_module, pl.LightningModule)]
    parts += [
        (callback, Callback)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not getattr(callback, "takes_blocks", False)
    ]
    return any(flags) or any(is_overridden(hook, *part) for hook in hooks for part in parts)


class TorchvisionDataModule(ResidentDataModule):
    """An image data set of torchvision: MNIST, or another with its interface.

    Args:
        dataset: class or function that takes ``root``, ``train`` and ``download``; its result has
            ``data``, uint8 of shape ``(N, H, W)``, and ``targets``.
        root: folder of the archives; missing ones are downloaded.
        kwargs: arguments of ``ResidentDataModule``.
    """

    def __init__(
        self, dataset: Callable[..., Any], root: str | Path = "data", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.root = root

    def prepare_data(self) -> None:
        """Download, verify and unpack the archives, if that was not done before."""
        with sharing.lock, _patience():
            if not (self._splits or sharing.known(self.source())):
                self._open(train=True, download=True)

    def source(self) -> Any:
        """Return the data set, its arguments and the state of its files.

        The files lie in a folder with the name of the class. Without this folder, and in a subclass
        with its own ``read``, nothing is shared.
        """
        root = Path(self.root).resolve()
        call = self.dataset if isinstance(self.dataset, partial) else partial(self.dataset)
        if type(self).read is not TorchvisionDataModule.read or not isinstance(call.func, type):
            return None
        paths = sorted((root / call.func.__name__).rglob("*"))
        files = [(path, state_of(path)) for path in paths]
        return (call.func, call.args, call.keywords, root, files) if files else None

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images ``(N, H, W)``, uint8, and labels ``(N,)``, int64."""
        split = self._open(train=train)
        labels = torch.as_tensor(split.targets)
        if classes := getattr(split, "classes", None):
            check_labels("train" if train else "test", labels, classes)
        return torch.as_tensor(split.data), labels

    def _open(self, train: bool, **options: Any) -> Any:
        # For damaged files, torchvision's message lacks the place and sometimes the reason.
        try:
            return self.dataset(root=self.root, train=train, **options)
        except Exception as error:  # a damaged file can cause any
            split = "train" if train else "test"
            reason = f"{type(error).__name__}: {one_line(error)}"
            if options:  # it was to be downloaded; torchvision's reason names every server it tried
                reason = textwrap.shorten(reason, 200, placeholder=" ...")
                reason += "; put its archives there, or write data.root=FOLDER"
            raise ConfigError(f"{split} split in {self.root}: {reason}") from error


@contextmanager
def _patience() -> Iterator[None]:
    """Limit the wait for a server; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
