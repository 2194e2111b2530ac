"""What steering by units does to the tokens that follow: ``python -m ...language.pulling RUN ...``.

A fixed rule chooses units, target tokens and strengths on training tokens, and contexts of the test
documents. No choice looks at the result. The units are equally far apart among those that are
active often enough. The targets of a unit are the tokens that follow its activations most above
their usual share. The strength is its largest activation there. The *lead* of a unit is by how much
it raises the log-probability of its targets, less the same of random directions of equal length.
The units of a run *pull* if the 95 % interval of their mean lead is above 0.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csc_array, vstack
from torch import Tensor

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError
from implicit_em.base.files import write_json
from implicit_em.base.quiet import quieten
from implicit_em.base.values import check_whole
from implicit_em.data.modules import fixed_choice
from implicit_em.language.model_files import model_of
from implicit_em.language.models import CausalModel
from implicit_em.language.splicing import Passes, Replacement
from implicit_em.language.steering import Steering
from implicit_em.metrics.sparse import csr_of
from implicit_em.trained.reading import trained
from implicit_em.training.decoding import BATCH, encoded
from implicit_em.training.progress import working
from implicit_em_studies.shared.statistics import CONFIDENCE, Estimate

CHOSEN_ON = 50_000
"""Largest number of training tokens on which units and their target tokens are chosen."""
LEAST_ACTIVE = 50
"""Least number of these tokens that activate a chosen unit."""
TARGETS = 5
"""Number of target tokens of a unit."""
RESAMPLES = 10_000
"""Number of samples of the bootstrap."""


def codes_and_next(steering: Steering) -> tuple[csc_array, np.ndarray]:
    """Return codes ``(N, K)`` of training tokens, and the ids ``(N,)`` of the tokens behind them.

    Special tokens and the last token of a document are left out. Codes below 0 count as 0.
    """
    data = steering.data
    samples, rows = data.split("train")[0], data.train_indices()
    chosen = rows[fixed_choice(len(rows), CHOSEN_ON)]
    documents = data.store.documents()
    number_N, place_N = (
        data.column(name, "train")[chosen].long() for name in ("document", "place")
    )
    next_N = documents.starts_N[number_N] + place_N + 1
    has_next_N = (place_N >= 0) & (next_N < documents.starts_N[number_N + 1])
    codes = encoded(steering.coder.model, samples.index_select(0, chosen[has_next_N]), BATCH)
    code_NK = vstack([csr_of(code_BK.clamp(min=0).numpy()) for code_BK, _ in codes])
    return code_NK.tocsc(), documents.ids_T[next_N[has_next_N]].numpy()


def units_of(code_NK: csc_array, count: int) -> list[int]:
    """Return numbers of units, equally far apart among those that are active often enough.

    Raises:
        ConfigError: if fewer than ``count`` are.
    """
    active = np.flatnonzero(np.diff(code_NK.indptr) >= LEAST_ACTIVE)
    if len(active) < count:
        raise ConfigError(
            f"units={count}: of {code_NK.shape[0]:,} tokens, {LEAST_ACTIVE} activate only "
            f"{len(active)} units of the run"
        )
    return [int(unit) for unit in active[np.arange(count) * len(active) // count]]


def targets_of(activation_N: np.ndarray, next_N: np.ndarray) -> np.ndarray:
    """Return the ids of the tokens that a unit's activations point to.

    Each next token is weighted by the unit's activation on the token before it. The targets are the
    tokens whose share this raises most.
    """
    weighted_V = np.bincount(next_N, activation_N) / activation_N.sum()
    return np.argsort(np.bincount(next_N) / len(next_N) - weighted_V, kind="stable")[:TARGETS]


@torch.inference_mode()
def target_shifts(
    steering: Steering,
    passes: Passes,
    contexts_C2: np.ndarray,
    unit: int,
    strength: float,
    targets_T: Tensor,
    seeds: int = 4,
) -> pd.DataFrame:
    """Return how far a unit moves the log-probabilities of target tokens, by document.

    The strength is added to the unit at every token that the run's rule keeps. So each vector moves
    by the same ``d``, along the raw direction of the unit. A random direction is normally
    distributed, and has the length of d.

    Args:
        steering: the run.
        passes: passes of the language model over the store.
        contexts_C2: contexts that are read.
        unit: number of the unit.
        strength: what is added to its activation.
        targets_T: ids of the target tokens.
        seeds: number of random directions.

    Returns:
        A row for each document: its number as ``document``, and as ``tokens`` how many of its
        tokens the rule keeps. ``pulled`` is the sum over these of the change of the next token's
        log-probability, a mean over the targets, in nats. ``random`` is the same, a mean over the
        random directions.
    """
    coder, count = steering.coder, len(passes.documents)
    code_2K = torch.zeros(2, len(coder.model.weight), dtype=coder.model.weight.dtype)
    code_2K[1, unit] = strength
    x_2D = code_2K.new_zeros(2, coder.model.weight.shape[1])  # a linear path cancels out
    direction_D = coder.decode(code_2K, x_2D).diff(dim=0)[0].float()
    generators = (torch.Generator().manual_seed(unit * seeds + seed) for seed in range(seeds))
    randoms = [torch.randn(len(direction_D), generator=generator) for generator in generators]
    randoms = [random_D * (direction_D.norm() / random_D.norm()) for random_D in randoms]
    along = (partial(_moved, coder.model, random_D) for random_D in randoms)
    functions: list[Replacement] = [steering.replacement({unit: strength}), *along]
    tokens_N = torch.zeros(count, dtype=torch.int64)
    sums_FN = torch.zeros(len(functions), count, dtype=torch.float64)
    for batch in passes.batches(contexts_C2):
        logits_BLV, found = passes.clean(batch)
        clean_BL = logits_BLV.log_softmax(-1)[..., targets_T].mean(-1)
        kept_BL = passes.splice.kept(batch.ids_BL, batch.mask_BL, found)
        documents_M = batch.document_BL[kept_BL]
        tokens_N += documents_M.bincount(minlength=count)
        for sums_N, function in zip(sums_FN, functions, strict=True):
            logits_BLV, _ = passes.spliced(batch, found, function)
            shift_BL = logits_BLV.log_softmax(-1)[..., targets_T].mean(-1) - clean_BL
            sums_N.index_add_(0, documents_M, shift_BL[kept_BL].double())
    columns = {"tokens": tokens_N, "pulled": sums_FN[0], "random": sums_FN[1:].mean(0)}
    table = pd.DataFrame({name: values_N.numpy() for name, values_N in columns.items()})
    return table[table["tokens"] > 0].rename_axis("document").reset_index()


def _moved(model: Any, direction_D: Tensor, rows: Tensor) -> Tensor:
    """Return what a model is to explain of vectors, moved along a direction."""
    return model.sides(rows)[1] + direction_D


def lead(shifts: Sequence[pd.DataFrame]) -> Estimate:
    """Return the mean lead of units over random directions, in nats a token.

    The interval is that of a bootstrap, which draws units and documents, each with replacement
    (Owen 2007, arXiv 0712.1111).

    Args:
        shifts: the table of ``target_shifts`` for each unit, all over the same documents.
    """
    lead_UN = np.stack([table["pulled"] - table["random"] for table in shifts])
    tokens_N = shifts[0]["tokens"].to_numpy()
    units, documents = lead_UN.shape
    draws = np.random.default_rng(0)
    times_RU, times_RN = (
        draws.multinomial(count, np.full(count, 1 / count), RESAMPLES)
        for count in (units, documents)
    )
    drawn_RU = (times_RN @ lead_UN.T) / (times_RN @ tokens_N)[:, None]
    drawn_R = (times_RU * drawn_RU).sum(1) / units
    low, high = np.quantile(drawn_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(lead_UN.sum() / tokens_N.sum() / units, float(low), float(high), units)


def pulled(
    name: str, steering: Steering, passes: Passes, units: int, contexts: int
) -> dict[str, Any]:
    """Return how steering by some units shifts their targets, as the file has it.

    Shifts and leads are in nats a token.

    Raises:
        ConfigError: if too few units are active, or the contexts are of a single document.
    """
    some_C2 = passes.contexts_C2[fixed_choice(len(passes.contexts_C2), contexts).numpy()]
    code_NK, next_N = codes_and_next(steering)
    vocabulary = steering.data.store.vocabulary()
    rows, shifts = [], []
    for unit in units_of(code_NK, units):
        activation_N = code_NK[:, [unit]].toarray()[:, 0]
        targets = targets_of(activation_N, next_N)
        about = {"unit": unit, "targets": [vocabulary[target] for target in targets]}
        strength = float(activation_N.max())
        with working(f"{name}: unit {unit}"):
            shift = target_shifts(
                steering, passes, some_C2, unit, strength, torch.from_numpy(targets)
            )
        if (documents := len(shift)) < 2:
            raise ConfigError(f"contexts={contexts}: of {documents} documents; needs 2 or more")
        moved = {each: shift[each].sum() / shift["tokens"].sum() for each in ("pulled", "random")}
        rows.append({**about, "strength": strength, **moved, **_ends(lead([shift]))})
        shifts.append(shift)
    tokens = int(shifts[0]["tokens"].sum())
    of_all = {"documents": len(shifts[0]), "tokens": tokens, **_ends(lead(shifts))}
    return {"run": name, "contexts": len(some_C2), **of_all, "units": rows}


def _ends(found: Estimate) -> dict[str, float | None]:
    return {"lead": found.value, "low": found.low, "high": found.high}


def main(arguments: Sequence[str] | None = None) -> int:
    """Steer by units of the runs on the command line; return the exit code."""
    parser = Parser(
        prog="python -m implicit_em_studies.language.pulling",
        description="Steer a language model by units of each run. Print how far they lead random "
        "directions of equal length, and write it to a file.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run on a language model's activations")
    add("--units", type=int, default=10, help="number of units of each run; default: 10")
    add("--contexts", type=int, default=32, help="largest number of test contexts; default: 32")
    add("--lm", help="folder, GGUF file or hub name of the language model, if none of conf/lm")
    add("--to", type=Path, required=True, help="JSON file that is written")
    return parser.run(arguments, _pull_all)


def _pull_all(options: argparse.Namespace) -> None:
    check_whole("units", options.units, 1)
    check_whole("contexts", options.contexts, 2)
    if not options.to.parent.is_dir():
        raise ConfigError(f"--to {options.to}: there is no directory {options.to.parent}")
    if options.to.exists():
        raise ConfigError(f"--to {options.to}: is there already; nothing is overwritten")
    quieten()
    steerings = {path: Steering.of(trained(path)) for path in options.runs}
    with working("loading the language model"):
        manifest = next(iter(steerings.values())).data.store.manifest
        model = CausalModel.load(model_of(manifest, options.lm), "cpu")
    passes = [Passes(one.data.store, model, one.splice) for one in steerings.values()]
    sizes = options.units, options.contexts
    found = [
        pulled(path, steering, its, *sizes)
        for (path, steering), its in zip(steerings.items(), passes, strict=True)
    ]
    write_json(options.to, {"runs": found})
    for one in found:
        ahead = sum(row["low"] > 0 for row in one["units"])
        mean = Estimate(one["lead"], one["low"], one["high"]).text(3, unit="nats")
        print(f"{one['run']}: {mean}; ahead for {ahead} of {len(one['units'])} units")


if __name__ == "__main__":
    sys.exit(main())
