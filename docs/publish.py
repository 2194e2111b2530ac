"""Copy a study's results into the documentation: ``publish.py results/paper docs/results``.

Text, tables and pictures are copied. PDFs, ``report.html``, runs, stores and W&B's files stay where
they are.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

COMMITTED = (
    "report.md",
    "findings.json",
    "verdicts.json",
    "verdicts.md",
    "tables/*",
    "figures/*.png",
)
WIDTH = 1400
"""Pixels: twice the width of a page's text."""


def publish(study: Path, into: Path) -> None:
    """Copy what is committed of a study, its parts included, over what is there."""
    for pattern in COMMITTED:
        for source in sorted(study.rglob(pattern)):
            if "wandb" in source.parts:
                continue
            target = into / source.relative_to(study)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if target.suffix == ".png":
                shrink(target)


def shrink(picture: Path) -> None:
    """Give a picture 256 colours and at most ``WIDTH`` columns, in place."""
    with Image.open(picture) as image:
        if image.mode == "P" and image.width <= WIDTH:
            return
        small = image.convert("RGB")
    if small.width > WIDTH:
        small = small.resize((WIDTH, round(small.height * WIDTH / small.width)))
    # k-means keeps the colours of areas and lines; without it, some move to another hue
    small = small.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    publish(*map(Path, sys.argv[1:]))
