"""Run directories, checkpoints and settings of version 0.1.0 keep their meaning.

The fixtures were made by that version, before its modules moved: a run that is complete, one whose
process was killed in its second of three epochs, and the fingerprints of many settings.
"""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
from helpers.breaking import never_trains
from helpers.paths import ROOT
from hydra.utils import get_object
from omegaconf import OmegaConf

import implicit_em
from implicit_em.config import CONF
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.config.spec import RunSpec
from implicit_em.engine.stack import Stack
from implicit_em.sweeps.summary import read_jobs
from implicit_em.trained.evaluate import evaluate
from implicit_em.training.run import train
from implicit_em_studies.comparison.protocol import ComparisonProtocol
from implicit_em_studies.renamed import RENAMED
from implicit_em_studies.shared.planning import as_overrides
from implicit_em_studies.shared.protocol import STUDIES

EARLIER = ROOT / "tests" / "fixtures" / "earlier"
FINGERPRINTS = json.loads((EARLIER / "fingerprints.json").read_text())
DATA = ["data=tensors", "data.path=X.npy", "data.labels=y.npy", "data.batch_size=16"]
SMALL = [*DATA, "model.hidden=8", "logger=csv", "trainer.enable_progress_bar=false"]
COMPLETED = [*SMALL, "trainer.max_epochs=2"]
INTERRUPTED = [*SMALL, "model=topk", "model.l0=2", "trainer.max_epochs=3", "seed=2"]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A folder with a copy of the earlier version's data and runs, in which to work."""
    monkeypatch.chdir(shutil.copytree(EARLIER, tmp_path / "earlier"))
    return tmp_path / "earlier"


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(key, marks=[pytest.mark.slow] * ("experiment=" in key)) for key in FINGERPRINTS],
)
def test_settings_have_the_fingerprints_that_they_had(overrides, composed):
    """A grid that had a file of its own is an entry of the comparison's protocol now."""
    folder, _, name = overrides.removeprefix("experiment=").partition("/")
    protocol = ComparisonProtocol.read(CONF)
    grids = {"compare": protocol.grids, "knobs": protocol.knob_grids}.get(folder)
    typed = as_overrides(grids[name]) if grids and name else overrides.split()
    assert config_fingerprint(composed(*typed)) == FINGERPRINTS[overrides]


def test_a_complete_run_is_found_complete(earlier, composed, monkeypatch):
    never_trains(monkeypatch)
    metrics = json.loads((earlier / "completed" / "metrics.json").read_text())
    assert train(composed(*COMPLETED), "completed") == metrics
    jobs = read_jobs(earlier).set_index("directory")["status"]
    assert dict(jobs) == {"completed": "completed", "interrupted": "failed"}


def test_a_complete_run_loads_and_evaluates(earlier):
    metrics = json.loads((earlier / "completed" / "metrics.json").read_text())
    found = evaluate("completed")
    assert found["density"] == metrics["density"]
    assert found["redundancy"] == pytest.approx(metrics["redundancy"], rel=1e-6)
    assert found["probe_accuracy"] == metrics["probe_accuracy"]
    encoder = implicit_em.load("completed")
    assert type(encoder) is implicit_em.Encoder
    assert tuple(encoder.weight.shape) == (8, 12)


def test_a_run_goes_on_from_its_checkpoint(earlier, composed, monkeypatch):
    blocks = []
    train_block = Stack.train
    monkeypatch.setattr(Stack, "train", lambda *a: blocks.append(None) or train_block(*a))
    first = (earlier / "interrupted" / "history.csv").read_text().splitlines()[1]
    metrics = train(composed(*INTERRUPTED), "interrupted")
    assert (metrics["status"], metrics["epochs"], len(blocks)) == ("completed", 3, 2)
    assert (earlier / "interrupted" / "history.csv").read_text().splitlines()[1] == first
    train(composed(*INTERRUPTED), "undisturbed")
    found, expected = (
        safetensors.numpy.load_file(f"{run}/model.safetensors")
        for run in ("interrupted", "undisturbed")
    )
    for name, weights in expected.items():  # the first epoch may have been another processor's
        np.testing.assert_allclose(found[name], weights, rtol=1e-3, atol=1e-5)


def test_every_target_of_the_configuration_is_there():
    targets = {
        target
        for path in (*CONF.rglob("*.yaml"), *STUDIES.rglob("*.yaml"))
        for target in re.findall(r"(?:_target_|class): (implicit_em[\w.]+)", path.read_text())
    }
    assert len(targets) > 30
    for target in targets:
        assert get_object(target), target


TARGETS = """
models.Abs models.BatchTopK models.Dictionary models.Encoder models.Gated models.GaussianMixture
models.ICA models.JumpReLU models.KMeans models.NMF models.PCA models.Pixels models.SampledEncoder
models.SparseAutoencoder models.TopK models.linear.Linear losses.lse losses.variance
losses.decorrelation losses.orthogonality losses.mse losses.l1 losses.l1_norm losses.auxk
losses.target_l0 losses.gates_l1 losses.gates_mse data.TensorDataModule data.TorchvisionDataModule
data.ResidentDataModule distributed.GlobalBatch schedules.cosine
sweeps.callback.CheckCallback sweeps.summary.read_jobs evaluate.evaluate metrics.Density
metrics.Redundancy sklearn.ImplicitEM losses train load Encoder SparseAutoencoder EncoderModule
SparseAutoencoderModule Objective Term ResidentDataModule ResidentLoader TensorDataModule
TorchvisionDataModule feature_grid linear_probe
"""
"""What version 0.1.0 named in its configuration, README and notebooks."""


@pytest.mark.parametrize("name", TARGETS.split())
def test_documented_names_stay(name):
    module, _, attribute = f"implicit_em.{name}".rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", ["evaluate", "export", "sweeps", "viewer"])
def test_documented_commands_stay(name, monkeypatch, capsys):
    spec = importlib.util.find_spec(f"implicit_em.{name}")
    if spec.submodule_search_locations:
        name += ".__main__"
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"implicit_em.{name}").main(["--help"])
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_saved_settings_are_those_that_were_saved(earlier):
    saved = OmegaConf.load("completed/.hydra/config.yaml")
    assert (
        config_fingerprint(saved)
        == json.loads((earlier / "completed" / "metrics.json").read_text())["config_fingerprint"]
    )


@pytest.mark.parametrize("old", RENAMED)
def test_what_has_moved_is_found_by_its_earlier_name_and_keeps_its_fingerprint(old, composed):
    assert get_object(RENAMED[old])
    earlier, now = (
        composed(f"++callbacks.one={{_target_:{name}}}") for name in (old, RENAMED[old])
    )
    assert RunSpec.of(earlier).settings == RunSpec.of(now).settings
    assert {config_fingerprint(cfg) for cfg in (earlier, now)} == {RunSpec.of(now).fingerprint}
    without = composed("++callbacks.one={_target_:somewhere.else}")
    assert config_fingerprint(without) != config_fingerprint(now)


def test_a_model_that_has_moved_loads_by_its_earlier_name(earlier):
    unit = "implicit_em.theory.volume.UnitRows"
    file = earlier / "completed" / "model.json"
    content = json.loads(file.read_text())
    content["model"] |= {"_target_": unit, "gain": 4.5}
    file.write_text(json.dumps(content))
    model = implicit_em.load("completed", classes=[get_object(RENAMED[unit])])
    assert (type(model).__name__, model.gain) == ("UnitRows", 4.5)
