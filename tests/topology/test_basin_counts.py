import re

import numpy as np
import pytest

from lossatlas.topology import merge_tree
from lossatlas.topology.basin_counts import BasinCounts


def first_number(text, *words):
    """The number before the first of these words; "No" and "One" are numbers too."""
    for word in words:
        found = re.search(rf"(\d+|No|One) {word}", text)
        if found:
            return (
                {"No": 0, "One": 1}.get(found[1])
                if found[1] in {"No", "One"}
                else int(found[1])
            )
    return None


def rough_map(seed):
    source = np.random.default_rng(seed)
    values = np.cumsum(source.normal(size=source.integers(3, 40)))
    return merge_tree(values, error=float(source.choice([0.01, 0.4, 1.5])))


@pytest.mark.parametrize("seed", range(60))
def test_every_way_of_telling_counts_alike(seed):
    tree = rough_map(seed)
    counts = tree.counts
    verdicts = [counts.verdict(k) for k in range(len(tree))]
    basins = verdicts.count("certain")
    assert counts.basins == tree.certain_count == int(tree.counted.sum()) == basins
    unsure = sum(verdict.startswith("within") for verdict in verdicts)
    assert (counts.unsure, counts.edge.size) == (unsure, len(tree) - basins - unsure)
    assert first_number(counts.short, "certain basin") == basins
    assert first_number(counts.legend, "certain") == basins
    assert (first_number(counts.legend, "within") or 0) == unsure
    (row,) = (each for each in tree.estimates() if each.name == "certain minima")
    assert row.value == basins
    if not counts.is_within_error and len(tree) > 1:
        words = "basins? inside", "basins?(?: is| are|, all) certain"
        told = first_number(counts.headline(), *words)
        assert told == basins
    assert tree.sentences()[0] == tree.headline()


@pytest.mark.parametrize("seed", range(60))
def test_no_sentence_calls_a_minimum_certain_that_is_not_counted(seed):
    tree = rough_map(seed)
    if tree.certain_count:
        return
    said = " ".join(tree.sentences())
    assert not re.search(r"One basin|\d basins?|of them deeper|all certain", said)
    assert tree.counts.answer()[0].startswith("none")


def counts(certain, on_edge, **changes):
    facts = {"pieces": 1, "extent": 9.0, "threshold": 0.5} | changes
    return BasinCounts(np.array(certain), np.array(on_edge), **facts)


def test_a_minimum_on_the_edge_is_no_certain_basin():
    found = counts([True, False, False], [True, False, True])
    assert (
        found.short
        == "3 minima, 0 certain basins, 1 on the edge of the map, 2 within the error"
    )
    assert found.legend == (
        "0 certain inside the map; 2 within the error (gray), 1 of them on the edge of the map "
        "(hollow); 1 on the edge of the map (hollow), not counted."
    )
    assert found.headline() == (
        "No basin inside the map is certain; minimum 0 lies on its edge, where the loss may go "
        "on falling, and is not counted; 2 more minima are within the error."
    )
    assert [found.verdict(k) for k in range(3)] == [
        "on the edge of the map, not counted",
        "within the error",
        "within the error; on the edge of the map, not counted",
    ]


def test_the_lowest_of_a_map_within_its_error_counts_wherever_it_lies():
    found = counts([True, False], [True, True], extent=0.3)
    assert (found.basins, found.is_within_error) == (1, True)
    assert found.headline().startswith("The losses on this map range over 0.3, less than")
    assert not counts([True], [False], extent=0.3, threshold=np.nan).is_within_error


def test_unknown_certainty_is_no_certainty():
    found = counts([False, False], [False, True], threshold=np.nan, why_unknown="no errors")
    assert found.short == "2 minima, certainty unknown"
    assert found.answer() == ("2 minima, certainty unknown", "")
    assert found.verdict(0) == "unknown"
    assert "which of them have certain basins is unknown: no errors" in found.headline()
