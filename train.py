"""Train one run or, with -m, a sweep: python train.py [-m] [key=value ...]."""

import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from implicit_em import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> dict[str, Any]:
    """Train the composed configuration."""
    from implicit_em.training.run import train

    return train(cfg)


if __name__ == "__main__":
    sys.exit(cli.run(main, conf=Path(__file__).parent / "conf", config="train"))
