"""Where things are."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "implicit_em" / "conf"
"""The framework's configuration."""
STUDIES_CONF = ROOT / "implicit_em_studies" / "conf"


def copied_configuration(folder):
    """Copy the configuration of framework and studies into one folder, as ``--conf`` takes it."""
    for source in (CONF, STUDIES_CONF):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder
