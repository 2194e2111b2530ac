"""The training step: replicas that train as a stack, where runs meet, and the LightningModules."""

from implicit_em.base import lazy

lazy.offer_submodules(__name__)
