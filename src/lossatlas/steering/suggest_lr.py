"""Which learning rate to start with: a range test, short runs, curvature and noise."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.optim import Adam, NAdam, Optimizer

from lossatlas.checks import check_at_least, check_kind, check_positive
from lossatlas.curvature.assumed_optimizers import warm_adam
from lossatlas.curvature.gradient_noise import gradient_noise
from lossatlas.curvature.optimizer_names import optimizer_name
from lossatlas.curvature.optimizer_steps import (
    OptimizerLike,
    OptimizerState,
    has_second_moments,
)
from lossatlas.curvature.stability import edge_of_stability
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.executor import Progress, show_progress
from lossatlas.objective import Objective
from lossatlas.objective.batches import known_length
from lossatlas.objective.chance import chance_level
from lossatlas.objective.names import own_parameters
from lossatlas.result import Estimate
from lossatlas.steering.held_out import divide_data, needed_batches
from lossatlas.steering.lr_scaling import scaled_range, scaled_rate
from lossatlas.steering.range_test import RangeTest, run_range_test
from lossatlas.steering.rate_search import RateRuns, acceptable_range, best_rate, search_rates
from lossatlas.steering.short_runs import BuildOptimizer, optimizer_builder
from lossatlas.steering.suggested_lr import SuggestedLR

Floats = NDArray[np.float64]


def suggest_lr(
    objective: Objective,
    optimizer: str | Optimizer | BuildOptimizer = "adamw",
    *,
    lr: float | None = None,
    momentum: float | None = None,
    validation: Objective | None = None,
    horizon: int | None = None,
    updates: int = 100,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> SuggestedLR:
    """Suggest a learning rate for training from the present weights, and judge a given one.

    1. A range test: one run whose rate grows from `min_lr` to `max_lr`.
    2. Short runs on copies of the weights, between where the test begins to fall and where it
       diverges: warm-up over a tenth of the updates, then linear decay to zero. Their losses
       over the same examples are compared in pairs. The best rate is the vertex of a parabola
       through the lowest three, in the logarithm of the rate.
    3. The best rate r of runs of `updates` becomes r (updates / horizon)^(1/2); the ends of the
       band take the powers 3/4 and 1/4.
    4. The edge of stability (2 / lambda_max, on the optimizer's scale) and the gradient noise
       scale say why.
    5. With `lr`, a short run that peaks at this rate is compared in pairs with one at the best
       rate; neither takes part in the search. Where `horizon` is not `updates`, the rate is
       first moved toward the best one, by (horizon / updates)^p with p between 0 and 3/4, so
       that no difference is one of the lengths. The verdict is

       - "too high": the run diverges, or ends no lower than the loss before it or that of a
         constant prediction and the rate is above the suggested one;
       - "higher than needed", "lower than needed": it ends above that at the best rate by more
         than 3 % and the error at 95 %, or the rate is outside the band;
       - "indistinguishable": short runs show no difference. Longer ones (`updates`) may.
       - "not known": no rate is seen to help, or the losses have no standard error: a scalar
         loss on one held-out batch. Only a run that diverges or ends more than 50 % above its
         start is then "too high".

    Rates are peak rates. At a constant rate the best is usually lower.

    The band probably holds the best rate; not every rate in it is good. Of the runs it holds
    those whose loss is not more than 3 % above the best, or is not told apart from it at 95 %.
    Where the horizon makes n > 16 passes over the batches, its low end is divided by
    (n / 16)^(1/2); where n is not known the result says so. Both ends are then widened by a
    factor of 1.11, calibrated on 31 problems (16 tasks) so that the band of a new one holds the
    best rate of a tuned grid with 90 %; docs/studies/lr says how often it does.
    The model, its gradients and the random state stay as they are. Dropout is off;
    normalization layers use the statistics of each batch.

    Args:
        objective: model, loss and training batches of the size that you will train with; the
            first `updates` of them are kept in memory.
        optimizer: "sgd" (momentum 0.9), "adam", "adamw", an optimizer of torch (its class,
            groups and settings are used, its state and rate are not), or a function
            (params, lr) -> optimizer.
        lr: a peak learning rate of your own to judge; of an optimizer with groups, the highest.
        momentum: of "sgd"; by default 0.9.
        validation: where the runs are compared. By default every fifth batch is kept apart for
            it; of fewer than five batches (ten where `loss` returns one number a batch, as
            a single batch has no standard error), every fifth example of each. Where these
            cannot be divided
            (graphs, fewer than five examples) they train and judge, and the result says so.
        horizon: updates of your training; `updates` by default.
        updates: length of a run.
        min_lr: where the range test begins.
        max_lr: where it ends.
        seed: of the curvature and noise measurements.
        progress: told after every run; True shows a bar.

    Returns:
        Rate, band, runs and reasons; `verdict` judges `lr`; `helps` is False where no run is
            below the loss without training beyond the error, as for random labels, or where the
            error is not known; the sentences say which. About 8 runs, 900 gradients of a batch
            by default; 2 or 3 runs more with `lr`.

    Raises:
        ArgumentError: a number out of range, an optimizer that cannot be built, or no rate that
            lowers the loss.
        LossError: the loss has no gradient.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> batches = [(torch.eye(4), torch.arange(4))] * 5
        >>> model, loss = torch.nn.Linear(4, 4), la.supervised(F.cross_entropy)
        >>> objective = la.Objective(model, loss, batches)
        >>> suggestion = la.suggest_lr(objective, "sgd", updates=20)
        >>> suggestion.low <= suggestion.lr <= suggestion.high
        True
        >>> la.suggest_lr(objective, "sgd", lr=0.001, updates=20).verdict
        'lower than needed'

    Source: range test: Smith, WACV 2017, arXiv:1506.01186; edge: Cohen et al., ICLR 2021,
        arXiv:2103.00065; noise scale: McCandlish et al., arXiv:1812.06162; calibration: split
        conformal prediction, Vovk et al., Algorithmic Learning in a Random World, 2005, by the
        score of Romano et al., arXiv:1905.03222, pooled over tasks as in Dunn et al.,
        arXiv:1809.07441.
    """
    check_kind("objective", objective, Objective, "make one with la.Objective(...)")
    check_kind("validation", validation, (Objective, type(None)), "make one with la.Objective")
    check_at_least("updates", updates, 10)
    _check_same_weights(objective, validation)
    _check_rates(lr, min_lr, max_lr)
    if horizon is not None:
        check_at_least("horizon", horizon, 1)
    data = divide_data(objective, updates)
    training = data.training
    build = optimizer_builder(optimizer, objective, momentum)
    with show_progress(progress) as report:
        test = run_range_test(training, build, np.geomspace(min_lr, max_lr, updates))
        runs = RateRuns(training, build, updates, validation or data.judge, report)
        search_rates(runs, test, min_lr, max_lr)
        judged = None if lr is None else runs.judge_rate(lr, horizon or updates)
    reasons = _edge(training, build, optimizer, seed), _noise(training, seed)
    horizon = horizon or updates
    passes = horizon / _batches_a_pass(objective, updates, data.drawn)
    suggestion = _suggestion(runs, test, reasons, horizon, passes)
    held_out = validation is not None or data.held_out
    return replace(
        suggestion, batch_size=data.batch_size, held_out=held_out, judged=judged,
        gradients=suggestion.gradients + updates * runs.judging,
    )  # fmt: skip


def _check_rates(lr: float | None, min_lr: float, max_lr: float) -> None:
    for name, value in (("lr", lr), ("min_lr", min_lr), ("max_lr", max_lr)):
        if name != "lr" or value is not None:
            check_positive(name, value)
    if not min_lr < max_lr:
        raise ArgumentError(f"`min_lr` must be below `max_lr`; got {min_lr:g} and {max_lr:g}.")


def _check_same_weights(objective: Objective, validation: Objective | None) -> None:
    # Known before the runs; it would come up after the first of them.
    shapes = {n: tuple(v.shape) for n, v in objective.params.items()}
    if validation is None or shapes == {
        n: tuple(v.shape) for n, v in validation.params.items()
    }:
        return
    raise ArgumentError(
        "`validation` must be of the same model with the same `params=` as `objective`; it has "
        "weights of other names or shapes."
    )


def _batches_a_pass(objective: Objective, updates: int, drawn: int) -> float:
    # Of the walk that checked the loss; NaN where there was none and no length is told.
    if objective.count is not None and objective.shared is None:
        return objective.count
    if drawn < needed_batches(updates):
        return drawn
    length = known_length(objective.batches)
    return math.nan if length is None else length


def _suggestion(
    runs: RateRuns,
    test: RangeTest,
    reasons: tuple[tuple[Estimate, tuple[str, ...]], Estimate],
    horizon: int,
    passes: float,
) -> SuggestedLR:
    rates, losses, gaps, errors, units = runs.table()
    updates = len(runs.shape)
    best = best_rate(rates, losses)
    low, high = acceptable_range(rates, losses, gaps, errors, units)
    low, high = scaled_range(min(low, best), max(high, best), updates, horizon, passes)
    edge, notes = reasons[0]
    return SuggestedLR(
        lr=scaled_rate(best, updates, horizon),
        low=low,
        high=high,
        optimizer=optimizer_name(runs.build([*own_parameters(runs.training).values()], 1.0)),
        updates=updates,
        horizon=horizon,
        passes=passes,
        rates=rates,
        losses=losses,
        gaps=gaps,
        gap_errors=errors,
        units=units,
        test=test,
        edge=edge,
        noise_scale=reasons[1],
        batch_size=max(runs.training.map_batches(runs.training.size_of)),
        gradients=updates * len(rates) + int(np.isfinite(test.losses).sum()),
        gain=runs.gain(),
        chance=chance_level(runs.judge),
        notes=notes,
    )


def _edge(
    objective: Objective, build: BuildOptimizer, given: Any, seed: int
) -> tuple[Estimate, tuple[str, ...]]:
    # The rate at which the sharpest direction of a quadratic begins to grow.
    name = "largest stable learning rate"
    try:
        steps: OptimizerLike = build(list(own_parameters(objective).values()), 1.0)
        if has_second_moments(given):
            steps = OptimizerState(steps.param_groups, given.state)
        elif isinstance(steps, Adam | NAdam):
            steps = warm_adam(objective, 1.0)
        stability = edge_of_stability(objective, steps, seed=seed)
    except AtlasError as error:
        return Estimate(math.nan, why_no_error=str(error), name=name), ()
    notes = (f"edge of stability: {stability.note}",) if stability.note else ()
    if not stability.sharpness > stability.bound:
        why = "the loss does not curve upward beyond the error bound"
        return Estimate(math.nan, why_no_error=why, name=name), notes
    rate = stability.threshold / stability.sharpness
    edge = Estimate(
        rate,
        products=stability.products,
        reached=stability.reached,
        bound=rate * stability.bound / (stability.sharpness - stability.bound),
        name=name,
        meaning="on a quadratic with the curvature at these weights",
    )
    return edge, notes


def _noise(objective: Objective, seed: int) -> Estimate:
    name = "gradient noise scale"
    try:
        scale = gradient_noise(objective, seed=seed).noise_scale
    except AtlasError as error:
        return Estimate(math.nan, why_no_error=str(error), name=name)
    return replace(
        scale, name=name, unit="examples", meaning="batch size of equal noise and signal"
    )
