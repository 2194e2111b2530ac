"""The composed configuration: its schema, check, fingerprint and what was mistyped.

With what lies above it, it alone knows Hydra; it imports from ``engine`` and below. The resolvers
that configurations use are registered when it is imported.
"""

from pathlib import Path

from implicit_em.config import resolvers

CONF = Path(__file__).parents[1] / "conf"
"""Folder of the configuration files."""

__all__ = ["CONF", "resolvers"]
