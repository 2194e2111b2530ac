"""Plain ``nn.Module`` models, free of training code."""

from implicit_em.models.activations import Abs
from implicit_em.models.encoder import Encoder
from implicit_em.models.sae import SparseAutoencoder

__all__ = ["Abs", "Encoder", "SparseAutoencoder"]
