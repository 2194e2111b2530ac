"""``data=activations``: which tokens of a store are read, in which order, and runs on them."""

import gc
import random
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import changes
from helpers.arrays import set_up
from helpers.breaking import break_off, broken_off, every_block
from helpers.disks import make_read_only, small_disk
from helpers.processes import trained_in_a_process
from helpers.results import results
from helpers.stores import SINK, SITE, SPECIAL, make_store, usual

from implicit_em.base.errors import ConfigError
from implicit_em.data import as_unit_float, sharing
from implicit_em.data.on_disk import SamplesOnDisk, WindowLoader, cut
from implicit_em.engine.stack import Stack
from implicit_em.language.activations import ActivationDataModule, _statistics, in_windows
from implicit_em.language.statistics import DIGEST
from implicit_em.language.store import (
    ActivationStore,
    Documents,
    read_manifest,
    save_tensors,
    write_manifest,
)
from implicit_em.models.normalizing import fit_normalizer
from implicit_em.training.run import train
from implicit_em.training.spec import RunSpec

SIZES = [("train", [300, 200, 250, 150]), ("validation", [60, 50]), ("test", [80, 40])]
SMALL = 3_000
"""Bytes of a buffer that holds about a shard and a half."""
BRIEF = [
    *("data=activations", "data.path=store", "data.batch_size=32", "data.val_size=40"),
    *("model.hidden=5", "trainer.max_epochs=3", "logger=csv", "picture=false"),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ActivationStore(make_store(tmp_path / "store", SIZES))


def ready(store, **arguments):
    return set_up(ActivationDataModule(store.path, **arguments))


def expected_of(store, split, keep):
    """Return vectors and kinds of the tokens that ``keep`` leaves, one shard after another."""
    names = ("token", "document", "position", f"norm.{SITE}", SITE)
    arrays = {name: store.column(name, split) for name in names}
    kept = keep(arrays)
    return arrays[SITE][kept].float(), (arrays["document"][kept] % 2).long()


def in_memory(samples):
    return as_unit_float(samples.in_memory() if isinstance(samples, SamplesOnDisk) else samples)


# --- which tokens


@pytest.mark.parametrize("buffer", [2e9, SMALL])
@pytest.mark.parametrize(
    ("arguments", "keep"),
    [
        ({}, usual),
        ({"special_tokens": True}, lambda a: a["token"] != SINK),
        ({"largest_norm": None}, lambda a: a["token"] > max(SPECIAL)),
        ({"first_positions": 3}, lambda a: usual(a) & (a["position"] >= 3)),
        ({"largest_norm": 1.0}, lambda a: usual(a) & (a[f"norm.{SITE}"] <= a["median"])),
    ],
)
def test_the_tokens_are_those_that_the_rules_leave(store, arguments, keep, buffer):
    others = store.column("token", "train") > max(SPECIAL)
    median = store.column(f"norm.{SITE}", "train")[others].double().quantile(0.5)
    data = ready(store, label="kind", val_size=30, buffer=buffer, **arguments)
    samples, labels = data.split("train")
    assert isinstance(samples, SamplesOnDisk) == (buffer == SMALL)
    rows = data.train_indices()
    for found, found_labels, split, count in (
        (samples[rows], labels[rows], "train", None),
        (samples[data.monitored_indices()], labels[data.monitored_indices()], "validation", 30),
        (*data.split("test"), "test", None),
    ):
        vectors, kinds = expected_of(store, split, lambda a: keep({**a, "median": median}))
        assert torch.equal(in_memory(found).float(), vectors[:count])
        assert torch.equal(found_labels, kinds[:count])


def test_with_fewer_held_out_tokens_than_val_size_all_are_used(store):
    data = ready(store, val_size=10_000, final="validation")
    vectors, _ = expected_of(store, "validation", usual)
    assert torch.equal(in_memory(data.final_samples()[0]).float(), vectors)
    assert data.val_size == len(vectors)


def test_a_model_starts_from_training_tokens(store, monkeypatch):
    monkeypatch.setattr("implicit_em.language.activations.STARTED", 100)
    data = ready(store, val_size=30)
    vectors, _ = expected_of(store, "train", usual)
    assert torch.equal(data.starting_samples().float(), vectors[:100])
    assert torch.equal(data.starting_samples(7).float(), vectors[:7])


@pytest.mark.parametrize("option", ["centre", "standard", "scale", "zca", "l2"])
def test_they_are_normalised_by_the_statistics_of_the_training_documents(store, option):
    data = ready(store, val_size=30, normalize=option)
    vectors, _ = expected_of(store, "train", usual)
    expected = fit_normalizer(option, lambda: [vectors.double()])
    test, _ = expected_of(store, "test", usual)
    assert torch.allclose(data.split("test")[0], expected(test), rtol=1e-5, atol=1e-5)


def test_the_anisotropy_of_each_site_is_told_once(store, tmp_path):
    vectors, _ = expected_of(store, "train", usual)
    vectors = vectors.double()
    ratio = vectors.mean(0).norm() / vectors.var(0, correction=0).sum().sqrt()
    (line,) = ready(store, normalize="scale").remarks()
    assert line == (
        f"data: {len(vectors)} training tokens, {900 - len(vectors)} left out; anisotropy "
        f"|mean|/|std| {ratio:.2f}"
    )
    assert ready(store, normalize="scale").remarks() == []
    other = ActivationStore(make_store(tmp_path / "two", SIZES, further={"mlp.1": 3}))
    (line,) = ready(other, normalize="scale", site=SITE, target="mlp.1").remarks()
    assert re.search(rf"\|std\| [\d.]+ at {SITE}, [\d.]+ at mlp\.1$", line)


# --- in which order


def test_windows_hold_whole_shards_in_a_random_order():
    shards = list(torch.arange(100).split([30, 10, 0, 25, 35]))
    windows = in_windows(shards, 60, np.random.default_rng(3))
    assert sorted(torch.cat(windows).tolist()) == list(range(100))
    assert max(map(len, windows)) <= 60
    for shard in shards[:2] + shards[3:]:
        (window,) = [w for w in windows if torch.isin(shard, w).any()]
        assert torch.isin(shard, window).all()
        assert not torch.isin(window, shard).all() or not torch.equal(window, shard)
    again, other = (in_windows(shards, 60, np.random.default_rng(s)) for s in (3, 4))
    assert torch.equal(torch.cat(again), torch.cat(windows))
    assert not torch.equal(torch.cat(other), torch.cat(windows))
    small = in_windows(list(torch.arange(50).split([20, 30])), 10, np.random.default_rng(0))
    assert sorted(map(len, small)) == [20, 30], "a shard larger than a window is one"


@pytest.fixture
def asked(monkeypatch):
    """The windows that were asked for, as rows."""
    asked, window = [], SamplesOnDisk.window
    monkeypatch.setattr(
        SamplesOnDisk, "window", lambda self, rows: asked.append(rows) or window(self, rows)
    )
    return asked


def test_an_epoch_takes_each_token_once_in_windows_of_which_one_is_read_ahead(store, asked):
    data = ready(store, batch_size=32, buffer=SMALL, normalize="scale")
    loader, samples = data.train_dataloader(), data.split("train")[0]
    assert type(loader) is WindowLoader
    first, second = [*loader], [*loader]
    assert [*map(len, first)] == [32] * (len(loader) - 1) + [len(data.train_indices()) % 32]
    for epoch, found in enumerate((first, second)):
        loader.set_epoch(epoch)
        assert torch.equal(torch.cat(found), samples.index_select(0, torch.cat(loader.windows())))
    asked.clear()
    loader.set_epoch(0)
    numbers = [len(asked) for _ in loader]
    assert (numbers[0], numbers[-1]) == (2, len(loader.windows()))
    assert all(map(torch.equal, asked, loader.windows()))


def test_a_batch_is_of_several_windows_where_they_are_small():
    windows = [torch.arange(4.0), torch.arange(4.0, 5), torch.empty(0), torch.arange(5.0, 12)]
    batches = [*cut(iter(windows), [3, 3, 4, 1])]
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9], [10]]


def test_a_resumed_epoch_reads_the_windows_that_are_left(store, asked):
    data = ready(store, batch_size=8, buffer=SMALL)
    loader = data.train_dataloader()
    expected, windows = [*loader], loader.windows()
    last = len(loader) - 2
    loader.load_state_dict({"epoch": 0, "batch": last})
    asked.clear()
    assert all(map(torch.equal, loader, expected[last:]))
    assert len(asked) == 1
    assert torch.equal(asked[0], windows[-1])


def test_where_a_device_has_all_no_window_is_held(store, monkeypatch):
    monkeypatch.setattr(SamplesOnDisk, "to", lambda self, device: self.in_memory())
    data = ready(store, batch_size=32, buffer=SMALL)
    inputs, labels = data.split("train")
    loader = data._loader(inputs.to("cpu"), labels, 32, seed=0, shuffle=data.shuffle)
    assert len(loader.windows()) > 1
    batches = list(loader.index_batches())
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(len(inputs)))


def test_loaders_share_a_window_and_none_stays_once_they_have_gone_on(store):
    samples, _ = ready(store, buffer=SMALL).split("train")
    rows = torch.randperm(len(samples))[:100]
    first, second = samples.window(rows), samples[torch.arange(len(samples))].window(rows)
    assert first is second
    assert torch.equal(first.result(), samples.read(rows))
    del first, second
    gc.collect()
    assert not samples._windows


# --- runs


def test_a_stacked_sweep_equals_its_runs_alone_and_reads_a_window_for_several(
    store, command_line, tmp_path, monkeypatch
):
    typed = [*BRIEF, "model.hidden=64", f"data.buffer={SMALL}", "probe=none"]
    assert command_line(*typed, "seed=2", "hydra.run.dir=alone") == 0
    every_block(monkeypatch, 2)  # runs of a stack are within one block of each other
    counts, read = [], SamplesOnDisk.read
    for name, seeds in (("one", "1"), ("four", "1,2,3,4")):
        reads = []
        with monkeypatch.context() as patch:
            patch.setattr(
                SamplesOnDisk, "read", lambda *a, r=reads: r.append(len(a[1])) or read(*a)
            )
            sweep = [f"seed={seeds}", "hydra/launcher=stacked", f"hydra.sweep.dir={name}"]
            assert command_line("-m", *typed, *sweep) == 0
        counts.append(len([size for size in reads if size > 100]))
    assert 0 < counts[0] <= counts[1] < 2 * counts[0]
    (job,) = tmp_path.glob("four/*seed=2*")
    assert results(job) == results(tmp_path / "alone")


def test_the_probe_takes_at_most_so_many_tokens(store, composed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("implicit_em.language.activations.PROBED", 30)
    asked = []
    monkeypatch.setattr(
        "implicit_em.training.measurement.linear_probe",
        lambda *arrays: asked.append([len(array) for array in arrays[:4]]) or 0.5,
    )
    train(composed(*BRIEF, "data.label=kind"), tmp_path / "run")
    assert asked == [[30, 30, 30, 30]]


def test_the_probe_leaves_out_documents_without_a_label(tmp_path):
    labels = {"kind": torch.tensor([0, -1] * 5).int()}
    texts = torch.arange(20).int(), torch.arange(0, 21, 2), torch.zeros(10).int()
    path = make_store(tmp_path / "store", SIZES, documents=Documents(*texts, labels))
    data = ready(ActivationStore(path), label="kind")
    for _, found in (data.split("train"), data.split("test")):
        assert sorted(found.unique().tolist()) == [-1, 0]
        assert torch.equal(data.probed(found), (found == 0).nonzero()[:, 0])


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_positions": 1.5}, "first_positions=1.5: allowed are whole numbers"),
        ({"largest_norm": 0.0}, "largest_norm=0.0: allowed are numbers greater than 0"),
        ({"buffer": -1.0}, "buffer=-1.0: allowed are numbers greater than 0"),
        (
            {"first_positions": 50},
            "train: 0 tokens of path=.*store are left; at least 2 are needed",
        ),
        ({"digest": "0" * 16}, "digest=0{16}: path=.*store is another store: "),
    ],
)
def test_a_setting_that_does_not_fit_the_store_is_refused(store, arguments, message):
    with pytest.raises(ConfigError, match=message):
        ready(store, **arguments)


def test_held_out_documents_are_needed_to_measure_on_them(tmp_path):
    store = ActivationStore(make_store(tmp_path / "store", [("train", [50]), ("test", [50])]))
    with pytest.raises(ConfigError, match=r"final=validation: 0 tokens of path=.* are left"):
        ready(store, val_size=10, final="validation")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.site=resid.7", "data.site=resid.7 in the store store: allowed is resid.0"),
        (
            "data.site=[resid.0,mlp.1]",
            "data.site=mlp.1 in the store store: allowed is resid.0",
        ),
        (
            "data.target=mlp",
            "data.target=mlp.0 in the store store: allowed are null, resid.0",
        ),
        ("data.label=x", "data.label=x in the store store: allowed are null, kind"),
        ("data.path=nowhere", "data: nowhere: no store"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line_before_training(
    store, refused, tmp_path, setting, said
):
    assert refused(*BRIEF, setting, "hydra.run.dir=run").startswith(f"error: {said}")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_damaged_shard_is_named_before_training(store, refused, tmp_path):
    shard = tmp_path / "store" / "test-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert "test-00001.safetensors: damaged" in refused(*BRIEF, "hydra.run.dir=run")


def test_the_path_does_not_decide_which_run_it_is(store, composed, tmp_path):
    here = RunSpec.of(composed(*BRIEF)).fingerprint
    store.path.rename(tmp_path / "moved")
    assert RunSpec.of(composed(*BRIEF, "data.path=moved")).fingerprint == here
    make_store(tmp_path / "other", [("train", [50]), ("test", [50])])
    assert RunSpec.of(composed(*BRIEF, "data.path=other")).fingerprint != here


def test_a_read_only_store_trains_and_says_once_that_it_keeps_no_statistics(
    composed, tmp_path, anew, caplog
):
    caplog.set_level("INFO", "implicit_em")
    with small_disk(tmp_path / "disk") as disk:
        path = make_store(disk / "store", SIZES)
        make_read_only(disk)
        for name in ("run", "again"):
            caplog.clear()
            anew()
            train(composed(*NORMALISED, f"data.path={path}"), tmp_path / name)
            lines = [line for line in caplog.messages if str(path) in line]
            assert lines == [
                f"data: {path} cannot be written: each run computes its statistics again"
            ]
    assert results(tmp_path / "run") == results(tmp_path / "again")


# --- statistics that change


NORMALISED = [*BRIEF, "data.normalize=zca", "probe=none"]


@pytest.fixture
def anew(monkeypatch):
    """Forget what this process has read, as if it were another."""

    def anew():
        sharing._known.clear()
        _statistics.cache_clear()

    anew()
    return anew


def test_a_run_does_not_go_on_with_other_statistics(store, composed, tmp_path, monkeypatch, anew):
    cfg, again = composed(*NORMALISED), tmp_path / "again"
    train(cfg, tmp_path / "undisturbed")
    broken_off(monkeypatch, cfg, again, 3)
    (file,) = (store.path / "statistics").iterdir()
    found = ready(store, normalize="zca").statistics()
    other = replace(found, mean_D=found.mean_D.nextafter(torch.tensor(torch.inf).double()))
    digest = torch.tensor(list(bytes.fromhex(other.digest(file.stem)))).byte()
    save_tensors(file, {**other.arrays(), DIGEST: digest})
    anew()
    with pytest.raises(ConfigError, match=r"last\.ckpt: trained with other statistics than the"):
        train(cfg, again)
    file.unlink()
    anew()
    train(cfg, again)
    assert results(again) == results(tmp_path / "undisturbed")


@pytest.mark.slow
def test_bits_of_statistics_that_flip_at_any_moment_change_no_result(
    store, composed, tmp_path, monkeypatch, anew
):
    every_block(monkeypatch, 4)  # of an epoch's 20 batches
    cfg, chance = composed(*NORMALISED), random.Random(0)
    train(cfg, tmp_path / "undisturbed")
    (file,) = (store.path / "statistics").iterdir()

    def flip():
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)

    def breaks(when, last, seen):
        seen.append(len(seen) == when and flip())
        return len(seen) == last

    for number in range(24):
        run, last = tmp_path / f"run-{number}", chance.randrange(6, 15)
        moment = chance.choice(["before", "while it trains", "while it is down"])
        if moment == "before":
            flip()
        anew()
        when = chance.randrange(last) if moment == "while it trains" else None
        broken = partial(breaks, when, last, [])
        break_off(monkeypatch, cfg, run, Stack, "train", lambda *_, broken=broken: broken())
        if moment == "while it is down":
            flip()
        anew()
        train(cfg, run)
        assert results(run) == results(tmp_path / "undisturbed"), moment


def before_block(monkeypatch, number, change):
    """Change something before the n-th block; gives a list for the function that undoes it."""
    seen, undo, train_blocks = [], [], Stack.train

    def changing(self, blocks):
        seen.append(blocks)
        if len(seen) == number:
            undo.append(change())
        return train_blocks(self, blocks)

    monkeypatch.setattr(Stack, "train", changing)
    return undo


@pytest.fixture(scope="module")
def undisturbed():
    """A list for the results of the run that nothing disturbs."""
    return []


WINDOWS = [*BRIEF, f"data.buffer={SMALL}", "checkpoint.steps=1", "probe=none"]


@pytest.mark.parametrize(
    "change",
    [
        changes.overwritten,
        pytest.param(changes.restored, marks=pytest.mark.slow),
        changes.deleted,
        *changes.OF_A_STORE,
    ],
)
def test_a_run_whose_store_changes_is_refused_and_goes_on_to_the_same_bits(
    store, command_line, monkeypatch, tmp_path, capfd, undisturbed, change
):
    every_block(monkeypatch, 2)
    if not undisturbed:
        assert command_line(*WINDOWS, "hydra.run.dir=undisturbed") == 0
        undisturbed.append(results(tmp_path / "undisturbed"))
    place = store.path if change in changes.OF_A_STORE else store.path / "train-00001.safetensors"
    with monkeypatch.context() as patch:
        undo = before_block(patch, 13, lambda: change(place))
        capfd.readouterr()
        code = command_line(*WINDOWS, "hydra.run.dir=run")
    out, err = capfd.readouterr()
    refused = change is not changes.given_another_manifest  # which is not looked at again
    assert code == (2 if refused else 0)
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == refused
    undo[0]()
    assert command_line(*WINDOWS, "hydra.run.dir=run") == 0
    assert results(tmp_path / "run") == undisturbed[0]


@pytest.mark.slow
def test_20_gigabytes_train_in_2(tmp_path):
    store = make_store(tmp_path / "store", [("train", [2**16]), ("test", [1_000])], width=384)
    manifest = read_manifest(store)
    first, last = manifest.shards
    shards = [first.model_copy(update={"number": number}) for number in range(400)]
    for shard in shards[1:]:  # one file under all names
        (store / shard.file).hardlink_to(store / first.file)
    write_manifest(store, manifest.model_copy(update={"shards": [*shards, last]}))
    typed = ["data=activations", f"data.path={store}", "data.buffer=5e8", "data.batch_size=4096"]
    typed += ["model=topk", "model.hidden=16", "trainer.max_epochs=1", "probe=none", "logger=csv"]
    printed, peak = trained_in_a_process(tmp_path, *typed)
    assert "18,294,400 training tokens, 7,920,000 left out" in printed
    assert peak < 2 * 2**30
