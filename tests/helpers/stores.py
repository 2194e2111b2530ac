"""Small stores of activations."""

import json

import numpy as np
import torch

from implicit_em.base.digest import digest_of_file
from implicit_em.data import Documents, Manifest, Shard
from implicit_em.data.store import DOCUMENTS, VOCABULARY, save_tensors, write_manifest

SITE, WIDTH, SPECIAL, SINK = "resid.0", 3, [0, 1], 5


def make_shard(rng, tokens, width=WIDTH):
    """Return the arrays of a shard; ``SINK`` is a token with a large norm."""
    arrays = {name: rng.integers(0, 10, tokens) for name in ("token", "document", "position")}
    arrays["place"] = np.arange(tokens)
    vectors_ND = rng.normal(50, 1, (tokens, width))
    vectors_ND[arrays["token"] == SINK] *= 100
    ints = {name: torch.from_numpy(array).int() for name, array in arrays.items()}
    norms_N = torch.from_numpy(np.linalg.norm(vectors_ND, axis=1)).float()
    return {**ints, SITE: torch.from_numpy(vectors_ND).half(), f"norm.{SITE}": norms_N}


def make_store(path, sizes, width=WIDTH, documents=None):
    """Write a store and return its directory.

    ``sizes`` holds pairs of a split and the tokens of its shards, in the order of the splits.
    ``documents`` are those of the store, if they are not ten that alternate between two kinds.
    """
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    if documents is None:
        documents = Documents(
            torch.arange(20).int(),
            torch.arange(0, 21, 2),
            torch.zeros(10).int(),
            {"kind": (torch.arange(10) % 2).int()},
        )
    documents.save(path / DOCUMENTS)
    (path / VOCABULARY).write_text(json.dumps({"tokens": ["a", "b"]}))
    shards = []
    for split, counts in sizes:
        for number, tokens in enumerate(counts):
            shard = Shard(split=split, number=number, tokens=tokens)
            save_tensors(path / shard.file, make_shard(rng, tokens, width))
            sha256 = digest_of_file(path / shard.file)
            shards.append(shard.model_copy(update={"sha256": sha256}))
    manifest = Manifest(
        settings={"sites": [SITE]},
        model={"name": "tiny"},
        text={"documents": len(documents)},
        versions={},
        sites={SITE: width},
        dtype="float16",
        special_tokens=SPECIAL,
        prefix=[0],
        suffix=[],
        labels={"kind": ["x", "y"]},
        files={name: digest_of_file(path / name) for name in (DOCUMENTS, VOCABULARY)},
        shards=shards,
    )
    write_manifest(path, manifest)
    return path
