import numpy as np
import pytest

from lossatlas.plots import style


def linear(color):
    channels = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def test_the_sea_chart_grows_lighter_all_the_way():
    assert (np.diff([luminance(color) for color in style.DEPTH]) > 0).all()


def test_the_error_map_grows_darker_all_the_way():
    assert (np.diff([luminance(color) for color in style.EMBER]) < 0).all()


@pytest.mark.parametrize(
    ("color", "least"),
    [(style.INK, 7), (style.MUTED, 4.5), (style.BASIN, 3), (style.RIDGE, 3), (style.PATH, 3)],
)
def test_words_and_lines_stand_out_from_the_paper(color, least):
    contrast = (luminance(style.PAPER) + 0.05) / (luminance(color) + 0.05)
    assert contrast >= least


# Dichromats see two of three dimensions; matrices of Vienot, Brettel and Mollon (1999).
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array([[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.004, -0.004, 1.0]]),
    "deutan": np.array([[0.2927, 0.7073, 0.0], [0.2927, 0.7073, 0.0], [-0.0223, 0.0223, 1.0]]),
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_basins_ridges_and_the_path_stay_apart(kind):
    seen = [BLINDNESS[kind] @ linear(c) for c in (style.BASIN, style.RIDGE, style.PATH)]
    for a in range(3):
        for b in range(a):
            assert np.linalg.norm(seen[a] - seen[b]) > 0.1


def test_colors_of_the_web():
    assert style.translucent("#102030", 0.5) == "rgba(16, 32, 48, 0.5)"
    assert style.color_stops(("#000000", "#ffffff")) == [(0.0, "#000000"), (1.0, "#ffffff")]
