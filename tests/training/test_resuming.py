"""``resume=DIR``: a run goes on in its own directory and with its own settings."""

import json
import shutil

import pytest
import yaml
from helpers.breaking import broken_off, never_trains
from helpers.results import results

from implicit_em.training.run import train


@pytest.fixture(scope="module")
def settings(small):
    return [*small, "optimizer=momentum", "trainer.max_epochs=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, composed, settings):
    """A run that broke off after two epochs, beside an undisturbed one."""
    folder = tmp_path_factory.mktemp("trained")
    train(composed(*settings), folder / "undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        broken_off(patch, composed(*settings), folder / "run", block=3)
    overrides = folder / "run" / ".hydra" / "overrides.yaml"
    overrides.write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def broken(trained, tmp_path):
    """Copies of the two; gives the directory of the run that broke off."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "beside",
    [
        [],
        ["trainer.enable_progress_bar=false", "checkpoint.minutes=1", "logger=tensorboard"],
    ],
)
def test_a_run_goes_on_by_its_directory_alone_beside_what_does_not_affect_the_results(
    command_line, broken, tmp_path, beside
):
    assert command_line(f"resume={broken}", *beside) == 0
    assert results(broken) == results(tmp_path / "undisturbed")
    assert not (tmp_path / "outputs").exists()
    assert (broken / "tensorboard").exists() == bool(beside)


def test_more_epochs_are_those_of_a_longer_run(command_line, composed, settings, broken, tmp_path):
    train(composed(*settings, "trainer.max_epochs=6"), tmp_path / "longer")
    assert command_line(f"resume={broken}", "trainer.max_epochs=6") == 0
    assert results(broken) == results(tmp_path / "longer")
    assert command_line(f"resume={broken}") == 0, "complete"
    assert json.loads((broken / "metrics.json").read_text())["epochs"] == 6


@pytest.mark.parametrize(
    "typed", [[], ["lr=step", "lr.schedule.step_size=3"], ["model=topk", "model.l0=3"]]
)
def test_a_complete_run_goes_on_for_more_epochs(command_line, composed, settings, tmp_path, typed):
    train(composed(*settings, *typed, "trainer.max_epochs=6"), tmp_path / "longer")
    assert command_line(*settings, *typed, "hydra.run.dir=run") == 0
    assert command_line("resume=run", "trainer.max_epochs=6") == 0
    assert results(tmp_path / "run") == results(tmp_path / "longer")


OTHERS = "seed=2 loss=lse optimizer=adam trainer.max_epochs=3 model.hidden=6 probe=none ~loss.tc "
OTHERS += "loss.tc.weight=2 callbacks=early_stopping experiment=ablation"


@pytest.mark.parametrize("override", OTHERS.split(" "))
def test_another_experiment_is_refused_and_named(refused, broken, monkeypatch, override):
    never_trains(monkeypatch)
    before = sorted((path, path.stat().st_mtime_ns) for path in broken.rglob("*"))
    line = refused(f"resume={broken}", "checkpoint.minutes=1", override)
    assert line.startswith(f"error: {override}: makes another experiment of {broken}")
    assert sorted((path, path.stat().st_mtime_ns) for path in broken.rglob("*")) == before


def test_the_logger_is_exchanged_as_a_whole(command_line, settings, tmp_path):
    wandb = ["logger=wandb", "logger.mode=disabled", "+logger.notes=mine"]
    assert command_line(*settings, *wandb, "hydra.run.dir=run") == 0
    assert command_line("resume=run", "logger=tensorboard", "trainer.max_epochs=5") == 0
    assert (tmp_path / "run/tensorboard").exists()
    saved = yaml.safe_load((tmp_path / "run/.hydra/config.yaml").read_text())
    assert "project" not in saved["logger"]
    typed = yaml.safe_load((tmp_path / "run/.hydra/overrides.yaml").read_text())
    assert [line for line in typed if "max_epochs" in line] == ["trainer.max_epochs=5"]


@pytest.mark.parametrize("epochs", ["abc", "null", "2"])
def test_what_is_no_larger_number_of_epochs_is_refused(refused, broken, epochs):
    assert "trainer.max_epochs=" in refused(f"resume={broken}", f"trainer.max_epochs={epochs}")


@pytest.mark.parametrize("typed", ["lr=cosine", "model.l0=3"])
def test_more_epochs_are_refused_where_the_training_depends_on_them(
    command_line, refused, settings, typed
):
    assert command_line(*settings, typed, "hydra.run.dir=run") == 0
    line = refused("resume=run", "trainer.max_epochs=6")
    assert "error: trainer.max_epochs=6: makes another" in line
    assert "without a control of model.l0" in line


def test_what_is_no_run_is_refused_in_one_line(refused, broken, tmp_path):
    assert refused("resume=nowhere") == (
        f"error: resume=nowhere: no such directory; a relative path starts at {tmp_path}\n"
    )
    assert not (tmp_path / "nowhere").exists()
    line = refused("-m", f"resume={broken}", "seed=1,2")
    assert line.startswith(f"error: resume={broken}: only a single run can be resumed; a sweep goe")


def test_a_changed_default_does_not_change_the_run(command_line, broken, tmp_path):
    """Its own file decides, not what ``conf/`` holds now."""
    config = broken / ".hydra" / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["loss"]["tc"]["weight"] = 1.0
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    overrides = broken / ".hydra" / "overrides.yaml"
    typed = yaml.safe_load(overrides.read_text())
    overrides.write_text(yaml.safe_dump([*typed, "loss.tc.weight=7"]))
    assert command_line(f"resume={broken}", "checkpoint.minutes=2") == 0
    assert results(broken) == results(tmp_path / "undisturbed")
