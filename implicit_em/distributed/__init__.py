"""Several processes that train one run: their group, the Lightning strategy, how they are started.

It imports from ``base`` alone.
"""

from implicit_em.distributed.group import PER_SAMPLE, Group
from implicit_em.distributed.strategy import GlobalBatch

__all__ = ["PER_SAMPLE", "GlobalBatch", "Group"]
