"""Paths: closed forms, paired errors, bands, and curves around a barrier."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import objective
from scipy.integrate import trapezoid
from torch import nn

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError, UnknownNameError
from lossatlas.text import number
from lossatlas.weights import Excess, align, connect, symmetries
from lossatlas.weights.paired import PairedLosses


class Point(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def task(form, size=2, examples=50, noise=0.0, seed=0):
    """Losses form(w) + noise that each example has of its own, the same at all weights."""
    own = noise * torch.randn(examples, generator=torch.Generator().manual_seed(seed))
    return la.Objective(Point(size), lambda m, b: form(m.w) + b.double(), [own], check=False)


def at(*entries):
    return {"w": torch.tensor(entries, dtype=torch.float64)}


def test_a_quadratic_has_its_closed_form():
    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    found = connect(task(lambda w: w @ hessian @ w / 2, noise=1.0), at(1, 2), at(-1, 0))
    step = np.array([-2.0, -2.0])
    expected = -found.at * (1 - found.at) / 2 * (step @ hessian.numpy() @ step)
    assert found.excess == pytest.approx(expected, abs=1e-12)
    assert found.barrier.value == 0
    assert found.is_barrier_certain is False
    assert found.area == pytest.approx(trapezoid(expected, found.at))


def test_no_barrier_says_how_high_one_may_be_and_how_narrow():
    # Each example bends the line its own way: a valley on average, with an error.
    own = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = connect(
        la.Objective(Point(1), lambda m, b: m.w**2 * (1 + 5 * b), [own], check=False),
        at(-1.0), at(1.0),
    )  # fmt: skip
    assert found.barrier.value == 0
    assert 0 < found.profile.top < len(found.at) - 1
    bound = (found.excess + found.band * found.excess_stderr)[1:-1].max()
    assert found.barrier.error == found.profile.upper == max(bound, 0) > 0
    said, narrow = found.sentences()
    positions = len(found.at) - 2
    assert f"at most {number(bound, 2)} at any of {positions} positions (95 %" in said
    assert found.barrier.interval() == (0.0, bound)
    assert "±" not in f"{found.estimates()[0]}"
    assert f"A barrier narrower than {number(found.profile.gap, 2)} of the path" in narrow


def test_a_line_that_lies_below_at_every_position_is_not_called_a_barrier_above_zero():
    # Examples differ, and all bend the line down.
    own = 1 + torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = connect(
        la.Objective(Point(1), lambda m, b: m.w**2 * b, [own], check=False), at(-1.0), at(1.0)
    )
    assert found.profile.upper == 0
    said, how_sure = found.sentences()
    assert "the loss is below the linear interpolation of the end losses" in said
    assert f"at all {len(found.at) - 2} positions" in said
    assert "below by more than its error (95 %, all positions at once)" in how_sure
    assert "more than 0" not in f"{said} {how_sure}"


def test_an_error_of_zero_is_never_shown_without_its_reason():
    same = connect(task(lambda w: w @ w, noise=1.0), at(1, 2), at(1, 2))
    assert same.sentences() == (
        "The two networks have equal weights: there is no path and no barrier between them.",
    )
    flat = connect(task(lambda w: 0 * w.sum(), noise=1.0), at(1, 2), at(-1, 0))
    sunk = connect(task(lambda w: w @ w, noise=1.0), at(1, 2), at(-1, 0))
    for found, why in (
        (same, "the two networks have equal weights"),
        (flat, "the loss of every example lies on that line"),
        (sunk, "none seen: the loss of no example is above"),
    ):
        barrier = found.estimates()[0]
        assert barrier.value == 0
        assert why in barrier.why_no_error
        assert not any("± 0" in f"{estimate}" for estimate in found.estimates()[:4])
        assert "± 0" not in " ".join(found.sentences())


def test_a_double_well_has_its_barrier_and_a_curve_around_it():
    def well(w):
        return (w @ w - 1) ** 2

    ends = at(-1, 0), at(1, 0)
    line = connect(task(well), *ends)
    assert line.barrier.value == pytest.approx(1.0)
    assert line.where == 0.5
    assert line.is_barrier_certain
    start = at(-1.0, 0.1), at(1.0, 0.1)
    curve = connect(task(well), *start, kind="bezier", steps=400, lr=0.1)
    assert curve.barrier.value < 0.1
    assert curve.length > curve.chord
    chain = connect(task(well), *start, kind="chain", bends=3, steps=600, lr=0.02)
    assert chain.barrier.value < 0.15
    assert len(chain.bends) == 3
    assert "longer than the straight line between the two networks" in chain.sentences()[1]
    shown = (line, curve, chain)
    assert "chord" not in " ".join(
        [*(s for each in shown for s in each.sentences()), *map(str, chain.estimates())]
    )


def test_it_is_symmetric_and_zero_between_equals():
    problem = objective("mlp")
    one = {k: v.detach().clone() for k, v in problem.params.items()}
    two = {k: v + 0.3 * torch.randn_like(v) for k, v in one.items()}
    there, back = connect(problem, one, two), connect(problem, two, one)
    assert there.barrier.value == pytest.approx(back.barrier.value, abs=1e-6)
    assert there.chord == back.chord
    same = connect(problem, one, one)
    assert same.barrier.value == 0
    assert np.all(same.excess == 0)
    assert same.is_barrier_certain is False


def test_a_joint_symmetry_changes_nothing():
    problem = objective("unbound heads")
    found = symmetries(problem)
    one = {k: v.detach().clone() for k, v in problem.params.items()}
    two = {k: v + 0.1 * torch.randn_like(v) for k, v in one.items()}
    moved = [found.apply(point, found.random(3)) for point in (one, two)]
    before, after = connect(problem, one, two), connect(problem, *moved)
    assert after.excess == pytest.approx(before.excess, abs=1e-5)


def test_alignment_first_takes_the_barrier_of_a_shuffled_copy_away():
    problem = objective("cnn")
    one = {k: v.detach().clone() for k, v in problem.model.state_dict().items()}
    found = symmetries(problem)
    two = found.apply(one, found.random(1))
    assert connect(problem, one, two, align_first=True).barrier.value < 1e-5
    assert align(problem, one, two).distance[1] < 1e-5


def slopes_of_examples(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(40, generator=draw, dtype=torch.float64)


def profile_of(slopes, at):
    """What `connect` says of losses slope * (10 + 3 sin 3t), without a model."""
    losses = slopes.numpy() * (10 + 3 * np.sin(3 * at))[:, None]
    rows = losses - losses[0] - np.outer(at, losses[-1] - losses[0])
    paired = PairedLosses(SimpleNamespace(unit="examples"))
    paired.weights = np.ones(len(slopes))
    means = [paired.mean(row) for row in rows]
    errors = np.array([mean.stderr for mean in means])
    band = sys.modules["lossatlas.weights.connect"]._band(rows, paired.weights, 0)
    return Excess(at, np.array([mean.value for mean in means]), errors, band, len(slopes))


def test_paired_errors_cover_and_no_barrier_is_rarely_called_one():
    # Losses of examples with slopes of their own along the path: the true excess is 0.
    slopes = slopes_of_examples(0)
    problem = la.Objective(
        Point(1), lambda m, b: 10 * b + b * m.w.sin() * 3, [slopes], check=False
    )
    found = connect(problem, at(0.0), at(3.0), points=5)
    same = profile_of(slopes, found.at)
    assert np.allclose(found.excess, same.value, atol=1e-9)
    assert np.allclose(found.excess_stderr, same.stderr, atol=1e-9)
    assert found.band == pytest.approx(same.band)
    draws, places = 1000, np.linspace(0, 1, 5)
    paths = [profile_of(slopes_of_examples(seed), places) for seed in range(draws)]
    assert sum(bool(path.is_certain) for path in paths) <= 0.05 * draws
    covered = sum(abs(path.value[2]) <= 2.023 * path.stderr[2] for path in paths)
    assert 0.93 * draws <= covered <= 0.97 * draws


def test_an_infinite_loss_on_the_way_is_an_infinite_barrier():
    found = connect(
        task(lambda w: 1 / (w[0] - 0.0).abs() - 1e-9), at(-1, 0), at(1, 0), points=3
    )
    assert found.barrier.value == np.inf
    assert found.is_barrier_certain is True
    assert found.where == 0.5


def test_errors_without_examples_are_unknown():
    problem = la.Objective(
        Point(), lambda m, b: (m.w @ m.w) + b.mean(), [torch.ones(3)], check=False
    )
    found = connect(problem, at(1, 0), at(0, 1))
    assert found.is_barrier_certain is None
    assert "error is unknown" in found.sentences()[0]


def test_a_curve_is_the_same_for_the_same_seed_and_is_stored(tmp_path):
    problem = objective("mlp")
    one = {k: v.detach().clone() for k, v in problem.params.items()}
    two = {k: v + 0.5 * torch.randn_like(v) for k, v in one.items()}
    runs = [connect(problem, one, two, kind="bezier", steps=5, seed=4) for _ in range(2)]
    assert runs[0] == runs[1]
    assert la.load(runs[0].save(tmp_path / "path.nc")) == runs[0]
    assert len(repr(runs[0])) <= 400
    middle = runs[0].params_at(0.5)
    bend = runs[0].bends[0]
    for name, value in middle.items():
        expected = (one[name] + two[name]) / 4 + bend[name] / 2
        assert torch.allclose(value, expected, atol=1e-6)


def test_bad_arguments_are_named():
    problem = objective("mlp")
    good = dict(problem.params)
    with pytest.raises(UnknownNameError, match="`kind` must be one of"):
        connect(problem, good, good, kind="spiral")
    with pytest.raises(ArgumentError, match="`steps`"):
        connect(problem, good, good, kind="bezier")
    with pytest.raises(ArgumentError, match="`points`"):
        connect(problem, good, good, points=2)
    with pytest.raises(NonFiniteError, match="`second`"):
        connect(problem, good, good | {"1.bias": good["1.bias"] * torch.nan})


def test_paths_are_drawn_by_both_backends():
    problem = objective("mlp")
    one = {k: v.detach().clone() for k, v in problem.params.items()}
    found = connect(problem, one, {k: v + 0.5 for k, v in one.items()})
    line = found.plot().get_lines()[-1]
    assert np.array_equal(line.get_ydata(), found.excess)
    *_, band, curve = found.plot("excess", backend="plotly").data
    assert np.array_equal(np.array(curve.y), found.excess)
    upper = np.array(band.y)[: len(found.at)] - found.excess
    assert max(upper) == pytest.approx(found.band * found.excess_stderr.max())
    assert found.plot("loss").get_ylabel() == "loss"


def test_what_float32_rounds_is_called_equal_and_what_it_holds_is_kept():
    own = torch.rand(200, generator=torch.Generator().manual_seed(0))
    judged = PairedLosses(objective("mlp"))
    judged.weights = np.ones(200)
    exact, rounded = own.double().numpy(), own.half().float().double().numpy()
    rounding = np.nextafter(own.numpy(), np.float32(2)).astype(np.float64)
    equal = judged.difference(rounding, exact)
    assert (equal.value, equal.stderr, equal.interval()) == (0.0, 0.0, (0.0, 0.0))
    assert equal.why_no_error == "equal up to rounding error"
    # A mean near zero with a spread is an estimate of its own.
    balanced = exact + np.where(np.arange(200) % 2, 0.1, -0.1)
    for other in (balanced, rounded, exact + 1e-5):
        gap = judged.difference(other, exact)
        assert gap == judged.mean(other - exact)
    # In float64 as small a difference is one.
    double = PairedLosses(task(lambda w: w @ w))
    double.weights = np.ones(200)
    assert double.difference(rounding, exact).value > 0


def test_a_line_of_rounding_alone_has_no_barrier():
    # A network and the same in other units: their losses differ in the last bits only.
    problem = objective("mlp")
    one = {k: v.detach().clone() for k, v in problem.params.items()}
    two = {k: v * (1 + 1e-7) for k, v in one.items()}
    found = connect(problem, one, two)
    assert found.barrier.value == 0
    assert found.is_barrier_certain is False
    assert not found.excess.any()
    words = " ".join((*found.sentences(), *map(str, found.estimates()[:4])))
    assert "± 0" not in words


def test_a_barrier_proved_beside_the_top_is_given_by_what_it_is_at_least():
    at, value, stderr = np.linspace(0, 1, 5), np.zeros(5), np.full(5, 1e-4)
    value[2], stderr[2], value[1] = 0.0070, 0.0037, 0.0010
    found = Excess(at, value, stderr, 2.5, 100)
    assert (found.is_certain, found.is_top_certain) == (True, False)
    assert found.barrier_text == "at least 0.00075"
    clear = Excess(at, value, np.full(5, 1e-4), 2.5, 100)
    assert clear.is_top_certain
    assert clear.barrier_text == "0.00700 ± 0.00010"
