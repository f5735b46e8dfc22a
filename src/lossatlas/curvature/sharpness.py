"""How much the loss rises nearby: on average, at worst, and over small sets of examples."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lossatlas.checks import check_flag, check_number, check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.base_point import BasePoint, normal_like
from lossatlas.curvature.differentiable import check_finite
from lossatlas.curvature.pieces import pieces_of
from lossatlas.curvature.selfcheck import says_checks
from lossatlas.curvature.trees import Stored, part
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.params import Params, add, multiply, norm
from lossatlas.objective import Objective
from lossatlas.objective.batches import batch_size
from lossatlas.result import Estimate
from lossatlas.store import kind

# The radii of the papers: SAM on CIFAR, ASAM on CIFAR-10.
RADIUS, ADAPTIVE_RADIUS = 0.05, 0.5
# An ascent that gains less than this share has arrived.
_ARRIVED = 1e-3


@part
@kind("worst_sharpness")
@dataclass(frozen=True)
class WorstSharpness(Stored):
    """The largest rise of the loss that was found within a ball.

    Attributes:
        rise: loss there minus loss here, units of the loss. Its error is the sampling error;
            the rise is a lower bound of the maximum, which no ascent can certify. The ball
            holds its center: 0, with the error of the highest point, where all are lower.
        first_step: the rise after the one step that SAM takes; NaN where the gradient is zero.
        radius: of the ball; in units of the weights, or of |weight| where adaptive.
        adaptive: whether the ball is measured in units of the weights' own size.
        ascents: gradients taken.
        checked: what the gradient was held against, a sentence each.
    """

    rise: Estimate
    first_step: float
    radius: float
    adaptive: bool
    ascents: int


class _Ball:
    # Points here + T u with |u| <= radius; T is |w| + eta for adaptive balls, otherwise 1.
    def __init__(self, here: Params, radius: float, adaptive: bool, eta: float) -> None:
        self.here, self.radius = here, radius
        self.scale: dict[str, Tensor] | None = (
            {name: value.abs() + eta for name, value in here.items()} if adaptive else None
        )
        if self.scale is not None and norm(self.scale) == 0:
            raise ArgumentError(
                "an adaptive ball needs weights that are not all zero; set `eta` above 0."
            )

    def scaled(self, vector: Params) -> Params:
        if self.scale is None:
            return vector
        return {name: value * self.scale[name] for name, value in vector.items()}

    def at(self, direction: Params, sign: float = 1.0) -> dict[str, Tensor]:
        length = norm(direction)
        step = self.scaled(multiply(direction, sign * self.radius / length))
        return add(self.here, step)


def average_sharpness(
    objective: Objective,
    radius: float | None = None,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
    directions: int = 20,
    seed: int = 0,
    params: Params | None = None,
) -> Estimate:
    """The mean rise of the loss on a sphere around the weights.

    Directions come in opposite pairs, which takes the slope out: on a quadratic the mean is
    radius^2 tr(H) / (2 n).

    Args:
        objective: model, loss, batches.
        radius: of the sphere; 0.05 by default, 0.5 for an adaptive one.
        adaptive: measure lengths in units of each weight's size (|w| + eta), which makes it
            independent of how layers of a ReLU network share their scale.
        eta: keeps zero weights moving; above 0 the independence is only approximate.
        directions: pairs drawn.
        seed: what they are drawn from.
        params: where; the present weights by default.

    Returns:
        Mean over pairs with its standard error.

    Raises:
        ArgumentError: a number of the wrong kind, or an adaptive ball around zero.
        NonFiniteError: the loss here or on the sphere is not finite.
    """
    check_objective(objective, params)
    ground, ball = _prepared(objective, radius, adaptive, eta, params)
    check_count("directions", directions, 1)
    rises = []
    for index in range(directions):
        drawn = normal_like(ball.here, seed, "sphere", index)
        pair = [_rise(ground, ball, ball.at(drawn, sign)).value for sign in (1.0, -1.0)]
        rises.append(sum(pair) / 2)
    return mean_of(rises, 2 * directions)


@says_checks
def worst_sharpness(
    objective: Objective,
    radius: float | None = None,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    params: Params | None = None,
) -> WorstSharpness:
    """The largest rise of the loss within a ball, by ascent.

    Each step goes to where the linearized loss is largest on the sphere, which never loses
    height where the loss is convex and is a power iteration at a minimum. The first ascent
    starts along the gradient (its first step is SAM's), the others in random directions.

    Args:
        objective: model, loss, batches.
        radius: of the ball; 0.05 by default, 0.5 for an adaptive one.
        adaptive: see `average_sharpness`.
        eta: see `average_sharpness`; the optimizer of the paper takes 0.01.
        steps: gradients of an ascent at most; 0 leaves the starts as they are.
        restarts: random starts.
        seed: what they are drawn from.
        params: where; the present weights by default.

    Returns:
        The best rise found; never below 0, the rise at the center of the ball.

    Raises:
        ArgumentError: a number of the wrong kind, or an adaptive ball around zero.
        NonFiniteError: the loss or its gradient is not finite here or in the ball.

    Source: Foret et al., ICLR 2021, arXiv:2010.01412; Kwon et al., ICML 2021, arXiv:2102.11600.
    """
    check_objective(objective, params)
    ground, ball = _prepared(objective, radius, adaptive, eta, params)
    check_count("steps", steps, 0)
    check_count("restarts", restarts, 0)
    gradient = _gradient(objective, ball, ball.here)
    starts: list[Params] = [gradient] if norm(gradient) > 0 else []
    starts += [
        normal_like(ball.here, seed, "ascent", index)
        for index in range(restarts if starts else max(restarts, 1))
    ]
    best, first, ascents = Estimate(-math.inf, math.nan), math.nan, 1
    for index, start in enumerate(starts):
        rise, used, begun = _climbed(objective, ground, ball, start, steps)
        ascents += used
        if index == 0 and norm(gradient) > 0:
            first = begun
        best = max(best, rise, key=lambda found: found.value)
    if best.value < 0:
        best = replace(best, value=0.0)
    return WorstSharpness(best, first, ball.radius, adaptive, ascents)


@says_checks
def m_sharpness(
    objective: Objective,
    size: int,
    radius: float | None = None,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
    steps: int = 0,
    sets: int = 32,
    params: Params | None = None,
) -> Estimate:
    """The worst rise of small sets of examples, each with a step of its own, averaged.

    It is what SAM controls when each worker, or each micro-batch, takes its own ascent. Norm
    layers with batch statistics use those of the set.

    Args:
        objective: model, loss, batches; batches are cut in pieces.
        size: examples of a set.
        radius: of the ball; 0.05 by default, 0.5 for an adaptive one.
        adaptive: see `average_sharpness`.
        eta: see `average_sharpness`.
        steps: gradients of an ascent after the one step of SAM.
        sets: sets taken at most, evenly from all.
        params: where; the present weights by default.

    Returns:
        Mean over sets with its standard error; a set counts 0 where no point found is higher.

    Raises:
        ArgumentError: a number of the wrong kind, or no set of that size.
        LossError: batches do not come in pieces, or the loss of a batch is not the mean of the
            losses of its pieces (a contrastive loss, a mean with weights).
        NonFiniteError: the loss or its gradient is not finite here or in the ball.

    Source: Foret et al., ICLR 2021, arXiv:2010.01412, sec. 4.
    """
    check_objective(objective, params)
    check_count("size", size, 1)
    check_count("sets", sets, 1)
    if size > max(objective.gathered(batch_size)):
        raise ArgumentError(
            f"`size` must be at most the size of a batch; no batch holds {size} examples."
        )
    pieces = [piece for piece in pieces_of(objective, size) if batch_size(piece) == size]
    count = min(sets, len(pieces))
    chosen = [pieces[index * len(pieces) // count] for index in range(count)]
    options: dict[str, Any] = {"adaptive": adaptive, "eta": eta, "steps": steps}
    options |= {"restarts": 0, "params": params}
    rises = [
        worst_sharpness(objective.part([piece]), radius, **options).rise.value
        for piece in chosen
    ]
    return mean_of(rises, 2 * count)


def _prepared(
    objective: Objective,
    radius: float | None,
    adaptive: bool,
    eta: float,
    params: Params | None,
) -> tuple[BasePoint, _Ball]:
    check_flag("adaptive", adaptive)
    chosen = (ADAPTIVE_RADIUS if adaptive else RADIUS) if radius is None else radius
    check_positive("radius", chosen)
    check_number("eta", eta, 0)
    ground = BasePoint(objective, params)
    return ground, _Ball(ground.here, chosen, adaptive, eta)


def _gradient(objective: Objective, ball: _Ball, where: Params) -> Params:
    gradient = objective.gradient(where)
    check_finite(gradient)
    return ball.scaled(gradient)


def _rise(ground: BasePoint, ball: _Ball, place: Params) -> Estimate:
    rise = ground.rise(place)
    if not math.isfinite(rise.value):
        raise NonFiniteError(
            f"the loss is not finite at distance {ball.radius:g} from the weights; take a "
            "smaller `radius`."
        )
    return rise


def _climbed(
    objective: Objective, ground: BasePoint, ball: _Ball, start: Params, steps: int
) -> tuple[Estimate, int, float]:
    gradient: Callable[[Params], Params] = lambda where: _gradient(objective, ball, where)  # noqa: E731
    place = ball.at(start)
    rise = _rise(ground, ball, place)
    first, best = rise.value, rise
    for step in range(steps):
        uphill = gradient(place)
        if norm(uphill) == 0:
            return best, step + 1, first
        place = ball.at(uphill)
        rise = _rise(ground, ball, place)
        if rise.value - best.value <= _ARRIVED * abs(best.value):
            return max(best, rise, key=lambda found: found.value), step + 1, first
        best = rise
    return best, steps, first
