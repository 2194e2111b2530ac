"""Where the configuration of the studies lies."""

from pathlib import Path

from implicit_em.config import CONF

STUDIES = Path(__file__).parents[1] / "conf"
"""Folder of the studies' own files, which Hydra finds beside the framework's."""


def folder_of(conf: Path) -> Path:
    """Return the folder of a study's files for a folder of configuration files.

    Another folder than the framework's own holds everything.
    """
    return STUDIES if conf.resolve() == CONF else conf
