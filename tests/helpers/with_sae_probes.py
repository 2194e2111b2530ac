"""What sae-probes measures of given latents; runs in its own environment.

Instead of a language model's vectors it finds the latents, which its encoder leaves as they are.
"""

import json
import sys
from types import SimpleNamespace

from sae_probes import run_sae_evals

folder, results, ks, *sets = sys.argv[1:]
run_sae_evals(
    sae=SimpleNamespace(encode=lambda latents: latents),
    model_name="given",
    hook_name="latents",
    reg_type="l1",
    setting="normal",
    ks=json.loads(ks),
    model_cache_path=folder,
    results_path=results,
    datasets=sets,
    device="cpu",
)
