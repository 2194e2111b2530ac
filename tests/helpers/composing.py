"""Configurations, composed without a command."""

from hydra import compose, initialize_config_dir

from helpers.paths import ROOT


def composed(config, *overrides, **options):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(config, overrides=list(overrides), **options)
