"""What SAEBench does; runs in its own environment: probe, fold, measure or absorb.

The first three take folders of SAELens, the last takes arrays.

Its warning that decoder rows are not of length 1 is an error here.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.meta_structure.eval_config import MetaStructureEvalConfig
from sae_bench.evals.meta_structure.main import run_eval
from sae_bench.sae_bench_utils.general_utils import check_decoder_norms
from sae_lens import SAE
from with_saelens import answer

warnings.filterwarnings("error", "Decoder weights are not normalized")


def probe(page, *folders):
    """Type in what a page shows, in each folder; write the accuracies and the test codes there."""
    code = Path(page).read_text()
    for folder in folders:
        os.chdir(folder)
        torch.manual_seed(0)
        names = {}
        exec(code, names)
        check_decoder_norms(names["sae"].W_dec)
        Path("accuracies.json").write_text(json.dumps(names["accuracies"]))
        np.savez("codes.npz", **names["codes"]["test"])


def fold(samples, *folders):
    """Write the codes and reconstructions of models whose decoder rows have been rescaled."""
    for folder in folders:
        sae = SAE.load_from_disk(folder, fold_W_dec_norm=True)
        check_decoder_norms(sae.W_dec)
        answer(sae, folder, np.load(samples))


def measure(folder, out):
    """Run the evaluation that reads the decoder alone, from the folder to its file of results."""
    sae = SAE.load_from_disk(folder, fold_W_dec_norm=True)
    run_eval(MetaStructureEvalConfig(train_steps=20, k=2), [("ours", sae)], "cpu", out)


def absorb(arrays, out):
    """Write the absorption of words, whose codes and vectors stand in for those of models.

    A word is w and the number of its vector, which the model has at every token of its prompt.
    """
    with np.load(arrays) as file:
        codes, rows, vectors, probe = (
            torch.from_numpy(file[name]) for name in ("codes", "rows", "vectors", "probe")
        )
        main = file["main"].tolist()

    def run_with_cache(prompts, names_filter):
        numbers = [int(prompt.rpartition("\nw")[2].removesuffix(":")) for prompt in prompts]
        places = torch.tensor(numbers)[:, None, None].expand(-1, 3, vectors.shape[1])
        return None, {names_filter[0]: vectors.gather(0, places.flatten(0, 1)).view(places.shape)}

    def encode(x):
        return codes[(x[:, None] == vectors).all(-1).int().argmax(1)]

    model = SimpleNamespace(run_with_cache=run_with_cache, to_tokens=lambda _: [range(3)])
    sae = SimpleNamespace(encode=encode, W_dec=rows, device="cpu")
    words = [f"w{number}" for number in range(len(vectors))]
    calculator = FeatureAbsorptionCalculator(model, words, max_icl_examples=2, topk_feats=2)
    found = calculator.calculate_absorption(sae, words, probe, main, 0, show_progress=False)
    full = [word.is_full_absorption for word in found.word_results]
    fraction = [float(word.absorption_fraction) for word in found.word_results]
    Path(out).write_text(json.dumps([full, fraction]))


if __name__ == "__main__":
    commands = {"probe": probe, "fold": fold, "measure": measure, "absorb": absorb}
    commands[sys.argv[1]](*sys.argv[2:])
