"""What a model computes as a stack or in parts, beside what it computes alone or on the whole."""

import copy

import torch

from implicit_em.distributed import PER_SAMPLE
from implicit_em.engine.stack import stack_models
from implicit_em.models.linear import SharedInput

REPLICAS = 3
SAMPLES = 32


def _replicas(model):
    """Copies of a model with random parameters, in float32."""
    generator = torch.Generator().manual_seed(0)
    copies = [copy.deepcopy(model).float() for _ in range(REPLICAS)]
    with torch.no_grad():
        for one in copies:
            for parameter in one.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)
    return copies


def _samples(model, count=1):
    width = model.weight.shape[-1] + (model.out_features or 0)
    return torch.rand(count, SAMPLES, width, generator=torch.Generator().manual_seed(1))


def _results(outputs, model, x):
    """Outputs of two steps, which may depend on each other, then the buffers and the gradients."""
    found = {}
    for step in range(2):
        values = outputs(model, x)
        found |= {f"{name} {step}": value for name, value in values.items()}
    sum(value.square().sum() for value in values.values() if value.requires_grad).backward()
    found |= dict(model.named_buffers())
    return found | {f"{n}.grad": p.grad for n, p in model.named_parameters() if p.grad is not None}


def _stack_of_one(model):
    return stack_models([copy.deepcopy(model)])


def stacks_give_the_same_bits(model, outputs):
    """Whether a stack gives each replica what a stack of it alone gives, and that what it gives."""
    replicas, batches = _replicas(model), _samples(model, REPLICAS)
    try:
        alone = [
            _results(outputs, _stack_of_one(replica), SharedInput(x[None], [1]))
            for replica, x in zip(replicas, batches, strict=True)
        ]
        plain = [outputs(copy.deepcopy(r), x) for r, x in zip(replicas, batches, strict=True)]
        stack = stack_models(copy.deepcopy(replicas))
        together = _results(outputs, stack, SharedInput(batches, [1] * REPLICAS))
    except (RuntimeError, TypeError, IndexError, AttributeError):
        return False  # it cannot be computed for a stack
    return all(
        torch.equal(together[name][number], value[0])
        for number, results in enumerate(alone)
        for name, value in results.items()
    ) and all(
        torch.allclose(together[f"{name} 0"][number], value, rtol=1e-3, atol=1e-5)
        for number, results in enumerate(plain)
        for name, value in results.items()
    )


def parts_give_the_same(model, outputs):
    """Whether a batch in parts gives what it gives as a whole, and nothing else changes."""
    model = _replicas(model)[0]
    x = _samples(model)[0]
    before = [torch.get_rng_state(), *copy.deepcopy(list(model.buffers()))]
    whole = outputs(model, x)
    parts = [outputs(model, part) for part in x.split(SAMPLES // 2)]
    after = [torch.get_rng_state(), *model.buffers()]
    return all(map(torch.equal, before, after)) and all(
        torch.allclose(torch.cat([part[name] for part in parts]), value, rtol=1e-3, atol=1e-5)
        for name, value in whole.items()
        if name in PER_SAMPLE
    )
