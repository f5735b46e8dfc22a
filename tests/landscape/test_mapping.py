import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cases
import lossatlas as la
from lossatlas.errors import (
    ArgumentError,
    NonFiniteError,
    ResumeError,
    StructureError,
    UnknownNameError,
)
from lossatlas.executor import Joblib
from reference.landscape_plain import map_by_state_dict


class Point(nn.Module):
    """A model that is nothing but a point of the plane."""

    def __init__(self, *start):
        super().__init__()
        self.at = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self):
        return self.at


def analytic(function, *start):
    model = Point(*start)
    objective = la.Objective(model, lambda m, _: function(*m()), [torch.zeros(1)])
    axes = [{"at": row} for row in torch.eye(len(start), dtype=torch.float64)]
    return objective, la.plane(objective.params, *axes)


def bowl(x, y):
    return (x - 0.2) ** 2 + 3 * (y + 0.4) ** 2


def double_well(x, y):
    return (x * x - 1) ** 2 + 0.3 * x + y * y


def himmelblau(x, y):
    return (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_bowl_has_one_basin_where_it_should_be(adaptive):
    objective, plane = analytic(bowl, 0.0, 0.0)
    land = la.map_plane(objective, plane, points=41, adaptive=adaptive)
    x, y = np.meshgrid(*land.axes, indexing="ij")
    np.testing.assert_allclose(land.values, bowl(x, y), atol=1e-9)
    assert land.minimum == pytest.approx((0.2, -0.4))
    assert len(la.merge_tree(land)) == 1
    assert la.persistence(land).deaths.tolist() == [np.inf]
    assert land.evaluations == land.computed.sum()
    assert land.evaluations < 200 if adaptive else land.evaluations == 1681


def test_a_double_well_has_the_barrier_of_its_formula():
    objective, plane = analytic(double_well, 0.0, 0.0)
    land = la.map_plane(objective, plane, span=1.5, points=61, adaptive=False)
    x = np.linspace(-1.5, 1.5, 100_001)
    curve = double_well(x, 0.0)
    inner = (x > -0.9) & (x < 0.9)
    saddle, left, right = curve[inner].max(), curve[x < 0].min(), curve[x > 0.5].min()
    tree = la.merge_tree(land)
    assert sorted(tree.minima_values) == pytest.approx([left, right], abs=2e-3)
    assert tree.barrier(0, 1) == pytest.approx(saddle, abs=2e-3)
    finite = la.persistence(land).deaths
    assert np.sort(finite)[0] == pytest.approx(saddle, abs=2e-3)


def test_himmelblau_has_four_minima_at_zero():
    objective, plane = analytic(himmelblau, 0.0, 0.0)
    land = la.map_plane(objective, plane, span=5.0, points=101)
    tree = la.merge_tree(land)
    deep = tree.minima_values[tree.minima_values < 1]
    assert len(deep) == 4
    assert land.interpolation_error < 0.016 * land.range
    assert land.interpolation_rms < 0.002 * land.range
    known = np.array(
        [[3, 2], [-2.805118, 3.131312], [-3.77931, -3.283186], [3.584428, -1.848126]]
    )
    places = np.array(
        np.unravel_index(tree.minima[tree.minima_values < 1], land.values.shape)
    ).T
    found = np.array([[axis[i] for axis, i in zip(land.axes, p, strict=True)] for p in places])
    distances = np.linalg.norm(found[:, None] - known, axis=2)
    assert distances.min(1).max() < 0.1
    assert set(distances.argmin(1)) == {0, 1, 2, 3}


@pytest.mark.parametrize("builder", cases.BUILDERS, ids=lambda b: b.__name__)
def test_the_map_is_the_one_of_the_slow_twin(builder):
    case = cases.make(builder)
    objective = case.objective()
    plane = la.random_plane(objective, seed=2)
    land = la.map_plane(objective, plane, span=0.7, points=4, adaptive=False)
    slow = map_by_state_dict(
        case.model,
        case.loss,
        case.batches,
        objective.params,
        [dict(d.items()) for d in plane.directions],
        land.axes,
    )
    np.testing.assert_allclose(land.values, slow, rtol=2e-6, atol=1e-7)


def test_the_center_is_the_value_of_the_objective_to_the_bit():
    for builder in (cases.mlp, cases.conv_bn):
        objective = cases.make(builder).objective()
        land = la.map_plane(objective, la.random_plane(objective), points=13)
        assert land.values[6, 6] == objective.value()
        assert land.computed[6, 6]


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_axes_and_shapes_follow_the_dimension(dimension):
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective, dimension=dimension)
    land = la.map_plane(objective, plane, span=[(-1, 0.5)] * dimension, points=4)
    assert land.values.shape == (4,) * dimension
    assert land.labels == tuple(f"random direction {k + 1}" for k in range(dimension))
    for axis in land.axes:
        np.testing.assert_allclose(axis, [-1, -0.5, 0, 0.5])
    corner = plane.point([0.5] * dimension)
    assert land.values.flat[-1] == pytest.approx(objective.value(corner), rel=1e-6)


def test_a_rectangular_range_is_not_transposed():
    objective, plane = analytic(lambda x, y: x + 10 * y, 0.0, 0.0)
    land = la.map_plane(objective, plane, span=[(0, 1), (0, 2)], points=3)
    np.testing.assert_allclose(land.values, np.add.outer([0, 0.5, 1], [0, 10, 20]))


def test_errors_and_metrics_come_from_the_same_pass():
    case = cases.make(cases.mlp)
    calls = []
    handle = case.model[1].register_forward_hook(lambda *_: calls.append(1))
    objective = case.objective()
    before = len(calls)
    found = objective.evaluate_all({"accuracy": la.accuracy})
    assert len(calls) == before + len(case.batches)
    handle.remove()
    land = la.map_plane(
        objective, la.random_plane(objective), points=5, metrics={"accuracy": la.accuracy}
    )
    assert land.metrics["accuracy"][2, 2] == found["accuracy"].value
    assert land.metric_stderr["accuracy"][2, 2] == found["accuracy"].stderr
    losses = objective.example_losses().numpy()
    assert land.stderr[2, 2] == pytest.approx(losses.std(ddof=1) / np.sqrt(len(losses)))


def test_losses_that_are_not_finite_stay_in_the_map():
    objective, plane = analytic(lambda x, y: (torch.log(x + 0.55) + y)[None], 0.0, 0.0)
    for adaptive in (True, False):
        land = la.map_plane(objective, plane, points=11, adaptive=adaptive)
        lost = np.isnan(land.values)
        np.testing.assert_array_equal(
            lost, np.broadcast_to(land.axes[0][:, None] < -0.55, (11, 11))
        )
        assert land.notes[0] == (
            f"{lost.sum()} of 121 points have no finite loss; they are left out."
        )
        assert land.computed[lost].all()
        assert land.finite.sum() == 121 - lost.sum()


@pytest.mark.parametrize("adaptive", [True, False])
def test_progress_is_complete_at_the_end_only(adaptive):
    objective = cases.make(cases.mlp).objective()
    told = []
    land = la.map_plane(
        objective, la.random_plane(objective), points=21, adaptive=adaptive, engine="plain",
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    *before, last = told
    assert last == (land.evaluations, land.evaluations, "points")
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    label = "points at most" if adaptive else "points"
    assert {(total, said) for _, total, said in before} == {(441, label)}
    assert all(done < 441 for done, *_ in before)


@pytest.mark.parametrize("adaptive", [True, False])
def test_resume_goes_on_and_gives_the_same_bits(tmp_path, adaptive, pieces_run):
    case = cases.make(cases.mlp)
    objective = case.objective()
    plane = la.random_plane(objective)
    whole = la.map_plane(objective, plane, points=21, engine="plain", adaptive=adaptive)

    class Stop(Exception):
        pass

    def stop(done, total, label):
        assert (done, label) == (total, "points") if done == total else total == 441
        if done > (30 if adaptive else 60):
            raise Stop

    ledger = tmp_path / "run.resume"
    options = {"points": 21, "engine": "plain", "resume": ledger, "adaptive": adaptive}
    with pytest.raises(Stop):
        la.map_plane(objective, plane, progress=stop, **options)
    with sqlite3.connect(ledger) as base:
        (kept,) = base.execute("SELECT COUNT(*) FROM object").fetchone()
    pieces_run.clear()
    seen = []
    again = la.map_plane(
        objective, plane, progress=lambda done, *_: seen.append(done), **options
    )
    assert kept >= 2
    # An adaptive map tells at its end that no more points are needed.
    assert len(pieces_run) == len(set(seen)) - kept
    assert again.values.tobytes() == whole.values.tobytes()
    assert again.stderr.tobytes() == whole.stderr.tobytes()
    with pytest.raises(ResumeError, match="another run: points differ"):
        la.map_plane(objective, plane, **(options | {"points": 11}))
    case.model[1].weight.data.add_(1)
    with pytest.raises(ResumeError, match="model fingerprint, plane differ"):
        la.map_plane(objective, plane, **options)


@pytest.mark.parametrize(
    "content", [b"not a ledger at all, but long enough to look at" * 99, b"x"]
)
def test_a_foreign_resume_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    objective, plane = analytic(bowl, 0.0, 0.0)
    with pytest.raises(ResumeError, match="is not a resume file"):
        la.map_plane(objective, plane, points=3, resume=path)
    assert path.read_bytes() == content


def test_all_cores_give_the_same_numbers():
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective)
    one = la.map_plane(objective, plane, points=9, engine="plain")
    many = la.map_plane(objective, plane, points=9, engine="plain", executor="joblib")
    np.testing.assert_allclose(many.values, one.values, rtol=1e-6)


def test_save_and_load_are_inverse(tmp_path):
    objective = cases.make(cases.mlp).objective()
    plane = la.trajectory_plane([plane_point(objective, k) for k in range(4)])
    land = la.map_plane(
        objective, plane, span=plane.bounds, points=7, metrics={"a b/c": la.accuracy}
    )
    back = la.load(land.save(tmp_path / "deep" / "land.nc"))
    assert back.values.tobytes() == land.values.tobytes()
    assert back.labels == land.labels
    assert (back.count, back.rounding) == (land.count, land.rounding)
    np.testing.assert_array_equal(back.leverage, land.leverage, strict=True)
    assert back.provenance == land.provenance
    assert back.metrics.keys() == land.metrics.keys()
    np.testing.assert_array_equal(
        back.landmarks["trajectory"], land.landmarks["trajectory"], strict=True
    )


@pytest.mark.parametrize("engine", ["plain", "batched", "stacked"])
def test_a_map_tells_how_many_examples_carry_its_errors(engine):
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective, seed=0)
    land = la.map_plane(objective, plane, span=0.5, points=9, engine=engine)
    examples = [
        objective.example_losses(plane.point([float(land.axes[0][i]), float(land.axes[1][j])]))
        for i, j in np.argwhere(land.computed)
    ]
    losses = torch.stack(examples).double().numpy()
    squares = (losses - losses.mean(1, keepdims=True)) ** 2
    wanted = squares.max(1) / squares.sum(1)
    assert land.count == losses.shape[1]
    np.testing.assert_allclose(land.leverage[land.computed], wanted, rtol=1e-3)
    assert np.isnan(land.leverage[~land.computed]).all()
    assert land.rounding == pytest.approx(2.0**-24 * np.abs(land.values).max())
    whole = la.persistence(land, min_share=None)
    assert not whole.why_unknown
    assert la.persistence(replace(land, count=0), min_share=None).why_unknown
    assert "too few examples to certify: 10 units" in la.persistence(land).why_unknown


def test_of_one_number_a_batch_certainty_comes_from_the_batches():
    case = cases.make(cases.mlp)
    objective = case.objective()
    alone = la.Objective(case.model, lambda m, b: objective.loss(m, b).mean(), case.batches[:1])
    land = la.map_plane(alone, la.random_plane(alone, seed=0), points=5)
    assert land.count == 1
    assert np.isnan(land.stderr).all()
    diagram = la.persistence(land)
    assert "25 of 25 values have no standard error" in diagram.why_unknown
    assert not diagram.certain.any()


def plane_point(objective, k):
    source = torch.Generator().manual_seed(k)
    return {
        name: value + torch.randn(value.shape, generator=source)
        for name, value in objective.params.items()
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"points": 1}, ArgumentError, "`points` must be a whole number >= 2; got 1"),
        ({"points": 2.5}, ArgumentError, "`points`"),
        ({"points": True}, ArgumentError, "`points`"),
        ({"span": 0}, ArgumentError, "`span` must be a finite number > 0"),
        ({"span": float("nan")}, ArgumentError, "got nan"),
        ({"span": float("inf")}, ArgumentError, "`span`"),
        ({"span": [(0, 1)]}, ArgumentError, "for 2 directions"),
        ({"span": [(1, 0), (0, 1)]}, ArgumentError, "low < high"),
        ({"span": "wide"}, ArgumentError, "'wide'"),
        ({"tolerance": 0}, ArgumentError, "`tolerance`"),
        ({"engine": "batch"}, UnknownNameError, "did you mean 'batched'"),
        ({"executor": "jobs"}, UnknownNameError, "`executor`"),
        ({"metrics": {"loss": la.accuracy}}, ArgumentError, "other than 'loss'"),
        ({"metrics": {"a": 3}}, ArgumentError, "'a': 3"),
    ],
)
def test_bad_arguments_are_named_errors(options, error, message):
    objective, plane = analytic(bowl, 0.0, 0.0)
    with pytest.raises(error, match=message):
        la.map_plane(objective, plane, **options)


def test_a_center_without_a_loss_is_an_error():
    objective, plane = analytic(lambda x, y: torch.log(x) + y, -1.0, 0.0)
    with pytest.raises(NonFiniteError, match="the loss at the center is nan"):
        la.map_plane(objective, plane, points=3)
    with pytest.raises(NonFiniteError, match="center"):
        la.suggest_span(objective, plane)


def test_a_plane_of_another_model_is_refused():
    objective, _ = analytic(bowl, 0.0, 0.0)
    other = la.random_plane(cases.make(cases.mlp).objective())
    with pytest.raises(StructureError, match="no entry"):
        la.map_plane(objective, other, points=3)


def test_a_map_that_had_to_be_computed_whole_says_so():
    objective, plane = analytic(lambda x, y: torch.sin(40 * x) * torch.sin(37 * y + x), 0, 0)
    rough = la.map_plane(objective, plane, points=21)
    assert rough.computed.all()
    assert rough.evaluations == 441
    assert rough.interpolation_error == rough.interpolation_rms == 0
    assert [n for n in rough.notes if "too rough to interpolate" in n] == [rough.notes[-1]]
    assert "every point was computed" in rough.notes[-1]
    for options in ({"adaptive": False, "points": 5}, {"points": 5}):
        whole = la.map_plane(objective, plane, **options)
        assert whole.computed.all()
        assert not any("too rough" in note for note in whole.notes)


def test_a_map_that_is_as_fine_as_the_sampling_error_and_no_finer_says_so():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs, targets = torch.randn(12, 3), 9 * torch.randn(12, 1)
    objective = la.Objective(
        model,
        lambda m, b: ((m(b[0]).sin() * 3 - b[1]) ** 2).mean(1),
        [(inputs, targets)],
    )
    plane = la.random_plane(objective, seed=1)
    land = la.map_plane(objective, plane, span=4.0, points=31)
    truth = la.map_plane(objective, plane, span=4.0, points=31, adaptive=False)
    floor = 0.5 * land.stderr[land.computed].max()
    assert 0.002 * land.range < floor
    assert not land.computed.all()
    assert f"Where half the sampling error (at most {floor:.2g})" in land.notes[-1]
    assert f"error is up to {land.interpolation_error:.2g}" in land.notes[-1]
    missed = np.abs(land.values - truth.values)
    assert missed.max() <= land.interpolation_error
    assert land.interpolation_rms <= floor
    assert np.sqrt(np.mean((missed / truth.stderr) ** 2)) <= 0.5
    exact = la.map_plane(objective, plane, span=0.2, points=31, tolerance=0.9)
    assert not any("sampling error (" in note for note in exact.notes)


def test_span_widens_until_there_is_something_to_see():
    objective, plane = analytic(lambda x, y: 0.01 + x * x + y * y, 0.0, 0.0)
    found = la.suggest_span(objective, plane)
    assert found.span == 0.25
    assert found.rise == pytest.approx(0.0625)
    flat, flat_plane = analytic(lambda x, y: 1.0 + 0 * (x + y), 0.0, 0.0)
    assert la.suggest_span(flat, flat_plane).span == 8.0
    wall, wall_plane = analytic(lambda x, y: 1 + 1 / (x.abs() < 0.5) + y, 0.0, 0.0)
    assert la.suggest_span(wall, wall_plane).evaluations > 5


def test_a_plan_says_what_a_map_will_need():
    objective = cases.make(cases.conv_bn).objective()
    plan = la.plan_map(objective, la.random_plane(objective), points=21)
    weights = sum(v.numel() for v in objective.params.values())
    assert (plan.engine, plan.points) == ("folded", 441)
    assert plan.memory >= 4 * 4 * weights
    finer = la.plan_map(objective, la.random_plane(objective), points=201)
    # Value, error, leverage and count of every point, and the copies of the first three.
    assert finer.memory - plan.memory >= 8 * (4 + 2) * (201**2 - 21**2)
    streaming = la.plan_map(objective, la.random_plane(objective), engine="streaming")
    assert streaming.engine == "streaming"
    small = cases.make(cases.mlp).objective()
    ground, metrics = la.random_plane(small), {"accuracy": la.accuracy}
    for asked in ({}, metrics):
        plan = la.plan_map(small, ground, metrics=asked)
        assert plan.engine == la.map_plane(small, ground, points=3, metrics=asked).engine


def test_a_plan_counts_the_processes_that_evaluate_points(monkeypatch):
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective)
    here = la.plan_map(objective, plane)
    shared = la.plan_map(objective, plane, executor=Joblib(3))
    assert (here.workers, here.worker_memory) == (1, 0)
    assert shared.workers == 3
    assert shared.memory > here.memory + 3 * shared.worker_memory
    assert "of which 3 processes hold" in shared.sentences()[0]
    # Fewer than there are cores, and that is said by plan and map.
    monkeypatch.setattr("joblib.effective_n_jobs", lambda asked: 3)
    free = int(2.5 * shared.worker_memory)
    monkeypatch.setattr("lossatlas.executor.executors.free_memory", lambda device: free)
    plan = la.plan_map(objective, plane, executor="joblib")
    assert plan.workers == 2
    assert plan.sentences()[-1].endswith("are free: 2 of them are used.")
    land = la.map_plane(objective, plane, points=3, executor="joblib")
    assert any(note.startswith("3 processes need") for note in land.notes)
    for make in (la.plan_map, la.map_plane):
        with pytest.raises(ArgumentError, match=r"use Joblib\(workers=2\)"):
            make(objective, plane, points=3, executor=Joblib(3))


@pytest.mark.parametrize("points", [10**5, 10**12])
def test_a_grid_that_does_not_fit_in_memory_is_refused_by_name(points):
    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective)
    for make in (la.plan_map, la.map_plane):
        with pytest.raises(ArgumentError, match=r"`points`: a grid of .* GiB are free; use"):
            make(objective, plane, points=points)


def test_conv_nets_without_batchnorm_and_odd_shapes_are_served():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    batches = [(torch.randn(70, 1, 6, 6), torch.randint(0, 2, (70,)))]
    objective = la.Objective(model, la.supervised(F.cross_entropy), batches)
    plane = la.random_plane(objective)
    plain, fast = (
        la.map_plane(objective, plane, points=3, engine=engine) for engine in ("plain", "auto")
    )
    assert fast.engine == "folded"
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6)


def test_a_model_too_large_to_copy_is_streamed(monkeypatch):
    from lossatlas.landscape.engines import choice

    objective = cases.make(cases.mlp).objective()
    plane = la.random_plane(objective)
    assert choice.free_memory(torch.device("cpu")) > 0
    monkeypatch.setattr(choice, "free_memory", lambda _: 100)
    land = la.map_plane(objective, plane, points=3)
    assert land.engine == "streaming"
    moved = la.plane({k: v + 1 for k, v in objective.params.items()}, *plane.directions)
    with pytest.raises(la.AtlasError, match="the plane starts elsewhere"):
        la.map_plane(objective, moved, points=3)
