"""The composed configuration: its schema, its check, its fingerprint and hints at mistakes.

Only this layer and those above it know Hydra. Importing it registers the resolvers.
"""

from pathlib import Path

from implicit_em.config import resolvers

CONF = Path(__file__).parents[1] / "conf"
"""Folder of the configuration files."""
