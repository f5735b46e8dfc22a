import numpy as np
import pytest
from matplotlib import pyplot as plt

from lossatlas.plots import (
    bars,
    canvas,
    style,
    trees,
)
from lossatlas.plots.chart import pieces
from lossatlas.plots.scale import scale_of
from lossatlas.topology import merge_tree, persistence
from plots.sample_landscapes import sample_map


def plot_persistence(diagram, **options):
    return canvas.draw(bars.persistence_chart(diagram, **options))


def plot_barcode(diagram, **options):
    return canvas.draw(bars.barcode_chart(diagram, **options))


def plot_betti(diagram, **options):
    return canvas.draw(bars.betti_chart(diagram, **options))


def plot_tree(tree, **options):
    return canvas.draw(trees.tree_chart(tree, **options))


def plot_profile(land, tree, **options):
    return canvas.draw(trees.profile_chart(tree, land.values, **options))


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def noisy():
    return sample_map("himmelblau", 5, 41, noise=1.0)


def test_every_bar_is_a_mark_and_the_certain_ones_are_filled(noisy):
    diagram = persistence(noisy)
    ax = plot_persistence(diagram, scale=scale_of(noisy.values))
    marks = {line.get_label(): line for line in ax.lines if line.get_marker() in ("o", "^")}
    assert sum(len(line.get_xdata()) for line in marks.values()) == len(diagram)
    sure = marks["basins (H0)"]
    assert len(sure.get_xdata()) == (diagram.certain & (diagram.dimensions == 0)).sum()
    assert marks["basins (H0), uncertain"].get_markerfacecolor() == style.FAINT


def test_the_uncertain_band_is_as_high_as_the_threshold(noisy):
    diagram = persistence(noisy)
    band = plot_persistence(diagram).patches[0].get_xy()
    x = band[0, 0]
    at_x = band[band[:, 0] == x, 1]
    assert np.isclose(at_x.max() - at_x.min(), diagram.threshold)


def test_no_band_without_a_threshold():
    assert not plot_persistence(persistence(sample_map())).patches


def test_endless_bars_stand_above_the_rest(noisy):
    diagram = persistence(noisy)
    ax = plot_persistence(diagram)
    line = next(line for line in ax.lines if line.get_label() == "basins (H0)")
    assert line.get_ydata().max() > diagram.high


def test_a_row_for_every_bar_and_a_note_for_the_rest(noisy):
    diagram = persistence(noisy)
    ax = plot_barcode(diagram, most=3)
    drawn = sum(min(3, np.sum(diagram.dimensions == degree)) for degree in (0, 1))
    rows = [y for line in ax.lines for y in line.get_ydata() if np.isfinite(y)]
    assert len(set(rows)) == drawn
    assert f"{len(diagram) - drawn} shorter bars" in ax.get_xlabel()
    arrows = [line for line in ax.lines if line.get_marker() == ">"]
    assert sum(len(line.get_xdata()) for line in arrows) == diagram.essential.sum()


def test_branches_rise_from_their_minimum_to_their_pass(noisy):
    tree = merge_tree(noisy)
    ax = plot_tree(tree, most=4)
    lines = [line for line in ax.lines if line.get_linestyle() == "-"]
    paths = [path[1] for line in lines for path in pieces(line.get_xdata(), line.get_ydata())]
    assert len(paths) == 4
    lows = sorted(path[0] for path in paths)
    assert lows == sorted(tree.minima_values[np.argsort(-tree.persistences)[:4]])
    assert f"{len(tree) - 4} shorter branches" in ax.get_xlabel()


def test_a_profile_spans_the_map(noisy):
    tree = merge_tree(noisy)
    ax = plot_profile(noisy, tree, scale=scale_of(noisy.values))
    drawn = np.concatenate([patch.get_xy() for patch in ax.patches])
    assert np.isclose(drawn[:, 0].min(), 0)
    assert np.isclose(drawn[:, 0].max(), 100)
    assert np.isclose(drawn[:, 1].max(), noisy.values.max())


def test_betti_curves_show_all_and_the_certain(noisy):
    labels = [line.get_label() for line in plot_betti(persistence(noisy)).lines]
    assert labels[:2] == ["basins (H0), all", "basins (H0), certain"]
    unjudged = persistence(sample_map("himmelblau", 5, 41))
    assert plot_betti(unjudged).lines[0].get_label() == "basins (H0)"
