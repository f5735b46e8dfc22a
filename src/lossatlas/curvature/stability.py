"""The edge of stability: how the step of an optimizer stands to the sharpest curvature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossatlas.checks import check_at_least, check_positive
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.krylov_memory import RAN_OUT, KrylovRequest, plan_krylov
from lossatlas.curvature.matrices import hessian
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.optimizer_names import named_with_momentum
from lossatlas.curvature.pieces import pieces_of
from lossatlas.curvature.selfcheck import CheckedResult, ensure_curvature, says_checks
from lossatlas.errors import ArgumentError, AtlasError, ModelError
from lossatlas.linalg.extremes import converge
from lossatlas.linalg.krylov import Lanczos
from lossatlas.objective import Objective
from lossatlas.objective.batches import Batch, batch_size
from lossatlas.objective.chance import ChanceLevel, chance_level
from lossatlas.objective.lines import coarse_rounding
from lossatlas.objective.modes import norm_layers
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.rng import generator
from lossatlas.text import number, percent, told_apart

# Adam's second moments come from at least so many sets of at most so many examples.
_SETS, _SET = 8, 32
# From here on shares of the edge are written with digits enough to be below it.
_NEAR = 0.99
_NO_RATE = (
    "no learning rate was given; pass lr= or optimizer= (--lr 0.1 on the command line) to "
    "compare it with the curvature"
)
_NAMES = {"adam": "Adam", "nadam": "NAdam"}
_UNJUDGED = "cannot be judged: these weights predict no better than a constant"
_REFERENCE = Reference(
    "edge of stability",
    "J. M. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar. Gradient Descent on Neural "
    "Networks Typically Occurs at the Edge of Stability. ICLR 2021.",
    "https://arxiv.org/abs/2103.00065",
)
_SERVED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam)


class Steps(Protocol):
    """What is read of an optimizer: any of `torch.optim` will do."""

    @property
    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Groups of parameters with their settings."""

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """What is kept of each parameter."""


@result("stability", references=(_REFERENCE,))
class Stability(CheckedResult):
    """The largest curvature in units of the optimizer's own steps.

    Attributes:
        sharpness: learning rate x largest eigenvalue of the (preconditioned) Hessian, no unit.
        bound: its error bound.
        threshold: where a quadratic begins to diverge: 2 for gradient descent.
        ratio: sharpness / threshold; above 1 is above the edge.
        rule: "descent", "momentum", "nesterov", "adam" or "nadam".
        products: products spent.
        reached: whether the tolerance was reached.
        lr: the learning rate of all parameters; NaN where they have several.
        note: what memory made of the run; empty as a rule.
        by_running_statistics: whether normalization layers used their running statistics.
        by_batch_statistics: whether they used the statistics of each batch, as in training.
        momentum: of SGD; NaN for other optimizers and where it is not known.
        chance: the loss at these weights beside that of a constant prediction; None where the
            latter is not known. At weights that predict no better the rate is not judged.
    """

    sharpness: float
    bound: float
    threshold: float
    ratio: float
    rule: str
    products: int
    reached: bool
    lr: float = math.nan
    note: str = ""
    by_running_statistics: bool = False
    by_batch_statistics: bool = False
    momentum: float = math.nan
    chance: ChanceLevel | None = None

    @property
    def optimizer(self) -> str:
        """The optimizer as sentences name it, as in "SGD with momentum 0.9"."""
        if self.rule in _NAMES:
            return _NAMES[self.rule]
        momentum = 0.0 if self.rule == "descent" else self.momentum
        return named_with_momentum("SGD", momentum, nesterov=self.rule == "nesterov")

    @property
    def is_judged(self) -> bool:
        """Whether these weights can tell of the rate: they predict better than a constant."""
        return self.chance is None or not self.chance.is_at_chance

    @property
    def highest_lr(self) -> float:
        """The learning rate at the edge; NaN where it is not known or nothing curves up."""
        known = self.reached and self.ratio > 0
        return self.lr / self.ratio if known else math.nan

    def estimates(self) -> tuple[Estimate, ...]:
        """The sharpness in units of the steps, and its share of the edge, with error bounds."""
        edge = f"the edge of stability is at {self.threshold:.3g} for {self.optimizer}"
        kind = "running" if self.by_running_statistics else "batch"
        known = self.by_running_statistics or self.by_batch_statistics
        statistics = f"with {kind} statistics" if known else ""
        chance = "" if self.is_judged else "at weights no better than a constant prediction"
        sharpness = Estimate(
            self.sharpness,
            products=self.products,
            reached=self.reached,
            bound=self.bound,
            why_no_error=None if math.isfinite(self.bound) else "its bound is not known",
            name="learning rate x largest eigenvalue",
            meaning="; ".join(filter(None, (edge, statistics, chance, self.note))),
        )
        bound, meaning = self.bound / self.threshold, "above 1 steps grow on a quadratic"
        return (
            sharpness,
            replace(
                sharpness, value=self.ratio, bound=bound, products=0,
                name="share of the edge of stability",
                meaning="; ".join(filter(None, (meaning, statistics, chance))),
            ),
        )  # fmt: skip

    def answer(self, optimizer: str | None = None) -> tuple[str, str]:
        """Whether the learning rate is too high.

        Args:
            optimizer: a name for the optimizer; by default that of its rule.

        Returns:
            The answer, and "sure", "alarm" or "" (not known).
        """
        steps = optimizer or self.optimizer
        if not self.is_judged:
            return _UNJUDGED, ""
        if math.isnan(self.sharpness + self.bound):
            return "not known", ""
        if abs(self.sharpness - self.threshold) <= self.bound:
            return f"at the edge for {steps}, within the error", "alarm"
        if self.sharpness > self.threshold:
            times = f"{told_apart(self.ratio, 1.0)[0]} times"
            return f"yes: {self._against(steps, 'above', times)}", "alarm"
        if not self.reached:
            return "not known", ""
        share = f"{told_apart(100 * max(self.ratio, 0.0), 100.0, 2)[0]} % of"
        return f"no: {self._against(steps, 'below', share)}", "sure"

    @property
    def verdict(self) -> str:
        """The answer without the optimizer's name, as in "no (edge at 0.2)"."""
        word = self.answer()[0].split(":")[0].partition(" for ")[0]
        if word not in ("yes", "no"):
            return word
        if math.isnan(self.highest_lr):
            return f"{word} ({number(100 * max(self.ratio, 0.0), 2)} % of the edge)"
        return f"{word} (the edge is {number(self.highest_lr, 2)})"

    # The rate and the one at the edge, or else their ratio.
    def _against(self, steps: str, side: str, share: str) -> str:
        if math.isnan(self.highest_lr):
            return f"{share} the edge for {steps}"
        lr, edge = self._rates()
        return f"{lr} is {side} the edge, {edge} for {steps}"

    def _rates(self) -> tuple[str, str]:
        # The learning rate and the highest one, which is rounded down; empty where not known.
        if math.isfinite(self.highest_lr):
            return told_apart(self.lr, self.highest_lr)
        return number(self.lr, 3) if math.isfinite(self.lr) else "", ""

    def sentences(self) -> tuple[str, ...]:
        """On which side of the edge the steps are."""
        return (self.sentence(self.optimizer), *self.remarks())

    def remarks(self) -> tuple[str, ...]:
        """What limits the answer: weights at chance, the statistics of normalization layers."""
        return (
            *(() if self.is_judged else (_unjudged(self),)),
            *((_RUNNING,) if self.by_running_statistics else ()),
            *((_BATCH,) if self.by_batch_statistics else ()),
        )

    def sentence(self, optimizer: str) -> str:
        """The same, with a name for the optimizer.

        Args:
            optimizer: as in "SGD with momentum 0.9".

        Returns:
            A sentence.
        """
        value, edge = told_apart(self.sharpness, self.threshold, 2)
        lr, highest = self._rates()
        rate = f" at a learning rate of {lr}" if lr else ""
        start = f"For {optimizer}{rate}, learning rate x largest eigenvalue = {value}"
        if abs(self.sharpness - self.threshold) <= self.bound:
            return f"{start}: at the edge of stability ({edge}), within the error bound."
        if math.isnan(self.sharpness + self.bound):
            return f"{start}: on which side of the edge of stability ({edge}) is not known."
        if self.sharpness > self.threshold:
            return (
                f"{start}: above the edge of stability ({edge}); on a quadratic steps along "
                "the sharpest direction would grow."
            )
        if not self.reached:
            return (
                f"{start} at least (the tolerance was not reached): whether it is above the "
                f"edge of stability ({edge}) is not known."
            )
        near = f"{told_apart(100 * self.ratio, 100.0)[0]} %"
        share = near if self.ratio > _NEAR else percent(max(self.ratio, 0.0))
        end = f"below the edge of stability ({edge}), at {share} of it"
        if highest and self.is_judged:
            end += f": at these weights rates up to {highest} are stable"
        return f"{start}: {end}."

    def figures(self) -> tuple[Figure, ...]:
        """The ratio to the edge."""
        return (_edge_figure({self.optimizer: self}),)


def _edge_figure(stabilities: Mapping[str, Stability]) -> Figure:
    import numpy as np

    from lossatlas.plots.rows import Dots, rows_chart

    ratios = np.array([max(each.ratio, 0.0) for each in stabilities.values()])
    bounds = np.array([each.bound / each.threshold for each in stabilities.values()])
    title, axis = "Edge of stability", "curvature over the largest stable one"
    dots, sides = [Dots("ratio", ratios, bounds)], ("stable", "beyond the edge")
    chart = partial(
        rows_chart, list(stabilities), dots, title, axis, log=True, limit=1.0, sides=sides
    )
    caption = (
        "Learning rate x largest curvature, divided by the value from which on steps grow on a "
        "quadratic: dots right of 1 are beyond the edge."
    )
    if not all(each.is_judged for each in stabilities.values()):
        caption += " At weights that predict no better than a constant this says little."
    alt = "Ratio of curvature to the edge of stability for each optimizer."
    return chart_of("edge", title, chart, caption=caption, alt=alt, wide=True)


@result("learning_rate", references=(_REFERENCE,))
class LearningRate(Result):
    """A learning rate against the edge of stability, for several optimizers.

    Attributes:
        descent: for SGD, without momentum where none was stated.
        adam: on Adam's scale; second moments of sets of at most 32 examples at these weights,
            as if they had converged there.
        optimizer: for an optimizer with its state.
    """

    descent: Stability | None = None
    adam: Stability | None = None
    optimizer: Stability | None = None

    @property
    def _known(self) -> dict[str, Stability]:
        stabilities = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in stabilities.items() if value is not None}

    def estimates(self) -> tuple[Estimate, ...]:
        """One number for each optimizer."""
        known = self._known
        several = len(known) > 1
        note = f"; second moments of sets of at most {_SET} examples, at these weights"
        return tuple(
            replace(
                each,
                name=f"{each.name}, {_steps(key, stability)}" if several else each.name,
                meaning=each.meaning + (note if key == "adam" else ""),
            )
            for key, stability in known.items()
            for each in stability.estimates()
        )

    def sentences(self) -> tuple[str, ...]:
        """On which side of the edge each is."""
        known = self._known
        said = [stability.sentence(_steps(key, stability)) for key, stability in known.items()]
        said += dict.fromkeys(text for each in known.values() for text in each.remarks())
        return (*said, *((_CONVERGED,) if self.adam is not None else ()))

    def answer(self) -> tuple[str, str]:
        """Whether the rate is too high, for the given optimizer, else for each known one."""
        if self.optimizer is not None:
            return self.optimizer.answer()
        known = self._known
        if len(known) == 1:
            ((key, stability),) = known.items()
            return stability.answer(_NAMES["adam"] if key == "adam" else None)
        if known and not any(stability.is_judged for stability in known.values()):
            return _UNJUDGED, ""
        # Which of them takes the steps is not known: a mark only where they agree.
        marks = {stability.answer()[1] for stability in known.values()}
        words = (
            f"{_steps(key, stability)}: {stability.verdict}" for key, stability in known.items()
        )
        return "; ".join(words), marks.pop() if len(marks) == 1 else ""

    def figures(self) -> tuple[Figure, ...]:
        """All ratios to the edge in one picture."""
        stabilities = {_steps(key, value): value for key, value in self._known.items()}
        return (_edge_figure(stabilities),) if stabilities else ()


def _steps(key: str, stability: Stability) -> str:
    if key == "optimizer":
        return f"the given optimizer ({stability.optimizer})"
    return _NAMES["adam"] if key == "adam" else stability.optimizer


def _unjudged(stability: Stability) -> str:
    assert stability.chance is not None
    rate = f"{stability.lr:g}" if math.isfinite(stability.lr) else "RATE"
    return (
        f"{stability.chance.sentence}. Whether the learning rate is too high cannot be "
        "judged at such weights: a rate that is too high may have led to them. Judge it "
        f"from the initial weights: `la.suggest_lr(objective, optimizer, lr={rate})`, or "
        f"`lossatlas lr --lr {rate}`."
    )


_RUNNING = (
    "Normalization layers used their running statistics here. Where a training uses those of "
    "each batch its curvature is another one, most of all in Adam's units for weights just "
    "before such a layer."
)
_BATCH = (
    "Normalization layers used the statistics of each batch here, as in training; dropout is "
    "off."
)
_CONVERGED = (
    "The number for Adam assumes that its second moments have converged at these weights; at "
    "the start of a training steps may diverge at a rate below this edge."
)


@instrument(
    "stability",
    title="Edge of stability",
    question="Is my learning rate too high?",
    group="steps",
    cost="40 products, one pass of gradients",
    needs="a learning rate or an optimizer; 8 examples",
    references=(_REFERENCE,),
    reads=LearningRate,
    headline="learning rate x curvature",
    place=1,
)
def survey_stability(context: Context) -> Parts:
    """The learning rate against the edge of stability."""
    objective, lr, optimizer = context.objective, context.lr, context.optimizer

    def edge(steps: Steps) -> Stability:
        return edge_of_stability(objective, steps, seed=context.seed)

    parts: Parts = {}
    if lr is not None:
        parts["descent"] = lambda: edge(_descent(objective, lr, context.momentum))
        if optimizer is None or not has_second_moments(optimizer):
            parts["adam"] = lambda: edge(warm_adam(objective, lr))
    if optimizer is not None:
        parts["optimizer"] = lambda: edge(optimizer)
    return parts or {"descent": _without_rate}


def has_second_moments(optimizer: Steps) -> bool:
    """Whether an optimizer brings second moments of its own, as a trained Adam does."""
    steps = getattr(optimizer, "optimizer", optimizer)
    states = getattr(steps, "state", {}).values()
    return any("exp_avg_sq" in state for state in states)


def _without_rate() -> Stability:
    raise ArgumentError(_NO_RATE)


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """How an optimizer would step from here. One of torch's takes seconds to build at first.

    Attributes:
        param_groups: as those of torch's optimizers.
        state: as theirs.
    """

    param_groups: Sequence[Mapping[str, Any]]
    state: Mapping[Tensor, Mapping[str, Any]]


def _parameters(objective: Objective) -> list[torch.nn.Parameter]:
    every = dict(objective.model.named_parameters())
    return [every[name] for name in objective.names]


def _descent(objective: Objective, lr: float, momentum: float) -> OptimizerState:
    params = _parameters(objective)
    group = {"params": params, "lr": lr, "momentum": momentum, "nesterov": False}
    return OptimizerState([group], {})


def warm_adam(objective: Objective, lr: float) -> OptimizerState:
    """Adam as if its second moments had converged at these weights."""
    objective = as_in_training(objective)
    pieces = _pieces(objective)
    if len(pieces) < _SETS:
        raise ArgumentError(
            f"Adam's second moments need {_SETS} sets of examples; there are {len(pieces)}: "
            "take more examples, or pass a trained Adam as `optimizer`."
        )
    squares = {name: torch.zeros_like(value) for name, value in objective.params.items()}
    for piece in pieces:
        for name, value in objective.part([piece]).gradient().items():
            squares[name] += value**2 / len(pieces)
    parameters = _parameters(objective)
    group = {"params": parameters, "lr": lr, "betas": (0.9, 0.999), "eps": 1e-8}
    state: dict[Tensor, Mapping[str, Any]] = {
        parameter: {"step": math.inf, "exp_avg_sq": squares[name]}
        for name, parameter in zip(squares, parameters, strict=True)
    }
    return OptimizerState([group], state)


def _pieces(objective: Objective) -> list[Batch]:
    sizes = objective.map_batches(batch_size)
    if objective.mode == "train" and len(sizes) >= _SETS:
        return objective.map_batches(lambda batch: batch)
    # One example has no statistics of its own.
    smallest = 2 if objective.mode == "train" else 1
    return pieces_of(objective, max(smallest, min(_SET, sum(sizes) // _SETS)))


def as_in_training(objective: Objective) -> Objective:
    """The objective with batch statistics in layers that use these in training."""
    layers = [layer for layer in norm_layers(objective.model) if layer.track_running_stats]
    # In a model that trains, layers that do not are frozen.
    frozen = objective.model.training and not any(layer.training for layer in layers)
    if objective.mode != "eval" or not layers or frozen:
        return objective
    found = objective.part()
    found.mode = "train"
    try:
        found.value()
    except AtlasError:
        # A batch of one example has no statistics.
        return objective
    return found


@says_checks
def edge_of_stability(
    objective: Objective,
    optimizer: Steps,
    *,
    tolerance: float = 1e-3,
    limit: int = 200,
    seed: int = 0,
) -> Stability:
    """Compare the present learning rates with the largest that the curvature allows.

    Groups may have rates of their own: the Hessian is scaled on both sides by the root of each
    weight's step size. Weight decay that joins the gradient adds to the curvature; decoupled
    decay (AdamW) is left out. Parameters that the optimizer does not hold do not move.

    Normalization layers use the statistics of each batch, as in training, also where the
    objective has mode "eval": the optimizer steps on the loss with batch statistics. They use
    running statistics where a batch is too small, and where they are frozen (the model is in
    training mode, these layers are not). Dropout is off. The result says which.

    Where the loss at the weights is not below that of a constant prediction, the result says
    that the rate cannot be judged there: a rate that is too high may have led to such weights.

    Second moments are held as they are. So is the momentum of NAdam, which grows from half its
    beta as steps are taken: with m now and n at the next step its threshold is
    2 (1 + beta) / ((1 + beta) (1 - m) + (1 - beta) n), after long 13.57 at beta = 0.9.

    Args:
        objective: model, loss, batches, at the weights the optimizer is at.
        optimizer: SGD (momentum, Nesterov), Adam, AdamW, NAdam, a subclass of theirs or a
            wrapper that holds one as `.optimizer`; or any object with groups and state as
            those of SGD or Adam.
        tolerance: of the eigenvalue, relative.
        limit: products at most.
        seed: what the start is drawn from.

    Returns:
        Sharpness against its threshold.

    Raises:
        ArgumentError: an optimizer of another class, groups with different momenta, one that
            maximizes, or one of Adam's kind before its first step.
        ModelError: the optimizer holds none of the objective's parameters.
        LossError: the loss is not twice differentiable.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import edge_of_stability
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, loss, [batch])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> round(edge_of_stability(objective, optimizer).sharpness, 4)
        0.4

    Source: Cohen et al., ICLR 2021, arXiv:2103.00065 (descent, momentum, Nesterov); Cohen et
        al., arXiv:2207.14484 (Adam); Dozat, ICLR workshop 2016 (the steps of NAdam).
    """
    check_objective(objective)
    check_positive("tolerance", tolerance)
    check_at_least("limit", limit, 1)
    optimizer, objective = _unwrapped(optimizer), as_in_training(objective)
    rule, threshold = _threshold(optimizer, objective)
    plan = plan_krylov(objective, KrylovRequest(1, limit))
    # Before weights are copied, because a check holds several copies itself.
    ensure_curvature(objective, "hessian")
    matrix = hessian(objective)
    scale, decay = _scales(objective, optimizer, matrix, rule)
    drawn = generator(seed, "start", device=matrix.device)
    start = torch.randn(matrix.size, generator=drawn, dtype=matrix.dtype, device=matrix.device)

    def apply(vector: Tensor) -> Tensor:
        inner = scale * vector
        return scale * (matrix.flat(inner) + decay * inner)

    lanczos = Lanczos(apply, start, drawn, plan.storage)
    ritz, reached = converge(lanczos, top=1, bottom=0, tolerance=tolerance, limit=limit)
    value = float(ritz.values[-1])
    return Stability(
        value,
        float(ritz.bounds[-1]) + coarse_rounding(objective) * abs(value),
        threshold,
        value / threshold,
        rule,
        matrix.count,
        reached,
        _common_rate(optimizer, objective),
        "; ".join(filter(None, (plan.note, RAN_OUT if lanczos.full else ""))),
        objective.mode != "train" and _has_statistics(objective),
        objective.mode == "train" and _has_statistics(objective),
        _momentum(optimizer, objective),
        chance_level(objective),
    )


def _has_statistics(objective: Objective) -> bool:
    return any(layer.track_running_stats for layer in norm_layers(objective.model))


def _unwrapped(optimizer: Steps) -> Steps:
    # Frameworks hand out optimizers in a shell of their own.
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    other = isinstance(optimizer, Optimizer) and not isinstance(optimizer, _SERVED)
    if other or not hasattr(optimizer, "param_groups"):
        raise _refused(type(optimizer).__name__)
    return optimizer


def _refused(got: str) -> ArgumentError:
    return ArgumentError(
        "`optimizer` must be SGD or of Adam's kind (Adam, AdamW, NAdam), or a subclass; got "
        f"{got}, whose edge is not known: compare lr x spectrum(objective, top=1).top[0] with "
        "2, the edge of plain steps."
    )


def _used_groups(optimizer: Steps, objective: Objective) -> Sequence[Mapping[str, Any]]:
    every = dict(objective.model.named_parameters())
    moved = {id(every[name]) for name in objective.names}
    used = [
        group
        for group in optimizer.param_groups
        if any(id(parameter) in moved for parameter in group["params"])
    ]
    return used or optimizer.param_groups


def _common_rate(optimizer: Steps, objective: Objective) -> float:
    rates = {float(group["lr"]) for group in _used_groups(optimizer, objective)}
    return rates.pop() if len(rates) == 1 else math.nan


def _momentum(optimizer: Steps, objective: Objective) -> float:
    momenta = {float(g.get("momentum", math.nan)) for g in _used_groups(optimizer, objective)}
    return momenta.pop() if len(momenta) == 1 else math.nan


def _threshold(optimizer: Steps, objective: Objective) -> tuple[str, float]:
    edges = {_edge_of(optimizer, group) for group in _used_groups(optimizer, objective)}
    if len(edges) > 1:
        raise ArgumentError(
            "`optimizer` has groups with different momenta, and no common edge; measure them "
            "one by one with an objective of their parameters."
        )
    return edges.pop()


def _edge_of(optimizer: Steps, group: Mapping[str, Any]) -> tuple[str, float]:
    if group.get("maximize"):
        raise ArgumentError("`optimizer` maximizes; the edge is known for descent only.")
    if "betas" in group:
        beta = float(group["betas"][0])
        if isinstance(optimizer, torch.optim.NAdam):
            return "nadam", _edge_of_nadam(optimizer, group, beta)
        return "adam", 2 * (1 + beta) / (1 - beta)
    if "momentum" not in group or "nesterov" not in group:
        raise _refused(type(optimizer).__name__)
    momentum, dampening = float(group["momentum"]), float(group.get("dampening", 0.0))
    if not momentum:
        return "descent", 2.0
    if group["nesterov"]:
        return "nesterov", 2 * (1 + momentum) / (1 + 2 * momentum)
    return "momentum", 2 * (1 + momentum) / (1 - dampening)


def _edge_of_nadam(optimizer: Steps, group: Mapping[str, Any], beta: float) -> float:
    # With z the curvature times the step, a step on a quadratic is the matrix
    # [[1 - z (1 - now + next (1 - beta)), -next beta], [z (1 - beta), beta]] on the weight and
    # the mean gradient; the threshold is the z that gives it the eigenvalue -1.
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    step = max((float(state["step"]) for state in states if "step" in state), default=0.0)
    rate = float(group["momentum_decay"])
    now, then = (beta * (1 - 0.5 * 0.96 ** (rate * place)) for place in (step, step + 1))
    edge: float = 2 * (1 + beta) / ((1 + beta) * (1 - now) + (1 - beta) * then)
    return edge


def _scales(
    objective: Objective, optimizer: Steps, matrix: CurvatureOperator, rule: str
) -> tuple[Tensor, Tensor]:
    every = dict(objective.model.named_parameters())
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    steps, decays = {}, {}
    for name, value in matrix.params.items():
        parameter = every[name]
        group = groups.get(id(parameter))
        if group is None:
            steps[name], decays[name] = torch.zeros_like(value), torch.zeros_like(value)
            continue
        step = torch.full_like(value, math.sqrt(float(group["lr"])))
        if rule in ("adam", "nadam"):
            step = step / _root(optimizer, parameter, group, name).sqrt()
        steps[name] = step
        decoupled = group.get("decoupled_weight_decay", False)
        decay = 0.0 if decoupled else float(group.get("weight_decay", 0.0))
        decays[name] = torch.full_like(value, decay)
    if not any(bool(step.any()) for step in steps.values()):
        raise ModelError(
            "`optimizer` moves none of the objective's parameters (or its rates are zero); "
            "build both from the same model."
        )
    return matrix.flatten(steps), matrix.flatten(decays)


def _root(optimizer: Steps, parameter: Tensor, group: Mapping[str, Any], name: str) -> Tensor:
    # What Adam divides by: sqrt(second moment, bias removed) + eps.
    state = optimizer.state.get(parameter, {})
    key = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
    if key not in state:
        raise ArgumentError(
            f"`optimizer` has no second moment of '{name}' yet; take a step before asking."
        )
    correction = 1 - float(group["betas"][1]) ** float(state["step"])
    root: Tensor = (state[key] / correction).sqrt() + float(group["eps"])
    return root
