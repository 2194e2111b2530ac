"""Stores that are made as they are read: the same bits as of a whole store, and how they end."""

import atexit
import os
import re
import signal
import threading
from collections import namedtuple
from contextlib import closing
from multiprocessing import get_context

import pytest
import torch
from helpers.arrays import set_up
from helpers.breaking import broken_off, every_block
from helpers.results import results
from helpers.stores import SITE, Copies, made, make_plan, make_store, usual
from safetensors import SafetensorError
from tqdm import tqdm

from implicit_em.base import files, interruption
from implicit_em.base.errors import ConfigError, Interrupted, RunError
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.engine.stack import Stack
from implicit_em.language import ahead
from implicit_em.language import store as stores
from implicit_em.language.activations import ActivationDataModule
from implicit_em.language.configuration import digest_of_store
from implicit_em.language.store import ActivationStore, read_manifest
from implicit_em.sweeps.callback import _refuse_again
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

SIZES = [
    ("train", [120, 90, 110, 60, 100, 130, 80, 70]),
    ("validation", [60]),
    ("test", [80]),
]
TOKENS, KEPT = 400, 2
BUFFER = 3_000
"""Bytes of a buffer whose windows hold two or three shards."""
BRIEF = [
    *("data=activations", "data.batch_size=16", "data.val_size=40", f"data.buffer={BUFFER}"),
    *(f"data.tokens={TOKENS}", f"data.kept={KEPT}", "data.producer._target_=helpers.stores.Copies"),
    *("model.hidden=5", "trainer.max_epochs=1", "logger=csv", "picture=false", "probe=none"),
    *("checkpoint.steps=1", "data.normalize=scale"),
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Let a process start as a copy of this one: a new one would import torch anew."""
    monkeypatch.setattr(ahead, "CONTEXT", get_context("fork"))
    every_block(monkeypatch, 2)


@pytest.fixture
def whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_store(tmp_path / "whole", SIZES)


@pytest.fixture
def plan(tmp_path, whole):
    return make_plan(tmp_path / "plan", whole)


@pytest.fixture
def run_on(composed, whole, tmp_path):
    """Compose a run on a store."""

    def run_on(store, *further, number=2):
        where = [f"data.path={store}", f"data.ahead={number}", f"data.producer.lm={whole}"]
        return composed(*BRIEF, *where, *further)

    return run_on


@pytest.fixture(scope="module")
def undisturbed():
    """A list for the results of the run on a whole store."""
    return []


@pytest.fixture
def expected(run_on, whole, tmp_path, undisturbed):
    if not undisturbed:
        train(run_on(whole), tmp_path / "undisturbed")
        assert made(whole) == []
        assert not (whole / "ahead").exists()
        undisturbed.append(results(tmp_path / "undisturbed"))
    return undisturbed[0]


def ring(store):
    """Return the shards that lie in the ring of a store."""
    return sorted(path.name for path in (store / "ahead").glob("*.safetensors"))


def numbers(files):
    """Return the numbers of those shards that are of the training."""
    return [int(name[6:11]) for name in files if name.startswith("train-")]


# --- the same bits


def test_a_ring_gives_the_bits_of_a_whole_store(
    run_on, whole, plan, tmp_path, caplog, monkeypatch, expected
):
    caplog.set_level("INFO")
    seen, train_blocks = [], Stack.train

    def looking(self, blocks):
        seen.append(len(ring(plan)))
        return train_blocks(self, blocks)

    monkeypatch.setattr(Stack, "train", looking)
    train(run_on(plan, number=1), tmp_path / "ring")
    assert results(tmp_path / "ring") == expected
    assert max(seen) > 0
    assert max(seen) <= 2 + 1, "those of a window, and one ahead"
    assert ring(plan) == []
    assert numbers(made(whole)) == [0, 1, 2, 3, 4, 5, 6], "each once, in their order"
    assert sorted(path.name for path in plan.glob("*.safetensors")) == [
        "documents.safetensors",
        "test-00000.safetensors",
        "train-00000.safetensors",
        "train-00001.safetensors",
        "validation-00000.safetensors",
    ]
    RunSpec.of(run_on(plan)).build_data()  # as an evaluation does
    assert made(whole) == []
    said = [line for line in caplog.messages if "harvested" in line]
    assert all(re.search(r"\d+ of 25 steps  loss .*  harvested \d/8  \d s", line) for line in said)
    assert 1 <= len(said) <= 10


@pytest.mark.parametrize(
    "block", [11, *(pytest.param(block, marks=pytest.mark.slow) for block in (2, 7))]
)
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    run_on, whole, plan, tmp_path, monkeypatch, expected, block
):
    broken_off(monkeypatch, run_on(plan, number=1), tmp_path / "run", block)
    (plan / "ahead" / ".0123456789ab-train-00007.safetensors").touch()  # half written
    before = numbers(made(whole))
    train(run_on(plan, number=3), tmp_path / "run")
    assert results(tmp_path / "run") == expected
    assert ring(plan) == []
    after = numbers(made(whole))
    assert after == sorted({*after}), "none twice"
    assert min(after, default=7) > block / 2, "the first window is not made again"
    assert {*before, *after} >= {*range(7)}


@pytest.mark.parametrize(
    "number", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 5))]
)
def test_a_producer_that_is_killed_fails_the_run_and_it_goes_on_to_the_same_bits(
    run_on, whole, plan, tmp_path, expected, number
):
    (whole / "fault").write_text(f"kill train-{number:05d}.safetensors")
    with pytest.raises(RunError, match="was killed by SIGKILL; the same command goes on"):
        train(run_on(plan), tmp_path / "run")
    train(run_on(plan), tmp_path / "run")
    assert results(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_stacked_sweep_on_a_whole_store_gives_the_bits_of_its_runs(
    run_on, whole, command_line, tmp_path
):
    where = ["data.path=whole", "data.ahead=1", f"data.producer.lm={whole}"]
    sweep = ["-m", "seed=1,2", "hydra/launcher=stacked", "hydra.sweep.dir=sweep"]
    assert command_line(*BRIEF, *where, *sweep) == 0
    train(run_on("whole", "seed=2"), tmp_path / "alone")
    found = [results(path.parent) for path in (tmp_path / "sweep").glob("*/metrics.json")]
    assert results(tmp_path / "alone") in found


# --- the process that makes shards


@pytest.fixture
def asked(whole, plan):
    """Ask for a shard, with a fault or not; gives what is answered."""

    def asked(place, fault=None):
        if fault not in (None, "full"):
            shard = read_manifest(plan).shards[place].file
            (whole / "fault").write_text(f"{fault} {shard}")
        with closing(ahead.Making(Copies(str(whole)), plan)) as making:
            making.ask(place, "ahead")
            return making.answer()

    return asked


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("kill", "the process that makes shards was killed by SIGKILL; the same command goes on"),
        ("raise", "the process that makes shards: RuntimeError: no more paper"),
        ("change", r"ahead/train-00003\.safetensors: has other bits than when it was first harv"),
        ("full", r"ahead/train-00003\.safetensors cannot be written: No space left on device"),
    ],
)
def test_a_fault_gives_one_line_and_the_next_process_makes_the_shard(
    asked, plan, fault, said, monkeypatch
):
    def full(*_):
        raise SafetensorError("No space left on device (os error 28)")

    first = asked(3)
    with monkeypatch.context() as patch:
        if fault == "full":
            patch.setattr(stores, "save_file", full)
        with pytest.raises(RunError, match=said) as failed:
            asked(3, fault)
    assert "\n" not in str(failed.value)
    assert ring(plan) != [], "also a shard that differs leaves the one that is there"
    assert asked(3) == first == read_manifest(plan).shards[3]


class Locks:
    def open(self, store):
        raise RunError(type(tqdm.get_lock()).__name__)


def test_bars_of_a_process_that_is_killed_leave_no_semaphore(plan):
    with closing(ahead.Making(Locks(), plan)) as making, pytest.raises(RunError, match=r"^RLock$"):
        making.answer()


def test_a_program_that_ends_meanwhile_waits_neither_for_a_thread_nor_for_the_process(
    whole, plan, monkeypatch
):
    at_the_end = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    further = {"val_size": 40, "buffer": BUFFER, "producer": Copies(str(whole))}
    data = set_up(ActivationDataModule(plan, ahead=1, kept=KEPT, tokens=TOKENS, **further))
    next(iter(data.train_dataloader()))
    try:
        data._stream._reader.submit(int).result(timeout=1)
        at_the_end[-1]()
        data._stream._making._process.join(1)
        assert not data._stream._making._process.is_alive()
    finally:
        data.teardown("fit")


def test_a_signal_ends_the_wait_for_a_shard(asked, whole):
    def kill():
        while (whole / "fault").exists():
            threading.Event().wait(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Timer(0.1, kill).start()
    with pytest.raises(Interrupted), interruption.listening():
        asked(3, "wait")


# --- which tokens


def test_an_epoch_takes_the_tokens_of_its_windows_in_numerical_order(whole):
    data = ActivationDataModule(
        whole, batch_size=64, buffer=BUFFER, ahead=1, kept=KEPT, tokens=TOKENS
    )
    set_up(data)
    store = ActivationStore(whole)
    kept = [usual(store.read(shard)) for shard in store.shards("train")]
    vectors = [
        store.read(s)[SITE][k].float() for s, k in zip(store.shards("train"), kept, strict=True)
    ]
    assert torch.equal(torch.as_tensor(data.split("train")[0]).float(), torch.cat(vectors[:KEPT]))
    loader = data.train_dataloader()
    assert (len(loader), data.epoch_size) == (-(-TOKENS // 64), TOKENS)
    found = torch.cat([*loader])
    assert len(found) == TOKENS
    windows, done = [[0, 1], [2, 3], [4, 5], [6, 7]], 0
    for window in windows:
        expected = torch.cat([vectors[number] for number in window])
        rows = found[done : done + len(expected)]
        done += len(expected)
        if done <= TOKENS:
            assert sorted(rows.tolist()) == sorted(expected.tolist())
            assert not torch.equal(rows, expected), "they are shuffled"
    assert done >= TOKENS
    with pytest.raises(ConfigError, match="allowed is one epoch"):
        next(iter(loader))
    data.teardown("fit")


def test_shards_that_stay_are_not_those_that_an_earlier_run_made_to_be_dropped(asked, whole, plan):
    assert asked(2).file == "train-00002.safetensors"
    further = {"val_size": 40, "buffer": BUFFER, "producer": Copies(str(whole))}
    data = set_up(ActivationDataModule(plan, ahead=1, kept=3, tokens=TOKENS, **further))
    for _ in data.train_dataloader():
        data.state_dict()
    data.teardown("fit")


def test_too_few_tokens_end_the_run_and_say_how_many_there_are(
    run_on, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr("implicit_em.language.activations.SURE", 2.0)
    with pytest.raises(RunError, match=r"data\.tokens=700: 5\d\d tokens of .*whole are left"):
        train(run_on(whole, "data.tokens=700"), tmp_path / "run")


# --- which run it is


def test_the_digest_is_that_of_the_plan_and_the_fingerprint_follows(run_on, whole, plan, composed):
    assert digest_of_store(plan, 1) == digest_of_store(whole, 3) != digest_of_store(whole)
    assert digest_of_store("nowhere", 1) is None
    (plan / "manifest.json").write_text("{}")
    assert digest_of_store(plan, 1) is None
    one, other = run_on(whole, number=1), run_on(whole, "data.producer.lm=x", number=3)
    assert config_fingerprint(one) == config_fingerprint(other)
    assert config_fingerprint(run_on(whole, "data.kept=3")) != config_fingerprint(one)
    assert config_fingerprint(run_on(whole, "data.tokens=300")) != config_fingerprint(one)
    assert composed("data=activations", f"data.path={whole}").data.digest == digest_of_store(whole)


# --- what is refused


def test_a_sweep_may_read_a_whole_store_and_not_make_one(composed, whole, plan):
    def sweep(store):
        made = set()
        for _ in range(2):
            _refuse_again(composed(*BRIEF, "data.ahead=1", f"data.path={store}"), made)

    sweep(whole)
    with pytest.raises(ConfigError, match=r"data\.ahead: .*plan is made as it is read, which a "):
        sweep(plan)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.ahead=0"], "data.ahead=0: allowed are null and whole numbers from 1 on"),
        (["data.tokens=null"], "data.tokens=None: allowed are whole numbers from 2 on"),
        (["data.kept=0"], "data.kept=0: allowed are whole numbers from 1 on"),
        (["data.ahead=null"], "data.tokens=400: only with data.ahead; an epoch takes all tokens"),
        (["trainer.max_epochs=2"], "trainer.max_epochs=2: with data.ahead=1, allowed is 1: each"),
        (["trainer=ddp_cpu"], "data.ahead=1: one process trains; choose another trainer"),
        (["data.path=nowhere"], "data: nowhere: no store"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_in_one_line(refused, plan, settings, said):
    line = refused(*BRIEF, "data.path=plan", "data.ahead=1", "data.producer.lm=x", *settings)
    assert line.startswith(f"error: {said}")


def test_more_tokens_than_there_are_are_refused_before_the_training(run_on, whole, plan, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.tokens=700: allowed are up to 5\d\d, judged by"):
        train(run_on(plan, "data.tokens=700"), tmp_path / "run")


def test_without_a_producer_a_store_must_be_whole(run_on, plan, whole, tmp_path):
    cfg = run_on(plan)
    cfg.data.producer = None
    with pytest.raises(ConfigError, match=r"data\.producer=null: shards of .*plan are missing"):
        train(cfg, tmp_path / "run")


def test_a_second_run_is_refused_while_the_shards_are_made(whole, plan):
    another = pytest.raises(ConfigError, match=r"plan: its shards are made for another run")
    with closing(ahead.Making(Copies(str(whole)), plan)), another:
        ahead.Making(Copies(str(whole)), plan)
    ahead.Making(Copies(str(whole)), plan).close()


def test_too_small_a_disk_is_refused_before_anything_is_made(
    run_on, whole, plan, tmp_path, monkeypatch
):
    disk = namedtuple("disk", "free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: disk(1000))
    with pytest.raises(ConfigError, match=r"data\.path=.*: the shards need .* GB more, but 1e-06"):
        train(run_on(plan), tmp_path / "run")
    assert made(whole) == []
