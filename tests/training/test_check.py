"""The check: what training would run into is refused before, once for each configuration."""

import pickle

import psutil
import pytest
from helpers.waiting import soon
from omegaconf import OmegaConf
from torch import nn

from implicit_em.base.errors import ConfigError
from implicit_em.config import composing
from implicit_em.config.resolvers import data_root
from implicit_em.losses import takes_stacks
from implicit_em.models import Encoder
from implicit_em.training import check as checking
from implicit_em.training.check import check, refuse_what_memory_cannot_hold
from implicit_em.training.spec import RunSpec


def of_each_sample(energies):
    return energies.mean(-1)


@takes_stacks
def of_all_replicas(energies):
    return energies.mean()


class Mean(nn.Module):
    """A class where a function is expected."""

    def forward(self, energies):
        return energies.mean((-1, -2))


class Centred(Encoder):
    """Declares what it does not keep: in training its input is no tensor."""

    takes_stacks = True

    def forward(self, x):
        return super().forward(x - x.mean(-1, keepdim=True))


class OneLess(Encoder):
    """Leaves an energy out."""

    def forward(self, x):
        return super().forward(x)[..., 1:]


class Unmeasured(Encoder):
    """Fails only when it is measured."""

    def encode(self, x):
        raise NotImplementedError("no code")


class Expanded(Encoder):
    """Takes the tensor of a stack's input."""

    takes_stacks = True

    def forward(self, x):
        x = x if isinstance(x, type(self.weight.data)) else x.expanded()
        return super().forward(nn.functional.normalize(x, dim=-1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+loss.own._target_=test_check.of_each_sample"],
            r"loss\.own: must return one number .* it returns the shape \(8,\)",
        ),
        (
            ["+loss.own._target_=test_check.of_all_replicas"],
            r"loss\.own: must return one number .* the shape \(1,\) .* returns the shape \(\)",
        ),
        (
            ["+loss.own._target_=test_check.Mean"],
            r"^loss\.own: must return one number for each leading index .* it returns a Mean "
            r"\(a term is a function, not a class\)$",
        ),
        (["model._target_=test_check.OneLess"], "model: gives 63 energies; its weight has 64 rows"),
        (["model._target_=test_check.Unmeasured"], "model in testing: no code"),
        (["model._target_=test_check.Centred"], "model in training, with loss: 'SharedInput'"),
    ],
)
def test_what_only_training_would_show_is_refused(overrides, message, composed):
    with pytest.raises(ConfigError, match=message):
        check(RunSpec.of(composed(*overrides)))


def test_a_model_may_take_its_stacks_tensor(composed):
    check(RunSpec.of(composed("model._target_=test_check.Expanded")))
    assert len(checking._passed) == 1


def test_runs_that_differ_in_seed_and_logger_are_checked_once(composed, monkeypatch):
    tried = []
    monkeypatch.setattr(checking, "_dry_run", lambda *_: tried.append(None))
    for overrides in (["seed=1"], ["seed=2", "logger=csv"], ["seed=1", "lr.value=1e-2"]):
        check(RunSpec.of(composed(*overrides)))
    assert len(tried) == 2


def test_a_spec_is_plain_data(composed):
    spec = RunSpec.of(composed("model=topk", "seed=3"))
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert again.build_module(16).model.k == 8
    assert (spec.settings["seed"], spec.tags) == (3, ("TopK",))
    longer = RunSpec.of(composed("model=topk", "seed=3", "trainer.max_epochs=7"))
    assert longer.fingerprint != spec.fingerprint
    assert longer.identity == spec.identity
    assert RunSpec.of(composed("model=topk", "seed=4")).identity != spec.identity


def test_data_come_from_here_or_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mnist, kmnist = (
        OmegaConf.create({"dataset": {"_target_": f"torchvision.datasets.{name}"}})
        for name in ("MNIST", "KMNIST")
    )
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)  # as a failed download leaves it
    assert data_root(_parent_=mnist) != "data"
    (tmp_path / "data" / "X.npy").touch()
    assert data_root(_parent_=mnist) != "data", "the checkout has MNIST"
    assert data_root(_parent_=kmnist) == "data"
    (tmp_path / "data" / "MNIST" / "raw" / "images").touch()
    assert data_root(_parent_=mnist) == "data"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("_target_: x\n  hidden: 3\n", "mapping values are not allowed"),
        ("a: 1\na: 2", "found duplicate key a"),
    ],
)
def test_yaml_that_is_none_gives_one_line(refused, tmp_path, content, reason):
    path = tmp_path / "mine" / "model" / "bad.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with soon():
        line = refused("--config-dir", str(tmp_path / "mine"), "model=bad")
    assert str(path) in line
    assert reason in line
    assert [*tmp_path.iterdir()] == [tmp_path / "mine"]


def test_overrides_that_cannot_be_parsed_give_one_line(refused):
    assert "seed=1 seed=2: quote what has = or , in it" in refused("seed=1\nseed=2")
    deep = "+x=" + "[" * 1_000 + "]" * 1_000
    with soon():
        assert "are too deep in one another: +x=[[[" in refused(deep)
        with pytest.raises(ConfigError, match="are too deep in one another"):
            composing.composed("train", [deep])


def test_a_width_that_memory_cannot_hold_is_refused_before_anything_trains(
    command_line, small, monkeypatch, capfd, tmp_path
):
    total = psutil.virtual_memory()._replace(total=5 * 10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: total)
    assert command_line(*small, "model.hidden=1000000", "hydra.run.dir=run") == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "model.hidden=1000000: training takes at least 0.7 GB for inputs of width 64" in line
    assert "(weights, gradients, pre-activations); there are 0.5 GB" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("precision", "size"), [("32-true", 4), ("bf16-true", 2), ("64-true", 8)])
def test_what_memory_holds_is_not_refused(composed, small, monkeypatch, precision, size):
    spec = RunSpec.of(composed(*small, "model.hidden=1000", f"trainer.precision={precision}"))
    needed = size * (2 * 65 * 1000 + 64 * 1000)
    for total, fits in ((needed, True), (needed - 1, False)):
        found = psutil.virtual_memory()._replace(total=total)
        monkeypatch.setattr(psutil, "virtual_memory", lambda found=found: found)
        if fits:
            refuse_what_memory_cannot_hold(spec, 64)
        else:
            with pytest.raises(ConfigError, match=r"model\.hidden=1000: training takes at least"):
                refuse_what_memory_cannot_hold(spec, 64)
