"""Takes the paths of the project on the simulated device and on the CPU, and prints what it found.

Run as a script with names of commands, it prints JSON; without, the table of waits.
"""

import contextlib
import io
import json
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from helpers import composing, device
from helpers.composing import composed
from helpers.draws import draw
from helpers.language import reads
from implicit_em.data import Block, sharing
from implicit_em.engine import rendezvous
from implicit_em.engine.stack import BareReplica, Stack
from implicit_em.sweeps import stacked
from implicit_em.training.spec import RunSpec

FAMILIES = ("encoder", "sampled", "mixture", "hybrid", "sae", "l1", "l1_norm", "gated")
FAMILIES += ("jump_relu", "topk", "batch_topk", "tied_topk", "tied_batch_topk", "spike_slab")
FAMILIES += ("frozen_topk", "matryoshka")
SWEPT = ("topk", "tied_batch_topk", "spike_slab")
"""Families that are also tried with several sweeps and a refit."""
CONTROLLED = ("encoder", "gated", "spike_slab")
"""Families that ``model.l0`` steers in three ways."""
WIDTH, UNITS, SAMPLES = 8, 96, 16
UNLIKE = {"train_seconds", "probe_seconds", "device", "config_fingerprint", "versions"}


def on_the_cpu(energies):
    """Loss term with the fault that the device is there for."""
    return (energies * torch.ones(energies.shape[-1])).mean((-2, -1))


class EpochWaits(pl.Callback):
    """Counts what an epoch of a run waits for, up to its losses."""

    def on_train_epoch_start(self, *_):
        device.WAITS.clear()

    def on_train_epoch_end(self, *_):
        device.EPOCHS.append(Counter(device.WAITS))


def replica_of(cfg, seed, place, share):
    torch.manual_seed(seed)
    module = RunSpec.of(cfg).build_module(WIDTH)
    x = draw(200, WIDTH, seed=99, dtype=torch.float32)
    for method, arguments in (("start", (x,)), ("place_biases", (x, 0.1))):
        if prepare := getattr(module.model, method):  # some families have none
            prepare(*arguments)
    module.to(place)
    optimizer = torch.optim.Adam(module.model.parameters(), lr=1e-2)
    further = {"sparse_up_to": share, "control": module.control, "steps_in_all": 4}
    return BareReplica(module.model, module.objective, optimizer, **further)


def steps(cfg, place, share=0.0):
    """Train on blocks of 1 and of 3 steps; gives all values, and the waits of each block.

    Dense steps are those of a stack of two.
    """
    replicas = [replica_of(cfg, seed, place, share) for seed in range(1 if share else 2)]
    stack, values, waits = Stack(replicas), [], []
    for count in (1, 3):
        inputs = draw(count * SAMPLES, WIDTH, seed=count, dtype=torch.float32).to(place)
        block = Block(inputs, list(torch.arange(len(inputs)).split(SAMPLES)))
        device.WAITS.clear()
        values.append(stack.train([block] * len(replicas)))
        waits.append(Counter(device.WAITS))
        for replica in replicas:
            replica.steps_done += count
    values += [value for one in replicas for value in one.model.state_dict().values()]
    return [value.cpu() for value in values], waits


@cache
def configuration(name, *settings):
    dead = [f"model.dead_after={2 * SAMPLES}"] if "topk" in name or name == "matryoshka" else []
    return composed("train", f"model={name}", f"model.hidden={UNITS}", *dead, *settings)


def family(name, share, *settings):
    """Take the steps of a family on both; gives whether they agree, and the waits of a step."""
    cfg = configuration(name, *settings)
    expected, _ = steps(cfg, "cpu", share)
    found, (one, three) = steps(cfg, device.NAME, share)
    agree = [torch.allclose(a, b, 1e-4, 1e-6, True) for a, b in zip(found, expected, strict=True)]
    per_step = {kind: (three[kind] - one[kind]) / 2 for kind in three | one}
    per_block = {kind: one[kind] - number for kind, number in per_step.items()}
    return {
        "agrees": all(agree) and all(value.isfinite().all() for value in found[:2]),
        "step": {kind: number for kind, number in per_step.items() if number},
        "block": {kind: number for kind, number in per_block.items() if number},
    }


def fault():
    """Take a step with a tensor that was made on the CPU; gives what the device said."""
    term = "+loss.fault._target_=helpers.device_paths.on_the_cpu"
    try:
        steps(composed("train", f"model.hidden={UNITS}", term), device.NAME)
    except RuntimeError as error:
        return {"agrees": "on the CPU" in str(error) or "same device" in str(error)}
    return {"agrees": False}


def command(name, *arguments):
    if code := composing.run_command(name, *arguments):
        raise RuntimeError(f"{name} {' '.join(arguments)}: exit code {code}")


def alike(directory, other):
    """Whether two runs have the same weights, and metrics that differ by rounding alone."""
    weights = [(one / "model.safetensors").read_bytes() for one in (directory, other)]
    metrics = [json.loads((one / "metrics.json").read_text()) for one in (directory, other)]
    found, expected = ({k: v for k, v in m.items() if k not in UNLIKE} for m in metrics)
    apart = {
        key: (found[key], value)
        for key, value in expected.items()
        if found[key] != value and not (isinstance(value, float) and np.isclose(found[key], value))
    }
    agrees = {"placed": metrics[0]["device"] == device.NAME, "weights": weights[0] == weights[1]}
    return {"agrees": all(agrees.values()) and not apart, "apart": apart, **agrees}


def placed(spec):
    """The specification of a run that a GPU would train: stacks are for GPUs and CPUs alone."""
    trainer = spec.settings["trainer"]
    word = "cuda" if trainer["accelerator"] == device.NAME else trainer["accelerator"]
    return replace(spec, settings={**spec.settings, "trainer": {**trainer, "accelerator": word}})


def equal_but_for_rounding(tensors, others):
    """Whether two files hold the same tensors; attention has other kernels on a CPU."""
    return tensors.keys() == others.keys() and all(
        torch.allclose(tensor.double(), others[name].double(), 1e-2, 1e-3)
        for name, tensor in tensors.items()
    )


class Paths:
    """The paths of whole commands, which share a folder."""

    def __init__(self, folder):
        self.folder = folder
        rng = np.random.default_rng(0)
        labels = np.arange(150) % 3
        images = rng.integers(0, 80, (150, 4, 4)) + 150 * rng.integers(0, 2, (3, 4, 4))[labels]
        np.save(folder / "x.npy", images.astype(np.uint8))
        np.save(folder / "y.npy", labels)
        data = ["data=tensors", f"data.path={folder}/x.npy", f"data.labels={folder}/y.npy"]
        self.brief = ["data.batch_size=32", "trainer.max_epochs=2", "trainer.threads=1"]
        self.brief += ["trainer.enable_progress_bar=false", "model.hidden=32", "logger=csv"]
        self.common = [*data, *self.brief]

    def both(self, name, *arguments, sweep=False):
        """Train on the device and on the CPU; gives the directories."""
        places = [self.folder / f"{name}-{place}" for place in (device.NAME, "cpu")]
        for place, accelerator in zip(places, (device.NAME, "cpu"), strict=True):
            at = f"hydra.sweep.dir={place}" if sweep else f"hydra.run.dir={place}"
            command("train", *arguments, f"trainer.accelerator={accelerator}", at)
        return places

    def run(self):
        """A run with final metrics, probe and picture, on resident data; counts the waits."""
        waits = "+callbacks.waits._target_=helpers.device_paths.EpochWaits"
        # Rows are sent by the clock.
        arguments = [*self.common, waits, "trainer.log_every_n_steps=0"]
        found = alike(*self.both("run", *arguments, "optimizer=momentum"))
        resident = any(at.type == device.NAME for s in sharing._last for _, at in s._tensors)
        return found | {"resident": resident, "epoch": dict(device.EPOCHS[0])}

    def stacked(self):
        """A sweep whose jobs take their steps together."""
        made, together = [], rendezvous.Stack
        rendezvous.Stack = lambda replicas: made.append(len(replicas)) or together(replicas)
        shared, stacked._available = stacked._shared, lambda _: 2**30
        stacked._shared = lambda spec: shared(placed(spec))
        arguments = ["-m", *self.common, "seed=1,2", "hydra/launcher=stacked", "picture=false"]
        both = self.both("sweep", *arguments, "model=topk", "probe=none", sweep=True)
        found = alike(*(next(place.glob("*seed=1*")) for place in both))
        return found | {"agrees": found["agrees"] and made[0] == 2, "stacks": made}

    def sparse(self):
        """Sparse steps with curves and rows of steps, and L0 of held-out samples."""
        arguments = [*self.common, "model.l0=4", "trainer.sparse=on", "data.val_size=20"]
        arguments.append("trainer.log_every_n_steps=1")
        return alike(*self.both("sparse", *arguments, "probe=none", "picture=false"))

    def language(self):
        """A harvest, then a run on its store, measured inside, explored and exported."""
        from implicit_em.language.models import LanguageModel
        from implicit_em.trained.evaluate import evaluate
        from implicit_em.trained.export import export
        from implicit_em.viewer.exploring import explore

        folder, stores = self.folder, [self.folder / "store-sim", self.folder / "store-cpu"]
        lines = [*reads(folder, "llama", head=True), "sites=[resid.2]", "context.length=12"]
        load = LanguageModel.load.__func__
        for store, place in zip(stores, (device.NAME, "cpu"), strict=True):
            # The setting allows cpu and cuda.
            LanguageModel.load = classmethod(lambda cls, lm, _, at=place: load(cls, lm, at))
            command("harvest", *lines, "tokens=null", f"store={store}")
        LanguageModel.load = classmethod(load)
        files = (sorted(store.glob("**/*.safetensors")) for store in stores)
        shards = [[load_file(file) for file in of_store] for of_store in files]
        data = ["data=activations", f"data.path={stores[0]}", "data.val_size=50", "model=topk"]
        runs = self.both("inside", *data, "model.l0=4", *self.brief, "picture=false")
        found = alike(*runs)
        lm = str(folder / "model")
        inside = [evaluate(run, inside=True, lm=lm) for run in runs]
        explore([runs[0]], lm=lm)
        exports = [export(run) for run in runs]
        written = [[f.read_bytes() for f in sorted(e.glob("*.safetensors"))] for e in exports]
        equal = {
            "harvest": all(equal_but_for_rounding(*pair) for pair in zip(*shards, strict=True)),
            "inside": np.isclose(inside[0]["fvu"], inside[1]["fvu"]).item(),
            "export": bool(written[0]) and written[0] == written[1],
            "explore": (runs[0] / "explore/index.html").exists(),
        }
        return found | equal | {"agrees": found["agrees"] and all(equal.values())}

    def resume(self):
        """The runs on the store, with an epoch more: no probe and no picture are made again."""
        places = [self.folder / f"inside-{place}" for place in (device.NAME, "cpu")]
        for place in places:
            command("train", f"resume={place}", "trainer.max_epochs=3")
        return alike(*places)

    def estimator(self):
        """The estimator, which stays on the CPU, also where there is another device."""
        from implicit_em.sklearn import ImplicitEM

        x = draw(64, WIDTH, seed=1).numpy()
        energies = ImplicitEM(8, max_iter=2, batch_size=16, random_state=0).fit_transform(x)
        return {"agrees": bool(np.isfinite(energies).all())}


def tried(path):
    """Take a path; an error is a finding."""
    try:
        return path()
    except Exception:
        return {"agrees": False, "error": traceback.format_exc()[-3000:]}


def main(commands):
    torch.set_num_threads(1)
    device.install()
    found = {}
    for name in FAMILIES:
        found[f"{name} dense"] = tried(partial(family, name, 0.0))
        if name != "mixture":
            found[f"{name} sparse"] = tried(partial(family, name, 1.0))
        if name in CONTROLLED:
            found[f"{name} l0"] = tried(partial(family, name, 0.0, "model.l0=4"))
    for name in SWEPT:
        swept = "model.sweeps=2", "model.refit=2"
        found[f"{name} swept dense"] = tried(partial(family, name, 0.0, *swept))
        found[f"{name} swept sparse"] = tried(partial(family, name, 1.0, *swept))
    found["fault"] = tried(fault)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        paths = Paths(Path(folder))
        for name in commands:
            found[name] = tried(getattr(paths, name))
    return found


def table(found):
    """Return the table of waits of a step, in Markdown; families with equal ones share a row."""
    rows = {}
    for name in FAMILIES:
        steps = (found.get(f"{name} {kind}", {}).get("step") for kind in ("dense", "sparse"))
        cells = ("–" if one is None else _said(one) for one in steps)
        rows.setdefault(" | ".join(cells), []).append(f"`{name}`")
    lines = [f"| {', '.join(names)} | {cells} |" for cells, names in rows.items()]
    return "\n".join(["| families | dense | sparse |", "|---|---|---|", *lines])


def _said(waits):
    return ", ".join(f"{number:g} {kind}" for kind, number in sorted(waits.items())) or "0"


def show():
    """Take the paths of all families and of the commands named, and print what was found."""
    commands, shown = sys.argv[1:], io.StringIO()
    with contextlib.redirect_stdout(shown), composing.once():
        results = main(commands)
    print(json.dumps(results) if commands else table(results))


if __name__ == "__main__":
    show()
