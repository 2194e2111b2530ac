"""One run: its directory, its fit, its measurements and its files.

It imports from ``config`` and below.
"""

from implicit_em.base import lazy

lazy.offer_submodules(__name__)
