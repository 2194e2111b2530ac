"""Several processes that train one run: their group, their Lightning strategy and their start."""

from implicit_em.distributed.group import PER_SAMPLE, GlobalBatch, Group
