"""TopK by this project: the steps of one run, or of several seeds that share each batch."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout

from hydra.utils import instantiate

from benchmarks.peers.task import Task, measure
from benchmarks.sweeps import compose_run
from implicit_em.config.spec import RunSpec
from implicit_em.data import Block
from implicit_em.engine.sparse import largest_share
from implicit_em.engine.stack import BareReplica, Stack

task, runs = Task.given(), int(sys.argv[2])
samples_ND = task.samples()[0]
replicas = []
for seed in range(task.seed, task.seed + runs):
    settings = [f"model.hidden={task.units}", f"model.k={task.active}", f"lr.value={task.rate}"]
    spec = RunSpec.of(compose_run(["model=topk", *settings]))
    torch.manual_seed(seed)
    module = spec.build_module(samples_ND.shape[1]).to(task.device)
    module.model.start(samples_ND[:10_000])
    optimizer = instantiate(spec.settings["optimizer"], _partial_=True)(module.parameters())
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
