"""The examples of the README and of the documentation, typed in as they stand there."""

import json
import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.language import WIDTH, make_model, reads
from helpers.paths import ROOT
from helpers.trainers import WITHOUT_REMARKS
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import implicit_em
from implicit_em.language.settings import HarvestSettings
from implicit_em.language.store import ActivationStore

pytestmark = WITHOUT_REMARKS
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if DOCS / "results" not in path.parents),
]
FILE = re.compile(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(?!# \S+\.py\n)(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^(?:implicit-em train|python train\.py)\b(.*)$", re.MULTILINE)
BOX = re.compile(r"^│ (.+?) +│", re.MULTILINE)
HARVEST = re.compile(r"^implicit-em harvest\b(.*)$", re.MULTILINE)
PLUGINS = {"ray_local": "hydra_ray_launcher"}
NOT_INSTALLED = [name for name, at in PLUGINS.items() if not find_spec(f"hydra_plugins.{at}")]


def text(page):
    return (ROOT / page).read_text()


def commands(page):
    """Return the arguments of every ``implicit-em train`` and ``python train.py`` of a page."""
    fences = re.findall(r"```sh\n(.*?)```", text(page), re.DOTALL)
    lines = COMMAND.findall("".join(fences))
    return [shlex.split(line, comments=True) for line in lines]


def run_python(code, monkeypatch):
    monkeypatch.setattr("builtins.print", lambda *_: None)
    names = {}
    exec(code, names)
    return names


def write_files(page, folder):
    """Write every file that a page shows into a folder."""
    shown = FILE.findall(text(page))
    assert shown
    for name, content in shown:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.fixture
def own_files(command_line, tmp_path, monkeypatch):
    """Write the files of the guide beside the command line's directory."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write_files("docs/how-to/extend.md", tmp_path)


def test_a_custom_model_takes_sparse_steps(own_files):
    cls = import_module("my_sparse_model").Strict
    torch.manual_seed(0)
    model, x = cls(6, 20), 4 * torch.randn(9, 6)
    gradients = []
    for energies in (
        model.sparse_outputs(x, 180)["energies"].dense(),
        model.sparse_outputs(x, 0)["energies"],
        model.training_outputs(x)["energies"],
    ):
        assert 0 < (energies > 0).sum() < 180
        gradients.append(torch.autograd.grad(energies.square().sum(), [*model.parameters()]))
    for found in gradients[:2]:
        torch.testing.assert_close(found, gradients[2])


def test_a_custom_term_and_optimizer_train(own_files, command_line, small, tmp_path):
    command = ["--config-dir", "my_conf", "loss=balanced"]
    assert command in commands("docs/how-to/extend.md")
    run = tmp_path / "run"
    assert command_line(*command, "optimizer=rmsprop", *small, f"hydra.run.dir={run}") == 0
    header = (run / "history.csv").read_text().splitlines()[0]
    assert "train/balance" in header.split(",")


def test_custom_model_activation_and_data_train_and_come_back(own_files, command_line, tmp_path):
    command = ["--config-dir", "my_conf", "model=zero_bias", "activation=silu", "data=digits"]
    assert command in commands("docs/how-to/extend.md")
    brief = ["trainer.max_epochs=3", "logger=csv", f"hydra.run.dir={tmp_path / 'outputs/RUN'}"]
    assert command_line(*command, *brief) == 0
    metrics = json.loads((tmp_path / "outputs/RUN/metrics.json").read_text())
    assert metrics["parameters"] == 64 * 64 + 64
    assert metrics["probe_accuracy"] > 0.7

    from use_it import ZeroBiasEncoder, encoder

    assert type(encoder) is ZeroBiasEncoder
    with pytest.raises(ValueError, match=r"my_models\.ZeroBiasEncoder"):
        implicit_em.load(tmp_path / "outputs/RUN")


def test_a_schedule_of_several_schedulers_trains(command_line, small, tmp_path):
    page = "docs/how-to/learning-rate.md"
    write_files(page, tmp_path)
    command = ["--config-dir", "my_conf", "lr=warm_cosine"]
    assert command in commands(page)
    assert command_line(*command, *small, "probe=none", "hydra.run.dir=run") == 0
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    rate = checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-3 * (0.1 + 0.9 * 2 / 5)), "after two of the five warm-up epochs"


@pytest.mark.slow
def test_own_data_trains(command_line, tmp_path, monkeypatch):
    shown = [c for c in commands("docs/how-to/own-data.md") if c[0] == "data=tensors"]
    assert len(shown) == 5
    labels = np.arange(100) % 3
    samples = np.random.default_rng(0).normal(size=(100, 8)) + labels[:, None]
    for name, array in {"X": samples, "y": labels, "T": samples, "t": labels}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "Xy.npz", X=samples, y=labels)
    for number, command in enumerate(shown):
        brief = ["trainer.max_epochs=1", "logger=csv", f"hydra.run.dir=run{number}"]
        assert command_line(*command, *brief) == 0
        metrics = json.loads((tmp_path / f"run{number}/metrics.json").read_text())
        assert (metrics["probe_accuracy"] is None) == (number == 0)
    (tmp_path / "outputs").mkdir()
    (tmp_path / f"run{number}").rename(tmp_path / "outputs/RUN")
    names = run_python(*PYTHON.findall(text("docs/how-to/own-data.md")), monkeypatch)
    assert names["energies"].shape == (100, 64)


def test_known_features_are_counted(command_line, tmp_path, monkeypatch):
    page = "docs/how-to/ground-truth.md"
    (command,) = commands(page)
    brief = ["trainer.max_epochs=1", "logger=csv", "hydra.run.dir=outputs/RUN"]
    assert command_line(*command, *brief) == 0
    result = run_python(*PYTHON.findall(text(page)), monkeypatch)["result"]
    assert all(f"`{key}`" in text(page) for key in result)
    assert result["auroc_features"] == 512


def test_harvests_compose_and_their_store_is_read_as_shown(command_line_of, tmp_path, monkeypatch):
    page = text("docs/how-to/harvest.md")
    lines = [line.partition(" #")[0].split() for line in HARVEST.findall(page)]
    assert len(lines) == 10
    for line in lines:
        if "--config-dir" in line:
            continue  # the test below types it
        choices = [re.sub(r",[^]]*$", "", word) for word in line if word != "-m"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            HarvestSettings.of(compose("harvest", overrides=choices))
    lines = [*reads(tmp_path, "bert"), "context.length=16", "store=stores/minilm"]
    assert command_line_of("harvest", *lines) == 0
    names = run_python(*PYTHON.findall(page), monkeypatch)
    assert names["vectors"].shape[1] == names["statistics"].mean_D.numel() == WIDTH
    written = {path.name for path in (tmp_path / "stores/minilm").iterdir()} - {".lock"}
    for name in written - {path for path in written if re.match(r"(train|validation|test)-", path)}:
        assert f"`{name}" in page


def test_a_store_is_trained_on_and_its_model_read_as_shown(
    command_line_of, tmp_path, monkeypatch, capfd
):
    page = "docs/how-to/language-models.md"
    own = ["text.label=label", "context.length=16", "split.test=0.2", "store=stores/minilm"]
    assert command_line_of("harvest", *reads(tmp_path, "bert"), *own) == 0
    trains, _, _, probes, _, goes_on = commands(page)
    brief = ["model.hidden=20", "model.l0=5", "data.batch_size=64", "logger=csv"]
    assert command_line_of("train", *trains, *brief, "hydra.run.dir=outputs/RUN") == 0
    shown = re.search(r"^data: N .* A$", text(page), re.MULTILINE)[0]
    pattern = re.sub(r"\b[NMA]\b", r"[\\d,.]+", re.escape(shown))
    assert re.search(f"^{pattern}$", capfd.readouterr().out, re.MULTILINE)
    names = run_python(*PYTHON.findall(text(page)), monkeypatch)
    assert names["code"].shape == (len(names["vectors"]), 20)
    brief += ["data.label=label", "hydra.run.dir=probed"]
    assert command_line_of("train", *probes, *brief) == 0
    for run, is_probed in (("outputs/RUN", False), ("probed", True)):
        metrics = json.loads((tmp_path / run / "metrics.json").read_text())
        assert (metrics["probe_accuracy"] is not None) == is_probed
    (tmp_path / "stores").rename(tmp_path / "elsewhere")
    assert command_line_of("train", *goes_on) == 0
    assert "outputs/RUN is complete already" in capfd.readouterr().out


def test_a_source_of_ones_own_is_harvested(command_line_of, tmp_path, monkeypatch):
    page = "docs/how-to/harvest.md"
    write_files(page, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (line,) = [line.split() for line in HARVEST.findall(text(page)) if "--config-dir" in line]
    model = ["lm=auto", f"lm.path={make_model(tmp_path / 'model', 'llama')}", "threads=1"]
    assert command_line_of("harvest", *line, *model, "context.length=16") == 0
    store = ActivationStore(tmp_path / "stores/squares")
    assert store.manifest.labels == {"parity": ["even", "odd"]}
    assert len(store.documents()) == 1000


def test_the_estimator_does_what_is_shown(monkeypatch):
    names = run_python(*PYTHON.findall(text("docs/how-to/scikit-learn.md")), monkeypatch)
    assert names["accuracy"] > 0.8
    assert names["energies"].shape == names["responsibilities"].shape == (1797, 64)
    assert names["evidence"].shape == (1797,)


def test_the_readmes_lines_of_python_train(monkeypatch):
    names = run_python(*PYTHON.findall(text("README.md")), monkeypatch)
    assert names["energies"].shape == names["responsibilities"].shape == (1000, 64)


def test_the_tutorial_can_be_followed_and_leaves_what_it_and_the_reference_say(
    command_line, small_mnist, tmp_path, monkeypatch, capfd
):
    page = text("docs/tutorial.md")
    (tmp_path / "data").symlink_to(small_mnist)
    printed = {}
    for command in commands("docs/tutorial.md"):
        assert command_line(*command) == 0
        printed[command[-1]] = capfd.readouterr().out
    assert BOX.findall(page) == BOX.findall(printed["hydra.run.dir=first-run"])

    names = run_python("".join(PYTHON.findall(page)), monkeypatch)
    shown = page.partition("| directory |")[2].partition("\n\n")[0]
    assert shown.partition("\n")[0].strip(" |").split(" | ") == names["columns"]
    assert re.findall(r"^\| ([^ ]+=[^ ]+) \|", shown, re.MULTILINE) == list(names["jobs"].index)
    assert names["energies"].shape == names["responsibilities"].shape == (200, 64)
    assert (tmp_path / "grid.png").exists()
    run = tmp_path / "first-run"
    tree = page.partition("first-run/\n")[2].partition("```")[0]
    shown = {name.rstrip("/") for name in re.findall(r"── (\S+)", tree)}
    assert shown == {path.name for path in run.iterdir()} - {".lock"}
    of_metrics = text("docs/reference/metrics.md").partition("## history.csv")[0]
    explained = re.findall(r"^\| `(\w+)` ", of_metrics, re.MULTILINE)
    assert set(json.loads((run / "metrics.json").read_text())) == set(explained)


@pytest.mark.slow
def test_the_tutorial_on_spectra_finds_what_it_says(command_line, monkeypatch, capfd):
    page = "docs/tutorial-spectra.md"
    makes_the_data, *looks = PYTHON.findall(text(page))
    run_python(makes_the_data, monkeypatch)
    printed = []
    for command in commands(page):
        assert command_line(*command, "trainer.enable_progress_bar=false") == 0
        printed.append(capfd.readouterr().out)
    assert BOX.findall(text(page)) == BOX.findall(printed[0])
    names = run_python(makes_the_data + "".join(looks), monkeypatch)
    assert sorted(names["of_pure"].argmax(1)) == list(range(8)), "a component for each substance"
    assert names["of_pure"].max(1).min() > 0.9
    assert names["of_topk"].mean() > names["of_derived"].mean() + 0.2


def test_a_run_whose_loss_is_not_finite_fails_in_the_line_that_is_shown(
    command_line, small_mnist, capfd
):
    page = "docs/how-to/unhealthy.md"
    (command,) = [c for c in commands(page) if "lr.value=1e30" in c]
    assert command_line(*command, f"data.root={small_mnist}", "logger=csv") == 1
    (shown,) = re.findall("^failed: .*", text(page), re.MULTILINE)
    (failed,) = re.findall("^failed: .*", "".join(capfd.readouterr()), re.MULTILINE)
    assert re.sub(r"\d+", "N", failed) == re.sub(r"\d+", "N", shown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_setting_shown_composes(page, composed):
    for arguments in commands(page):
        first, last = arguments[0], arguments[-1]
        if first == "--config-dir" or "--config-dir" in arguments[1:2]:
            continue  # the tests above type these
        if last.endswith(("RUN", "JOB'")) or first.startswith("resume="):
            continue  # a run that the page takes for granted
        if any(argument.endswith(tuple(NOT_INSTALLED)) for argument in arguments):
            continue  # a plugin of another package
        set_here = [a for a in arguments if not a.startswith("-") and "interval(" not in a]
        choices = [re.sub(r",[^]]*$", "", argument) for argument in set_here]
        assert isinstance(OmegaConf.to_container(composed(*choices), resolve=True), dict)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    readme = text("README.md")
    assert readme.count("\n") <= 200
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_the_tests_that_the_promises_name_are_there():
    named = set(re.findall(r"`(test_\w+)", text("docs/explanation/reliability.md")))
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = re.findall(r"^def (test_\w+)", "".join(map(Path.read_text, files)), re.MULTILINE)
    assert named
    assert named <= {*functions, *(file.stem for file in files)}
