"""Each foreign model is measured rightly, or refused with the cause and the remedy."""

import math
import re
import warnings
from zlib import crc32

import pytest
import torch

import lossatlas as la
from lossatlas import curvature
from lossatlas.errors import AtlasError, DerivativeWarning
from zoo import derivatives, huggingface, losses, packages, parametrized, states, structures
from zoo.member import MEMBERS, TOLERANCES, Member
from zoo.truth import Truth

FAMILIES = (derivatives, huggingface, losses, packages, parametrized, states, structures)
RIGHT = [pytest.param(m, id=n) for n, m in MEMBERS.items() if m.stage is None]
REFUSED = [pytest.param(m, id=n) for n, m in MEMBERS.items() if m.stage]
UNLESS_ASKED = "(?s)map only|derivatives='unchecked'|use_reentrant=False|use_cache=False"
# What packages warn of while they are imported or used is not about the library.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _end_of_group():
    """A process group that a member began ends with its test."""
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def needed(member: Member) -> None:
    for package in member.needs:
        pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)


def direction(objective: la.Objective, member: Member) -> dict[str, torch.Tensor]:
    """Random, as long as the weights, float64; scaled by tensor, so that none stands still."""
    draw = torch.Generator().manual_seed(crc32(member.name.encode()))
    found = {}
    for name, value in objective.params.items():
        noise = torch.randn(value.shape, generator=draw, dtype=torch.float64)
        noise = noise.to(value.dtype) if value.is_complex() else noise
        found[name] = noise * (value.abs().double().square().mean().sqrt() + 0.05)
    return found


def distance(one: dict, other: dict) -> float:
    """How far apart, as a share of the second."""
    off = sum(((one[k].to(other[k].dtype) - other[k]).abs() ** 2).sum() for k in other)
    size = sum((other[k].abs() ** 2).sum() for k in other)
    return float((off / size.clamp_min(1e-300)).sqrt())


def tolerances(member: Member, objective: la.Objective) -> tuple[float, float, float]:
    dtypes = {value.dtype for value in objective.params.values()}
    rows = [TOLERANCES[dtype.to_real()] for dtype in dtypes]
    return member.tolerances or tuple(max(column) for column in zip(*rows, strict=True))


def off_origin(objective: la.Objective, truth: Truth, along: dict, tolerance: float) -> None:
    """A point of a map that is not its origin, in the middle of a chunk."""
    plane = la.plane(objective.params, {k: v.to(objective.params[k]) for k, v in along.items()})
    land = la.map_plane(objective, plane, span=0.3, points=5, adaptive=False)
    for index in (1, 4):
        here = float(land.axes[0][index])
        expected = truth.value({k: here * v for k, v in along.items()})
        assert float(land.values[index]) == pytest.approx(expected, rel=tolerance, abs=1e-7)
        exact = objective.value(plane.point([here]))
        assert float(land.values[index]) == pytest.approx(exact, rel=tolerance, abs=1e-7)


@pytest.mark.parametrize("member", RIGHT)
def test_the_numbers_are_those_of_an_own_loop(member):
    needed(member)
    objective = member.build().objective()
    assert objective.unused == member.unused
    value, slope, product = tolerances(member, objective)
    truth, along = Truth(member, objective.names), direction(objective, member)
    assert objective.value() == pytest.approx(truth.value(), rel=value, abs=1e-7)
    off_origin(objective, truth, along, value)

    gradient, expected = objective.gradient(), truth.gradient()
    assert distance(gradient, expected) <= slope
    step = member.step or (1e-6 if member.double else 1e-2)
    along_it = sum(float((expected[k] * v).sum()) for k, v in along.items())
    size = math.sqrt(sum(float(v.square().sum()) for v in expected.values()))
    if member.double:
        assert truth.slope(along, step) == pytest.approx(along_it, rel=1e-3, abs=1e-4 * size)

    times = curvature.hessian(objective) @ {
        k: v.to(objective.params[k]) for k, v in along.items()
    }
    assert distance(times, truth.product(along, step)) <= product


@pytest.mark.parametrize("member", REFUSED)
def test_a_refusal_names_the_cause_and_the_remedy(member):
    needed(member)
    case = member.build()
    if member.stage == "construction":
        with pytest.raises(AtlasError, match=member.match):
            case.objective()
        return
    objective = case.objective()
    value, slope, _ = tolerances(member, objective)
    truth, along = Truth(member, objective.names), direction(objective, member)
    assert objective.value() == pytest.approx(truth.value(), rel=value, abs=1e-7)
    if member.stage == "map":
        with pytest.raises(AtlasError, match=member.match):
            off_origin(objective, truth, along, value)
        return
    off_origin(objective, truth, along, value)
    if member.stage == "gradient":
        words = told(objective.gradient)
        assert re.search(member.match, words)
        # A surrogate gradient is given, with a warning, and every result says so.
        failed = any(text.startswith("gradient: failed") for text in objective.checked)
        assert failed == ("surrogate" in words)
        with pytest.raises(AtlasError, match=UNLESS_ASKED):
            la.spectrum(objective, top=1)
        return
    assert distance(objective.gradient(), truth.gradient()) <= slope
    with pytest.raises(AtlasError, match=member.match):
        la.spectrum(objective, top=1)


def told(measure) -> str:
    """What is said of a gradient: a warning for one that is not of the loss, or an error."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            measure()
        except AtlasError as error:
            return str(error)
    return " ".join(str(w.message) for w in given if w.category is DerivativeWarning)


def test_the_zoo_is_large_and_every_message_is_read():
    assert len(MEMBERS) >= 40
    assert all(member.match for member in MEMBERS.values() if member.stage)
