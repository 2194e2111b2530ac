"""Lets Hydra find the studies' configuration files beside the framework's."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

import implicit_em
import implicit_em_studies


class StudyConfiguration(SearchPathPlugin):
    """Appends the studies' folder where the main configuration is the framework's own.

    Hydra asks each plugin in every application of the environment.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder."""
        framework, studies = (
            Path(package.__path__[0], "conf").resolve()
            for package in (implicit_em, implicit_em_studies)
        )
        elements = search_path.get_path()
        main = [e.path.removeprefix("file://") for e in elements if e.provider == "main"]
        if [Path(path).resolve() for path in main] == [framework]:
            search_path.append("implicit-em-studies", f"file://{studies}")
