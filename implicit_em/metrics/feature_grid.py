"""The picture of a layer: its weight rows as images, or plots of norms, cosines and energies."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

MOST_SHOWN = 1024
RED, BLUE = "#d6604d", "#4393c3"
RED_WHITE_BLUE = LinearSegmentedColormap.from_list(
    "red_white_blue", ["#67001f", RED, "#ffffff", BLUE, "#053061"]
).with_extremes(bad="#e6e6e6")  # the gaps between the images


def feature_grid(weight_KD: np.ndarray, sample_shape: Sequence[int]) -> Figure:
    """Return a figure with the rows as images: blue is positive, red negative, white zero.

    All rows share one symmetric scale. The first 1,024 rows are shown. Rows that are not images of
    one channel become the rows of one picture.

    Args:
        weight_KD: weight matrix, shape ``(K, D)``.
        sample_shape: shape of one input, with product D.
    """
    figure = Figure(figsize=(6.4, 5.6), dpi=150)
    figure.subplots_adjust(0.02, 0.02, 0.96, 0.94)  # a layout engine would draw everything twice
    axes = figure.add_subplot()
    shown = draw_grid(axes, weight_KD, sample_shape)
    more = f" (the first {shown:,} of {len(weight_KD):,})" if shown < len(weight_KD) else ""
    axes.set_title(f"Encoder weights of {shown:,} components{more}", fontsize=10, y=1)
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
    are_images = is_image(sample_shape)
    mosaic = _mosaic(shown.reshape(-1, *_without_ones(sample_shape))) if are_images else shown
    finite = np.abs(shown[np.isfinite(shown)])
    limit = (float(np.quantile(finite, 1 - saturating)) if finite.size else 0.0) or 1.0
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


def feature_summary(weight_KD: np.ndarray, energies_BK: np.ndarray) -> Figure:
    """Return a figure for rows that are not images: their norms, cosines and energies.

    The first 1,024 rows are shown. The cosines are of all pairs of rows. The line over them
    is their density for random directions, approximately normal with variance 1 / D.

    Args:
        weight_KD: weight matrix, shape ``(K, D)``.
        energies_BK: energies or activations of some samples, shape ``(B, K)``.
    """
    weight_KD, energies_BK = weight_KD[:MOST_SHOWN], energies_BK[:, :MOST_SHOWN]
    components, width = weight_KD.shape
    norms_K = np.linalg.norm(weight_KD, axis=1)
    rows_KD = weight_KD / np.maximum(norms_K, np.finfo(np.float32).tiny)[:, None]
    cosines = (rows_KD @ rows_KD.T)[np.triu_indices(components, 1)]
    above = energies_BK[(energies_BK > 0) & np.isfinite(energies_BK)]

    figure = Figure(figsize=(10.5, 3.2), dpi=150)
    # Fixed margins: to fit them takes longer than to draw.
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.17, top=0.9, wspace=0.22)
    norm_axes, cosine_axes, energy_axes = figure.subplots(1, 3)
    norm_axes.plot(np.arange(1, components + 1), np.sort(norms_K)[::-1], ".-", color=BLUE)
    norm_axes.set(title="Norms of the weight rows", xlabel="rank of the component", ylabel="norm")
    norm_axes.set_ylim(bottom=0)
    random = NormalDist(0, width**-0.5)
    grid = np.linspace(-1, 1, 401)
    shares = np.full(cosines.shape, 40 / max(cosines.size, 1))  # the area of the bins is 1
    cosine_axes.hist(cosines, bins=80, range=(-1, 1), weights=shares, color=BLUE, label="rows")
    cosine_axes.plot(grid, [random.pdf(x) for x in grid], color=RED, label="random directions")
    cosine_axes.set(title="Cosines between rows", xlabel="cosine", ylabel="density")
    cosine_axes.legend(frameon=False, fontsize=7, loc="upper right")
    energy_axes.hist(above, bins=80, color=BLUE, log=above.size > 0)
    share = above.size / max(energies_BK.size, 1)
    energy_axes.set(title=f"Energies above 0: {share:.1%} of all", xlabel="energy", ylabel="count")
    return figure


def is_image(sample_shape: Sequence[int]) -> bool:
    """Return whether a sample has two dimensions, beside dimensions of size 1."""
    return len(_without_ones(sample_shape)) == 2


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, compressed for speed."""
    figure.savefig(path, format="png", pil_kwargs={"compress_level": 1})


def _without_ones(sample_shape: Sequence[int]) -> list[int]:
    return [size for size in sample_shape if size != 1]


def _mosaic(images_KHW: np.ndarray) -> np.ndarray:
    """Return the images in a near-square grid, with gaps of one pixel (NaN)."""
    count, height, width = images_KHW.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    padded = np.full((rows * columns, height + 1, width + 1), np.nan, dtype=np.float32)
    padded[:count, :height, :width] = images_KHW
    grid = padded.reshape(rows, columns, height + 1, width + 1).transpose(0, 2, 1, 3)
    return grid.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
