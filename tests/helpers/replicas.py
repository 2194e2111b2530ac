"""Replicas of a stack, as the least that one needs."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from implicit_em.data import Block, as_unit_float
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.stack import Stack
from implicit_em.losses import Objective, Term, decorrelation, lse, variance
from implicit_em.models import Encoder, SpikeSlab
from implicit_em.training.spec import RunSpec

IMAGES = torch.randint(
    0, 256, (400, 64), generator=torch.Generator().manual_seed(9), dtype=torch.uint8
)


DERIVED = {"lse": Term(lse), "var": Term(variance), "tc": Term(decorrelation)}


@dataclass
class Run:
    """What a stack needs of a run."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR | None = None
    clip: object = None
    sparse_up_to: float = 0.0
    compiled: bool = False
    steps_done: int = 0
    control: SparsityControl | None = None
    steps_in_all: int = 0
    log_every: int = 0
    training_mean: torch.Tensor | None = None

    @property
    def bare_optimizer(self):
        return self.optimizer if self.scheduler is None and self.clip is None else None

    def update(self):
        if self.clip is not None:
            self.clip(self.model.parameters())
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()


def run(seed=0, hidden=32, terms=None, network=Encoder, optimizer=torch.optim.Adam, **fields):
    torch.manual_seed(seed)
    model = network(64, hidden).to(fields.pop("dtype", torch.float32))
    # At its default temperature, no image turns on a unit.
    if isinstance(model, SpikeSlab) and model.weight.shape[-1] == IMAGES.shape[-1]:
        model.place_biases(as_unit_float(IMAGES).to(model.weight.dtype), 0.3)
    optimizer = partial(optimizer, lr=1e-2)(model.parameters())
    return Run(model, Objective(terms or DERIVED), optimizer, **fields)


def blocks(seed=0, batch=32, steps=6, count=2):
    """Consecutive blocks of a run whose batches follow from its seed."""
    generator = torch.Generator().manual_seed(seed)
    indices = [torch.randint(0, len(IMAGES), (batch,), generator=generator) for _ in range(steps)]
    size = steps // count
    return [Block(IMAGES, indices[start : start + size]) for start in range(0, steps, size)]


def configured(cfg, seed):
    """A run of a composed configuration, as its LightningModule sets it up."""
    torch.manual_seed(seed)
    module = RunSpec.of(cfg).build_module(64)
    module._steps = lambda: 6
    configured = module.configure_optimizers()
    module._optimizer, module._scheduler = configured, None
    if isinstance(configured, dict):
        module._optimizer = configured["optimizer"]
        module._scheduler = configured["lr_scheduler"]["scheduler"]
    return module


def trained(runs, blocks_of_runs):
    """Train all as one stack; gives each run's losses ``(S, 1 + T)`` and a copy of its tensors."""
    stack, losses = Stack(runs), []
    for some in zip(*blocks_of_runs, strict=True):
        losses.append(stack.train(some))
        for one in runs:
            if isinstance(one, Run):
                one.steps_done += len(losses[-1])
    return [(torch.cat(losses)[..., n], held(one)) for n, one in enumerate(runs)]


def held(one):
    """Parameters and buffers of a run's model and of its control, by their names."""
    tensors = one.model.state_dict() | (dict(one.control.named_buffers()) if one.control else {})
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(tensors, others):
    assert tensors.keys() == others.keys()
    return all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def assert_same(found, expected):
    (losses, tensors), (other_losses, others) = found, expected
    assert torch.equal(losses, other_losses)
    assert equal(tensors, others)


def assert_as_alone(build, batches):
    """Build and train runs together, then each by itself: the same bits. Gives those together."""
    together = trained([make() for make in build], batches)
    for make, own, found in zip(build, batches, together, strict=True):
        (alone,) = trained([make()], [own])
        assert_same(found, alone)
        assert not equal(alone[1], held(make())), "it was trained"
        assert alone[0].isfinite().all()
    return together
