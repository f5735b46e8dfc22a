"""How much the loss rises nearby: on average, at worst, and over small sets of examples."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from lossatlas.checks import check_at_least, check_flag, check_number, check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.base_point import BasePoint, normal_like
from lossatlas.curvature.differentiable import check_finite
from lossatlas.curvature.instrument import Context, Parts, estimates_of, instrument
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.curvature.pieces import pieces_of
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.params import Params, add, multiply, norm
from lossatlas.objective import Objective
from lossatlas.objective.batches import batch_size
from lossatlas.objective.slope import ensure_slope
from lossatlas.result import Estimate, Figure, Reference, Result, result, rows_figure
from lossatlas.text import with_error

# The radii of the papers: SAM on CIFAR, ASAM on CIFAR-10.
RADIUS, ADAPTIVE_RADIUS = 0.05, 0.5
# An ascent that gains less than this share has arrived.
_ARRIVED = 1e-3
# Sets of m-sharpness in a survey: the size of a micro-batch on one device.
_SET = 16
_REFERENCE = Reference(
    "sharpness in a ball, and of small sets; adaptive balls",
    "P. Foret et al. Sharpness-Aware Minimization. ICLR 2021 (arXiv:2010.01412). J. Kwon et "
    "al. ASAM. ICML 2021.",
    "https://arxiv.org/abs/2102.11600",
)


@result("worst_sharpness", references=(_REFERENCE,))
class WorstSharpness(CheckedResult):
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

    def estimates(self) -> tuple[Estimate, ...]:
        """The rise, as a lower bound of the largest one."""
        kind, unit = _kind(self.adaptive)
        meaning = (
            f"radius {self.radius:g}{unit}; largest rise found in the ball by ascent; a lower "
            "bound of the maximum"
        )
        return (replace(self.rise, name=f"{kind}worst-case sharpness", meaning=meaning),)

    def sentences(self) -> tuple[str, ...]:
        """What a step in the worst direction costs."""
        return (
            f"A step of {self.radius:g} in the weights{_kind(self.adaptive)[1]} raises the "
            f"loss by {_shown(self.rise)} in the worst direction found.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The rise beside that of the one step which SAM takes."""
        first = Estimate(self.first_step, name="first step, along the gradient")
        worst = replace(self.rise, name="worst found")
        caption = "Rises of the loss on the ball; error bars are standard errors."
        title, axis = "Rises within the ball", "rise of the loss"
        return (rows_figure(title, (first, worst), axis, caption=caption),)


def _kind(adaptive: bool) -> tuple[str, str]:
    return ("adaptive ", ", in units of the size of each weight") if adaptive else ("", "")


def _shown(estimate: Estimate) -> str:
    return with_error(estimate.value, estimate.stderr)


@result("sharpness", references=(_REFERENCE,))
class Sharpness(Result):
    """Rises of the loss around a point, those that could be measured.

    Attributes:
        average: see `average_sharpness`.
        adaptive_average: the same in units of the size of each weight.
        sets: see `m_sharpness`.
        worst: see `worst_sharpness`.
        adaptive_worst: the same in units of the size of each weight.
    """

    average: Estimate | None = None
    adaptive_average: Estimate | None = None
    sets: Estimate | None = None
    worst: WorstSharpness | None = None
    adaptive_worst: WorstSharpness | None = None

    def estimates(self) -> tuple[Estimate, ...]:
        """All rises."""
        return estimates_of({f.name: getattr(self, f.name) for f in fields(self)})

    def answer(self) -> tuple[str, str]:
        """What a step costs on average and at worst."""
        if self.worst is None or self.average is None:
            return "", ""
        return f"{_shown(self.average)} on average, {_shown(self.worst.rise)} at worst", "sure"

    def sentences(self) -> tuple[str, ...]:
        """What a small step costs, at worst and on average."""
        if self.worst is None:
            return ()
        (sentence,) = self.worst.sentences()
        if self.average is None:
            return (sentence,)
        return (f"{sentence[:-1]}, by {_shown(self.average)} on average.",)

    def figures(self) -> tuple[Figure, ...]:
        """All rises in one picture."""
        rises = self.estimates()
        caption = "Rises of the loss near the weights; error bars are standard errors."
        title, axis = "Rises of the loss", "rise of the loss"
        return (rows_figure(title, rises, axis, log=True, caption=caption),) if rises else ()


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

    Examples:
        On half of |w|^2, any step of 0.2 from zero raises the loss by 0.02:

        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import average_sharpness
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> _ = model.weight.data.zero_()
        >>> loss = lambda model, batch: model.weight.square().sum() / 2
        >>> objective = la.Objective(model, loss, [torch.ones(1, 2)])
        >>> round(average_sharpness(objective, 0.2, directions=2).value, 6)
        0.02
    """
    check_objective(objective, params)
    check_count("directions", directions, 1)
    require_memory(objective, "average_sharpness", adaptive=adaptive)
    ground, ball = _prepared(objective, radius, adaptive, eta, params)
    rises = []
    for index in range(directions):
        drawn = normal_like(ball.here, seed, "sphere", index)
        pair = [_rise(ground, ball, ball.at(drawn, sign)).value for sign in (1.0, -1.0)]
        rises.append(sum(pair) / 2)
    kind, unit = _kind(adaptive)
    meaning = f"mean rise {ball.radius:g} away{unit}"
    estimate = mean_of(rises, 2 * directions)
    return replace(estimate, name=f"{kind}average sharpness", meaning=meaning)


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

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import worst_sharpness
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2).double(), torch.zeros(2, 1).double())
        >>> worst_sharpness(la.Objective(model, loss, [batch]), 0.1).rise.value > 0
        True

    Source: Foret et al., ICLR 2021, arXiv:2010.01412; Kwon et al., ICML 2021, arXiv:2102.11600.
    """
    check_objective(objective, params)
    check_count("steps", steps, 0)
    check_count("restarts", restarts, 0)
    require_memory(objective, "worst_sharpness", adaptive=adaptive, restarts=restarts)
    # Before weights are copied, because a check holds several copies itself.
    ensure_slope(objective)
    ground, ball = _prepared(objective, radius, adaptive, eta, params)
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
        best = max(best, rise, key=lambda estimate: estimate.value)
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

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import m_sharpness
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.randn(8, 2), torch.zeros(8, 1))
        >>> m_sharpness(la.Objective(torch.nn.Linear(2, 1), loss, [batch]), 2).samples
        4

    Source: Foret et al., ICLR 2021, arXiv:2010.01412, sec. 4.
    """
    check_objective(objective, params)
    check_count("size", size, 1)
    check_count("sets", sets, 1)
    if size > max(objective.map_batches(batch_size)):
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
    meaning = "worst rise of small sets of examples, averaged"
    return replace(mean_of(rises, 2 * count), name="m-sharpness", meaning=meaning)


@instrument(
    "sharpness",
    title="Sharpness",
    question="How much does a small step raise the loss?",
    group="sharpness",
    cost="80 losses, 80 gradients",
    references=(_REFERENCE,),
    reads=Sharpness,
    headline="average sharpness",
    place=1,
)
def survey_sharpness(context: Context) -> Parts:
    """Rises in balls around the weights: mean, worst, adaptive, and of small sets."""
    objective, seed = context.objective, context.seed
    worst: dict[str, Any] = {"restarts": 1, "seed": seed}
    return {
        "average": lambda: average_sharpness(objective, seed=seed),
        "worst": lambda: worst_sharpness(objective, **worst),
        "adaptive_average": lambda: average_sharpness(objective, adaptive=True, seed=seed),
        "adaptive_worst": lambda: worst_sharpness(objective, adaptive=True, **worst),
        "sets": lambda: m_sharpness(objective, _set_size(objective)),
    }


def _set_size(objective: Objective) -> int:
    largest = max(objective.map_batches(batch_size))
    check_at_least("examples of a batch", largest, 2)
    return min(_SET, largest)


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
            return max(best, rise, key=lambda estimate: estimate.value), step + 1, first
        best = rise
    return best, steps, first
