"""Files that change at random moments while a run reads them."""

import os
import random
import time
from threading import Event, Thread

import numpy as np
import pytest
from helpers import changes
from helpers.breaking import every_block
from helpers.results import results
from helpers.stores import make_store

from implicit_em.data import tensors
from implicit_em.engine.stack import Stack

pytestmark = pytest.mark.torture

ROUNDS = 30
COMMON = ["data.batch_size=32", "model.hidden=5", "logger=csv", "picture=false", "probe=none"]
COMMON += ["checkpoint.steps=1", "trainer.max_epochs=12"]
SETTINGS = {
    "store": ["data=activations", "data.path=store", "data.val_size=40", "data.buffer=3000"],
    "X.npy": ["data=tensors", "data.path=X.npy"],
}


def disturb(change, place, begun, delay, pause):
    """Change a file a while after the training has begun, and undo it a while later."""
    begun.wait()
    time.sleep(delay)
    undo = change(place)
    time.sleep(pause)
    undo()


def test_under_random_changes_a_run_is_refused_or_ends_with_the_same_bits(
    command_line, tmp_path, monkeypatch, capfd
):
    seed = int(os.environ.get("TORTURE_SEED", time.time_ns() % 2**32))
    rng = random.Random(seed)
    with capfd.disabled():
        print(f"\nTORTURE_SEED={seed}")
    make_store(
        tmp_path / "store", [("train", [300, 200, 250]), ("validation", [60]), ("test", [80])]
    )
    np.save("X.npy", np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32))
    every_block(monkeypatch, 2)
    monkeypatch.setattr(tensors, "LARGE", 0)
    begun, train_blocks = Event(), Stack.train
    monkeypatch.setattr(Stack, "train", lambda *a: begun.set() or train_blocks(*a))
    undisturbed, seconds = {}, {}
    for name, typed in SETTINGS.items():
        started = time.monotonic()
        assert command_line(*COMMON, *typed, f"hydra.run.dir={name} alone") == 0
        seconds[name] = time.monotonic() - started
        undisturbed[name] = results(tmp_path / f"{name} alone")
    kinds = [("store", change) for change in (*changes.OF_A_FILE, *changes.OF_A_STORE)]
    kinds += [("X.npy", change) for change in changes.OF_A_FILE]
    refused = 0
    for number in range(ROUNDS):
        name, change = kinds[number % len(kinds)]
        place = tmp_path / name
        if name == "store" and change in changes.OF_A_FILE:
            place = rng.choice(sorted(place.glob("train-*.safetensors")))
        begun.clear()
        moments = rng.uniform(0, seconds[name] / 2), rng.uniform(0, 0.5)
        thread = Thread(target=disturb, args=(change, place, begun, *moments))
        thread.start()
        capfd.readouterr()
        code = command_line(*COMMON, *SETTINGS[name], f"hydra.run.dir={number}")
        thread.join()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert (code, len(err.splitlines())) in ((0, 0), (2, 1)), err
        refused += code == 2
        again = command_line(*COMMON, *SETTINGS[name], f"hydra.run.dir={number}")
        equal = results(tmp_path / str(number)) == undisturbed[name]
        with capfd.disabled():
            print(f"{number + 1:2d} {name:5s} {change.__name__:22s} {code=} {equal=}", flush=True)
        assert equal
        assert again == 0
    assert refused >= 20
