"""Figures for a paper: of the width that was asked for, nothing cut off or covered."""

import pytest
from matplotlib import pyplot as plt

from lossatlas.plots.canvas import _drawn_in_space, _wrapped
from lossatlas.report import save_figures
from plots.paper_boxes import faults, words_of
from report.sample_comparisons import valleys
from report.sample_surveys import ALL

RESULTS = {name: make for name, make in ALL.items() if name != "hostile"}
RESULTS["comparison"] = valleys


@pytest.mark.parametrize("name", RESULTS)
def test_no_word_of_a_figure_is_cut_off_or_covers_another(name):
    found, wrong = RESULTS[name](), {}
    for figure in found.figures():
        ax = found.plot(figure.name, style="paper", width=3.25)
        assert ax.figure.get_figwidth() == 3.25
        wrong[figure.name] = faults(ax.figure)
        plt.close(ax.figure)
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_measure_sees_what_is_wrong():
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.set_ylabel("much too long a title for two inches of height")
    ax.set_xticks([0.5, 0.52], ["first", "second"])
    found = faults(figure)
    plt.close(figure)
    assert any(fault.startswith("cut: 'much") for fault in found)
    assert "over: 'first' and 'second'" in found


def test_figures_become_files_of_their_names(tmp_path):
    found = RESULTS["line"]()
    files = save_figures(found, tmp_path / "figures", ("pdf", "svg"))
    assert len(files) == 2 * len(found.figures())
    for path in files:
        start = path.read_bytes()[:5]
        assert start == (b"%PDF-" if path.suffix == ".pdf" else b"<?xml")


@pytest.mark.parametrize("width", [3.25, 6.75])
@pytest.mark.parametrize("name", ["himmelblau", "noisy bowl"])
def test_maps_and_surfaces_fill_the_paper(name, width):
    found = RESULTS[name]()
    for kind in ("contour", "surface"):
        ax = found.plot(kind, style="paper", width=width)
        ax.figure.canvas.draw()
        boxes = [box for _, box in words_of(ax.figure)] + [ax.get_window_extent()] * (
            kind == "contour"
        )
        wide, dpi = ax.figure.get_figwidth(), ax.figure.dpi
        left = min(box.x0 for box in boxes) / dpi
        if kind == "surface":
            drawn = _drawn_in_space(ax)
            left = drawn.x0
            assert drawn.width > 0.93 * wide
            assert drawn.height > 0.93 * ax.figure.get_figheight()
        assert left < 0.25
        plt.close(ax.figure)


def test_the_star_of_the_weights_lies_on_a_minimum_and_not_under_it():
    ax = RESULTS["himmelblau"]().plot("contour", style="paper", width=3.25)
    depth = {line.get_label(): line.get_zorder() for line in ax.lines}
    size = {line.get_marker(): line.get_markersize() for line in ax.lines}
    plt.close(ax.figure)
    (minimum,) = (z for name, z in depth.items() if name.startswith("certain min"))
    assert depth["end"] > minimum
    assert size["*"] > size["o"]


def test_both_ends_of_a_path_stand_in_the_legend():
    ax = RESULTS["himmelblau"]().plot("contour", style="paper", width=3.25)
    (legend,) = ax.figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    plt.close(ax.figure)
    assert {"start", "end"} <= set(words)


def test_a_unit_is_not_parted_by_the_end_of_a_line():
    assert _wrapped("random direction 1 [direction lengths]", 3.25) == (
        "random direction 1\n[direction lengths]"
    )
    assert _wrapped("loss (log above the lowest)", 9) == "loss (log above the lowest)"


def test_a_steep_axis_keeps_its_labels_on_paper():
    for name in ("barcode", "persistence", "betti"):
        ax = RESULTS["himmelblau"]().plot(name, style="paper", width=3.25)
        ax.figure.canvas.draw()
        low, high = sorted(ax.get_xlim())
        inside = [t for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
        labels = [tick.label1.get_text() for tick in inside]
        plt.close(ax.figure)
        assert len(labels) >= 3
        assert all(labels)
