import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lossatlas as la
from lossatlas.curvature import hessian
from lossatlas.errors import ArgumentError, ResumeError, UnknownNameError
from lossatlas.objective import Objective, supervised
from lossatlas.training import SCALED_FAMILIES, Dataset, build_loss, load_dataset, scaled_mlp

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "studies" / "widths"))
from width_study import WidthStudy, sharpness_consistency


def digits(count=64):
    return load_dataset("digits", examples=count, normalize="standardized")


def study(losses, sharpness=None, widths=(8, 16, 32), rates=(1.0, 2.0, 4.0)):
    losses = np.array(losses, dtype=float)[None]
    shape = (*losses.shape, 1)
    chosen = np.ones(shape) if sharpness is None else np.array(sharpness, dtype=float)[None]
    seeds = tuple(range(losses.shape[-1]))
    return WidthStudy(("own",), widths, rates, seeds, (0,), chosen, 0 * chosen, losses)


def test_parametrizations_are_one_function_with_other_rates():
    # Weights of spread s behind a factor c are weights of spread c s; a rate r then is c^2 r.
    data, width = digits(8), 16
    models = {name: family(width, data, 0)[0] for name, family in SCALED_FAMILIES.items()}
    standard, ntk, mup = (models[name](data.inputs) for name in ("standard", "ntk", "mup"))
    torch.testing.assert_close(standard, ntk, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ntk / math.sqrt(width), mup, rtol=1e-4, atol=1e-5)
    rates = {name: family(width, data, 0)[1] for name, family in SCALED_FAMILIES.items()}
    assert rates == {"mup": width, "ntk": 1.0, "standard": 1.0}


@pytest.mark.parametrize("family", ["mup", "standard"])
def test_readings_are_rate_times_the_largest_eigenvalue(family):
    data = Dataset(digits(24).inputs, digits(24).targets, classes=tuple("0123456789"))
    found = sharpness_consistency(
        data, (family,), widths=(2, 3), rates=(0.25, 0.5), steps=3, read=(0, 3), seeds=1
    )
    model, factor = SCALED_FAMILIES[family](2, data, 0)
    batch = (data.inputs, data.targets)
    objective = Objective(model, supervised(build_loss("mse")), [batch])
    for step in range(4):
        if step in {0, 3}:
            matrix = hessian(objective)
            dense = torch.stack([matrix.flat(row) for row in torch.eye(matrix.size)])
            top = float(torch.linalg.eigvalsh(dense)[-1])
            at = found.read.index(step)
            assert math.isclose(
                found.sharpness[0, 0, 1, 0, at], 0.5 * factor * top, rel_tol=1e-2
            )
            assert found.bounds[0, 0, 1, 0, at] <= 1e-2 * found.sharpness[0, 0, 1, 0, at]
        if step < 3:
            for name, slope in objective.gradient().items():
                model.get_parameter(name).data.sub_(slope, alpha=0.5 * factor)
    assert math.isclose(found.losses[0, 0, 1, 0], objective.value(), rel_tol=1e-5)


def test_standard_sharpness_grows_with_the_width_and_mup_keeps_it():
    found = sharpness_consistency(
        digits(32),
        ("mup", "standard"),
        widths=(16, 512),
        rates=(1.0, 2.0),
        steps=1,
        read=(0,),
        seeds=2,
    )
    mup, standard = found.sharpness[:, 1, 0, :, 0] / found.sharpness[:, 0, 0, :, 0]
    assert (mup < 1.2).all()
    assert (standard > 2).all()
    narrow, widest = found.deviation("standard", 1.0)
    assert narrow.value < -0.5
    assert narrow.stderr > 0
    assert widest.value == 0.0


def test_mup_climbs_to_the_edge_at_every_width_and_ntk_does_not():
    # Source: Noci et al., 2024, arXiv:2402.17457 (super consistency of sharpness).
    found = sharpness_consistency(
        digits(128),
        ("mup", "ntk"),
        widths=(32, 128),
        rates=(5.0, 10.0),
        steps=80,
        read=(0, 80),
        seeds=1,
    )
    mup, ntk = found.sharpness[:, :, 0, 0]
    assert (np.abs(mup[:, 1] - 2) < 0.5).all()
    assert (mup[:, 1] > 2 * mup[:, 0]).all()
    assert (ntk[:, 1] < 1.3 * ntk[:, 0]).all()


def test_the_best_rate_is_the_vertex_of_a_parabola():
    rates = np.array([1.0, 2.0, 4.0])
    for best in (1.5, 2.0, 2.7):
        row = np.exp((np.log(rates) - math.log(best)) ** 2)
        found = study([np.stack([row, row], 1)] * 3).best_rates("own")
        np.testing.assert_allclose(found, best, rtol=1e-9)


def test_a_rate_that_halves_does_not_transfer_and_one_that_stays_does():
    x = np.log2(np.array([0.25, 0.5, 1.0, 2.0, 4.0]))
    rates = tuple(2.0**x)

    def losses(slope):
        wide = [
            [(x - slope * (k - 1) - shift) ** 2 + 1 for shift in (-0.1, 0, 0.1)]
            for k in range(3)
        ]
        return np.array(wide).transpose(0, 2, 1)

    moving = study(losses(-1.0), rates=rates).transfer("own")
    assert math.isclose(moving.slope.value, -1.0, abs_tol=0.2)
    assert moving.verdict == "does not transfer"
    assert moving.regret.value > 1
    staying = study(losses(0.0), rates=rates).transfer("own")
    assert abs(staying.slope.value) < 1e-9
    assert staying.verdict == "transfers"
    assert staying.regret.value == pytest.approx(0.0)


def test_a_move_that_may_be_within_the_margin_is_told_from_none():
    x = np.log2(np.array([0.25, 0.5, 1.0, 2.0, 4.0]))

    def verdict(*slopes):
        wide = [[(x - slope * k) ** 2 + 1 for slope in slopes] for k in range(3)]
        found = study(np.array(wide).transpose(0, 2, 1), rates=tuple(2.0**x)).transfer("own")
        return found.verdict, found.slope.interval()

    words, (low, high) = verdict(-0.30, -0.34, -0.27)
    assert words == "moves, by how much is open"
    assert low < -0.25 < high < 0
    words, (low, high) = verdict(-0.6, 0.5, 0.1)
    assert words == "indistinguishable"
    assert low < 0 < high


def test_a_best_rate_at_an_end_says_nothing():
    falling = np.array([[3.0, 3.1], [2.0, 2.1], [1.0, 1.1]])
    found = study([falling] * 3)
    assert found.at_an_end("own") == 1.0
    assert found.transfer("own").verdict == "indistinguishable"


def test_divergence_is_nan_and_infinite():
    found = sharpness_consistency(
        digits(),
        ("standard",),
        widths=(8, 16),
        rates=(0.1, 1e39),
        steps=3,
        read=(0, 3),
        seeds=1,
    )
    assert np.isinf(found.losses[0, :, 1, 0]).all()
    assert np.isnan(found.sharpness[0, :, 1, 0, 1]).all()
    assert np.isfinite(found.sharpness[0, :, 0]).all()
    assert np.isnan(study(np.full((3, 3, 2), np.inf)).best_rates("own")).all()


def test_a_study_goes_on_and_comes_back_from_a_file(tmp_path, pieces_run):
    options = {"widths": (2, 3), "rates": (0.1, 0.2), "steps": 2, "read": (0, 2), "seeds": 2}
    whole = sharpness_consistency(digits(16), ("mup",), **options)
    part = sharpness_consistency(
        digits(16), ("mup",), **(options | {"seeds": 1}), resume=tmp_path / "kept"
    )
    pieces_run.clear()
    rest = sharpness_consistency(digits(16), ("mup",), **options, resume=tmp_path / "kept")
    assert pieces_run == [("mup", 2, 1), ("mup", 3, 1)]
    assert np.array_equal(part.sharpness, whole.sharpness[..., :1, :])
    assert np.array_equal(rest.sharpness, whole.sharpness)
    assert la.load(rest.save(tmp_path / "study.nc")) == rest
    with pytest.raises(ResumeError, match="another run"):
        sharpness_consistency(
            digits(16), ("mup",), **(options | {"steps": 3}), resume=tmp_path / "kept"
        )


def test_a_family_of_ones_own():
    def own(width, data, seed):
        scaling = lambda inputs, last: (1.0, 1 / inputs)  # noqa: E731
        return scaled_mlp(width, data, seed, scaling=scaling, hidden=1), 0.5

    found = sharpness_consistency(
        digits(16), {"own": own}, widths=(2, 4), rates=(0.1, 0.2), steps=1, read=(0,), seeds=1
    )
    assert found.families == ("own",)
    assert found.sharpness.shape == (1, 2, 2, 1, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"widths": (4,)}, "`widths` must be growing"),
        ({"widths": (0, 4)}, "`widths`"),
        ({"rates": (2.0, 1.0)}, "`rates` must be growing"),
        ({"rates": (0.0, 1.0)}, "`rates`"),
        ({"read": (0, 9)}, "from 0 to 2"),
        ({"read": ()}, "`read`"),
        ({"seeds": 0}, "`seeds`"),
        ({"steps": 0}, "`steps`"),
        ({"families": ()}, "`families` is empty"),
        ({"families": {"own": 3}}, "'own' must be a function"),
    ],
)
def test_wrong_input_is_named(change, match):
    options = {"widths": (2, 3), "rates": (0.1, 0.2), "steps": 2, "read": (0, 2), "seeds": 1}
    with pytest.raises(ArgumentError, match=match):
        sharpness_consistency(digits(8), **(options | change))


def test_unknown_names_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'mup'"):
        sharpness_consistency(digits(8), ("muP",))
    with pytest.raises(UnknownNameError, match="did you mean 'mse'"):
        sharpness_consistency(digits(8), ("mup",), loss="mes")
    with pytest.raises(ArgumentError, match="`rate` must be one of"):
        study(np.ones((3, 3, 2))).deviation("own", 3.0)
    with pytest.raises(UnknownNameError, match="family"):
        study(np.ones((3, 3, 2))).transfer("mup")


@pytest.mark.parametrize("scaling", [lambda n, last: None, lambda n: (1.0, 1.0)])
def test_a_scaling_gives_a_factor_and_a_spread(scaling):
    data = load_dataset("digits", examples=20)
    with pytest.raises(
        ArgumentError, match=r"`scaling` failed .* must return \(factor, spread\)"
    ):
        scaled_mlp(4, data, 0, scaling=scaling)
