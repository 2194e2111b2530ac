"""The models: plain ``nn.Module`` classes without training code, and what they declare."""

from implicit_em.models.activations import Abs
from implicit_em.models.batch_topk import BatchTopK
from implicit_em.models.classical import ICA, NMF, PCA, GaussianMixture, KMeans, Pixels
from implicit_em.models.dictionary import Dictionary
from implicit_em.models.encoder import Encoder, SampledEncoder
from implicit_em.models.gated import Gated
from implicit_em.models.jump_relu import JumpReLU
from implicit_em.models.matryoshka import Matryoshka
from implicit_em.models.mixture import Mixture
from implicit_em.models.sae import SparseAutoencoder
from implicit_em.models.spike_slab import SpikeSlab
from implicit_em.models.topk import TopK
