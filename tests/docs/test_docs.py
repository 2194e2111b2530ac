"""The README's examples, typed in as they stand there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT
from omegaconf import OmegaConf

import implicit_em

README = (ROOT / "README.md").read_text()
FILE = re.compile(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", re.DOTALL)


@pytest.fixture
def own_files(command_line, tmp_path, monkeypatch):
    """Write every file that the README shows beside the command line's directory."""
    shown = FILE.findall(README)
    for name, content in shown:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {name for name, _ in shown}


def test_the_readme_shows_a_term_an_activation_a_data_set_and_a_model(own_files):
    assert own_files == {
        "my_terms.py",
        "my_conf/loss/balanced.yaml",
        "my_conf/activation/silu.yaml",
        "my_data.py",
        "my_conf/data/digits.yaml",
        "my_models.py",
        "my_conf/model/zero_bias.yaml",
    }


def test_a_custom_term_trains(own_files, command_line, small, tmp_path):
    command = ["--config-dir", "my_conf", "loss=balanced"]
    assert " ".join(command) in README
    assert command_line(*command, *small, f"hydra.run.dir={tmp_path / 'run'}") == 0
    header = (tmp_path / "run/history.csv").read_text().splitlines()[0]
    assert "train/balance" in header.split(",")


def test_custom_model_activation_and_data_train_and_come_back(own_files, command_line, tmp_path):
    command = ["--config-dir", "my_conf", "model=zero_bias", "activation=silu", "data=digits"]
    assert " ".join(command) in README
    brief = ["trainer.max_epochs=3", "logger=csv", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command_line(*command, *brief) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["parameters"] == 64 * 64 + 64
    assert metrics["probe_accuracy"] > 0.7

    from my_models import ZeroBiasEncoder

    encoder = implicit_em.load(tmp_path / "run", classes=[ZeroBiasEncoder])
    assert type(encoder) is ZeroBiasEncoder
    with pytest.raises(ValueError, match=r"my_models\.ZeroBiasEncoder"):
        implicit_em.load(tmp_path / "run")


def test_own_data_trains(command_line, tmp_path):
    commands = re.findall(r"^python train\.py (data=tensors .*?)(?: *#.*)?$", README, re.MULTILINE)
    assert len(commands) == 4
    labels = np.arange(100) % 3
    samples = np.random.default_rng(0).normal(size=(100, 8)) + labels[:, None]
    for name, array in {"X": samples, "y": labels, "T": samples, "t": labels}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "Xy.npz", X=samples, y=labels)
    for number, command in enumerate(commands):
        brief = ["trainer.max_epochs=1", "logger=csv", f"hydra.run.dir=run{number}"]
        assert command_line(*command.split(), *brief) == 0
        metrics = json.loads((tmp_path / f"run{number}/metrics.json").read_text())
        assert (metrics["probe_accuracy"] is None) == (number == 0)


def test_the_estimator_does_what_is_shown():
    (shown,) = re.findall(r"```python\n(from sklearn.*?)```", README, re.DOTALL)
    names = {}
    exec(shown, names)
    assert names["accuracy"] > 0.8
    assert names["energies"].shape == names["responsibilities"].shape == (1797, 64)
    assert names["evidence"].shape == (1797,)


def test_a_mistake_in_an_own_option_lists_it(own_files, command_line, capfd):
    assert command_line("--config-dir", "my_conf", "loss=balnced") == 2
    err = capfd.readouterr().err
    assert "did you mean balanced?" in err
    assert err.count("\n") == 1


def test_every_command_and_setting_shown_composes(composed):
    for line in re.findall(r"^python train\.py(.*)$", README, re.MULTILINE):
        arguments = [a for a in line.partition("#")[0].split() if a != "-m"]
        choices = [re.sub(r",.*", "", argument) for argument in arguments]
        assert isinstance(OmegaConf.to_container(composed(*choices), resolve=True), dict)


def test_every_option_in_the_table_of_settings_exists():
    for group, options in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", README, re.MULTILINE):
        there = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - {"default"}
        assert set(options.split(", ")) == there, group


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tests_that_the_promises_name_are_there():
    named = set(re.findall(r"`(test_\w+)", (ROOT / "docs/reliability.md").read_text()))
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = re.findall(r"^def (test_\w+)", "".join(map(Path.read_text, files)), re.MULTILINE)
    assert named
    assert named <= {*functions, *(file.stem for file in files)}
