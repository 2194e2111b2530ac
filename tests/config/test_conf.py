"""The configuration files: each says what it is for, composes and can be trained."""

import inspect
import re

import numpy as np
import pytest
from helpers.models import MODEL_OF_LOSS, MODEL_OF_OPTIMIZER
from helpers.paths import ROOT
from helpers.stores import make_store
from hydra.utils import get_method, get_object
from omegaconf import OmegaConf

from implicit_em.config import CONF, FURTHER
from implicit_em.engine.modules import ADAM, DERIVED_LOSS, SAE_LOSS
from implicit_em.training.check import check
from implicit_em.training.spec import RunSpec

FILES = sorted((ROOT / "conf").rglob("*.yaml"))
GROUPS = ("model", "loss", "activation", "optimizer", "lr", "data", "callbacks", "logger")
GROUPS += ("experiment",)
OPTIONS = [f"{g}={path.stem}" for g in GROUPS for path in (ROOT / "conf" / g).glob("*.yaml")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_opens_with_what_it_is_for(path):
    first, second, *_ = path.read_text().splitlines()
    comment = second if first.startswith("# @package") else first
    assert comment.startswith("# ")
    assert len(comment) > 20


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_passes_the_check(option, composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.zeros((10, 2)))
    model = {
        **{f"loss={name}": model for name, model in MODEL_OF_LOSS.items()},
        **{f"optimizer={name}": model for name, model in MODEL_OF_OPTIMIZER.items()},
    }.get(option)
    beside = [f"model={model}"] if model else []
    if option == "data=tensors":
        beside = ["data.path=X.npy"]
    if option == "data=activations":
        make_store(tmp_path / "store", [("train", [10]), ("test", [10])])
        beside = ["data.path=store"]
    check(RunSpec.of(composed(*beside, option)))


def test_the_defaults_are_the_papers(composed):
    cfg = composed()
    assert (cfg.model.hidden, cfg.data.batch_size, cfg.trainer.max_epochs) == (64, 128, 100)
    assert (cfg.lr.value, cfg.loss.lse.reduction) == (1e-3, "sum")
    assert [cfg.loss[term].weight for term in ("lse", "var", "tc", "orthogonality")] == [1, 1, 1, 0]
    assert composed("model=sae").loss.l1.weight == 0.01


def test_the_modules_defaults_are_those_of_the_files(composed):
    cfg = composed()
    for name, term in DERIVED_LOSS.items():
        assert term["_target_"] == cfg.loss[name]._target_
    terms = OmegaConf.to_container(composed("model=sae").loss)
    assert {n: {k: v for k, v in t.items() if k != "warmup"} for n, t in terms.items()} == {
        "mse": {**SAE_LOSS["mse"], "weight": 1.0},
        "l1": dict(SAE_LOSS["l1"]),
    }
    assert ADAM.items() <= OmegaConf.to_container(cfg.optimizer, resolve=True).items()


@pytest.mark.parametrize("path", sorted((ROOT / "conf/loss").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_option_of_a_term_is_a_key_of_its_file(path, composed):
    for name, term in composed(f"loss={path.stem}").loss.items():
        parameters = inspect.signature(get_method(term._target_)).parameters.values()
        assert {"weight", "warmup"} <= set(term), name
        assert {p.name for p in parameters if p.default is not p.empty} <= set(term), name


def test_every_target_of_the_configuration_is_there():
    folders = [CONF, *FURTHER]
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.yaml")]
    targets = {t for x in texts for t in re.findall(r"(?:_target_|class): (implicit_em[\w.]+)", x)}
    assert len(targets) > 30
    for target in targets:
        assert get_object(target), target
