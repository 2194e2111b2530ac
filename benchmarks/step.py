"""Training steps by themselves: a stack of the paper's models without Trainer and loggers."""

import torch
from hydra.utils import instantiate
from torch import Tensor

from benchmarks.common import Device
from implicit_em.data import Block
from implicit_em.engine.modules import ADAM, DERIVED_LOSS, build_objective
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.models import Encoder


def build_stack(runs: int, in_features: int, hidden: int, device: Device) -> Stack:
    """Return a stack of the derived model with the paper's objective and optimizer."""
    replicas = []
    for _ in range(runs):
        model = Encoder(in_features, hidden).to(device.type)
        optimizer = instantiate(ADAM, _partial_=True)(model.parameters())
        objective = build_objective(DERIVED_LOSS)
        replicas.append(BareReplica(model, objective, optimizer, device.compiled))
    return Stack(replicas)


def random_block(images_ND: Tensor, batch_size: int, batches: int) -> Block:
    """Return batches of images drawn at random."""
    chosen = torch.randint(len(images_ND), (batches, batch_size), device=images_ND.device)
    return Block(images_ND, list(chosen))


def products_flop(samples: int, hidden: int, in_features: int) -> int:
    """Return the operations in the two matrix products that a run trains on samples with."""
    return 2 * 2 * samples * hidden * in_features
