"""Blocks of batches, and the linear layer that takes them for a stack."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from helpers import draws
from helpers.trainers import bare_trainer
from torch import nn
from torch.testing import assert_close

from implicit_em.codes import Code, Pattern
from implicit_em.data import (
    Block,
    BlockLoader,
    ResidentLoader,
    TorchvisionDataModule,
    as_unit_float,
    batches_of,
)
from implicit_em.data.modules import block_size
from implicit_em.engine.modules import EncoderModule
from implicit_em.models.linear import Linear, SharedInput

INPUTS = torch.arange(22, dtype=torch.uint8)[:, None].expand(-1, 3).contiguous()


def resident():
    return ResidentLoader(INPUTS, torch.arange(22), batch_size=4, seed=7)


@pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
def test_blocks_hold_the_batches_of_the_loader_in_their_order(size):
    expected, loader = resident(), BlockLoader(resident(), size)
    for _ in range(3):
        blocks = list(loader)
        assert len(blocks) == len(loader) == -(-len(expected) // size)
        assert sum((block.sizes for block in blocks), ()) == (4, 4, 4, 4, 4, 2)
        found = [batch for block in blocks for batch in block]
        assert found[0].dtype == torch.uint8
        for batch, (images, _) in zip(found, expected, strict=True):
            assert torch.equal(as_unit_float(batch), images)


def test_a_restored_position_gives_the_remaining_batches():
    whole, expected = BlockLoader(resident(), 2), BlockLoader(resident(), 2)
    list(expected)
    expected = [*expected]
    list(whole)
    iterator = iter(whole)
    next(iterator)
    assert whole.state_dict() == {"epoch": 1, "batch": 2}
    resumed = BlockLoader(resident(), 2)
    resumed.load_state_dict(whole.state_dict())
    resumed.sampler.set_epoch(1)
    assert list(resumed) == expected[1:]
    resumed.sampler.set_epoch(0)
    assert list(resumed) == list(BlockLoader(resident(), 2))


def test_blocks_are_equal_that_hold_the_same_samples_in_the_same_batches():
    inputs = torch.rand(9, 3)
    batches = [torch.tensor([0, 1, 2]), torch.tensor([5, 4])]
    block = Block(inputs, batches)
    assert block == Block(inputs, [batch.clone() for batch in batches])
    assert block != Block(inputs.clone(), batches)
    assert block != Block(inputs, batches[:1])
    assert block != Block(inputs, [torch.tensor([0, 2, 1]), batches[1]])
    assert block != Block(inputs, [torch.tensor([0, 1]), torch.tensor([2, 5, 4])])
    assert block != "block"
    assert block.sizes == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batches_of_several_blocks_come_together_in_the_dtype_asked_for(dtype):
    bytes_, floats = torch.randint(0, 256, (9, 3), dtype=torch.uint8), torch.rand(9, 3)
    order = [torch.tensor([0, 1, 8]), torch.tensor([5, 4]), torch.tensor([7, 2, 3])]
    blocks = [Block(bytes_, order), Block(floats, order), Block(bytes_, order[::-1])]
    found = [batches.clone() for batches in batches_of(blocks, dtype)]
    assert [batches.shape for batches in found] == [(3, 3, 3), (3, 2, 3), (3, 3, 3)]
    for batches, indices, reverse in zip(found, order, order[::-1], strict=True):
        assert batches.dtype == dtype
        assert torch.equal(batches[0], (bytes_[indices].float() / 255).to(dtype))
        assert torch.equal(batches[1], floats[indices].to(dtype))
        assert torch.equal(batches[2], (bytes_[reverse].float() / 255).to(dtype))


class Counts(pl.Callback):
    def on_train_batch_end(self, *_):
        pass


class Saves(pl.Callback):
    def on_train_epoch_end(self, *_):
        pass


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({}, BlockLoader),
        ({"callbacks": [Saves()]}, BlockLoader),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, BlockLoader),
        ({"callbacks": [Counts()]}, ResidentLoader),
        ({"max_steps": 5}, ResidentLoader),
        ({"limit_train_batches": 3}, ResidentLoader),
        ({"val_check_interval": 0.5}, ResidentLoader),
        ({"overfit_batches": 2}, ResidentLoader),
        ({"fast_dev_run": True}, ResidentLoader),
    ],
)
@pytest.mark.filterwarnings("ignore:.*max_epochs. was not set")
def test_batches_are_handed_out_one_by_one_where_something_counts_them(small_mnist, flags, kind):
    from torchvision.datasets import MNIST

    data = TorchvisionDataModule(MNIST, root=small_mnist)
    data.setup()
    assert type(data.train_dataloader()) is ResidentLoader, "without a Trainer"
    data.trainer = bare_trainer(**flags)
    data.trainer.strategy.connect(EncoderModule({"in_features": 64, "hidden": 32}))
    assert type(data.train_dataloader()) is kind


draw = partial(draws.draw, dtype=torch.float32)


def stack_of(layers):
    stack = Linear(layers[0].in_features, layers[0].out_features)
    for name in ("weight", "bias"):
        values = torch.stack([getattr(layer, name).detach() for layer in layers])
        setattr(stack, name, nn.Parameter(values))
    return stack


@pytest.mark.parametrize("counts", [(3,), (1, 2), (2, 1), (1, 1, 1), None])
def test_a_stack_of_layers_gives_values_and_gradients_of_each(counts):
    layers = [Linear(6, 5) for _ in range(3)]
    stack = stack_of(layers)
    if counts is None:
        x = draw(3, 4, 6).requires_grad_()
        own = [batch.detach().requires_grad_() for batch in x]
    else:
        batches = draw(len(counts), 4, 6)
        x = SharedInput(batches, counts)
        own = [batch for batch, count in zip(batches, counts, strict=True) for _ in range(count)]
    z = stack(x)
    assert z.shape == (3, 4, 5)
    slope = draw(3, 4, 5)
    z.backward(slope)
    for number, (layer, batch) in enumerate(zip(layers, own, strict=True)):
        expected = layer(batch)
        expected.backward(slope[number])
        assert_close(z[number], expected)
        assert_close(stack.weight.grad[number], layer.weight.grad)
        assert_close(stack.bias.grad[number], layer.bias.grad)
        if counts is None:
            assert_close(x.grad[number], batch.grad)


@pytest.mark.parametrize("inputs", ["shared", "own"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_stack_of_layers_passes_gradcheck(inputs, moved):
    layers = [Linear(3, 2).double() for _ in range(2)]
    stack = stack_of(layers)
    x = draw(2, 4, 3).double().requires_grad_(inputs == "own")
    origin = draw(2, 3).double().requires_grad_() if moved else None

    def energies(weight, bias, x, origin):
        stack.weight, stack.bias = nn.Parameter(weight), nn.Parameter(bias)
        del stack._parameters["weight"], stack._parameters["bias"]
        stack.weight, stack.bias = weight, bias
        return stack(x if inputs == "own" else SharedInput(x, (1, 1)), origin=origin)

    weight, bias = (v.detach().requires_grad_() for v in (stack.weight, stack.bias))
    assert torch.autograd.gradcheck(energies, (weight, bias, x, origin))


@pytest.mark.parametrize("bias", [False, True])
def test_an_origin_is_subtracted_from_the_inputs(bias):
    layers = [Linear(6, 5, bias=bias) for _ in range(2)]
    stack = stack_of(layers) if bias else Linear(6, 5, bias=False)
    stack.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
    x, origins = draw(4, 6), draw(2, 6)
    z = stack(SharedInput(x.unsqueeze(0), (2,)), origin=origins)
    for number, (layer, origin) in enumerate(zip(layers, origins, strict=True)):
        assert_close(layer(x, origin=origin), layer(x - origin))
        code = Code(x.flatten(), Pattern.where(torch.ones_like(x, dtype=torch.bool)))
        assert_close(layer(code, origin=origin), layer(x - origin))
        assert_close(z[number], layer(x - origin))


def test_an_origin_rounds_alike_in_a_stack_of_any_size():
    layers = [Linear(784, 64) for _ in range(5)]
    x, origins, slope = draw(1, 128, 784), draw(5, 784), draw(5, 128, 64)

    def gradients(some):
        stack = stack_of(layers[some])
        origin = origins[some].clone().requires_grad_()
        z = stack(SharedInput(x, (len(origin),)), origin=origin)
        return [z, *torch.autograd.grad(z, [stack.weight, stack.bias, origin], slope[some])]

    together = gradients(slice(None))
    for number in range(5):
        alone = gradients(slice(number, number + 1))
        for all_of_them, own in zip(together, alone, strict=True):
            assert torch.equal(all_of_them[number], own[0])


@pytest.mark.parametrize("moved", [False, True])
def test_a_stack_of_layers_computes_in_the_precision_of_autocast(moved):
    layers = [Linear(6, 5) for _ in range(2)]
    stack = stack_of(layers)
    x = draw(1, 4, 6)
    origins = draw(2, 6) if moved else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = stack(SharedInput(x, (2,)), origin=origins)
        expected = layers[1](x[0], origin=origins[1] if moved else None)
    assert z.dtype == torch.bfloat16
    assert_close(z[1], expected)
    z.sum().backward()
    assert stack.weight.grad.dtype == stack.bias.grad.dtype == torch.float32


def test_each_replica_has_a_batch_and_shared_ones_are_not_copied():
    batches = draw(3, 4, 6)
    shared = SharedInput(batches[:1], (3,)).expanded()
    assert shared.shape == (3, 4, 6)
    assert shared.data_ptr() == batches.data_ptr()
    assert SharedInput(batches, (1, 1, 1)).expanded() is batches
    expanded = SharedInput(batches[:2], (2, 1)).expanded()
    assert torch.equal(expanded, batches[[0, 0, 1]])


@pytest.mark.parametrize(
    ("batch", "components", "size"),
    [(128, 64, 64), (128, 128, 64), (128, 1024, 9), (1024, 16384, 1)],
)
def test_a_block_is_no_more_work_than_a_run_may_finish_when_it_is_told_to_stop(
    batch, components, size
):
    assert block_size(batch, components, 784) == size
