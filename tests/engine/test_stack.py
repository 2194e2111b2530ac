"""Training as a stack: a replica gets the same bits alone and in any company."""

import copy
from functools import partial

import pytest
import torch
from helpers.models import MODEL_OF_LOSS
from helpers.paths import ROOT
from helpers.replicas import (
    DERIVED,
    assert_as_alone,
    assert_same,
    blocks,
    configured,
    equal,
    held,
    run,
    trained,
)
from helpers.stacking import stacks_give_the_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from implicit_em.data import as_unit_float
from implicit_em.engine.modules import EncoderModule
from implicit_em.engine.stack import (
    Stack,
    merge_optimizers,
    merge_steps,
    outputs_of,
    stack_models,
    takes_stacks,
)
from implicit_em.losses import Term, decorrelation, l1, lse, mse, orthogonality, variance
from implicit_em.models import Encoder, SparseAutoencoder
from implicit_em.models.linear import Linear


def options(group):
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


CHOICES = [
    *(f"optimizer={name}" for name in options("optimizer") if name != "em"),
    *(f"lr={name}" for name in options("lr")),
    *(f"loss={name}" for name in options("loss") if name not in MODEL_OF_LOSS),
    *(f"activation={name}" for name in options("activation")),
    *(f"model=sae activation={name}" for name in options("activation")),
    *(f"model=mixture lr.value=0.1 optimizer={name}" for name in ("em", "adam")),
    "trainer.gradient_clip_val=0.1",
    "model=topk model.sweeps=3 model.refit=2",
    "model=tied_topk model.sweeps=2 model.through=held",
    "model=batch_topk model.sweeps=3",
    "model=spike_slab model.l0=null model.sweeps=3 model.refit=2",
]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_the_configuration_trains_as_alone(composed, choice):
    cfg = composed("model.hidden=32", "lr.value=0.01", *choice.split())
    build = [partial(configured, cfg, seed) for seed in (1, 2, 3)]
    assert_as_alone(build, [blocks(1), blocks(1), blocks(2)])


def test_runs_of_different_choices_train_as_alone(composed):
    company = [
        ["optimizer=sgd", "lr.value=1e-4"],
        ["optimizer=adam"],
        ["optimizer=adam", "lr.value=0.1"],
        ["optimizer=momentum", "lr=cosine"],
        ["optimizer=adamw", "trainer.gradient_clip_val=1"],
        ["optimizer=adam", "loss.lse.weight=3", "loss.tc.weight=0.1"],
        ["trainer.gradient_clip_val=1e-3", "trainer.gradient_clip_algorithm=value"],
    ]
    build = [
        partial(configured, composed(*overrides, "model.hidden=32"), seed)
        for seed, overrides in enumerate(company)
    ]
    assert_as_alone(build, [blocks(seed // 3) for seed in range(len(company))])


@settings(max_examples=40)
@given(data=st.data())
def test_size_company_and_order_of_a_stack_do_not_matter(data):
    draw = data.draw
    hidden = draw(st.sampled_from([2, 5, 8, 10, 16, 20, 24, 32, 36, 40, 50, 64, 104]))
    sizes = [n for n in (2, 4, 8, 16, 20, 32, 48, 64) if n * hidden % 32 == 0]
    batch = draw(st.sampled_from(sizes))
    activations = [nn.ReLU(), nn.Softplus(), nn.GELU()]
    network = partial(Encoder, activation=draw(st.sampled_from(activations)))
    weights = st.floats(0.01, 100)
    optimizers = st.sampled_from([torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
    build, batches = [], []
    for _ in range(draw(st.integers(2, 6))):
        terms = {name: Term(term.function, draw(weights)) for name, term in DERIVED.items()}
        optimizer = partial(draw(optimizers), fused=draw(st.booleans()))
        seed = draw(st.integers(0, 3))
        build.append(partial(run, seed, hidden, terms, network, optimizer))
        batches.append(blocks(draw(st.integers(0, 2)), batch, steps=3, count=1))
    first = trained([make() for make in build], batches)
    order = draw(st.permutations(range(len(build))))
    chosen = order[: draw(st.integers(1, len(order)))]
    other = trained([build[number]() for number in chosen], [batches[number] for number in chosen])
    for number, found in zip(chosen, other, strict=True):
        assert_same(found, first[number])


def distance_to_the_mean(energies: Tensor) -> Tensor:
    assert energies.dim() == 2, "one replica at a time"
    return (energies - energies.mean(0)).norm(dim=1).mean()


def matched(energies: Tensor, x: Tensor, weight: Tensor, power: int = 2) -> Tensor:
    assert (energies.dim(), x.dim(), weight.dim()) == (2, 2, 2)
    return ((x @ weight.T - energies) ** power).mean()


def test_a_term_of_ones_own_sees_one_replica_at_a_time():
    own = {
        "spread": Term(distance_to_the_mean, 0.5),
        "matched": Term(matched, options={"power": 4}),
    }
    build = [partial(run, seed, terms=DERIVED | own) for seed in range(3)]
    assert takes_stacks(build[0]().model)
    assert_as_alone(build, [blocks(1), blocks(1), blocks(2)])
    assert_as_alone([partial(run, seed, terms=own) for seed in range(2)], [blocks(1)] * 2)


def active(energies: Tensor) -> Tensor:
    return (energies > 0).float().mean()


def test_a_term_without_a_gradient_is_reported_and_moves_nothing():
    with_it = [partial(run, seed, terms=DERIVED | {"active": Term(active)}) for seed in range(2)]
    found = assert_as_alone(with_it, [blocks(1), blocks(2)])
    (plain,) = trained([run(0)], [blocks(1)])
    assert equal(found[0][1], plain[1])
    assert torch.equal(found[0][0][:, 1:4], plain[0][:, 1:])
    assert 0 < found[0][0][-1, -1] < 1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.NAdam])
@pytest.mark.parametrize("network", [Encoder, SparseAutoencoder])
def test_parameters_that_no_term_reaches_stay_as_they_are(network, optimizer):
    build = [
        partial(run, seed, 32, {"o": Term(orthogonality)}, network, optimizer) for seed in (0, 1)
    ]
    for make, (_, tensors) in zip(build, assert_as_alone(build, [blocks(1)] * 2), strict=True):
        weight, *others = make().model.state_dict().items()
        assert not torch.equal(tensors.pop(weight[0]), weight[1])
        assert equal(tensors, dict(others))


class WithBias(Encoder):
    takes_stacks = True

    def training_outputs(self, x):
        return {**super().training_outputs(x), "bias": self.linear.bias}


def in_turn(energies: Tensor, bias: Tensor) -> Tensor:
    """A term of the bias alone that has a gradient at its first call only."""
    in_turn.calls += 1
    return bias.sum() if in_turn.calls == 1 else bias.detach().sum()


def test_a_gradient_is_used_in_its_own_step_alone():
    terms = {"o": Term(orthogonality), "turn": Term(in_turn)}
    one = run(terms=terms, network=WithBias, optimizer=torch.optim.SGD)
    in_turn.calls = 0
    before = one.model.linear.bias.detach().clone()
    trained([one], [blocks(1)])
    assert_close(one.model.linear.bias.detach(), before - 1e-2)


def test_a_frozen_parameter_stays_as_it_is():
    def frozen(*sizes):
        model = Encoder(*sizes)
        model.linear.bias.requires_grad_(False)
        return model

    build = [partial(run, seed, network=frozen) for seed in (0, 1)]
    for make, (_, tensors) in zip(build, assert_as_alone(build, [blocks(1)] * 2), strict=True):
        assert torch.equal(tensors["linear.bias"], make().model.linear.bias)


def by_definition(energies, x, weight, reconstruction):
    """The terms as they are written down, under autograd."""
    standardised = (energies - energies.mean(0)) / energies.std(0)
    corr = standardised.T @ standardised / (len(energies) - 1)
    return {
        "lse": -torch.logsumexp(-energies, 1).sum(),
        "var": -torch.log(energies.var(0) + 1e-6).sum(),
        "tc": (corr - torch.diag(corr.diagonal())).square().sum(),
        "o": (weight @ weight.T - torch.eye(len(weight), dtype=weight.dtype)).square().sum(),
        "mse": ((reconstruction - x) ** 2).mean(),
        "l1": energies.abs().mean(),
    }


@pytest.mark.parametrize(("batch", "hidden"), [(32, 32), (24, 8), (8, 24)])
def test_the_gradient_of_a_stack_is_that_of_the_definition(batch, hidden):
    functions = [lse, variance, decorrelation, orthogonality, mse, l1]
    names = ["lse", "var", "tc", "o", "mse", "l1"]
    weights = [[1, 1, 1, 1, 1, 1], [0.5, 1, 2, 0.1, 30, 3]]
    softplus = partial(SparseAutoencoder, activation=nn.Softplus())
    runs = [
        run(
            seed,
            hidden,
            {n: Term(f, w) for n, f, w in zip(names, functions, own, strict=True)},
            softplus,
            partial(torch.optim.SGD),
            dtype=torch.float64,
        )
        for seed, own in enumerate(weights)
    ]
    batches = [blocks(seed, batch, steps=1, count=1) for seed in (1, 2)]
    expected = []
    for one, own, (block,) in zip(runs, weights, batches, strict=True):
        model = copy.deepcopy(one.model)
        (x,) = (as_unit_float(x).double() for x in block)
        energies = model.encode(x)
        parts = by_definition(energies, x, model.weight, model.decode(energies))
        total = sum(w * value for w, value in zip(own, parts.values(), strict=True))
        total.backward()
        values = torch.stack([total, *parts.values()]).detach()
        expected.append((values, [p.grad for p in model.parameters()]))
    for one, (losses, _), (values, gradients) in zip(
        runs, trained(runs, batches), expected, strict=True
    ):
        assert_close(losses[0], values, rtol=1e-6, atol=0)  # inputs are float32
        for parameter, gradient in zip(one.model.parameters(), gradients, strict=True):
            assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-10)


class OwnLayer(Encoder):
    """With a layer of torch's, which knows nothing of stacks."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.linear = nn.Linear(*self.linear.weight.T.shape)


class Unbiased(Encoder):
    takes_stacks = True

    def __init__(self, in_features, hidden):
        super().__init__(in_features, hidden)
        self.linear = Linear(in_features, hidden, bias=False)


class Running(Encoder):
    """With a parameter of its own, and a running mean in a buffer."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scale = nn.Parameter(torch.ones(self.linear.out_features))
        self.register_buffer("mean", torch.zeros(self.linear.out_features))

    def forward(self, x):
        energies = self.scale * super().forward(x)
        if self.training:
            self.mean.lerp_(energies.detach().mean(0), 0.5)
        return energies - self.mean


class Tied(Encoder):
    """Two layers of one weight."""

    def __init__(self, in_features, hidden):
        super().__init__(in_features, hidden)
        self.twin = Linear(in_features, hidden)
        self.twin.weight = self.linear.weight

    def forward(self, x):
        return super().forward(x) + self.twin(x).square()


@pytest.mark.parametrize("network", [OwnLayer, Running, Tied])
def test_a_model_that_takes_no_stacks_trains_as_plain_torch_trains_it(network):
    one = run(network=network, optimizer=torch.optim.SGD)
    assert not takes_stacks(one.model)
    assert not stacks_give_the_same_bits(one.model, EncoderModule.outputs), "so it may not say so"
    with pytest.raises(ValueError, match=f"{network.__name__} does not take stacks"):
        Stack([run(network=network), run(network=network)])
    plain = run(network=network, optimizer=torch.optim.SGD)
    losses = []
    for block in blocks(1, steps=4):
        for x in map(as_unit_float, block):
            plain.optimizer.zero_grad()
            total, parts = plain.objective(outputs_of(plain.model, x))
            total.backward()
            plain.optimizer.step()
            losses.append(torch.stack([total, *parts.values()]).detach())
    ((found, tensors),) = trained([one], [blocks(1, steps=4)])
    assert_close(found, torch.stack(losses), rtol=1e-4, atol=1e-4)
    assert_close(tensors, held(plain), rtol=1e-3, atol=1e-4)
    assert_close(dict(one.model.named_buffers()), dict(plain.model.named_buffers()))


class ScaledInAnyCompany(Encoder):
    """With a parameter and a buffer of its own, and hooks around the step."""

    takes_stacks = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scale = nn.Parameter(torch.ones(self.linear.out_features))
        self.register_buffer("mean", torch.zeros(self.linear.out_features))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        energies = super().forward(x) * self.scale.unsqueeze(-2)
        with torch.no_grad():
            self.mean.lerp_(energies.mean(-2), 0.5)
        return energies

    @torch.no_grad()
    def before_step(self):
        self.linear.bias.grad.zero_()

    @torch.no_grad()
    def after_step(self):
        self.scale.clamp_(max=1.01)
        self.steps += 1


def test_a_model_that_takes_stacks_may_have_parameters_buffers_and_hooks():
    build = [partial(run, seed, network=ScaledInAnyCompany) for seed in range(3)]
    assert takes_stacks(build[0]().model)
    found = assert_as_alone(build, [blocks(1), blocks(1), blocks(2)])
    for make, (_, tensors) in zip(build, found, strict=True):
        bias = make().model.linear.bias
        assert torch.equal(tensors["linear.bias"], bias), "its gradient was taken away"
        assert_close(tensors["scale"].max(), torch.tensor(1.01))
        assert tensors["steps"] == 6
        assert tensors["mean"].any()


def test_components_of_a_models_own_parameters_fill_their_lanes():
    assert not takes_stacks(run(hidden=40, network=ScaledInAnyCompany).model)
    assert takes_stacks(run(hidden=64, network=ScaledInAnyCompany).model)


@pytest.mark.parametrize("hidden", [32, 5])
def test_weights_that_rise_over_the_first_steps(hidden):
    def terms(warmup):
        return DERIVED | {
            "tc": Term(decorrelation, 2.0, warmup=warmup),
            "l1": Term(l1, 30.0, warmup=2 * warmup),
        }

    build = [
        partial(run, seed, hidden, terms=terms(warmup), steps_done=done)
        for seed, (warmup, done) in enumerate([(4, 0), (0, 0), (10, 1)])
    ]
    batches = [blocks(1, batch=64, count=1)] * 3
    found = assert_as_alone(build, batches)
    for (losses, _), (warmup, done) in zip(found, [(4, 0), (0, 0), (10, 1)], strict=True):
        for step, (total, lse_, var, tc, l1_) in enumerate(losses.tolist()):
            share = min(1, (step + done) / warmup) if warmup else 1
            half = min(1, (step + done) / (2 * warmup)) if warmup else 1
            expected = lse_ + var + 2 * share * tc + 30 * half * l1_
            assert total == pytest.approx(expected, rel=1e-5)


class CentredInAnyCompany(Encoder):
    takes_stacks = True

    def forward(self, x):
        energies = super().forward(x)
        return (energies - energies.mean(-2, keepdim=True)).softmax(-1)


class Deep(Encoder):
    takes_stacks = True

    def __init__(self, in_features, hidden):
        super().__init__(in_features, hidden)
        self.second = Linear(hidden, hidden)

    def forward(self, x):
        return self.second(super().forward(x)).relu()


@pytest.mark.parametrize("network", [CentredInAnyCompany, Deep, Unbiased])
def test_a_model_of_ones_own_that_takes_leading_dimensions_is_stacked(network):
    build = [partial(run, seed, network=network) for seed in range(3)]
    assert takes_stacks(build[0]().model)
    assert_as_alone(build, [blocks(1), blocks(1), blocks(2)])


def test_making_a_stack_leaves_models_and_random_numbers_alone():
    runs = [run(1), run(2)]
    before = [p.detach().clone() for one in runs for p in one.model.parameters()]
    state = torch.get_rng_state()
    Stack(runs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, (p for one in runs for p in one.model.parameters()), before))


def test_the_models_own_parameters_become_views_of_the_stacks():
    models = [run(seed).model for seed in range(3)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    stack = stack_models(models)
    assert stack.weight.shape == (3, 32, 64)
    for number, model in enumerate(models):
        assert all(torch.equal(v, before[number][k]) for k, v in model.state_dict().items())
        assert model.weight.data_ptr() == stack.weight[number].data_ptr()
    with torch.no_grad():
        stack.weight[1].fill_(7)
    assert (models[1].weight == 7).all()
    assert torch.equal(models[2].weight, before[2]["linear.weight"])


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [
        (partial(torch.optim.Adam, fused=True), {"step", "exp_avg", "exp_avg_sq"}),
        (partial(torch.optim.AdamW, fused=False), {"step", "exp_avg", "exp_avg_sq"}),
        (partial(torch.optim.SGD, momentum=0.9), {"momentum_buffer"}),
        (torch.optim.NAdam, {"step", "exp_avg", "exp_avg_sq", "mu_product"}),
    ],
)
def test_each_optimizer_keeps_its_own_moments(optimizer, moments):
    together = [run(seed, optimizer=optimizer) for seed in range(3)]
    trained(together, [blocks(1)] * 3)
    for seed, one in enumerate(together):
        alone = run(seed, optimizer=optimizer)
        trained([alone], [blocks(1)])
        found, expected = one.optimizer.state_dict(), alone.optimizer.state_dict()
        assert found["param_groups"] == expected["param_groups"]
        assert set(found["state"]) == {0, 1}
        for key, state in expected["state"].items():
            assert set(state) == moments
            assert all(torch.equal(found["state"][key][k], v) for k, v in state.items())


def test_moments_go_with_a_run_into_another_stack():
    first, second = blocks(1, steps=6, count=2)
    alone = run(0)
    trained([alone], [[first, second]])
    moving = run(0)
    trained([moving, run(1)], [[first]] * 2)
    trained([run(2), run(3), moving], [[second]] * 3)
    assert all(map(torch.equal, moving.model.parameters(), alone.model.parameters()))


def test_optimizers_that_are_set_alike_take_one_call():
    settings = [{"lr": 1e-3}, {"lr": 1e-2}, {"lr": 1e-3}, {"lr": 1e-3, "betas": (0.8, 0.9)}]
    runs = [run(seed, optimizer=torch.optim.Adam) for seed in range(4)]
    for one, arguments in zip(runs, settings, strict=True):
        one.optimizer = torch.optim.Adam(one.model.parameters(), **arguments)
    clipped, own = run(4, clip=lambda parameters: None), run(5, optimizer=torch.optim.NAdam)
    merged, alone = merge_steps([one.bare_optimizer for one in [*runs, clipped, own]])
    assert len(merged) == 3
    assert alone == [4, 5]
    assert merge_optimizers([runs[0].optimizer]) is runs[0].optimizer


def test_the_moments_of_dead_units_do_not_become_denormal() -> None:
    flushes = torch.set_flush_denormal(False)
    one = run(terms={"l1": Term(l1)})
    for parameter in one.model.parameters():
        parameter.data.fill_(-1)  # on images, all units are dead, so each gradient is 0
        tiny = torch.full_like(parameter, torch.finfo(torch.float32).tiny)
        moments = {"step": torch.tensor(9.0), "exp_avg": tiny, "exp_avg_sq": tiny.clone()}
        one.bare_optimizer.state[parameter] = moments
    Stack([one]).train([blocks()[0]])
    for parameter in one.model.parameters():
        mean = one.bare_optimizer.state[parameter]["exp_avg"]
        assert (mean == 0).all() if flushes else (mean > 0).all()
        assert (parameter == -1).all()
