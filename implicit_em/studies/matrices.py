"""The weights of trained models as arrays."""

from typing import Any

import numpy as np

from implicit_em.models import SparseAutoencoder


def matrices_of(model: Any) -> dict[str, np.ndarray]:
    """Return the encoder's rows and, where there is a decoder, its columns."""
    matrices = {"encoder": model.weight}
    if isinstance(model, SparseAutoencoder):
        matrices["decoder"] = model.decoder.weight.mT
    return {name: weight.detach().numpy() for name, weight in matrices.items()}
