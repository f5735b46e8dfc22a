"""The edge of stability: how the step of an optimizer stands to the sharpest curvature."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_positive
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.batch_statistics import as_in_training
from lossatlas.curvature.krylov_memory import RAN_OUT, KrylovRequest, plan_krylov
from lossatlas.curvature.matrices import hessian
from lossatlas.curvature.optimizer_names import named_with_momentum
from lossatlas.curvature.optimizer_steps import (
    OptimizerLike,
    common_setting,
    edge_of_groups,
    step_scales,
    unwrap_optimizer,
    used_groups,
)
from lossatlas.curvature.selfcheck import CheckedResult, ensure_curvature, says_checks
from lossatlas.linalg.extremes import converge
from lossatlas.linalg.krylov import Lanczos
from lossatlas.objective import Objective
from lossatlas.objective.chance import ChanceLevel, chance_level
from lossatlas.objective.lines import coarse_rounding
from lossatlas.objective.point import tracks_statistics
from lossatlas.result import Estimate, Figure, Reference, chart_of, result
from lossatlas.rng import generator
from lossatlas.text import number, percent, told_apart

# From here on shares of the edge are written with digits enough to be below it.
_NEAR = 0.99
_NAMES = {"adam": "Adam", "nadam": "NAdam"}
# Below the edge a rate may still be too high; only runs can tell.
_NO_SIGN = "no sign of it"
CANNOT_BE_JUDGED = "cannot be judged: these weights predict no better than a constant"
EDGE_OF_STABILITY = Reference(
    "edge of stability",
    "J. M. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar. Gradient Descent on Neural "
    "Networks Typically Occurs at the Edge of Stability. ICLR 2021.",
    "https://arxiv.org/abs/2103.00065",
)


@result("stability", references=(EDGE_OF_STABILITY,))
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
        is_known = self.reached and self.ratio > 0
        return self.lr / self.ratio if is_known else math.nan

    def estimates(self) -> tuple[Estimate, ...]:
        """The sharpness in units of the steps, and its share of the edge, with error bounds."""
        edge = f"the edge of stability is at {self.threshold:.3g} for {self.optimizer}"
        statistics = ""
        if self.by_running_statistics or self.by_batch_statistics:
            kind = "running" if self.by_running_statistics else "batch"
            statistics = f"with {kind} statistics"
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
        meaning = "above 1 steps grow on a quadratic"
        share = replace(
            sharpness,
            value=self.ratio,
            bound=self.bound / self.threshold,
            products=0,
            name="share of the edge of stability",
            meaning="; ".join(filter(None, (meaning, statistics, chance))),
        )
        return sharpness, share

    def answer(self, optimizer: str | None = None) -> tuple[str, str]:
        """Whether the learning rate is too high.

        Args:
            optimizer: a name for the optimizer; by default that of its rule.

        Returns:
            The answer, and "sure", "alarm" or "" (not known).
        """
        steps = optimizer or self.optimizer
        if not self.is_judged:
            return CANNOT_BE_JUDGED, ""
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
        return f"{_NO_SIGN}: {self._against(steps, 'below', share)}", "sure"

    @property
    def verdict(self) -> str:
        """The answer without the optimizer's name, as in "no sign of it (the edge is 0.2)"."""
        answer = self.answer()[0].split(":")[0].partition(" for ")[0]
        if answer not in ("yes", _NO_SIGN):
            return answer
        if math.isnan(self.highest_lr):
            return f"{answer} ({number(100 * max(self.ratio, 0.0), 2)} % of the edge)"
        return f"{answer} (the edge is {number(self.highest_lr, 2)})"

    def _against(self, steps: str, side: str, share: str) -> str:
        # The rate and the one at the edge, or else their ratio.
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
            *(() if self.is_judged else (_chance_remark(self),)),
            *((_RUNNING_STATISTICS,) if self.by_running_statistics else ()),
            *((_BATCH_STATISTICS,) if self.by_batch_statistics else ()),
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
        return (edge_figure({self.optimizer: self}),)


def edge_figure(stabilities: Mapping[str, Stability]) -> Figure:
    """The ratios of some optimizers to the edge in one picture."""
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


def _chance_remark(stability: Stability) -> str:
    assert stability.chance is not None
    rate = f"{stability.lr:g}" if math.isfinite(stability.lr) else "RATE"
    return (
        f"{stability.chance.sentence}. Whether the learning rate is too high cannot be "
        "judged at such weights: a rate that is too high may have led to them. Judge it "
        f"from the initial weights: `la.suggest_lr(objective, optimizer, lr={rate})`, or "
        f"`lossatlas lr --lr {rate}`."
    )


_RUNNING_STATISTICS = (
    "Normalization layers used their running statistics here. Where a training uses those of "
    "each batch its curvature is another one, most of all in Adam's units for weights just "
    "before such a layer."
)
_BATCH_STATISTICS = (
    "Normalization layers used the statistics of each batch here, as in training; dropout is "
    "off."
)


@says_checks
def edge_of_stability(
    objective: Objective,
    optimizer: OptimizerLike,
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
    optimizer, objective = unwrap_optimizer(optimizer), as_in_training(objective)
    groups = used_groups(optimizer, objective)
    rule, threshold = edge_of_groups(optimizer, groups)
    plan = plan_krylov(objective, KrylovRequest(1, limit))
    # Before weights are copied, because a check holds several copies itself.
    ensure_curvature(objective, "hessian")
    matrix = hessian(objective)
    scale, decay = step_scales(objective, optimizer, matrix, rule)
    random = generator(seed, "start", device=matrix.device)
    start = torch.randn(matrix.size, generator=random, dtype=matrix.dtype, device=matrix.device)

    def apply(vector: Tensor) -> Tensor:
        scaled = scale * vector
        return scale * (matrix.flat(scaled) + decay * scaled)

    lanczos = Lanczos(apply, start, random, plan.storage)
    ritz, reached = converge(lanczos, top=1, bottom=0, tolerance=tolerance, limit=limit)
    value = float(ritz.values[-1])
    has_statistics = tracks_statistics(objective.model)
    return Stability(
        sharpness=value,
        bound=float(ritz.bounds[-1]) + coarse_rounding(objective) * abs(value),
        threshold=threshold,
        ratio=value / threshold,
        rule=rule,
        products=matrix.count,
        reached=reached,
        lr=common_setting(groups, "lr"),
        note="; ".join(filter(None, (plan.note, RAN_OUT if lanczos.full else ""))),
        by_running_statistics=has_statistics and objective.mode != "train",
        by_batch_statistics=has_statistics and objective.mode == "train",
        momentum=common_setting(groups, "momentum"),
        chance=chance_level(objective),
    )
