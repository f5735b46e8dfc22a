"""Densities of singular matrices: every row has the moments of the whole spectrum."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import spectrum
from lossatlas.curvature.density import density_of
from lossatlas.linalg.extremes import converge
from lossatlas.linalg.krylov import Lanczos
from lossatlas.rng import generator
from reference import curvature_dense as dense
from reference.curvature_cases import classes, mlp, normal

SIZE = 60
SPECTRA = {
    "rank 1": np.array([5.0]),
    "rank 3": np.array([9.0, 4.0, 1.0]),
    "rank 3, all equal": np.array([4.0, 4.0, 4.0]),
    "top twice": np.array([6.0, 6.0, 2.0, 1.0, 0.5]),
    "rank 20": np.geomspace(10.0, 0.01, 20),
    "rank 59": np.geomspace(10.0, 0.001, 59),
    "regular": np.linspace(0.1, 3.0, SIZE),
    "indefinite and singular": np.concatenate([[-2.0, -0.5], np.geomspace(0.1, 8.0, 20)]),
}


def rows(values, seed, *, top=3, bottom=2, probes=3, steps=30, dtype=torch.float64):
    """The density of diag(values, 0, ...), as `spectrum` takes it."""
    matrix = torch.zeros(SIZE, dtype=dtype)
    matrix[: len(values)] = torch.from_numpy(values).to(dtype)
    drawn = generator(seed, "start")
    start = torch.randn(SIZE, generator=drawn, dtype=dtype)
    lanczos = Lanczos(lambda v: matrix * v, start, drawn)
    ritz, reached = converge(lanczos, top=top, bottom=bottom, tolerance=1e-3, limit=SIZE)
    assert reached
    places = list(dict.fromkeys([*range(len(ritz.values))[::-1][:top], *range(bottom)]))
    known = np.zeros(len(ritz.values), dtype=bool)
    known[places] = True
    lanczos.basis.rotate(ritz.vectors[:, places])
    found = density_of(
        lambda v: matrix * v,
        ritz,
        known,
        lanczos.basis,
        probes=probes,
        steps=steps,
        seed=seed,
        like=matrix,
    )
    assert np.allclose(found.weights.sum(1), 1)
    return np.nan_to_num(found.nodes), found.weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_row_has_the_first_two_moments_of_the_spectrum(name, dtype):
    values = SPECTRA[name]
    draws = [rows(values, seed, dtype=dtype) for seed in range(40)]
    for power in (1, 2):
        truth = float((values**power).sum()) / SIZE
        moments = np.array([(w * n**power).sum(1) for n, w in draws])
        for row in moments.T:
            error = row.std(ddof=1) / np.sqrt(len(row))
            assert abs(row.mean() - truth) < 4 * error + 1e-4 * truth


def test_the_share_of_the_null_space_stays_in_every_row():
    nodes, weights = rows(SPECTRA["rank 3"], 0)
    null = np.where(np.abs(nodes) < 1e-6, weights, 0).sum(1)
    assert np.allclose(null, 1 - 3 / SIZE, atol=1e-6)


def test_the_gauss_newton_matrix_of_a_network_has_its_trace_in_every_row():
    # 7 examples of 3 outputs: rank at most 14 (softmax) of 43 parameters.
    model = mlp()
    batch = (normal(7, 4), classes(7, 3))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    truth = np.linalg.eigvalsh(dense.gauss_newton(objective))
    for top in (1, 3, 10):
        found = [
            spectrum(objective, top, 2, curvature="gauss_newton", probes=2, seed=seed).density
            for seed in range(12)
        ]
        moments = np.array([np.nansum(each.nodes * each.weights, axis=1) for each in found])
        for row in moments.T:
            assert abs(row.mean() - truth.mean()) < 4 * row.std(ddof=1) / np.sqrt(len(row))
        first = [each.weights[0][np.abs(each.nodes[0]) < 1e-6].sum() for each in found]
        assert np.mean(first) == pytest.approx((truth < 1e-10).mean(), abs=0.1)
