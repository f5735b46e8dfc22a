"""Roughness: how much the loss goes up and down along random lines, for its range."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

from lossatlas.checks import check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.base_point import normal_like
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.memory_plan import Phase, Sizes, models, require_memory
from lossatlas.curvature.selfcheck import CheckedResult
from lossatlas.errors import ModelError
from lossatlas.linalg.estimators import jackknife, mean_of
from lossatlas.linalg.params import Params, add
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Figure, Reference, chart_of, result
from lossatlas.text import with_error

Array = NDArray[np.float64]
_REFERENCE = Reference(
    "roughness index",
    "K. Wu, X. Jian, R. Du, J. Chen, X. Zhou. Roughness Index for Loss Landscapes of Neural "
    "Network Models of Partial Differential Equations. IEEE BigData 2023.",
    "https://arxiv.org/abs/2103.11069",
)


@result("roughness", references=(_REFERENCE,))
class Roughness(CheckedResult):
    """Total variation over range along random lines through a point.

    A monotone line has 1, a bowl with its bottom in the middle 2, k periods of a cosine 2 k.

    Attributes:
        index: standard deviation of the variations over their mean (the published index): how
            unlike each other lines are. Its error is a jackknife over lines.
        mean: mean variation; the steadier of the two.
        variations: of each line, no unit; 0 for a line on which the loss does not change, NaN
            for one with a loss that is not finite.
        flat: lines on which the loss does not change.
        lost: lines with a loss that is not finite; left out of both numbers.
        radius: half the length of a line, in units of filter norms.
        points: losses on a line. Both numbers depend on `radius` and `points`.
    """

    index: Estimate
    mean: Estimate
    variations: Array
    flat: int
    lost: int
    radius: float
    points: int

    def estimates(self) -> tuple[Estimate, ...]:
        """Mean variation and index."""
        lines = f"{len(self.variations)} lines of {self.points} points, radius {self.radius:g}"
        mean = f"total variation over range: 1 is monotone, 2 a bowl; {lines}"
        index = "deviation of the variations over their mean: how unlike lines are"
        return (
            replace(self.mean, name="mean roughness", meaning=mean),
            replace(self.index, name="roughness index", meaning=index),
        )

    def answer(self) -> tuple[str, str]:
        """Whether random lines are as smooth as a bowl."""
        if not math.isfinite(self.mean.value):
            return "not known", ""
        shown = with_error(self.mean.value, self.mean.stderr)
        low, high = self.mean.interval()
        if low > 2:
            return f"no: further ups and downs ({shown}, a bowl has 2)", "alarm"
        if high <= 2:
            return f"yes, as a bowl is ({shown}, at most 2)", "sure"
        return f"not known ({shown}, a bowl has 2)", ""

    def sentences(self) -> tuple[str, ...]:
        """Whether random lines look like bowls."""
        if not math.isfinite(self.mean.value):
            return ()
        shown = with_error(self.mean.value, self.mean.stderr)
        start = f"Along random lines the total variation of the loss is {shown} times its range"
        low, high = self.mean.interval()
        if low > 2:
            return (f"{start}: they have further ups and downs.",)
        if high <= 2:
            return (f"{start}: as smooth as a bowl (2).",)
        return (f"{start}; whether that is more than the 2 of a bowl is not known.",)

    def figures(self) -> tuple[Figure, ...]:
        """The variation of each line."""
        from lossatlas.plots.rows import Dots, rows_chart

        names = [f"line {k}" for k in range(1, len(self.variations) + 1)]
        dots = [Dots("variation", self.variations)]
        axis, sides = "total variation over range", ("smooth as a bowl", "rougher")
        caption = "Each dot is one random line through the weights; a bowl has 2."
        alt = f"Variation of {len(names)} random lines."
        title = "Random lines"
        chart = partial(rows_chart, names, dots, title, axis, limit=2.0, sides=sides)
        return (chart_of("lines", title, chart, caption=caption, alt=alt),)


@models
def _roughness(sizes: Sizes) -> Iterator[Phase]:
    yield Phase(copies=3)
    yield Phase(copies=2, run="value")


def roughness(
    objective: Objective,
    directions: int = 20,
    radius: float = 0.5,
    points: int = 41,
    *,
    seed: int = 0,
    params: Params | None = None,
) -> Roughness:
    """Measure how rough the landscape is around a point.

    Lines run along Gaussian directions in which every filter has the norm of the weights' own
    (biases and norm scales stay). All losses are over all batches: the noise of mini-batches
    would count as roughness.

    Args:
        objective: model, loss, batches.
        directions: lines.
        radius: half the length of a line, as a share of each filter's norm.
        points: losses on a line.
        seed: what directions are drawn from.
        params: where; the present weights by default.

    Returns:
        The index, the mean, and what they come from.

    Raises:
        ArgumentError: a number of the wrong kind.
        ModelError: no parameter has two axes, so no filter moves.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import roughness
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(torch.nn.Linear(2, 1, bias=False), loss, [batch])
        >>> roughness(objective, directions=3, points=5).flat
        0

    Source: Wu et al., arXiv:2103.11069.
    """
    check_objective(objective, params)
    check_count("directions", directions, 2)
    check_count("points", points, 3)
    check_positive("radius", radius)
    require_memory(objective, "roughness")
    state = State(objective.params) if params is None else objective.split(params)
    here = state.params
    if not any(value.ndim >= 2 for value in here.values()):
        raise ModelError("no parameter has two axes, so there is no filter to move along.")
    steps = np.linspace(-radius, radius, points)
    lines = np.array(
        [
            _line(objective, state, _direction(here, seed, index), steps)
            for index in range(directions)
        ]
    )
    variations = np.array([variation(line) for line in lines])
    finite = variations[np.isfinite(variations)]
    cost = directions * points
    return Roughness(
        _index(finite, seed),
        mean_of(finite, cost),
        variations,
        flat=int((finite == 0).sum()),
        lost=directions - len(finite),
        radius=radius,
        points=points,
    )


@instrument(
    "roughness",
    title="Roughness",
    question="Is the loss smooth around the weights?",
    group="sharpness",
    cost="252 losses",
    needs="a weight with two axes",
    references=(_REFERENCE,),
    place=3,
)
def survey_roughness(context: Context) -> Parts:
    """Total variation over range along random lines."""
    options: dict[str, Any] = {"directions": 12, "points": 21, "seed": context.seed}
    return {"roughness": lambda: roughness(context.objective, **options)}


def variation(line: Array) -> float:
    """Total variation over range."""
    if not np.isfinite(line).all():
        return math.nan
    extent = float(line.max() - line.min())
    return float(np.abs(np.diff(line)).sum()) / extent if extent else 0.0


def _line(objective: Objective, state: State, direction: Params, steps: Array) -> list[float]:
    points = (add(state.params, direction, scale=float(step)) for step in steps)
    return [objective.value({**point, **state.buffers}) for point in points]


def _direction(here: Params, seed: int, index: int) -> dict[str, Tensor]:
    drawn = normal_like(here, seed, "line", index)
    return {name: _as_long_as(value, here[name]) for name, value in drawn.items()}


def _as_long_as(direction: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    axes = tuple(range(1, weight.ndim))
    length, wanted = (vector_norm(t, dim=axes, keepdim=True) for t in (direction, weight))
    scaled: Tensor = torch.where(length > 0, direction / length, 0.0) * wanted
    return scaled


def _index(variations: Array, seed: int) -> Estimate:
    if len(variations) < 2:
        why = f"a spread needs two lines; {len(variations)} have finite losses"
        return Estimate(math.nan, math.nan, why_no_error=why)

    def index(kept: Tensor) -> float:
        chosen = variations[kept.numpy()]
        return float(chosen.std() / chosen.mean()) if chosen.any() else 0.0

    return jackknife(index, len(variations), folds=len(variations), seed=seed)
