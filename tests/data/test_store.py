"""Stores of activations: what reads them, what is refused, statistics of what a filter leaves."""

import json

import numpy as np
import pytest
import torch
from helpers.stores import SITE, SPECIAL, WIDTH, make_store

from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.data import ActivationStore, Documents, TokenFilter, statistics_of
from implicit_em.data.store import DOCUMENTS, VOCABULARY
from implicit_em.data.store_statistics import QUANTILES


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
    assert store.vocabulary() == ["a", "b"]
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
    with pytest.raises(DamagedError, match="no directory"):
        ActivationStore(path / DOCUMENTS)
    manifest = path / "manifest.json"
    content = json.loads(manifest.read_text())
    for damaged, reason in (
        ("{", "no JSON"),
        (json.dumps({**content, "version": 2}), "version"),
        (json.dumps({**content, "shards": 3}), "shards"),
        ("[]", "no manifest of a store"),
    ):
        manifest.write_text(damaged)
        with pytest.raises(DamagedError, match=reason) as refused:
            ActivationStore(path)
        assert "\n" not in str(refused.value)


def test_an_incomplete_store_is_refused(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = None
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="not complete: 1 of 3 shards are missing"):
        ActivationStore(path)


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
    for file in (path / "statistics").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    repaired = statistics_of(store, SITE)
    assert torch.equal(repaired.mean_D, first[0].mean_D), "a damaged file is computed again"


def test_the_splits_have_statistics_of_their_own(path):
    store = ActivationStore(path)
    found = statistics_of(store, SITE, "test")
    np.testing.assert_allclose(found.mean_D, vectors_of(store, "test")[SITE].mean(0), rtol=1e-12)


def test_a_filter_that_leaves_nothing_and_a_site_that_is_not_there_are_refused(path):
    store = ActivationStore(path)
    with pytest.raises(ConfigError, match=r"largest_norm=1\.0\) leaves no token of train"):
        statistics_of(store, SITE, tokens=TokenFilter(largest_norm=1.0))
    with pytest.raises(ConfigError, match=r"site=mlp\.0: allowed are resid\.0"):
        statistics_of(store, "mlp.0")
