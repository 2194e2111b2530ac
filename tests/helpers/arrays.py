"""Files of arrays, and data modules that have read them."""

import numpy as np
import safetensors.numpy
import torch

from implicit_em.data import TensorDataModule

WIDTH = 12
BRIEF = ["data.batch_size=64", "model.hidden=5", "trainer.max_epochs=2", "logger=csv"]
BRIEF += ["picture=false"]


def draw(count=300, dtype=np.float32, seed=0):
    """Samples of three classes outside of [0, 1], and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = 4 * np.random.default_rng(9).normal(size=(3, WIDTH)) - 1
    return (centres[labels] + rng.normal(size=(count, WIDTH))).astype(dtype), labels


def write(path, **arrays):
    """Write arrays in the format of the file's name; one called ``samples`` may stand alone."""
    only = next(iter(arrays.values())) if len(arrays) == 1 else None
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    if path.suffix == ".npy":
        np.save(path, only)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        torch.save(tensors if only is None else next(iter(tensors.values())), path)
    return path


def set_up(data):
    """Let a data module prepare and read its samples, as a Trainer does; gives the module."""
    data.prepare_data()
    data.setup()
    return data


def ready(path, **arguments):
    return set_up(TensorDataModule(path, **arguments))
