"""TopK by this project: the steps of one run, or of several seeds that share each batch.

The other tools limit the norm of each step's gradient to 1, and so does this script. Their losses
sum over the D inputs, and ours is the mean over them, so the limit is 1 / D here. Overrides of the
run may follow the task and the number of seeds, another model among them.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout

from hydra.utils import instantiate
from torch.optim import Optimizer

from benchmarks.peers.task import Task, measure
from benchmarks.sweeps import compose_run
from implicit_em.data import Block
from implicit_em.engine.sparse import largest_share
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.training.spec import RunSpec

task, runs = Task.given(), int(sys.argv[2])
samples_ND = task.samples()[0]
width = samples_ND.shape[1]
settings = [f"model.hidden={task.units}", f"model.l0={task.active}", f"lr.value={task.rate}"]
limit = f"trainer.gradient_clip_val={1 / width}"
further = sys.argv[3:]
model = [] if any(one.startswith("model=") for one in further) else ["model=topk"]
spec = RunSpec.of(compose_run([*model, *settings, limit, *further]))


def clip(optimizer: Optimizer, *_: object) -> None:
    """Limit the gradients before a step of the optimizer."""
    limited(optimizer.param_groups[0]["params"])


replicas = []
for seed in range(task.seed, task.seed + runs):
    torch.manual_seed(seed)
    module = spec.build_module(width).to(task.device)
    module.model.start(samples_ND[:10_000])
    optimizer = instantiate(spec.settings["optimizer"], _partial_=True)(module.parameters())
    if module.hparams["clip"]:
        limited = instantiate(module.hparams["clip"], _partial_=True)
        optimizer.register_step_pre_hook(clip)
    replica = BareReplica(module.model, module.objective, optimizer)
    replica.sparse_up_to = largest_share("auto", replica)
    replicas.append(replica)
together = not replicas[0].sparse_up_to
stacks = [Stack(replicas)] if together else [Stack([replica]) for replica in replicas]


def step(batch: torch.Tensor) -> None:
    """Take a step of each run."""
    block = Block(batch, [torch.arange(len(batch), device=batch.device)])
    for stack in stacks:
        stack.train([block] * len(stack.replicas))


measure(task, step, replicas[0].model.reconstruct)
