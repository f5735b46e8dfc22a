"""Whether a map is flat: judged by paired differences, against maps of known shape."""

import numpy as np
import pytest
import torch

import lossatlas as la
from lossatlas.surveys.extremes import Extremes


class Sheet(torch.nn.Module):
    """Two weights, whose loss on every example is a known function of them."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))


def objective(height, source, spread=1.0, wobble=0.05):
    """A bowl of some height under examples of large common and small own differences."""
    level = torch.tensor(spread * source.normal(size=400))
    phase = torch.tensor(source.uniform(0, 2 * np.pi, size=(400, 2)))

    def loss(model, batch):
        shared, angle = batch
        noise = torch.sin(37.0 * model.w + angle).sum(1)
        return shared + height * model.w.square().sum() + wobble * noise

    return la.Objective(Sheet(), loss, [(level, phase)])


def paired_range(height, seed):
    made = objective(height, np.random.default_rng(seed))
    plane = la.plane(
        made.params, {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
    )
    land = la.map_plane(made, plane, span=1.0, points=7)
    return Extremes(made, plane, land).range(), land


def test_flat_noise_is_called_flat():
    low = [paired_range(0.0, seed)[0].interval()[0] for seed in range(40)]
    assert np.mean(np.array(low) > 0) <= 0.05


@pytest.mark.parametrize("seed", range(5))
def test_a_bowl_below_the_unpaired_errors_is_not_flat(seed):
    found, land = paired_range(0.1, seed)
    tree = la.merge_tree(land)
    assert tree.is_within_error
    assert 3 * land.stderr.max() < found.value < tree.threshold
    low, high = found.interval()
    assert 0 < low < 0.2 < high


def test_the_range_is_that_of_the_examples():
    found, land = paired_range(0.1, 0)
    assert found.value == pytest.approx(land.range, abs=1e-9)
    assert found.stderr < 0.2 * land.stderr.min()
    assert "1,176 differences" in found.meaning


@pytest.mark.parametrize(
    ("height", "words"), [(0.0, "Flat within its error"), (0.1, "not flat")]
)
def test_a_survey_says_what_the_paired_range_bears(height, words):
    made = objective(height, np.random.default_rng(3))
    plane = la.plane(
        made.params, {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
    )
    found = la.survey(made, plane=plane, span=1.0, points=7, min_share=None)
    assert words in found.headline()
    assert found.headline() in found.sentences()
    (row,) = (each for each in found.estimates() if each.name == "range of the map")
    assert row.ends == found.loss_range.ends
    assert found.basin_answer() == ("not known: the map is within its error", "")
