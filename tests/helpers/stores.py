"""Small stores of activations."""

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from implicit_em.base.digest import digest_of_file
from implicit_em.language.store import (
    DOCUMENTS,
    VOCABULARY,
    Documents,
    Manifest,
    Shard,
    read_manifest,
    save_tensors,
    write_manifest,
)
from implicit_em.language.writing import StoreWriter

SITE, WIDTH, SPECIAL, SINK, OTHER_SINK = "resid.0", 3, [0, 1], 5, 6
NO_MODEL = {"name": "tiny", "sha256": None}


def make_shard(rng, tokens, width=WIDTH, **given):
    """Return the arrays of a shard; ``SINK`` is a token with a large norm."""
    arrays = {name: rng.integers(0, 10, tokens) for name in ("token", "document", "position")}
    arrays |= {"place": np.arange(tokens), **given}
    vectors_ND = rng.normal(50, 1, (tokens, width))
    vectors_ND[arrays["token"] == SINK] *= 100
    ints = {name: torch.from_numpy(array).int() for name, array in arrays.items()}
    norms_N = torch.from_numpy(np.linalg.norm(vectors_ND, axis=1)).float()
    return {**ints, SITE: torch.from_numpy(vectors_ND).half(), f"norm.{SITE}": norms_N}


def make_store(path, sizes, width=WIDTH, documents=None, further=()):
    """Write a store and return its directory.

    ``sizes`` holds pairs of a split and the tokens of its shards, in the order of the splits.
    ``documents`` are those of the store, if they are not ten that alternate between two kinds.
    ``further`` are sites beside ``SITE``, by their widths; ``OTHER_SINK`` has a large norm there.
    """
    rng = np.random.default_rng(0)
    if documents is None:
        documents = Documents(
            torch.arange(20).int(),
            torch.arange(0, 21, 2),
            torch.zeros(10).int(),
            {"kind": (torch.arange(10) % 2).int()},
        )
    shards = {
        Shard(split=split, number=number, tokens=tokens): make_shard(rng, tokens, width)
        for split, counts in sizes
        for number, tokens in enumerate(counts)
    }
    for arrays in shards.values():
        arrays["document"] %= len(documents)
        for site, size in dict(further).items():
            vectors_ND = 7 + 2 * torch.from_numpy(rng.normal(0, 1, (len(arrays["token"]), size)))
            vectors_ND[arrays["token"] == OTHER_SINK] *= 100
            arrays[site] = vectors_ND.half()
            arrays[f"norm.{site}"] = vectors_ND.norm(dim=1).float()
    sites = {SITE: width, **dict(further)}
    return _write_store(path, shards, documents, "abcdefghijklmnopqrst", sites)


def usual(arrays):
    """Which tokens stay by default: those of a sink are a hundred times as long as the others."""
    return (arrays["token"] > max(SPECIAL)) & (arrays["token"] != SINK)


def make_text_store(path, vocabulary, texts, width=WIDTH):
    """Write a store of one shard a split, whose tokens stand in documents; gives its directory.

    Args:
        path: its directory.
        vocabulary: text of each token id; the first two are special.
        texts: token ids of each document. Every third one is tested on. Their kind alternates.
        width: width of the vectors.
    """
    rng = np.random.default_rng(0)
    splits_N = torch.tensor([0, 0, 2]).repeat(len(texts))[: len(texts)].sort().values.int()
    ids_T = torch.tensor([token for text in texts for token in text]).int()
    starts_N = torch.tensor([0, *map(len, texts)]).cumsum(0)
    kinds_N = (torch.arange(len(texts)) % 2).int()
    documents = Documents(ids_T, starts_N, splits_N, {"kind": kinds_N})
    shards = {}
    for number, split in ((0, "train"), (2, "test")):
        some = [document for document in range(len(texts)) if splits_N[document] == number]
        rows = [(doc, place) for doc in some for place in range(len(texts[doc]))]
        rows = np.array(rows)[rng.permutation(len(rows))]
        document_N, place_N = rows.T.copy()
        token_N = ids_T.numpy()[starts_N.numpy()[document_N] + place_N]
        shard = Shard(split=split, number=0, tokens=len(rows))
        given = {"token": token_N, "document": document_N, "place": place_N}
        shards[shard] = make_shard(rng, len(rows), width, **given)
    return _write_store(path, shards, documents, vocabulary, {SITE: width})


def _write_store(path, shards, documents, vocabulary, sites):
    """Write a store of shards, given with their arrays; gives the directory."""
    path.mkdir(exist_ok=True)
    documents.save(path / DOCUMENTS)
    (path / VOCABULARY).write_text(json.dumps({"tokens": [*vocabulary]}))
    written = []
    for shard, arrays in shards.items():
        save_tensors(path / shard.file, arrays)
        sha256 = digest_of_file(path / shard.file)
        written.append(shard.model_copy(update={"sha256": sha256}))
    manifest = Manifest(
        settings={"sites": [*sites], "lm": NO_MODEL, "context": {"length": 12}},
        model={"name": "tiny", "architecture": "Tiny", "blocks": 1, "files": {}},
        text={
            "documents": len(documents),
            "tokens": len(documents.ids_T),
            "sha256": "0" * 64,
        },
        versions={},
        sites=sites,
        dtype="float16",
        special_tokens=SPECIAL,
        prefix=[0],
        suffix=[],
        labels={"kind": ["x", "y"]},
        files={name: digest_of_file(path / name) for name in (DOCUMENTS, VOCABULARY)},
        shards=written,
    )
    write_manifest(path, manifest)
    return path


def make_plan(path, whole):
    """Write the plan of a whole store: all of it but the shards; gives the directory."""
    path.mkdir()
    for name in (DOCUMENTS, VOCABULARY):
        shutil.copy(whole / name, path / name)
    manifest = read_manifest(whole)
    shards = [shard.model_copy(update={"sha256": None}) for shard in manifest.shards]
    write_manifest(path, manifest.model_copy(update={"shards": shards}))
    return path


@dataclass
class Copies:
    """A producer of shards that copies those of a whole store, and notes each in a file.

    If a file ``fault`` is in the whole store, it does what this says of the shard that it names:
    ``kill``, ``raise``, ``wait`` or ``change`` it.
    """

    lm: str
    """The directory of the whole store."""

    def open(self, store):
        return lambda place, folder: self._write(StoreWriter(store), place, folder)

    def _write(self, writer, place, folder):
        file = writer.manifest.shards[place].file
        fault = self.path / "fault"
        what, which = fault.read_text().split() if fault.exists() else (None, None)
        arrays = load_file(self.path / file)
        if which == file:
            fault.unlink()
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "raise":
                raise RuntimeError("no more paper")
            if what == "wait":
                time.sleep(1000)
            arrays["token"] += 1
        written = writer.write(place, arrays, folder)
        with (self.path / "made").open("a") as made:
            made.write(f"{written.file}\n")
        return written

    @property
    def path(self):
        return Path(self.lm)


def made(whole):
    """Return the names of the shards that were copied from a store, and forget them."""
    noted = whole / "made"
    names = noted.read_text().split() if noted.exists() else []
    noted.unlink(missing_ok=True)
    return names
