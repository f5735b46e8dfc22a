import numpy as np
import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.errors import ArgumentError, ResumeError, StructureError
from lossatlas.linalg.params import snapshot


class Point(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.at = nn.Parameter(torch.tensor([start], dtype=torch.float64))


def double_well(model, _):
    x, y = model.at[0]
    return ((x * x - 1) ** 2 + y * y)[None]


def objective():
    return la.Objective(Point([-1.0, 0.0]), double_well, [torch.zeros(1)])


def point(*start):
    return {"at": torch.tensor([start], dtype=torch.float64)}


def test_two_wells_have_the_barrier_of_their_formula():
    found = la.compare(objective(), point(-1.0, 0.0), point(1.0, 0.0), points=21, span=0.5)
    assert found.barrier.value == pytest.approx(1.0, abs=1e-9)
    assert found.line.values[[0, -1]] == pytest.approx([0, 0], abs=1e-12)
    assert found.line.axes[0][[0, -1]].tolist() == [0.0, 1.0]
    # By symmetry the two surroundings are mirror images with the same depths.
    assert found.bottleneck == pytest.approx(0, abs=0.05)
    assert len(found.matching.pairs) + len(found.matching.gone) == len(
        la.merge_tree(found.first)
    )


def test_one_well_has_no_barrier_and_its_basin_persists():
    found = la.compare(objective(), point(1.0, 0.0), point(1.0, 0.3), points=21, span=0.2)
    assert found.barrier.value == 0.0
    assert [0, 0] in found.matching.pairs.tolist()
    assert found.second.values[10, 10] == pytest.approx(0.09)


def test_comparisons_are_saved_and_repeat(tmp_path):
    one, two = (
        la.compare(objective(), point(-1.0, 0.0), point(1.0, 0.1), points=11, seed=4)
        for _ in range(2)
    )
    back = la.load(one.save(tmp_path / "c.nc"))
    for other in (two, back):
        assert other.first.values.tobytes() == one.first.values.tobytes()
        assert (other.barrier, other.bottleneck) == (one.barrier, one.bottleneck)
        np.testing.assert_array_equal(other.matching.pairs, one.matching.pairs)
        np.testing.assert_array_equal(other.diagrams[1].births, one.diagrams[1].births)


def test_comparing_leaves_the_model_alone():
    ground = objective()
    before = snapshot(ground.params)
    la.compare(ground, point(0.5, 0.5), point(1.0, 0.0), points=5)
    assert torch.equal(ground.params["at"], before["at"])


def test_bad_checkpoints_are_named_errors():
    with pytest.raises(ArgumentError, match="checkpoint 2 equals"):
        la.compare(objective(), point(1.0, 0.0), point(1.0, 0.0))
    with pytest.raises(StructureError, match="no entry 'b'"):
        la.compare(objective(), {"b": torch.ones(1, 2)}, {"b": torch.zeros(1, 2)})


def test_a_comparison_that_was_stopped_goes_on_with_the_same_bits(tmp_path):
    ends = point(-1.0, 0.0), point(1.0, 0.1)
    whole = la.compare(objective(), *ends, points=11, seed=4)
    heard = []

    def stop(done, total, label):
        heard.append(done)
        if len(heard) == 2:
            raise KeyboardInterrupt

    ledger = tmp_path / "c.resume"
    with pytest.raises(KeyboardInterrupt):
        la.compare(objective(), *ends, points=11, seed=4, resume=ledger, progress=stop)
    assert (tmp_path / "c.resume.line").exists()
    again = la.compare(objective(), *ends, points=11, seed=4, resume=ledger)
    for part in ("first", "second", "line"):
        assert getattr(again, part).values.tobytes() == getattr(whole, part).values.tobytes()
    with pytest.raises(ResumeError, match="belongs to another run"):
        la.compare(objective(), *ends, points=9, seed=4, resume=ledger)


def test_the_error_of_the_barrier_is_that_of_paired_differences():
    # Losses of examples differ by far more than what the line does to each of them.
    own = 5 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bend = 1 + 0.1 * own.flip(0)

    def loss(model, batch):
        x, y = model.at[0]
        levels, bends = batch
        return levels + bends * ((x * x - 1) ** 2 + y * y)

    task = la.Objective(Point([-1.0, 0.0]), loss, [(own, bend)])
    found = la.compare(task, point(-1.0, 0.0), point(1.0, 0.0), points=11, span=0.5)
    assert found.barrier.stderr == pytest.approx(float(bend.std()) / 200**0.5, rel=1e-6)
    assert found.barrier.stderr < float(found.line.stderr[5]) / 5
    assert found.excess.is_certain
    assert found.headline().startswith("The loss barrier on the straight line is 0.98")
    assert (
        found.excess.barrier
        == la.weights.connect(task, point(-1.0, 0.0), point(1.0, 0.0)).barrier
    )
