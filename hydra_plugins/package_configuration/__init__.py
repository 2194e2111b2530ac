"""Lets Hydra find the configuration files of other packages beside the framework's."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from implicit_em.config import CONF, FURTHER


class PackageConfiguration(SearchPathPlugin):
    """Appends the folders of other packages where the main configuration is the framework's own.

    Hydra asks each plugin in every application of the environment.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        elements = search_path.get_path()
        main = [e.path.removeprefix("file://") for e in elements if e.provider == "main"]
        if [Path(path).resolve() for path in main] == [CONF.resolve()]:
            for folder in FURTHER:
                search_path.append("implicit-em", f"file://{folder.resolve()}")
