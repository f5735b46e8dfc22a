"""Figures for a paper: of the width that was asked for, nothing cut off or covered."""

import pytest
from matplotlib import pyplot as plt

from lossatlas.report import save_figures
from plots.paper_boxes import faults
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
