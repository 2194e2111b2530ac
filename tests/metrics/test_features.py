import numpy as np
import pytest
from matplotlib.image import imread

from implicit_em.metrics.feature_grid import feature_grid, feature_summary, is_image, save_figure


def picture(weight, shape):
    figure = feature_grid(weight, shape)
    return figure.axes[0], figure.axes[0].images[0]


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_limits_are_symmetric_and_those_of_the_largest_weight():
    weight = draw(4, 64)
    weight[2, 5] = -7.5
    _, image = picture(weight, (8, 8))
    assert image.get_clim() == (-7.5, 7.5)


def test_zero_is_white_positive_blue_negative_red():
    _, image = picture(draw(4, 64), (8, 8))
    low, high = image.get_clim()
    zero, positive, negative = (image.cmap(image.norm(value))[:3] for value in (0.0, high, low))
    assert min(zero) > 0.95
    assert positive[2] > 2 * positive[0]
    assert negative[0] > 2 * negative[2]


def test_rows_lie_in_reading_order_with_white_gaps():
    weight = draw(5, 12)
    _, image = picture(weight, (3, 4))
    pixels = np.ma.filled(image.get_array(), np.nan)
    assert pixels.shape == (3 + 1 + 3, 4 + 1 + 4 + 1 + 4)
    for row in range(5):
        top, left = 4 * (row // 3), 5 * (row % 3)
        assert np.array_equal(pixels[top : top + 3, left : left + 4], weight[row].reshape(3, 4))
    assert np.isnan(pixels[3]).all()
    assert np.isnan(pixels[:, [4, 9]]).all()
    assert np.isnan(pixels[4:, 10:]).all(), "five rows leave the sixth place empty"


def test_dimensions_of_one_do_not_matter():
    weight = draw(4, 64)
    expected = picture(weight, (8, 8))[1].get_array()
    for shape in ((1, 8, 8), (8, 8, 1)):
        assert np.ma.allequal(picture(weight, shape)[1].get_array(), expected)


@pytest.mark.parametrize("shape", [(12,), (3, 2, 2), (1, 12)])
def test_rows_that_are_no_images_are_shown_one_below_the_other(shape):
    weight = draw(5, 12)
    _, image = picture(weight, shape)
    assert np.array_equal(image.get_array(), weight)


def test_many_rows_are_capped_and_the_title_says_so():
    weight = draw(2000, 4)
    weight[1024:] *= 100
    axes, image = picture(weight, (2, 2))
    assert image.get_clim()[1] == abs(weight[:1024]).max(), "the scale of those shown"
    assert np.ma.count(np.ma.masked_invalid(image.get_array())) == 1024 * 4
    assert axes.get_title() == "Encoder weights of 1,024 components (the first 1,024 of 2,000)"
    assert picture(draw(64, 4), (2, 2))[0].get_title() == "Encoder weights of 64 components"


def test_weights_of_zero_are_white():
    _, image = picture(np.zeros((4, 64)), (8, 8))
    assert image.get_clim() == (-1, 1)


def test_saves_a_png_under_any_name(tmp_path):
    save_figure(feature_grid(draw(4, 64), (8, 8)), tmp_path / "features.png.part")
    assert imread(tmp_path / "features.png.part", format="png").std() > 0


def test_a_sample_with_two_dimensions_is_an_image():
    assert all(map(is_image, [(8, 8), (1, 8, 8), (8, 8, 1)]))
    assert not any(map(is_image, [(12,), (3, 8, 8), (1, 12), ()]))


def test_the_summary_shows_norms_cosines_and_energies():
    weight = np.array([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    energies = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    norm_axes, cosine_axes, energy_axes = feature_summary(weight, energies).axes
    assert norm_axes.lines[0].get_ydata().tolist() == [3, 2, 1]
    heights = np.array([bar.get_height() for bar in cosine_axes.patches])
    centres = np.array([bar.get_x() + bar.get_width() / 2 for bar in cosine_axes.patches])
    assert heights.sum() * (2 / 80) == pytest.approx(1)
    assert centres[heights > 0] == pytest.approx([0.0125, 0.9875])
    assert energy_axes.get_title() == "Energies above 0: 33.3% of all"
    assert sum(bar.get_height() for bar in energy_axes.patches) == 2


@pytest.mark.parametrize("components", [1, 2_000])
def test_the_summary_of_a_dead_layer_or_a_wide_one_is_drawn(components, tmp_path):
    figure = feature_summary(np.zeros((components, 3)), np.zeros((5, components)))
    save_figure(figure, tmp_path / "features.png")
    assert len(figure.axes[0].lines[0].get_ydata()) == min(components, 1024)
