"""What was trained: models of runs and of other tools, read, measured again and exported."""

from implicit_em.base import lazy

lazy.offer_submodules(__name__)
