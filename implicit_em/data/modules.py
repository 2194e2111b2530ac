"""Lightning data modules whose images stay in memory."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from implicit_em.data.resident import BlockLoader, ResidentLoader

BLOCK = 32
"""Batches that are trained on between two calls of Lightning's hooks."""
MONITORED = 10_000
EVALUATION_BATCH = 2_000


class ResidentDataModule(pl.LightningDataModule):
    """Base of the data sets that fit into memory; a subclass says how to ``read`` a split.

    Images are kept once, as uint8 of shape ``(N, D)``, on the training device.

    Args:
        batch_size: samples in a training batch.
        val_size: training samples held out for validation. Without any, the curves over training
            are measured on a fixed 10,000 of the training samples.
        seed: of the order of the batches. The split does not depend on it.

    """

    def __init__(self, batch_size: int = 128, val_size: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.sample_shape: tuple[int, ...] = ()
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the samples ``(N, ...)``, uint8 or float, and the labels ``(N,)`` of a split."""

    @property
    def in_features(self) -> int:
        """Width D of a flattened sample."""
        return int(np.prod(self.sample_shape))

    def setup(self, stage: str | None = None) -> None:
        """Read both splits, once.

        Raises:
            ValueError: if ``val_size`` leaves nothing to train on.

        """
        if self._splits:
            return
        for name in ("train", "test"):
            samples, labels = self.read(train=name == "train")
            self.sample_shape = tuple(samples.shape[1:])
            self._splits[name] = samples.flatten(1), labels
        size = len(self._splits["train"][0])
        if self.val_size > size - 2:
            raise ValueError(
                f"data.val_size={self.val_size}: must leave at least 2 of {size} images"
            )

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Return samples ``(N, D)`` and labels of ``train`` or ``test``, on the training device."""
        samples, labels = self._splits[name]
        device = self.trainer.strategy.root_device if self.trainer else samples.device
        self._splits[name] = samples.to(device), labels.to(device)
        return self._splits[name]

    def train_indices(self) -> Tensor:
        """Return the training samples that are not held out, int64."""
        return self._shuffled()[self.val_size :].sort().values

    def monitored_indices(self) -> Tensor:
        """Return the held-out samples, or a fixed choice of the training samples, int64."""
        return self._shuffled()[: self.val_size or MONITORED].sort().values

    def _shuffled(self) -> Tensor:
        return torch.from_numpy(np.random.default_rng(0).permutation(len(self._splits["train"][0])))

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Return the batch as it is: it was cut from data that lie on the device."""
        return batch

    def train_dataloader(self) -> ResidentLoader | BlockLoader:
        """Batches of the training samples, in a new order each epoch.

        A Trainer gets them in blocks, unless one of its flags or callbacks counts batches.
        """
        loader = ResidentLoader(
            *self.split("train"), self.batch_size, seed=self.seed, indices=self.train_indices()
        )
        if self.trainer is None or _counts_batches(self.trainer):
            return loader
        return BlockLoader(loader, BLOCK)

    def val_dataloader(self) -> ResidentLoader:
        """Batches of the samples on which the curves over training are measured."""
        return ResidentLoader(
            *self.split("train"), EVALUATION_BATCH, indices=self.monitored_indices()
        )

    def test_dataloader(self) -> ResidentLoader:
        """Batches of the test samples, in their own order."""
        return ResidentLoader(*self.split("test"), EVALUATION_BATCH)


def _counts_batches(trainer: pl.Trainer) -> bool:
    flags = (
        trainer.max_steps != -1,
        trainer.min_steps is not None,
        trainer.limit_train_batches != 1.0,
        trainer.val_check_interval != 1.0,
        trainer.overfit_batches != 0,
    )
    hooks = ("on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step")
    return any(flags) or any(
        is_overridden(hook, callback, Callback)
        for hook in hooks
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )


class TorchvisionDataModule(ResidentDataModule):
    """An image data set of torchvision: MNIST and those with its interface.

    Args:
        dataset: a class or function called with ``root``, ``train`` and ``download``, whose result
            holds ``data`` of shape ``(N, H, W)``, uint8, and ``targets``.
        root: folder of the archives; what is missing is downloaded.
        kwargs: of the base class.

    """

    def __init__(
        self, dataset: Callable[..., Any], root: str | Path = "data", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.root = root

    def prepare_data(self) -> None:
        """Download, verify and unpack the archives, where that was not done before."""
        if not self._splits:
            self.dataset(root=self.root, train=True, download=True)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images ``(N, H, W)``, uint8, and labels ``(N,)``, int64."""
        split = self.dataset(root=self.root, train=train)
        images: Tensor | np.ndarray = split.data
        targets: Tensor | Sequence[int] = split.targets
        return torch.as_tensor(images), torch.as_tensor(targets)
