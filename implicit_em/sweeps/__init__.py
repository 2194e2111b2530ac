"""Sweeps: all jobs are checked before the first one starts, and summarised after the last."""

from implicit_em.base import lazy

lazy.offer_submodules(__name__)
