"""Models of a target that is not the input: what they compute, fold, refuse and find."""

import pytest
import torch
from helpers.models import MODELS
from helpers.stacking import parts_give_the_same, stacks_give_the_same_bits
from helpers.trainers import WITHOUT_REMARKS, bare_trainer
from torch import nn
from torch.optim import Adam
from torch.testing import assert_close
from torch.utils.data import DataLoader

from implicit_em import models
from implicit_em.base.errors import ConfigError
from implicit_em.data import Block
from implicit_em.engine.modules import EncoderModule, SparseAutoencoderModule
from implicit_em.engine.stack import BareReplica, Stack, outputs_of
from implicit_em.losses import Objective, Term, auxk, mse
from implicit_em.metrics.dictionaries import cosines, norms_at_sites, single_site
from implicit_em.models.declarations import undeclared
from implicit_em.models.normalizing import Normalized, Normalizer, fit_normalizer, taking_raw

pytestmark = WITHOUT_REMARKS
FAMILIES = [
    cls
    for cls in MODELS
    if cls in (models.SparseAutoencoder, models.Dictionary)
    or (issubclass(cls, models.Dictionary) and cls is not models.SpikeSlab)
]
WITH_SKIP = pytest.mark.parametrize("skip", [False, True])
EACH = pytest.mark.parametrize("cls", FAMILIES)
X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))


def made(cls, inputs=6, targets=4, units=32, **options):
    """Return a model with random parameters."""
    torch.manual_seed(0)
    model = cls(inputs, units, out_features=targets, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@WITH_SKIP
@EACH
def test_a_transcoder_declares_what_is_true_of_it(cls, skip):
    model = made(cls, 48, 16, skip=skip)
    for declaration, trial in (
        ("takes_stacks", stacks_give_the_same_bits),
        ("takes_parts", parts_give_the_same),
    ):
        assert (undeclared(model, declaration) == []) == trial(model, outputs_of)


@WITH_SKIP
@EACH
def test_terms_get_the_target_less_the_linear_path_and_people_get_their_sum(cls, skip):
    model = made(cls, skip=skip)
    found = outputs_of(model, torch.cat([X, Y], 1))
    path = X @ model.skip.weight.T if skip else torch.zeros(len(X), 4)
    assert torch.equal(found["x"], X)
    assert_close(found["target"], Y - path)
    assert_close(found["data_target"], Y)
    code = model.encode(X)
    assert_close(model.encoder.linear.weight @ X[0] + model.encoder.linear.bias, model_pre(model))
    assert_close(model.reconstruct(X), code @ model.decoder.weight.T + model.decoder.bias + path)
    assert_close(model.decode(code, X), model(X))
    if skip:
        with pytest.raises(ConfigError, match=r"needs the inputs, decode\(activations, x\)"):
            model.decode(code)


def model_pre(model):
    """Pre-activations of the first input: nothing of the target's space is subtracted."""
    pre = getattr(model, "pre_activations", model.encoder.linear)
    return pre(X[:1])[0]


@pytest.mark.parametrize("option", ["scale", "standard", "zca"])
@WITH_SKIP
@EACH
def test_the_inputs_part_goes_into_the_encoder_and_the_targets_into_the_decoder(cls, skip, option):
    raw_x, raw_y = 3 + 2 * X, 10 * Y - 4
    own = [fit_normalizer(option, lambda v=v: [v.double()]) for v in (raw_x, raw_y)]
    both = Normalizer.side_by_side(own)
    assert_close(both(torch.cat([raw_x, raw_y], 1)), torch.cat([own[0](raw_x), own[1](raw_y)], 1))
    model = made(cls, skip=skip)
    code = model.encode(own[0](raw_x))
    expected = own[1].inverse(model.reconstruct(own[0](raw_x)))
    in_front = Normalized(model, both)
    assert_close(in_front.encode(raw_x), code)
    assert_close(in_front.reconstruct(raw_x), expected)
    assert_close(in_front.decode(code, *([raw_x] if skip else [])), expected)
    folded = taking_raw(model, both)
    assert isinstance(folded, Normalized) == (not hasattr(cls, "fold") or cls is models.Gated)
    assert_close(folded.encode(raw_x), code, atol=1e-5, rtol=1e-4)
    assert_close(folded.reconstruct(raw_x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: models.TopK(6, 32, tied=True, out_features=4), "explains its input alone"),
        (lambda: models.SpikeSlab(6, 32, out_features=4), "explains its input alone"),
        (lambda: models.TopK(6, 32, skip=True), "skip=true: the input would explain itself"),
        (lambda: models.TopK(6, 32, out_features=4, skip="no"), "skip=no: allowed are"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(build, said):
    with pytest.raises(ValueError, match=said) as error:
        build()
    assert "\n" not in str(error.value)


# --- a user's own batches


def fitted(batches, **model):
    torch.manual_seed(0)
    loss = {"mse": {"_target_": "implicit_em.losses.mse"}}
    module = SparseAutoencoderModule({"in_features": 6, "hidden": 32, **model}, loss)
    trainer = bare_trainer(max_epochs=2)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module


def test_a_tuple_of_inputs_and_targets_is_what_they_are_side_by_side():
    rows, labels = torch.cat([X, Y], 1), torch.arange(len(X))
    first = fitted([(X, Y)] * 2, out_features=4)
    for batch in ((X, Y, labels), rows, (rows, labels)):
        again = fitted([batch] * 2, out_features=4)
        assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert torch.equal(first(X), first((X, Y)))


def test_labels_are_no_targets_and_targets_need_to_be_asked_for():
    module = SparseAutoencoderModule({"in_features": 6, "hidden": 32, "out_features": 4})
    with pytest.raises(ConfigError, match="batch: 6 values of a sample; with out_features=4"):
        module.test_step((X, torch.arange(len(X))), 0)
    for other in (SparseAutoencoderModule, EncoderModule):
        with pytest.raises(ConfigError, match="allowed beside the inputs are integer labels"):
            other({"in_features": 6, "hidden": 32}).test_step((X, Y), 0)


def test_a_transposed_encoder_is_not_measured_on_a_target_even_if_it_has_the_inputs_width():
    module = EncoderModule({"in_features": 6, "hidden": 32, "out_features": 6})
    module.test_step((X, X), 0)
    assert module.finals["transpose_reconstruction_mse"].compute().isnan()


# --- what they learn


def learned(model, rows, steps, batch_size, rate=0.03):
    """Train a model on rows of inputs and targets, and return it."""
    terms = {"mse": Term(mse), "auxk": Term(auxk, 1 / 32)}
    chosen = ("mse", "auxk") if "auxiliary" in model.provides else ("mse",)
    replica = BareReplica(
        model, Objective({name: terms[name] for name in chosen}), Adam(model.parameters(), rate)
    )
    order = torch.Generator().manual_seed(0)
    batches = [torch.randint(len(rows), (batch_size,), generator=order) for _ in range(steps)]
    Stack([replica]).train([Block(rows, batches)])
    return model.eval()


@WITH_SKIP
def test_the_linear_path_starts_at_zero_and_learns_a_linear_target(skip):
    linear = X @ torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    model = models.SparseAutoencoder(6, 1, out_features=4, skip=skip)
    assert not skip or not model.skip.weight.any()
    learned(model, torch.cat([X, linear], 1), 200, 64)
    left = (linear - model.reconstruct(X)).square().sum() / linear.square().sum()
    assert left < 0.01 if skip else left > 0.3


def planted(samples):
    """Return rows of two sites with 16 known features each, of which 8 are at both.

    Also returns the directions, one block for each site, with zeros where a feature is not.
    """
    generator = torch.Generator().manual_seed(0)
    directions = nn.functional.normalize(torch.randn(24, 2, 16, generator=generator), dim=-1)
    directions[8:16, 1] = directions[16:, 0] = 0
    present = torch.rand(samples, 24, generator=generator) < 0.06
    strengths = present * (0.5 + torch.rand(samples, 24, generator=generator))
    return strengths @ directions.flatten(1), directions


def test_a_crosscoder_tells_shared_features_from_those_of_a_single_site():
    rows, directions = planted(4000)
    torch.manual_seed(0)
    model = models.TopK(32, 40, k=2, middle="zero", dead_after=6400)
    learned(model, rows, 500, 128, rate=0.01)
    units = model.decoder.weight.detach().T.numpy()
    norms = norms_at_sites(units, [slice(16), slice(16, 32)])
    found = cosines(directions.flatten(1).numpy(), units)
    partner = found.argmax(1)
    assert (found.max(1) > 0.9).all(), "each feature has a unit"
    assert single_site(norms)[partner].tolist() == [False] * 8 + [True] * 16
    assert norms[partner[8:16]].argmax(1).tolist() == [0] * 8
    assert norms[partner[16:]].argmax(1).tolist() == [1] * 8
