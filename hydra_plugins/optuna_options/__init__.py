"""Lets ``conf/hydra/sweeper/optuna.yaml`` replace the option that Optuna's plugin brings."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

OPTION = "optuna.yaml"


class OptunaOptions(SearchPathPlugin):
    """Removes the plugin's option if the configuration has one: Hydra refuses two of one name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Remove the option; the search path stays as it is."""
        folders = [Path(element.path.removeprefix("file://")) for element in search_path.get_path()]
        if any((folder / "hydra" / "sweeper" / OPTION).exists() for folder in folders):
            ConfigStore.instance().repo["hydra"]["sweeper"].pop(OPTION, None)
