"""What SAEBench does with folders of SAELens; runs in its own environment: probe, fold or measure.

Its warning that decoder rows are not of length 1 is an error here.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
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


if __name__ == "__main__":
    {"probe": probe, "fold": fold, "measure": measure}[sys.argv[1]](*sys.argv[2:])
