"""The model in one file computes what the framework computes."""

import ast
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from statistics import fmean

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from helpers.paths import ROOT
from helpers.trainers import WITHOUT_REMARKS, bare_trainer
from scipy.stats import t

from implicit_em.engine.modules import EncoderModule
from implicit_em.metrics.energies import DeadUnits, Density, Redundancy
from implicit_em.metrics.probe import linear_probe

FILE = ROOT / "examples" / "derived_in_one_file.py"
pytestmark = WITHOUT_REMARKS
SHOWN = re.compile(r"```python\n# examples/derived_in_one_file.py\n(.*?)```", re.DOTALL)


@pytest.fixture
def example(small_mnist, tmp_path, monkeypatch):
    """The file as a module, in a directory whose ``data`` is small."""
    (tmp_path / "data").symlink_to(small_mnist)
    monkeypatch.chdir(tmp_path)
    spec = spec_from_file_location(FILE.stem, FILE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_the_module(start, batches):
    """Return the loss and the gradients of each step of ``EncoderModule`` under a Trainer."""
    steps = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            steps.append((outputs["loss"].item(), gradients(module.model)))

    components, pixels = start[0].shape
    module = EncoderModule({"in_features": pixels, "hidden": components})
    module.model.double().load_state_dict(dict(zip(module.model.state_dict(), start, strict=True)))
    trainer = bare_trainer(max_epochs=1, precision="64-true", callbacks=[Watch()])
    trainer.fit(module, batches)
    return steps


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def figures_in(printed):
    """Return the figures that the file prints at its end, by their names."""
    rows = re.findall(r"^([a-z]+(?: [a-z]+)?)  +(\S+)$", printed, re.MULTILINE)
    return {name: float(value) for name, value in rows}


class Batches(list):
    """Batches of images as a loader of one epoch: a bare list would be several loaders."""

    batch_sampler = sampler = None


def test_ten_steps_have_the_frameworks_losses_and_gradients(example):
    torch.manual_seed(0)
    images, _ = example.mnist(train=True)
    batches = [x.double() for _ in range(2) for x in example.batches(images)]
    assert [len(x) for x in batches] == 2 * [128, 128, 128, 128, 88]
    encoder = example.new_encoder(images.shape[1]).double()
    with torch.no_grad():
        encoder[0].bias[0] = -100  # a dead component
    start = [parameter.detach().clone() for parameter in encoder.parameters()]
    optimizer = example.Adam(encoder.parameters(), lr=example.LEARNING_RATE)
    steps = with_the_module(start, Batches(batches))
    assert len(steps) == 10
    for x, (loss, expected) in zip(batches, steps, strict=True):
        assert example.step(encoder, optimizer, x) == pytest.approx(loss, rel=1e-9)
        for found, gradient in zip(gradients(encoder), expected, strict=True):
            assert (found - gradient).norm() <= 1e-9 * gradient.norm()


def test_figures_and_probe_are_the_frameworks(example):
    torch.manual_seed(0)
    (images, digits), (test_images, test_digits) = example.mnist(True), example.mnist(False)
    encoder = example.new_encoder(images.shape[1])
    with torch.no_grad():
        encoder[0].bias[:3] = -100
        energies, test_energies = encoder(images), encoder(test_images)
    figures = example.figures(test_energies)
    metrics = {"dead units": DeadUnits(64), "redundancy": Redundancy(64), "density": Density()}
    assert figures.keys() == metrics.keys()
    assert figures["dead units"] >= 3
    for name, metric in metrics.items():
        metric.update(test_energies)
        assert figures[name] == pytest.approx(metric.compute().item(), rel=1e-5)
    arguments = energies, digits, test_energies, test_digits
    probe = linear_probe(*(tensor.numpy() for tensor in arguments))
    assert example.probe_accuracy(*arguments) == pytest.approx(probe)


def test_an_epoch_is_every_image_once_in_a_new_order(example):
    torch.manual_seed(0)
    rows = torch.arange(300)[:, None]
    first, second = (torch.cat([*example.batches(rows)]).flatten() for _ in range(2))
    assert not first.equal(second)
    for epoch in (first, second):
        assert epoch.sort().values.equal(rows.flatten())


def test_it_trains_and_prints_what_it_measured(example, monkeypatch, capsys):
    losses, step = [], example.step
    monkeypatch.setattr(example, "EPOCHS", 2)
    monkeypatch.setattr(example, "step", lambda *words: losses.append(step(*words)) or losses[-1])
    example.main()
    final = fmean(losses[5:])
    printed = capsys.readouterr().out
    assert f"epoch 2/2  loss {final:.2f}\n" in printed
    assert len(losses) == 10
    assert len(figures_in(printed)) == 5
    assert figures_in(printed)["final loss"] == pytest.approx(final, rel=1e-4)


@pytest.mark.slow
def test_a_hundred_epochs_end_where_the_frameworks_seeds_do():
    """Each figure lies where a further seed of the framework's would, with 99 % probability."""
    command = [sys.executable, FILE]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = figures_in(run.stdout)
    assert found.pop("dead units") == 0
    published = {
        "probe accuracy": ("table2", "encoder", "probe_accuracy", 100),
        "density": ("table2", "encoder", "density", 100),
        "redundancy": ("table1", "lse_var_tc", "redundancy", 1),
        "final loss": ("table1", "lse_var_tc", "final_loss", 1),
    }
    assert found.keys() == published.keys()
    for name, (table, row, quantity, unit) in published.items():
        cells = pd.read_csv(ROOT / f"docs/results/tables/{table}.csv", index_col=[0, 1])
        seeds = cells.loc[(row, quantity)]
        width = t.ppf(0.995, seeds["n"] - 1) * seeds["std"] * (1 + 1 / seeds["n"]) ** 0.5
        assert found[name] * unit == pytest.approx(seeds["mean"], abs=width, rel=0), name


def test_it_is_short_and_imports_nothing_of_the_framework():
    code = FILE.read_text()
    assert code.count("\n") <= 150
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    allowed = {"torch", "torchvision", "sklearn", "numpy"} | sys.stdlib_module_names
    assert {name.partition(".")[0] for name in imported} <= allowed


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_a_page_shows_its_terms_as_they_are(page):
    (shown,) = SHOWN.findall((ROOT / page).read_text())
    assert shown.startswith("def terms(")
    assert f"\n\n{shown}\n\n" in FILE.read_text()
