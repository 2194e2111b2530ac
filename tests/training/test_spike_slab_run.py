"""A run of units that are on or off: its files, its control, its export and its page."""

import json
import logging

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import implicit_em
from implicit_em.base.errors import ConfigError
from implicit_em.metrics.reconstruction import fvu
from implicit_em.models.normalizing import Normalized
from implicit_em.trained.export import export
from implicit_em.trained.reading import trained
from implicit_em.training.check import check
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec
from implicit_em.viewer.exploring import explore


@pytest.fixture(scope="module")
def settings(small):
    further = ["model.hidden=32", "model.l0=4", "data.normalize=scale", "trainer.max_epochs=8"]
    return [*small, "model=spike_slab", *further, "lr.value=0.003", "probe=none"]


@pytest.fixture(scope="module")
def run(composed, settings, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train(composed(*settings, "trainer.log_every_n_steps=1"), directory)
    return directory


def test_its_temperature_is_led_to_the_target_and_kept(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["l0"] == pytest.approx(4, rel=0.1), "80 steps are few"
    assert metrics["responsibilities"] is False, "a softmax over all units means nothing here"
    history, steps = (pd.read_csv(run / name) for name in ("history.csv", "steps.csv"))
    assert [c for c in history if c.startswith("control/")] == ["control/l0", "control/temperature"]
    kept = load_file(run / "model.safetensors")
    factors = torch.tensor(steps["l0_factor"].to_numpy())
    assert factors.min() < 0.9 * factors.max()
    torch.testing.assert_close(kept["temperature"], (factors[-1:] * kept["initial"]).float())
    means = (factors * kept["initial"]).view(8, -1).mean(1)
    assert history["control/temperature"].tolist() == pytest.approx(means.tolist(), rel=1e-6)


def test_it_is_loaded_measured_and_shown_like_any_other(run, tmp_path):
    found, metrics = trained(run), json.loads((run / "metrics.json").read_text())
    normalised = found.data.split("test")[0]
    raw = found.normalizer.inverse(normalised)
    model = implicit_em.Run(run).model
    torch.testing.assert_close(model.encode(raw), found.model.encode(normalised), atol=1e-4, rtol=0)
    assert (model.encode(raw) > 0).sum(1).double().mean().item() == pytest.approx(metrics["l0"])
    own = fvu(raw.numpy(), model.reconstruct(raw).numpy())
    assert own == pytest.approx(metrics["fvu"], rel=1e-3)
    assert own < 0.5
    r = model.responsibilities(raw)
    assert torch.equal(r > 0, model.encode(raw) > 0)
    page = explore([run], tmp_path / "page")
    assert page.exists()


def test_an_export_has_hard_units_and_says_what_this_changes(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        folder = export(run, out=tmp_path / "saelens")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "implicit_em.trained.export"]
    config = json.loads((folder / "cfg.json").read_text())
    said = config["metadata"]
    assert config["architecture"] == "jumprelu"
    assert said["implicit_em_model"] == "SpikeSlab"
    assert said["implicit_em_code"] == "on or off, from r = 1/2 on"
    model, other, found = implicit_em.load(run), implicit_em.load(folder), trained(run)
    raw = found.normalizer.inverse(found.data.split("test")[0]).float()
    hard = Normalized(model.model.hard(), model.normalizer)
    torch.testing.assert_close(other.encode(raw), hard.encode(raw), atol=1e-4, rtol=1e-4)
    assert 0 < (hard.encode(raw) > 0).double().mean() < 1
    fvus = [fvu(raw.numpy(), one.reconstruct(raw).numpy()) for one in (other, model)]
    assert [said["implicit_em_fvu"], said["implicit_em_fvu_of_run"]] == pytest.approx(
        fvus, rel=1e-3
    )
    assert line == (
        f"codes are on or off, from r = 1/2 on, in the export: FVU {fvus[0]:.4f}; {fvus[1]:.4f} in "
        "the run"
    )


def test_half_precision_and_a_temperature_of_ones_own(composed, settings, tmp_path):
    own = ["model.l0=null", "model.temperature=0.05", "trainer.precision=bf16-mixed"]
    metrics = train(composed(*settings, *own, "trainer.max_epochs=2"), tmp_path)
    assert 0 < metrics["l0"] < 32
    assert metrics["fvu"] < 1
    assert implicit_em.load(tmp_path).model.temperature == torch.tensor([0.05])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("model.temperature=0", r"^model\.temperature=0: allowed are finite numbers above 0"),
        ("activation=softplus", r"activation=Softplus.*: allowed is relu"),
        ("model=gated loss=score", r"needs slab, which Gated does not have"),
    ],
)
def test_what_does_not_fit_is_one_line(composed, typed, said):
    with pytest.raises(ConfigError, match=said):
        check(RunSpec.of(composed("model=spike_slab", *typed.split())))
