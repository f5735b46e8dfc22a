import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.curvature import hessian
from lossatlas.errors import ArgumentError, ResumeError, UnknownNameError
from lossatlas.objective import Objective, supervised
from lossatlas.training import build_loss, load_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "studies" / "phases"))
from curve import bezier, connect, mode_connectivity
from phase_plane import (
    MEANING,
    OF_PAIRS,
    OF_SEEDS,
    PHASES,
    PhasePlane,
    Thresholds,
    phase_plane,
    ring,
)

DIGITS = load_dataset("digits", examples=160)
TRAIN, TEST = DIGITS.take(120), DIGITS.skip(120)
SMALL = {"loads": (2, 3), "temperatures": (30, 60), "epochs": 2, "seeds": 2, "curve_steps": 3}


def plane(losses, connectivity, alignment, eigenvalue=1.0):
    of_seeds = np.full((1, 1, 4, len(OF_SEEDS)), 1.0)
    of_pairs = np.full((1, 1, 4, len(OF_PAIRS)), 1.0)
    of_seeds[..., 0], of_seeds[..., 3] = losses, eigenvalue
    of_pairs[..., 0], of_pairs[..., 1] = connectivity, alignment
    return PhasePlane((4,), (8.0,), "batch_size", of_seeds, of_pairs)


class Valley(nn.Module):
    """A loss with a circular valley of radius 1: straight ways climb, curved ones need not."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

    def forward(self, batch):
        return batch.mean() + (self.place.square().sum() - 1) ** 2


def test_a_curve_ends_where_it_should():
    first, middle, second = ({"w": torch.tensor([x])} for x in (1.0, 5.0, 2.0))
    assert bezier(first, middle, second, 0.0)["w"].item() == 1.0
    assert bezier(first, middle, second, 1.0)["w"].item() == 2.0
    assert bezier(first, middle, second, 0.5)["w"].item() == 0.25 + 2.5 + 0.5


def test_a_trained_curve_goes_round_a_hill():
    batch = [torch.zeros(1, dtype=torch.float64)]
    objective = Objective(Valley(), lambda model, b: model(b), batch)
    # A little off the symmetric position, where the hill has no side.
    ends = [{"place": torch.tensor(p, dtype=torch.float64)} for p in ([1.0, 0.0], [-0.6, 0.8])]
    straight = connect(objective, *ends, steps=1, lr=1e-9)
    curved = connect(objective, *ends, steps=150, lr=0.05)
    assert straight.connectivity < -0.5
    assert abs(curved.connectivity) < 0.1
    assert curved.losses[0] == pytest.approx(objective.value(ends[0]))
    assert curved.losses[-1] == pytest.approx(objective.value(ends[1]))


def test_connectivity_is_the_largest_gap_with_its_sign():
    assert mode_connectivity(np.array([1.0, 3.0, 2.0])) == -1.5
    assert mode_connectivity(np.array([1.0, 0.2, 2.0])) == pytest.approx(1.3)
    assert mode_connectivity(np.array([1.0, np.inf, 2.0])) == -np.inf
    assert math.isnan(mode_connectivity(np.array([1.0, np.nan, 2.0])))


def test_pairs_are_neighbors_on_a_ring():
    assert ring(2) == [(0, 1)]
    assert ring(4) == [(0, 1), (1, 2), (2, 3), (3, 0)]


@pytest.mark.parametrize(
    ("phase", "loss", "connectivity", "alignment"),
    [
        ("I", 1.0, -0.5, 0.1),
        ("II", 1.0, 0.5, np.nan),
        ("II", 1.0, 0.0, 0.9),
        ("III", 0.01, -0.5, 0.99),
        ("IV-A", 0.01, 0.0, 0.3),
        ("IV-B", 0.01, 0.02, 0.95),
        ("unclear", 0.01, 0.0, np.nan),
        ("unclear", np.nan, 0.0, 1.0),
        ("unclear", 1.0, np.nan, 1.0),
    ],
)
def test_phases_follow_their_table(phase, loss, connectivity, alignment):
    found = plane(loss, connectivity, alignment)
    assert found.phases()[0, 0] == phase
    assert phase in MEANING
    assert found.certain()[0, 0] == (phase != "unclear")


def test_thresholds_are_arguments():
    found = plane(0.3, -0.2, 0.5)
    assert found.phases()[0, 0] == "I"
    assert found.phases(Thresholds(connectivity=0.3))[0, 0] == "II"
    assert found.phases(Thresholds(loss=0.5))[0, 0] == "III"
    assert found.phases(Thresholds(loss=0.5, connectivity=0.3))[0, 0] == "IV-A"
    assert found.phases(Thresholds(loss=0.5, connectivity=0.3, alignment=0.4))[0, 0] == "IV-B"
    # A high loss with a small eigenvalue contradicts the table of the paper.
    assert found.phases(Thresholds(eigenvalue=2.0))[0, 0] == "unclear"
    assert found.phases(Thresholds(eigenvalue=0.5))[0, 0] == "I"


def test_a_phase_is_certain_where_two_errors_do_not_reach_a_threshold():
    spread = np.array([0.0, 0.4, 0.0, 0.4])
    assert not plane(0.02 + spread, 0.0, 0.99).certain()[0, 0]
    assert plane(1.0 + spread, 0.3, 0.99).certain()[0, 0]
    # The alignment does not matter where the loss is high.
    assert plane(1.0, 0.3, 0.9 + 0.1 * spread).certain()[0, 0]
    assert not plane(0.0, 0.0, 0.88 + 0.1 * spread).certain()[0, 0]


def test_errors_are_those_of_leaving_seeds_out():
    found = plane([1.0, 2.0, 3.0, 6.0], [0.0, 1.0, 0.0, 1.0], 1.0)
    loss = found.measure("train loss", 4, 8.0)
    assert loss.value == 3.0
    values = np.array([1.0, 2.0, 3.0, 6.0])
    assert loss.stderr == pytest.approx(values.std(ddof=1) / 2)
    pairs = found.measure("connectivity", 4, 8.0)
    left = np.array([np.mean([1, 0]), np.mean([0, 1]), np.mean([0, 1]), np.mean([0, 1])])
    assert pairs.value == 0.5
    assert pairs.stderr == pytest.approx(math.sqrt(3 / 4 * ((left - left.mean()) ** 2).sum()))


def test_measures_are_those_of_the_networks():
    found = phase_plane(TRAIN, TEST, **SMALL)
    assert found.of_seeds.shape == (2, 2, 2, 5)
    assert np.isfinite(found.of_seeds).all()
    assert np.isfinite(found.of_pairs[:, :, 0]).all()
    assert np.isnan(found.of_pairs[:, :, 1]).all()  # two seeds make one pair
    from lossatlas.training import build_model, train

    model = build_model("mlp(3)", TRAIN, seed=1)
    train(
        model, TRAIN, "cross_entropy", epochs=2, optimizer="sgd", lr=0.1, batch_size=60, seed=1
    )
    objective = Objective(model, supervised(build_loss()), TRAIN.batches(120))
    assert found.of_seeds[1, 1, 1, 0] == pytest.approx(objective.value(), rel=1e-4)
    matrix = hessian(objective)
    dense = torch.stack([matrix.flat(row) for row in torch.eye(matrix.size)])
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert found.of_seeds[1, 1, 1, 3] == pytest.approx(top, rel=1e-2)
    assert set(found.phases().flat) <= {*PHASES, "unclear"}


def test_temperature_may_be_the_rate():
    hot = phase_plane(
        TRAIN,
        TEST,
        loads=(2,),
        temperatures=(1e-4, 1e30),
        temperature="lr",
        epochs=1,
        seeds=2,
        curve_steps=1,
    )
    assert np.isfinite(hot.of_seeds[0, 0]).all()
    assert np.isnan(hot.of_seeds[0, 1]).all()  # diverged
    assert hot.phases()[0, 1] == "unclear"


def test_a_plane_goes_on_and_comes_back_from_a_file(tmp_path, pieces_run):
    options = SMALL | {"loads": (2,), "epochs": 1}
    whole = phase_plane(TRAIN, TEST, **options)
    phase_plane(TRAIN, TEST, **(options | {"temperatures": (30,)}), resume=tmp_path / "kept")
    pieces_run.clear()
    rest = phase_plane(TRAIN, TEST, **options, resume=tmp_path / "kept")
    assert pieces_run == [(2, 60)]
    assert np.array_equal(rest.of_seeds, whole.of_seeds)
    assert np.array_equal(rest.of_pairs, whole.of_pairs, equal_nan=True)
    assert la.load(rest.save(tmp_path / "plane.nc")) == rest
    with pytest.raises(ResumeError, match="another run: lr"):
        phase_plane(TRAIN, TEST, **options, lr=0.2, resume=tmp_path / "kept")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": "mlp(3)"}, "must hold"),
        ({"loads": ()}, "`loads` must be growing"),
        ({"loads": (0, 2)}, "`loads`"),
        ({"temperatures": (64, 8)}, "`temperatures` must be growing"),
        ({"temperatures": (0.5, 8)}, "`temperatures`"),
        ({"temperature": "lr", "temperatures": (-1.0, 8)}, "`temperatures`"),
        ({"seeds": 1}, "`seeds`"),
        ({"epochs": 0}, "`epochs`"),
        ({"lr": 0.0}, "`lr`"),
        ({"curve_steps": 0}, "`curve_steps`"),
    ],
)
def test_wrong_input_is_named(change, match):
    with pytest.raises(ArgumentError, match=match):
        phase_plane(TRAIN, TEST, **(SMALL | change))


def test_unknown_names_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'batch_size'"):
        phase_plane(TRAIN, TEST, temperature="batchsize")
    with pytest.raises(UnknownNameError, match="did you mean 'mlp'"):
        phase_plane(TRAIN, TEST, model="mpl({load})")
    with pytest.raises(UnknownNameError, match="did you mean 'alignment'"):
        plane(1.0, 1.0, 1.0).measure("alignement", 4, 8.0)
