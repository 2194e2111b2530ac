"""The composed configuration: its schema, its fingerprint and hints at mistakes.

Only this layer and the layers above it know Hydra. Importing it registers the resolvers, also the
resolvers of other packages and of the wing for language models: the entry points of the group
``implicit_em.configuration``, each the folder of its package's configuration files.
"""

from importlib.metadata import entry_points
from pathlib import Path

from implicit_em.config import resolvers

CONF = Path(__file__).parents[1] / "conf"
"""Folder of the configuration files."""
FURTHER: list[Path] = [entry.load() for entry in entry_points(group="implicit_em.configuration")]
"""Folders of the configuration files of other packages, and of the wing."""
