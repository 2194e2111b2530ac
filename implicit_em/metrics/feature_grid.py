"""The picture of a layer: its weight rows as a grid of images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

MOST_SHOWN = 1024
RED_WHITE_BLUE = LinearSegmentedColormap.from_list(
    "red_white_blue", ["#67001f", "#d6604d", "#ffffff", "#4393c3", "#053061"]
).with_extremes(bad="#e6e6e6")  # the gaps between the images


def feature_grid(weight_KD: np.ndarray, sample_shape: Sequence[int]) -> Figure:
    """Return a figure with the rows as images: blue is positive, red negative, white zero.

    All rows share one symmetric scale. The first 1,024 rows are shown. Rows that are not images of
    one channel become the rows of one picture.

    Args:
        weight_KD: weight matrix, shape ``(K, D)``.
        sample_shape: shape of one input, with product D.
    """
    figure = Figure(figsize=(6.4, 5.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    shown = draw_grid(axes, weight_KD, sample_shape)
    more = f" (the first {shown:,} of {len(weight_KD):,})" if shown < len(weight_KD) else ""
    axes.set_title(f"Encoder weights of {shown:,} components{more}", fontsize=10)
    return figure


def draw_grid(
    axes: Axes,
    weight_KD: np.ndarray,
    sample_shape: Sequence[int],
    bar: str = "right",
    saturating: float = 0.0,
) -> int:
    """Draw the grid into axes, and return the number of rows shown.

    ``saturating`` is the share of the weights beyond the ends of the scale.
    """
    shown = weight_KD[:MOST_SHOWN]
    image_shape = [size for size in sample_shape if size != 1]
    are_images = len(image_shape) == 2
    mosaic = _mosaic(shown.reshape(-1, *image_shape)) if are_images else shown
    limit = float(np.quantile(np.abs(shown), 1 - saturating)) or 1.0
    picture = axes.imshow(
        mosaic,
        cmap=RED_WHITE_BLUE,
        vmin=-limit,
        vmax=limit,
        aspect="equal" if are_images else "auto",
        interpolation="none",  # sharp pixels, and small files
    )
    axes.set_axis_off()
    axes.figure.colorbar(picture, ax=axes, location=bar, shrink=0.8, label="weight")
    return len(shown)


def save_feature_grid(weight_KD: np.ndarray, sample_shape: Sequence[int], path: Path) -> None:
    """Write the grid as a PNG."""
    feature_grid(weight_KD, sample_shape).savefig(path, format="png")


def _mosaic(images_KHW: np.ndarray) -> np.ndarray:
    """Return the images in a near-square grid, with gaps of one pixel (NaN)."""
    count, height, width = images_KHW.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    padded = np.full((rows * columns, height + 1, width + 1), np.nan, dtype=np.float32)
    padded[:count, :height, :width] = images_KHW
    grid = padded.reshape(rows, columns, height + 1, width + 1).transpose(0, 2, 1, 3)
    return grid.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
