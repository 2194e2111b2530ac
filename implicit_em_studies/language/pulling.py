"""What steering by a unit does to chosen tokens, beside random directions of equal length."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from implicit_em.harvest.splicing import Passes, Replacement
from implicit_em.harvest.steering import Steering


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
        A row for each document: its number as ``document``, and the number of its ``tokens`` that
        move. ``pulled`` is the sum over these of the change of the next token's log-probability, a
        mean over the targets, in nats. ``random`` is the same, a mean over the random directions.
    """
    coder, count = steering.coder, len(passes.documents)
    code_2K = torch.zeros(2, len(coder.model.weight), dtype=coder.model.weight.dtype)
    code_2K[1, unit] = strength
    direction_D = coder.decode(code_2K).diff(dim=0)[0].float()
    generators = (torch.Generator().manual_seed(seed) for seed in range(seeds))
    randoms = [torch.randn(len(direction_D), generator=generator) for generator in generators]
    randoms = [random_D * (direction_D.norm() / random_D.norm()) for random_D in randoms]
    functions = [steering.replacement({unit: strength}), *map(_along, randoms)]
    tokens_N, sums_FN = torch.zeros(count), torch.zeros(len(functions), count, dtype=torch.float64)
    for batch in passes.batches(contexts_C2):
        logits_BLV, found = passes.clean(batch)
        clean_BL = logits_BLV.log_softmax(-1)[..., targets_T].mean(-1)
        for place, (sums_N, function) in enumerate(zip(sums_FN, functions, strict=True)):
            logits_BLV, vectors_BLD = passes.spliced(batch, found, function)
            shift_BL = logits_BLV.log_softmax(-1)[..., targets_T].mean(-1) - clean_BL
            moved_BL = (vectors_BLD != found[passes.splice.site]).any(-1)
            documents_M = batch.document_BL[moved_BL]
            sums_N.index_add_(0, documents_M, shift_BL[moved_BL].double())
            if not place:
                tokens_N += documents_M.bincount(minlength=count)
    columns = {"tokens": tokens_N.long(), "pulled": sums_FN[0], "random": sums_FN[1:].mean(0)}
    table = pd.DataFrame({name: values_N.numpy() for name, values_N in columns.items()})
    return table[table["tokens"] > 0].rename_axis("document").reset_index()


def _along(direction_D: Tensor) -> Replacement:
    return lambda x_ND: x_ND + direction_D
