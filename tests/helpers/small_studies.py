"""Configuration files of studies with small grids."""

from helpers.paths import copied_configuration

FAMILY = """# @package _global_
# A family in few settings.
defaults:
  - override /model: {model}
hydra:
  sweeper:
    params:
      {axis}
"""


def conf_with(folder, grids):
    """Copy the configuration files; the grids, by their files, take a model and an axis."""
    copied_configuration(folder)
    for name, (model, axis) in grids.items():
        (folder / "experiment" / f"{name}.yaml").write_text(FAMILY.format(model=model, axis=axis))
    return folder
