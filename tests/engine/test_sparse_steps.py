"""Sparse steps take the steps of dense ones, for every family."""

import pandas as pd
import pytest
import torch
from helpers.draws import draw
from helpers.models import mainly
from helpers.replicas import DERIVED, blocks, run
from torch.testing import assert_close

from implicit_em import codes
from implicit_em.base.errors import NonFiniteLossError
from implicit_em.codes import Code
from implicit_em.data import Block
from implicit_em.engine.control import SparsityControl
from implicit_em.engine.modules import EncoderModule
from implicit_em.engine.sparse import LARGEST_SHARE, LEAST_UNITS, largest_share
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.losses import Term, takes_codes, takes_stacks
from implicit_em.models import Encoder
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

FAMILIES = ("encoder", "sampled", "sae", "l1", "l1_norm", "topk", "batch_topk", "jump_relu")
FAMILIES += ("gated", "hybrid", "tied_topk", "tied_batch_topk", "spike_slab")
FAMILIES += ("matryoshka",)
WIDTH, UNITS, SAMPLES = 12, 40, 24


def samples(number, count=SAMPLES):
    return draw(count, WIDTH, seed=number)


def replica(composed, model, share, *settings):
    """A run in float64, which keeps its weights, as the step is looked at."""
    cfg = composed(f"model={model}", f"model.hidden={UNITS}", *settings)

    torch.manual_seed(0)
    module = RunSpec.of(cfg).build_module(WIDTH).double()
    if module.model.start:
        module.model.start(samples(99, 100))
    if module.model.steered:
        module.model.place_biases(samples(99, 100), 0.3)
    optimizer = torch.optim.Adam(module.model.parameters(), lr=1e-2)
    return BareReplica(module.model, module.objective, optimizer, sparse_up_to=share)


def stepped(one, batches):
    """Take steps; gives all losses, the last gradients, and the last weights and buffers."""
    losses = Stack([one]).train([Block(torch.cat(batches), rows_of(batches))])
    if one.sparse_up_to:
        losses = losses[:, :-1]  # whether the step was sparse
    parameters = one.model.named_parameters()
    gradients = {n: p.grad.clone() for n, p in parameters if p.grad is not None}
    state = {n: value.detach().clone().double() for n, value in one.model.state_dict().items()}
    return losses, gradients, state


def rows_of(batches):
    return list(torch.arange(sum(map(len, batches))).split([len(batch) for batch in batches]))


def settings_of(model):
    revives = "topk" in model or model == "matryoshka"
    return [f"model.dead_after={2 * SAMPLES}", "+model.revived=5"] if revives else []


def assert_equal_steps(found, expected, tolerance):
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            largest = max(1.0, value.abs().max().item())
            assert_close(mine[name] / largest, value / largest, rtol=0, atol=tolerance, msg=name)
    assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)


@pytest.fixture
def assert_as_dense(composed):
    """Take steps of a model that is changed before, densely and sparsely: they are the same."""

    def assert_as_dense(model, batches, *settings, share=1.0, tolerance=1e-12, change=None):
        found = []
        for up_to in (0.0, share):
            one = replica(composed, model, up_to, *settings)
            if change:
                with torch.no_grad():
                    change(one)
            found.append(stepped(one, batches))
        assert_equal_steps(found[1], found[0], tolerance)

    return assert_as_dense


@pytest.mark.parametrize("share", [1.0, 1e-9], ids=["sparse", "too dense for it"])
@pytest.mark.parametrize("model", mainly(FAMILIES))
def test_a_step_has_the_gradients_of_the_dense_one(assert_as_dense, model, share):
    for batch in (samples(1), samples(2, 50), samples(3)[:2].repeat(4, 1)):
        assert_as_dense(model, [batch], *settings_of(model), share=share)


@pytest.mark.parametrize("model", mainly(FAMILIES))
def test_a_hundred_steps_lead_to_the_weights_of_the_dense_ones(assert_as_dense, model):
    batches = [samples(number) for number in range(100)]
    assert_as_dense(model, batches, *settings_of(model), tolerance=1e-8)


@pytest.mark.parametrize("share", [1.0, 1e-9], ids=["sparse", "too dense for it"])
@pytest.mark.parametrize("through", ["all", "last", "held"])
@pytest.mark.parametrize("model", ["tied_topk", "tied_batch_topk", "spike_slab"])
def test_swept_steps_lead_to_the_weights_of_the_dense_ones(assert_as_dense, model, through, share):
    swept = ["model.sweeps=3", "model.refit=2", f"model.through={through}"]
    batches = [samples(number) for number in range(5)]
    assert_as_dense(model, batches, *swept, *settings_of(model), share=share, tolerance=1e-9)


@pytest.mark.parametrize("model", ["topk", "batch_topk"])
def test_sweeps_by_a_decoder_lead_to_the_weights_of_the_dense_ones(assert_as_dense, model):
    swept = ["model.sweeps=3", "model.refit=2"]
    batches = [samples(number) for number in range(5)]
    assert_as_dense(model, batches, *swept, *settings_of(model), tolerance=1e-9)


@pytest.mark.parametrize("frozen", ["encoder", "decoder", "near"])
def test_frozen_matrices_take_part_in_a_sparse_step_as_in_a_dense_one(assert_as_dense, frozen):
    assert_as_dense("frozen_topk", [samples(1), samples(2)], f"model.frozen={frozen}")


@pytest.mark.parametrize("model", ["l1", "topk", "jump_relu", "gated", "spike_slab"])
@pytest.mark.parametrize("level", [-100.0, 100.0], ids=["no unit active", "all units active"])
def test_the_limits_of_activity_have_the_gradients_of_the_dense_step(assert_as_dense, model, level):
    def move(one):
        one.model.encoder.linear.bias.add_(level)

    assert_as_dense(model, [samples(1)], change=move)


@pytest.mark.parametrize("model", mainly(FAMILIES))
def test_a_wide_layer_takes_the_samples_in_parts(composed, model, monkeypatch):
    dense = stepped(replica(composed, model, 0, *settings_of(model)), [samples(1)])
    monkeypatch.setattr(codes, "AT_A_TIME", 5 * UNITS)
    for share in (1, 1e-9):
        found = stepped(replica(composed, model, share, *settings_of(model)), [samples(1)])
        assert_equal_steps(found, dense, 1e-12)


@pytest.mark.parametrize("model", ["topk", "batch_topk"])
def test_among_equal_activations_the_first_ones_are_chosen(assert_as_dense, model):
    def double(one):
        one.model.encoder.weight[1::2] = one.model.encoder.weight[::2]

    assert_as_dense(model, [samples(1)[:3].repeat(4, 1)], change=double)


@pytest.mark.parametrize("model", ["l1", "topk", "jump_relu", "gated"])
def test_one_sample_is_a_batch_for_models_without_batch_statistics(assert_as_dense, model):
    assert_as_dense(model, [samples(1)[:1]])


@pytest.mark.parametrize("model", ["encoder", "l1", "gated", "spike_slab"])
def test_a_control_sees_the_l0_of_the_dense_step(composed, model):
    found = []
    for share in (0.0, 1.0):
        one = replica(composed, model, share)
        one.control, one.steps_in_all = SparsityControl(6, bool(one.model.steered)), 40
        found.append(stepped(one, [samples(number) for number in range(40)]))
        assert one.control.integral != 0
    assert_equal_steps(found[1], found[0], 1e-8)


def test_float32_steps_agree_with_float64(composed):
    for model in FAMILIES:
        one, exact = (replica(composed, model, share) for share in (1.0, 0.0))
        one.model.float()
        _, gradients, _ = stepped(one, [samples(1).float()])
        _, expected, _ = stepped(exact, [samples(1)])
        for name, value in expected.items():
            largest = max(value.abs().max().item(), 1e-3)
            assert (gradients[name] - value).abs().max() < 1e-4 * largest, (model, name)


def test_a_step_makes_a_code_only_up_to_its_share(composed):
    one = replica(composed, "encoder", 1.0)
    few = one.model.sparse_outputs(samples(1), SAMPLES * UNITS)["energies"]
    assert isinstance(few, Code)
    active = len(few.values_N)
    assert isinstance(one.model.sparse_outputs(samples(1), active)["energies"], Code)
    assert not isinstance(one.model.sparse_outputs(samples(1), active - 1)["energies"], Code)


def module(hidden=LEAST_UNITS, model=None, **options):
    return EncoderModule({"in_features": 2, "hidden": hidden, **(model or {})}, **options)


def test_wide_layers_take_sparse_steps_by_themselves():
    assert largest_share("auto", module()) == LARGEST_SHARE
    assert largest_share("auto", module(LEAST_UNITS - 1)) == 0
    assert largest_share("off", module()) == 0
    assert largest_share("on", module(8)) == 1
    assert largest_share(True, module(8)) == 1, "a bare word of YAML's"
    assert largest_share(False, module()) == 0


class Subclass(Encoder):
    """A model that may compute something else."""


def usage(energies):
    """A term of all energies."""
    return energies.mean((-2, -1))


REFUSED = {
    "the class Subclass does not declare steps_sparsely": {
        "model": {"_target_": f"{__name__}.Subclass"}
    },
    "activation Softplus: sparse steps need activation=relu": {
        "model": {"activation": {"_target_": "torch.nn.Softplus"}}
    },
    "loss term usage: needs the marks takes_codes and takes_stacks": {
        "loss": {"usage": {"_target_": f"{__name__}.usage"}}
    },
    "trainer.compile=true: compiled steps are dense": {"compiled": True},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_takes_no_sparse_steps_is_refused_and_trains_densely_by_itself(reason):
    one = module(**REFUSED[reason])
    assert largest_share("auto", one) == 0
    with pytest.raises(ValueError, match=f"sparse=on: {reason}"):
        largest_share("on", one)


def test_half_precision_trains_densely():
    assert largest_share("auto", module(), "bf16-mixed") == 0
    with pytest.raises(ValueError, match="sparse steps need 32-true or 64-true"):
        largest_share("on", module(), "bf16-mixed")


def test_a_term_of_ones_own_may_declare_that_it_takes_codes():
    term = takes_stacks(takes_codes(lambda energies: energies.abs().mean((-2, -1))))
    found, expected = (
        Stack([run(terms={**DERIVED, "own": Term(term)}, sparse_up_to=share)]).train([blocks()[0]])
        for share in (1.0, 0.0)
    )
    assert found[:, -1].tolist() == [[1]] * 3, "sparse steps"
    assert_close(found[:, :-1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("word", "said"), [("maybe", "maybe"), (None, "null"), (1, "1")])
def test_another_word_is_refused(word, said):
    with pytest.raises(ValueError, match=f"sparse={said}: allowed are auto, on, off"):
        largest_share(word, module())


SPARSE = ["trainer.sparse=on", "model.hidden=24"]


@pytest.mark.parametrize(
    ("sparse", "model", "share"),
    [("auto", "topk", 1), ("auto", "l1", 0), ("on", "l1", 1), ("off", "encoder", None)],
)
def test_the_history_shows_the_share_of_sparse_steps_if_any_step_may_be_sparse(
    composed, small, tmp_path, sparse, model, share
):
    wide = [f"model={model}", "model.hidden=1024", "probe=none", "trainer.max_epochs=1"]
    train(composed(*small, *wide, f"trainer.sparse={sparse}"), tmp_path)
    history = pd.read_csv(tmp_path / "history.csv").to_dict("list")
    assert history.get("train/sparse_steps") == (None if share is None else [share])


def test_a_loss_that_is_not_finite_ends_the_run(composed, small, tmp_path):
    cfg = composed(*small, *SPARSE, "lr.value=1e30", "optimizer=sgd")
    with pytest.raises(NonFiniteLossError):
        train(cfg, tmp_path)
