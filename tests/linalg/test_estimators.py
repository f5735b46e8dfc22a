import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.estimators import jackknife, mean_of, quantile, rademacher
from lossatlas.linalg.krylov import Lanczos
from lossatlas.linalg.probes import DeflatedProbes, deflated_trace
from lossatlas.result import Estimate
from lossatlas.rng import generator


def symmetric(size, seed=0):
    square = torch.randn(size, size, generator=generator(seed, "matrix"), dtype=torch.float64)
    return square + square.T


def run(matrix, seed=0):
    drawn = generator(seed, "start")
    start = torch.randn(len(matrix), generator=drawn, dtype=matrix.dtype)
    return Lanczos(lambda v: matrix @ v, start, drawn)


def test_a_mean_has_the_textbook_error():
    estimate = mean_of([1.0, 2.0, 3.0, 4.0])
    assert estimate.value == 2.5
    assert math.isclose(estimate.stderr, math.sqrt(5 / 3 / 4))
    low, high = estimate.interval()
    assert math.isclose(high - 2.5, 3.182446 * estimate.stderr, rel_tol=1e-6)
    assert math.isclose(low + high, 5.0)


def test_one_sample_has_no_error_and_says_why():
    estimate = mean_of([2.0])
    assert estimate.value == 2.0
    assert math.isnan(estimate.stderr)
    assert "two samples" in estimate.why_no_error
    assert math.isnan(mean_of([]).value)


def test_an_exact_value_has_an_interval_of_no_width():
    assert Estimate(3.0, 0.0).interval() == (3.0, 3.0)
    assert all(map(math.isnan, Estimate(3.0, math.nan).interval()))


def test_quantiles_are_those_of_student():
    assert math.isclose(quantile(0.95, 10**6), 1.959966, rel_tol=1e-5)
    assert math.isclose(quantile(0.95, 5), 2.776445, rel_tol=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=15), st.integers(0, 3))
def test_the_jackknife_of_a_mean_is_the_error_of_the_mean(values, seed):
    x = torch.tensor(values, dtype=torch.float64)
    got = jackknife(lambda kept: float(x[kept].mean()), len(x), folds=len(x), seed=seed)
    want = mean_of(values)
    assert math.isclose(got.value, want.value, abs_tol=1e-12)
    assert math.isclose(got.stderr, want.stderr, rel_tol=1e-6, abs_tol=1e-9)


def test_a_jackknife_of_one_example_says_why():
    assert "two examples" in jackknife(lambda kept: 1.0, 1).why_no_error
    bad = jackknife(lambda kept: math.nan, 5)
    assert "not finite" in bad.why_no_error


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 9))
def test_strata_are_dealt_out_evenly(counts, seed):
    strata = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    folds, left = min(4, *counts), []

    def of_kept(kept):
        left.append(torch.bincount(strata[kept], minlength=len(counts)))
        return 0.0

    jackknife(of_kept, len(strata), folds=folds, seed=seed, strata=strata)
    for kept in left[1:]:
        taken = torch.tensor(counts) - kept
        assert bool((taken <= -(-torch.tensor(counts) // folds)).all())
        assert int(kept.min()) >= 1


def test_signs_are_signs_and_follow_the_seed():
    one = rademacher(1000, 3, torch.zeros(1))
    assert torch.equal(one.abs(), torch.ones(1000))
    assert abs(float(one.mean())) < 0.1
    assert torch.equal(one, rademacher(1000, 3, torch.zeros(1)))
    assert not torch.equal(one, rademacher(1000, 4, torch.zeros(1)))


@given(st.integers(0, 12), st.integers(0, 6), st.integers(0, 5))
def test_probes_see_what_lies_outside_the_space(before, after, seed):
    matrix = symmetric(20, seed)
    lanczos = run(matrix, seed)
    lanczos.extend(before)
    probes = DeflatedProbes(lanczos.apply, lanczos, seed)
    probes.draw(3)
    lanczos.extend(after)
    z = torch.stack([rademacher(20, probes.seed_of(i), matrix) for i in range(3)])

    def outside(steps):
        rows = [lanczos.basis[i] for i in range(steps)]
        q = torch.stack(rows) if rows else torch.zeros(0, 20, dtype=torch.float64)
        return torch.eye(20, dtype=torch.float64) - q.T @ q

    p = outside(lanczos.steps)
    want = torch.einsum("ij,jk,ik->i", z, p @ matrix @ p, z)
    np.testing.assert_allclose(probes.remainders(), want, atol=1e-10)
    p = outside(max(lanczos.steps - 1, 0))
    inner, outer = probes.squares()
    np.testing.assert_allclose(inner, (z @ p @ matrix @ p).square().sum(1), atol=1e-9)
    np.testing.assert_allclose(outer, (z @ p @ matrix).square().sum(1), atol=1e-9)


def _traces(values, seeds, tolerance):
    q = torch.linalg.qr(symmetric(len(values)))[0]
    matrix = q @ torch.diag(values) @ q.T
    for seed in range(seeds):
        lanczos = run(matrix, seed)
        yield deflated_trace(
            lanczos.apply, lanczos, tolerance=tolerance, limit=4000, rows=100, seed=seed
        )


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(1, 101, dtype=torch.float64) ** -1.0,
        torch.cat([torch.tensor([9.0, 7.0, 5.0]), torch.linspace(-0.5, 0.7, 97)]).double(),
    ],
    ids=["power law", "outliers"],
)
def test_the_interval_of_a_trace_covers_the_truth(values):
    truth, seeds = float(values.sum()), 60
    covered = 0
    for estimate, _ in _traces(values, seeds, 0.08):
        low, high = estimate.interval()
        covered += low <= truth <= high
        assert estimate.reached
        assert high - low <= 2 * 0.08 * abs(estimate.value) * (1 + 1e-9)
    # Three standard deviations of a binomial around 95 %.
    assert 0.865 * seeds <= covered


def test_deflation_spends_fewer_products_than_plain_probes():
    values = torch.cat([torch.tensor([90.0, 70.0, 50.0]), torch.linspace(0, 1, 197)]).double()
    for estimate, probes in _traces(values, 3, 0.05):
        plain = (1.96 * np.std(probes.plain, ddof=1) / (0.05 * float(values.sum()))) ** 2
        assert estimate.products < plain / 2.5


def test_a_trace_of_zero_is_not_reached_and_a_zero_matrix_is_exact():
    values = torch.linspace(-1, 1, 60, dtype=torch.float64)
    q = torch.linalg.qr(symmetric(60))[0]
    matrix = q @ torch.diag(values) @ q.T
    lanczos = run(matrix)
    estimate, _ = deflated_trace(
        lanczos.apply, lanczos, tolerance=0.05, limit=40, rows=10, seed=0
    )
    assert not estimate.reached
    assert estimate.products == 40
    assert abs(estimate.value) < 5 * estimate.stderr
    lanczos = run(torch.zeros(3, 3, dtype=torch.float64))
    estimate, _ = deflated_trace(
        lanczos.apply, lanczos, tolerance=0.05, limit=40, rows=10, seed=0
    )
    assert (estimate.value, estimate.stderr, estimate.reached) == (0.0, 0.0, True)


def test_probes_that_are_not_finite_are_named():
    lanczos = run(torch.eye(5, dtype=torch.float64))
    with pytest.raises(NonFiniteError, match="random probe"):
        DeflatedProbes(lambda v: v / 0, lanczos, 0).draw(1)
