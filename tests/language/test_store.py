"""Stores of activations: what reads them, what is refused, statistics of what a filter leaves."""

import json
import shutil
from functools import partial, reduce
from operator import getitem

import numpy as np
import pytest
import torch
from helpers.disks import make_read_only, small_disk
from helpers.stores import SITE, SPECIAL, WIDTH, make_store
from safetensors.torch import load, save

from implicit_em.base.digest import digest_of_file
from implicit_em.base.errors import ConfigError, DamagedError, WriteError
from implicit_em.base.threads import torch_threads
from implicit_em.language.statistics import (
    DIGEST,
    QUANTILES,
    SAVED,
    TokenFilter,
    kept_at,
    statistics_of,
)
from implicit_em.language.store import (
    DOCUMENTS,
    VOCABULARY,
    ActivationStore,
    Documents,
    read_manifest,
    save_tensors,
    write_manifest,
)
from implicit_em.language.writing import StoreWriter


@pytest.fixture
def path(tmp_path):
    """The directory of a store of two training shards and one for the test."""
    documents = Documents(
        torch.arange(12).int(),
        torch.tensor([0, 5, 12]),
        torch.tensor([0, 2]).int(),
        {"kind": torch.tensor([1, -1]).int()},
    )
    return make_store(tmp_path, [("train", [60, 40]), ("test", [20])], documents=documents)


def vectors_of(store, split="train"):
    """Return the arrays of a split, one shard after another, with vectors in float64."""
    shards = [store.read(shard) for shard in store.shards(split)]
    arrays = {name: torch.cat([shard[name] for shard in shards]).numpy() for name in shards[0]}
    return {**arrays, SITE: arrays[SITE].astype(np.float64)}


# --- reading


def test_a_store_gives_its_shards_documents_and_vocabulary(path):
    store = ActivationStore(path)
    assert [shard.tokens for shard in store.shards("train")] == [60, 40]
    assert store.shards("validation") == []
    (shard,) = store.shards("test")
    arrays = store.read(shard)
    assert arrays[SITE].shape == (20, WIDTH)
    assert set(store.read(shard, ["token", SITE])) == {"token", SITE}
    documents = store.documents()
    assert [documents.ids(n).tolist() for n in range(len(documents))] == [
        list(range(5)),
        list(range(5, 12)),
    ]
    assert documents.labels["kind"].tolist() == [1, -1]
    assert store.vocabulary()[:2] == ["a", "b"]
    assert store.manifest.bytes_a_token == 2 * WIDTH + 4 + 4 * 4


def test_an_array_that_is_not_there_is_refused(path):
    store = ActivationStore(path)
    with pytest.raises(ConfigError, match=r"array=resid\.9: allowed are .*token"):
        store.read(store.shards("test")[0], ["resid.9"])


@pytest.mark.parametrize("name", ["train-00001.safetensors", DOCUMENTS, VOCABULARY])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_or_missing_file_is_named(name, damage, path):
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "missing":
        file.unlink()
    store = ActivationStore(path)
    readers = {DOCUMENTS: store.documents, VOCABULARY: store.vocabulary}
    read = readers.get(name, lambda: [store.read(shard) for shard in store.shards("train")])
    with pytest.raises(DamagedError, match=rf"{name}: (damaged|missing)") as refused:
        read()
    assert "\n" not in str(refused.value)


def test_what_is_no_store_is_refused(path, tmp_path):
    with pytest.raises(ConfigError, match=r"elsewhere: no store: it has no manifest\.json"):
        ActivationStore(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="Not a directory"):
        ActivationStore(path / DOCUMENTS)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ((), [], "must be a mapping"),
        (("version",), 2, "version=2"),
        (("model",), {}, "model.name: missing"),
        (("sites",), {}, "sites={}: must not be empty"),
        (("sites", SITE), 0, "sites.resid.0=0: should be greater"),
        (("special_tokens",), [10**30], "special_tokens.0=1000"),
        (("files",), {}, f"files.{DOCUMENTS}: missing"),
        (("files", DOCUMENTS), "../x", f"files.{DOCUMENTS}=../x"),
        (("shards", 0, "tokens"), 10**30, "shards.0.tokens=1000"),
        (("shards", 0, "sha256"), "0", "shards.0.sha256=0"),
    ],
)
def test_a_manifest_with_a_malformed_value_is_refused(path, key, value, message):
    file = path / "manifest.json"
    content = {"": json.loads(file.read_text())}
    *above, last = ("", *key)
    reduce(getitem, above, content)[last] = value
    file.write_text(json.dumps(content[""]))
    with pytest.raises(DamagedError) as refused:
        ActivationStore(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: save({"ids": load(content)["ids"]}), "starts is missing, but"),
        (lambda content: b"[]", "no arrays: 2 bytes, and a header of"),
    ],
)
def test_what_a_file_with_the_right_digest_cannot_hold_is_refused(path, change, message):
    file, manifest = path / DOCUMENTS, read_manifest(path)
    file.write_bytes(change(file.read_bytes()))
    manifest.files[DOCUMENTS] = digest_of_file(file)
    write_manifest(path, manifest)
    with pytest.raises(DamagedError, match=f"{file}: {message}") as refused:
        ActivationStore(path).documents()
    assert "\n" not in str(refused.value)


def test_an_incomplete_store_is_refused(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = None
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="not complete: 1 of 3 shards are missing"):
        ActivationStore(path)


def described_otherwise(path, name, content=None, **changed):
    """Give a shard other content, arrays or entries in the manifest, which notes its digest."""
    store = ActivationStore(path)
    (shard,) = (shard for shard in store.manifest.shards if shard.file == name)
    if content is None:
        arrays = {key: changed.pop(key, array) for key, array in store.read(shard).items()}
        save_tensors(path / name, {key: x for key, x in arrays.items() if x is not None})
    else:
        (path / name).write_bytes(content)
    other = shard.model_copy(update={"sha256": digest_of_file(path / name), **changed})
    shards = [other if each is shard else each for each in store.manifest.shards]
    write_manifest(path, store.manifest.model_copy(update={"shards": shards}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 15_000}, r"token is int32 of shape \(40,\), but the manifest says int32 of"),
        ({"place": torch.zeros(39).int()}, r"place is int32 of shape \(39,\), but the manifest"),
        ({"place": None}, "place is missing, but the manifest says int32"),
        ({SITE: torch.zeros(40, 2).half()}, rf"{SITE} is float16 of shape \(40, 2\), but"),
        ({SITE: torch.zeros(40, WIDTH)}, rf"{SITE} is float32 of shape \(40, 3\), but"),
        ({"content": b"no tensors at all"}, "no arrays: 17 bytes, and a header of"),
        ({"content": b"\2\0\0\0\0\0\0\0[]"}, "token is missing"),
        ({"content": b"\2\0\0\0\0\0\0\0{"}, "no arrays: Expecting"),
        ({"content": b""}, "no arrays: Expecting value"),
    ],
)
def test_a_shard_that_is_not_as_the_manifest_says_is_refused(path, changes, reason):
    described_otherwise(path, "train-00001.safetensors", **changes)
    with pytest.raises(DamagedError, match=rf"train-00001.safetensors: {reason}") as refused:
        statistics_of(ActivationStore(path), SITE)
    assert "\n" not in str(refused.value)


def test_a_store_on_a_read_only_disk_is_refused_by_a_harvest(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        writer = StoreWriter(make_store(disk / "store", [("train", [10])]))
        make_read_only(disk)
        with pytest.raises(WriteError, match=r"store cannot be written: Read-only file system$"):
            writer.end()


# --- filters and statistics


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        (TokenFilter(), lambda a: np.full(100, True)),
        (TokenFilter(first_positions=3), lambda a: a["position"] >= 3),
        (TokenFilter(drop_special_tokens=True), lambda a: ~np.isin(a["token"], SPECIAL)),
        (TokenFilter(largest_norm=200.0), lambda a: a["token"] != 5),
        (
            TokenFilter(2, True, 200.0),
            lambda a: (a["position"] >= 2) & ~np.isin(a["token"], [*SPECIAL, 5]),
        ),
    ],
    ids=["none", "positions", "special", "norm", "all"],
)
def test_statistics_are_of_exactly_the_tokens_that_a_filter_leaves(tokens, kept, path):
    store = ActivationStore(path)
    arrays = vectors_of(store)
    rows = kept(arrays)
    x_ND, norms_N = arrays[SITE][rows], arrays[f"norm.{SITE}"][rows].astype(np.float64)
    found = statistics_of(store, SITE, tokens=tokens)
    assert found.count == rows.sum() > 0
    assert found.mean_D.dtype == found.covariance_DD.dtype == torch.float64
    np.testing.assert_allclose(found.mean_D, x_ND.mean(0), rtol=1e-12)
    covariance_DD = np.cov(x_ND.T, bias=True)
    scale = covariance_DD.max()
    np.testing.assert_allclose(found.covariance_DD, covariance_DD, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(found.norms_Q, np.quantile(norms_N, QUANTILES), rtol=1e-12)


def test_statistics_are_computed_once_for_each_filter(path, monkeypatch):
    store = ActivationStore(path)
    first = [statistics_of(store, SITE, tokens=t) for t in (TokenFilter(), TokenFilter(1))]
    assert len(list((path / "statistics").iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(ActivationStore, "read", lambda *_: pytest.fail("reads again"))
        again = [statistics_of(store, SITE, tokens=t) for t in (TokenFilter(), TokenFilter(1))]
    for one, other in zip(first, again, strict=True):
        assert one.count == other.count
        assert torch.equal(one.covariance_DD, other.covariance_DD)


def flipped(content, share):
    """The content with one bit changed, at so many per cent of its length."""
    changed = bytearray(content)
    changed[share * len(changed) // 100] ^= 1 << share % 8
    return bytes(changed)


def other_shape(content):
    arrays = load(content)
    return save({**arrays, "covariance": arrays["covariance"].flatten()})


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:50],
    "not a number": lambda content: save(load(content) | {"mean": torch.full((3,), torch.nan)}),
    "another shape": other_shape,
    "without digest": lambda content: save({k: v for k, v in load(content).items() if k in SAVED}),
    "a digest of another kind": lambda content: save(load(content) | {DIGEST: torch.zeros(1)}),
    **{f"a bit at {share} %": partial(flipped, share=share) for share in range(0, 100, 3)},
}


def test_damaged_statistics_are_computed_again(path):
    store = ActivationStore(path)
    first, other = (statistics_of(store, SITE, tokens=t) for t in (TokenFilter(), TokenFilter(1)))
    assert first.digest() != other.digest()
    file = kept_at(store, SITE, "train", TokenFilter())
    (others,) = {*file.parent.iterdir()} - {file}
    content = file.read_bytes()
    for name, damage in {**DAMAGES, "of another filter": lambda _: others.read_bytes()}.items():
        file.write_bytes(damage(content))
        assert file.read_bytes() != content, name
        assert statistics_of(store, SITE).digest() == first.digest(), name
        assert file.read_bytes() == content, name


def test_statistics_do_not_depend_on_threads(tmp_path):
    path = make_store(tmp_path, [("train", [70_000]), ("test", [20])])
    digests = []
    for threads in (1, 2):
        with torch_threads(threads):
            store = ActivationStore(path)
            digests.append(statistics_of(store, SITE).digest())
            assert torch.get_num_threads() == threads
        shutil.rmtree(path / "statistics")
    assert digests[0] == digests[1]


def test_the_splits_have_statistics_of_their_own(path):
    store = ActivationStore(path)
    found = statistics_of(store, SITE, "test")
    np.testing.assert_allclose(found.mean_D, vectors_of(store, "test")[SITE].mean(0), rtol=1e-12)


def test_a_filter_that_leaves_nothing_and_a_site_that_is_not_there_are_refused(path):
    store = ActivationStore(path)
    with pytest.raises(ConfigError, match=r"largest_norm=1\.0\) leaves no token of train"):
        statistics_of(store, SITE, tokens=TokenFilter(largest_norm=1.0))
    with pytest.raises(ConfigError, match=r"site=mlp\.0: allowed is resid\.0"):
        statistics_of(store, "mlp.0")
