import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import io
from lossatlas.curvature import spectrum, spectrum_memory
from lossatlas.curvature.saddles import saddle_ratio
from lossatlas.errors import ArgumentError, LossError, NonFiniteError, UnknownNameError
from lossatlas.io.records import equal
from reference import curvature_dense as dense
from reference.curvature_cases import cases, classes, initialized, mlp, normal

CASES = {case.name: case for case in cases()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_ends_are_those_of_the_dense_hessian(case):
    found = spectrum(case.objective, top=4, bottom=2, density=False, tolerance=1e-8)
    truth = np.linalg.eigvalsh(dense.hessian(case.objective))
    np.testing.assert_allclose(found.top, truth[::-1][:4], atol=1e-8 * abs(truth).max())
    np.testing.assert_allclose(found.bottom, truth[:2], atol=1e-8 * abs(truth).max())
    assert found.reached
    assert found.parameters == len(truth)
    assert len(found.bounds) == 6


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_at_the_loosest_tolerance(seed):
    objective = CASES["mlp"].objective
    found = spectrum(objective, top=3, bottom=1, density=False, tolerance=0.01, seed=seed)
    truth = np.linalg.eigvalsh(dense.hessian(objective))
    # An eigenvalue lies within every bound; the largest and the smallest are the right ones.
    values = np.concatenate([found.top, found.bottom])
    assert np.all(np.abs(values[:, None] - truth).min(1) <= found.bounds)
    assert abs(found.top[0] - truth[-1]) <= found.top_bounds[0]
    assert abs(found.bottom[0] - truth[0]) <= found.bottom_bounds[0]


def test_other_matrices_and_parts_are_served():
    objective = CASES["mlp"].objective
    found = spectrum(objective, top=2, bottom=1, density=False, curvature="gauss_newton")
    truth = np.linalg.eigvalsh(dense.gauss_newton(objective))
    np.testing.assert_allclose(found.top, truth[::-1][:2], rtol=1e-3)
    part = spectrum(objective, top=2, bottom=1, density=False, names="2.*")
    block = dense.hessian(objective)[-part.parameters :, -part.parameters :]
    np.testing.assert_allclose(part.top, np.linalg.eigvalsh(block)[::-1][:2], rtol=1e-3)


def test_vectors_are_eigenvectors():
    objective = CASES["mlp"].objective
    found = spectrum(objective, top=2, bottom=1, density=False, tolerance=1e-8, vectors=True)
    matrix = dense.hessian(objective)
    values = [*found.top, *found.bottom]
    for value, vector in zip(values, found.vectors, strict=True):
        v = dense.flat(vector)
        assert math.isclose(float(v.norm()), 1.0, rel_tol=1e-9)
        assert float((matrix @ v - value * v).norm()) < 1e-3 * abs(found.top[0])


def test_density_has_the_moments_of_the_spectrum():
    objective = CASES["mlp"].objective
    truth = np.linalg.eigvalsh(dense.hessian(objective))
    found = spectrum(objective, top=2, bottom=1, probes=30, steps=12).density
    for power in (1, 2):
        moment = found.mean(lambda x, w, power=power: float(w @ x**power))
        assert abs(moment.value - (truth**power).mean()) < 4 * moment.stderr
    mass = trapezoid(found.values, found.grid)
    assert math.isclose(mass, 1.0, rel_tol=1e-3)
    assert found.stderr.shape == found.grid.shape
    share = found.negative_mass
    negative = -truth[truth < 0].sum() / np.abs(truth).sum()
    assert abs(share.value - negative) < 4 * share.stderr + 0.02


def test_the_first_run_is_the_first_probe():
    objective = CASES["mlp"].objective
    alone = spectrum(objective, top=2, bottom=1, density=False)
    three = spectrum(objective, top=2, bottom=1, probes=3, steps=7)
    assert three.products == alone.products + 2 * 7
    one = spectrum(objective, top=2, bottom=1, probes=1)
    assert one.products == alone.products
    assert "two samples" in one.negative_mass.why_no_error
    assert np.isnan(one.density.stderr).all()


def test_outliers_are_what_stands_above_the_last_wide_gap():
    def of(top, bounds=0.0):
        base = spectrum(CASES["mlp"].objective, top=1, bottom=0, density=False)
        values = np.array(top)
        return store_like(base, values, np.full(len(values), bounds))

    def store_like(base, top, bounds):
        fields = {f: getattr(base, f) for f in base.__dataclass_fields__}
        return type(base)(**(fields | {"top": top, "top_bounds": bounds}))

    assert of([9.0, 8.0, 2.0, 1.9, 1.8]).outliers == 2
    assert of([1.3, 1.2, 1.1, 1.0]).outliers == 0
    # The widest gap lies among the outliers; the bulk begins after the next one.
    assert of([3.12, 2.55, 1.49, 0.49, 0.217, 0.154]).outliers == 4
    assert of([100.0, 1.0, 0.6, 0.5]).outliers == 1
    assert of([9.0, 0.1, -1.0]).outliers is None
    assert of([9.0, 8.0, 0.1, 0.001], bounds=0.01).outliers == 2


def test_groups_of_layers_and_classes_are_the_dense_blocks():
    objective = CASES["mlp"].objective
    by_layer = spectrum(objective, top=1, bottom=1, density=False, tolerance=1e-6, by="layer")
    assert len(by_layer.plot().get_yticks()) == len(by_layer.groups)
    matrix = dense.hessian(objective)
    truth = np.linalg.eigvalsh(matrix[-18:, -18:])
    line = {group.name: group for group in by_layer.groups}["2"]
    assert [group.parameters for group in by_layer.groups] == [25, 18]
    assert math.isclose(line.largest, truth[-1], rel_tol=1e-5)
    assert abs(line.smallest - truth[0]) < 1e-5
    assert abs(line.trace.value - truth.sum()) <= 0.2 * truth.sum()
    gradient = dense.flat({n: objective.gradient()[n] for n in ("2.weight", "2.bias")})
    assert math.isclose(line.gradient_norm.value, float(gradient.norm()), rel_tol=1e-9)
    assert line.gradient_norm.stderr > 0

    by_class = spectrum(objective, top=1, bottom=1, density=False, tolerance=1e-6, by="class")
    (x, y) = objective.batches[0]
    assert [group.name for group in by_class.groups] == [str(int(c)) for c in y.unique()]
    for group in by_class.groups:
        keep = y == int(group.name)
        part = la.Objective(objective.model, objective.loss, [(x[keep], y[keep])])
        truth = np.linalg.eigvalsh(dense.hessian(part))
        assert group.examples == int(keep.sum())
        assert math.isclose(group.largest, truth[-1], rel_tol=1e-5)
        assert math.isclose(group.ratio, saddle_ratio(truth[-1], truth[0]), rel_tol=1e-3)
        assert f"only {group.examples} examples" in group.note


def test_own_groups_are_served_over_many_batches():
    objective = CASES["two batches"].objective
    found = spectrum(
        objective,
        top=1,
        bottom=1,
        density=False,
        by="class",
        labels=lambda batch: (batch[0][:, 0] > 0).long(),
        least=2,
    )
    assert [group.name for group in found.groups] == ["0", "1"]
    assert sum(group.examples for group in found.groups) == 7
    with pytest.raises(ArgumentError, match="one whole number an example"):
        spectrum(objective, by="class", labels=lambda batch: batch[0])


def test_saddle_ratio_has_its_edge_cases():
    assert saddle_ratio(2.0, -1.0) == 0.5
    assert saddle_ratio(2.0, 1.0) == 0.0
    assert saddle_ratio(-1.0, -2.0) == math.inf
    assert spectrum(CASES["mlp"].objective, top=1, bottom=1, density=False).saddle_ratio > 0
    assert math.isnan(
        spectrum(CASES["mlp"].objective, top=1, bottom=0, density=False).saddle_ratio
    )


def test_the_bound_of_a_ratio_follows_those_of_its_eigenvalues():
    objective = CASES["two batches"].objective
    found = spectrum(objective, top=1, bottom=1, density=False, by="class", tolerance=1e-2)
    for line, truth in zip(found.groups, _class_ratios(objective), strict=True):
        assert abs(line.ratio - truth) <= line.ratio_bound
    flat = replace(found.groups[0], smallest=0.1, smallest_bound=0.3, largest=2.0)
    assert math.isnan(flat.ratio)
    assert math.isnan(flat.ratio_bound)
    assert flat.ratio_range == pytest.approx((0, 0.1), rel=1e-2)
    assert replace(flat, largest=1e-9).ratio_range[1] == math.inf
    convex = replace(flat, smallest=0.3)
    assert (convex.ratio, convex.ratio_range) == (0.0, (0.0, 0.0))
    assert math.isnan(replace(convex, smallest_bound=math.nan).ratio)


def test_a_sign_that_its_bound_hides_is_not_told():
    # A large first layer makes the top so large that the lowest is lost in its tolerance.
    model = nn.Sequential(nn.Linear(20, 16), nn.Softplus(), nn.Linear(16, 3))
    model = initialized(model).float()
    with torch.no_grad():
        model[0].weight.mul_(100)
    batch = (normal(100, 20).float(), classes(100, 3))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    truth = np.linalg.eigvalsh(dense.hessian(objective))
    assert truth[0] < -0.1
    hidden = 0
    for seed in range(6):
        found = spectrum(objective, 3, 1, density=False, tolerance=0.01, seed=seed)
        low, high = found.saddle_range
        if abs(found.bottom[0]) < found.bottom_bounds[0]:
            hidden += 1
            assert math.isnan(found.saddle_ratio)
            assert low == 0.0
        else:
            assert low <= found.saddle_ratio <= high
    assert hidden
    fine = spectrum(_in_float64(objective), top=1, bottom=1, density=False, tolerance=1e-6)
    assert fine.bottom[0] + fine.bottom_bounds[0] < 0
    assert fine.saddle_ratio > 0


def _in_float64(objective):
    (inputs, targets) = objective.batches[0]
    batch = (inputs.double(), targets)
    return la.Objective(copy.deepcopy(objective.model).double(), objective.loss, [batch])


def test_which_end_was_not_reached_is_told():
    objective = CASES["mlp"].objective
    found = spectrum(objective, top=1, bottom=1, density=False, limit=13)
    assert not found.reached
    assert (found.top_reached, found.bottom_reached) == (True, False)
    whole = spectrum(objective, top=1, bottom=1, density=False)
    assert whole.reached
    assert whole.top_reached
    assert whole.bottom_reached


def _class_ratios(objective):
    inputs, targets = (torch.cat(parts) for parts in zip(*objective.batches, strict=True))
    for label in targets.unique():
        own = [(inputs[targets == label], targets[targets == label])]
        part = la.Objective(objective.model, objective.loss, own)
        values = torch.linalg.eigvalsh(dense.hessian(part))
        yield max(-float(values[0]), 0.0) / float(values[-1])


def test_a_linear_loss_has_a_zero_spectrum():
    model = nn.Linear(3, 1, bias=False).double()
    objective = la.Objective(model, lambda m, b: m(b).mean(), [normal(4, 3)])
    found = spectrum(objective, top=3, bottom=1)
    assert np.array_equal(found.top, np.zeros(3))
    assert np.array_equal(found.bounds, np.zeros(4))
    assert found.negative_mass.value == 0.0
    assert np.isfinite(found.density.values).all()
    assert found.outliers is None


def test_the_same_seed_gives_the_same_bits_and_a_file_gives_it_back(tmp_path):
    objective = CASES["two batches"].objective
    options = {"top": 2, "bottom": 1, "by": "class", "vectors": True, "seed": 3}
    options |= {"probes": 2, "steps": 5, "limit": 20}
    first, second = (spectrum(objective, **options) for _ in range(2))
    assert np.array_equal(first.density.nodes, second.density.nodes, equal_nan=True)
    back = io.load(io.save(first, tmp_path / "spectrum.nc"))
    assert np.array_equal(back.top, first.top)
    assert np.array_equal(back.density.nodes, first.density.nodes, equal_nan=True)
    assert repr(back.groups) == repr(first.groups)
    assert back.provenance == first.provenance
    for a, b in zip(back.vectors, first.vectors, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)
    plain = spectrum(objective, top=1, bottom=0, density=False)
    assert io.load(io.save(plain, tmp_path / "plain.nc")).density is None


def test_memory_is_said_beforehand():
    objective = CASES["mlp"].objective
    assert spectrum_memory(objective) == spectrum(objective, top=1, bottom=0).memory


def test_a_limit_that_does_not_suffice_is_said():
    found = spectrum(mlp_objective(), top=3, bottom=1, density=False, limit=4)
    assert not found.reached
    assert found.bounds.max() > 1e-3 * found.top[0]
    assert len(spectrum(mlp_objective(), top=3, bottom=1, density=False, limit=2).top) == 2


def mlp_objective(change=None):
    model = mlp()
    loss = la.supervised(F.cross_entropy)
    if change is not None:
        model = nn.Sequential(model, change)
    return la.Objective(model, loss, [(normal(6, 4), classes(6, 3))])


class Nan(nn.Module):
    def forward(self, x):
        return x * float("nan")


def test_wrong_input_is_named():
    objective = mlp_objective()
    with pytest.raises(ArgumentError, match="number of parameters, 43; got 44"):
        spectrum(objective, top=44)
    with pytest.raises(ArgumentError, match="both 0"):
        spectrum(objective, top=0, bottom=0)
    with pytest.raises(ArgumentError, match="`tolerance`"):
        spectrum(objective, tolerance=0)
    with pytest.raises(ArgumentError, match="`probes`"):
        spectrum(objective, probes=0)
    with pytest.raises(UnknownNameError, match="did you mean 'layer'"):
        spectrum(objective, by="layers", density=False)
    with pytest.raises(UnknownNameError, match="did you mean 'hessian'"):
        spectrum(objective, curvature="hesian")
    with pytest.raises(NonFiniteError, match="not finite"):
        spectrum(mlp_objective(Nan()))
    with pytest.raises(ArgumentError, match="batch statistics"):
        spectrum(CASES["batch statistics"].objective, by="class")
    with pytest.raises(ArgumentError, match="class index"):
        spectrum(CASES["squared error"].objective, by="class")
    custom = la.Objective(
        objective.model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), objective.batches
    )
    with pytest.raises(ArgumentError, match="`labels`"):
        spectrum(custom, by="class")
    cut = la.Objective(
        initialized(nn.Linear(4, 3)),
        lambda m, b: F.cross_entropy(m(b[0]).detach(), b[1]),
        objective.batches,
    )
    with pytest.raises(LossError, match="differentiable operations"):
        spectrum(cut)


def test_a_group_without_finite_curvature_is_a_line_that_says_so():
    x, y = normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 1])
    x[4] = float("nan")
    whole = la.Objective(mlp(), la.supervised(F.cross_entropy), [(x, y)])
    from lossatlas.curvature.groups import GroupRequest, group_spectra

    request = GroupRequest("class", "hessian", None, list(whole.names), None, 1e-3, 50, 2, 0)
    good, bad = group_spectra(whole, request)
    assert math.isfinite(good.largest)
    assert math.isnan(bad.largest)
    assert "not finite" in bad.note


def test_a_spectrum_saves_itself_and_speaks_json(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    batch = (torch.randn(6, 3), torch.randint(0, 2, (6,)))
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    before = spectrum(objective, top=2, bottom=1, probes=1, steps=4, vectors=True)
    after = la.load(before.save(tmp_path / "spectrum.nc"))
    assert equal(after, before)
    plain = json.loads(json.dumps(after.to_dict(), allow_nan=False))
    assert plain["top"] == before.top.tolist()
