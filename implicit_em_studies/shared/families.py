"""Names of the families in print."""

NAMES = {
    "derived": "derived",
    "derived_without_lse": "derived without LSE",
    "l1": "L1",
    "l1_norm": "L1 · ‖W_d‖",
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "jump_relu": "JumpReLU",
    "gated": "Gated",
    "hybrid": "SAE with LSE + var + tc",
    "derived_decay": "derived with decay",
    "hybrid_decay": "SAE with LSE + var + tc + decay",
    "pixels": "pixels",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
    "kmeans": "k-means",
    "gmm": "Gaussian mixture",
    "random": "random directions",
    "untrained": "untrained encoder",
}


def name_of(family: str) -> str:
    """Return the name of a family or knob in print."""
    return NAMES.get(family, family.replace("_", " "))
