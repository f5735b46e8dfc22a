"""The local learning coefficient: how fast the volume of low loss around a minimum shrinks."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_flag, check_one_of, check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.eigenvalue_sums import (
    EigenvalueSums,
    eigenvalue_sums,
    examples_of,
)
from lossatlas.curvature.gradient_noise import gradient_noise
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.matrices import KINDS, MatrixKind, product_of
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.curvature.spectrum import spectrum
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import to_device
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Figure, Reference, result, rows_figure
from lossatlas.rng import generator
from lossatlas.text import number

Array = NDArray[np.float64]

# A step moves the sharpest direction by this share of its way (unstable at 4).
_STEP = 0.4
# Slowest times that are dropped, that are kept by default, and that are needed; one counts as
# so many steps at least, or fast chains are too short for an error.
_BURN, _DRAWS, _FEWEST, _SHORTEST = 5, 50, 20, 10
_MOST = 200_000
# By default the sharpest direction is held this many times as strongly by the loss; in a
# survey, this many.
_LOOSE, _CLOSE = 20, 3
# Batch means are so many correlation times long; a chain gives this many at most.
_LENGTH, _MEANS = 10, 32
# So many batch means of all chains determine the share of a control variate.
_CONTROLLED = 20
# Chains that differ by more than chance this often are not mixed.
_DISAGREE = 1e-3
# Scatter below this share of the mean is rounding: a control may leave no more.
_ROUNDING = 1e-6
# Noise of mini-batches may add this share to that of the chain.
_NOISY = 0.1
# Steps of each walk that looks for larger curvature than at the weights.
_PILOTS = (1, 10, 50, 50, 50, 50)
_REFERENCE = Reference(
    "local learning coefficient",
    "E. Lau, Z. Furman, G. Wang, D. Murfet, S. Wei. The Local Learning Coefficient: A "
    "Singularity-Aware Complexity Measure. AISTATS 2025.",
    "https://arxiv.org/abs/2308.12108",
)


@result("learning_coefficient", references=(_REFERENCE,))
class LearningCoefficient(CheckedResult):
    """The local learning coefficient, beside that of a quadratic.

    Attributes:
        value: n (E[L] - L(w)) / T over the local posterior, without step bias. NaN, with the
            reason, where the chains did not mix.
        twin: what the eigenvalues of the Hessian at the weights give: half of the effective
            number of parameters.
        anharmonicity: value / twin; 1 for a quadratic.
        chains: mean of each chain.
        uncorrected: the mean with the bias of the step.
        localization: precision that holds the chain at the weights, one over squared weight.
        temperature: T.
        examples: n.
        step: of the chain, squared weight.
        slowest: correlation time of the slowest direction, in steps.
        burn_in: steps dropped of each chain.
        draws: steps kept of each chain.
        mixed: whether the chains mixed.
    """

    value: Estimate
    twin: Estimate
    anharmonicity: Estimate
    chains: Array
    uncorrected: float
    localization: float
    temperature: float
    examples: float
    step: float
    slowest: float
    burn_in: int
    draws: int
    mixed: bool

    def estimates(self) -> tuple[Estimate, ...]:
        """Coefficient, quadratic twin and their ratio."""
        held = f"localization {number(self.localization)}, temperature "
        held += f"{number(self.temperature)}: numbers compare only where both are equal"
        found = (
            (self.value, "learning coefficient", held),
            (self.twin, "quadratic twin", "half of the effective number of parameters"),
            (self.anharmonicity, "anharmonicity", "learning coefficient over quadratic twin"),
        )
        return tuple(replace(e, name=name, meaning=meaning) for e, name, meaning in found)

    def sentences(self) -> tuple[str, ...]:
        """The coefficient, and whether a quadratic explains it."""
        if not math.isfinite(self.value.value):
            return (f"The learning coefficient is not known: {self.value.why_no_error}.",)
        start = (
            f"The local learning coefficient is {self.value} (localization "
            f"{number(self.localization, 3)}, temperature {number(self.temperature, 3)})"
        )
        low, high = self.anharmonicity.interval()
        if math.isnan(low):
            return (f"{start}.",)
        if low <= 1 <= high:
            return (f"{start}, that of a quadratic within its error.",)
        way = "more" if low > 1 else "less"
        ratio = number(self.anharmonicity.value, 3)
        return (f"{start}, {way} than that of a quadratic ({ratio} times).",)

    def figures(self) -> tuple[Figure, ...]:
        """Each chain, their mean and the quadratic twin."""
        why = "one chain"
        rows = [
            replace(self.value, name="all chains"),
            replace(self.twin, name="quadratic twin"),
            *(
                Estimate(float(v), why_no_error=why, name=f"chain {k}")
                for k, v in enumerate(self.chains, 1)
            ),
        ]
        axis = "learning coefficient"
        caption = "Chains from different seeds agree where they have mixed."
        return (rows_figure("Learning coefficient", rows, axis, caption=caption),)


@instrument(
    "learning_coefficient",
    title="Learning coefficient",
    question="How complex is the minimum, beyond its quadratic part?",
    group="sharpness",
    cost="1,000 to 4,000 gradients, 300 products",
    needs="weights at a minimum; two examples",
    references=(_REFERENCE,),
    place=5,
)
def survey_learning_coefficient(context: Context) -> Parts:
    """Two short chains, held closely."""
    return {"coefficient": lambda: _held_closely(context.objective, context.seed)}


def _held_closely(objective: Objective, seed: int) -> "LearningCoefficient":
    beta = _Heat.of(objective, None).beta
    hold = beta * _curvature_at(objective, objective.params, "hessian", seed) / _CLOSE
    return learning_coefficient(objective, 2, None, hold or None, step=1.0, seed=seed)


@says_checks
def learning_coefficient(
    objective: Objective,
    chains: int = 4,
    draws: int | None = None,
    localization: float | None = None,
    temperature: float | None = None,
    *,
    minibatches: bool = False,
    step: float = _STEP,
    curvature: MatrixKind = "hessian",
    params: Params | None = None,
    seed: int = 0,
) -> LearningCoefficient:
    """Estimate the local learning coefficient at a minimum by Langevin chains.

    With n examples, mean loss L and b = n / T the chain samples
    exp(-b L(w) - g |w - w*|^2 / 2), and the coefficient is b (E[L] - L(w*)). For a quadratic it
    is sum_i b h_i / (b h_i + g) / 2 over the eigenvalues h of the Hessian. The step is
    `step` / (b h_max + g), with h_max an upper bound of the curvature that the chain meets. The
    bias of the step is taken off draw by draw: with gradient u and drift G = b u + g (w - w*),
    step b u . G / 8 is its mean on a quadratic. (w - w*) . G - step |G|^2 / 4 - d, of mean zero
    in d dimensions, is a control variate.

    Args:
        objective: model, loss (its mean over examples), batches.
        chains: independent chains.
        draws: steps kept of each; by default 50 times the slowest correlation time,
            1 / (step x localization), or 500.
        localization: g, one over squared weight. By default b h_max / 20. It rules the
            number: take one value for all checkpoints that are compared.
        temperature: T; log n by default.
        minibatches: take the gradient of one batch a step instead of all.
        step: share of the way that one step takes along the sharpest direction; below 4.
        curvature: what h is of: "hessian", or "gauss_newton" where second derivatives of the
            network are in doubt (many kinks).
        params: w*; the present weights by default.
        seed: of chains and probes.

    Returns:
        The coefficient with its error by batch means over all chains, the quadratic twin and
        their ratio.

    Raises:
        ArgumentError: a number of the wrong kind, too few draws for the slowest time, one
            example without a temperature, or batches too noisy.
        ModelError: the weights are not near a minimum.
        NonFiniteError: the loss is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import learning_coefficient
        >>> model, batch = torch.nn.Linear(2, 1, bias=False), (torch.eye(2), torch.zeros(2, 1))
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, loss, [batch])
        >>> found = learning_coefficient(objective, chains=1, draws=400, localization=10.0)
        >>> round(found.twin.value, 3)  # 2 eigenvalues of 1, b = 2 / log 2
        0.224

    Source: Lau et al., arXiv:2308.12108; bias of the step: Roberts and Tweedie, Bernoulli 2
        (1996), for the Gaussian case.
    """
    check_objective(objective, params)
    check_count("chains", chains, 1)
    check_flag("minibatches", minibatches)
    check_positive("step", step)
    if step >= 4:
        raise ArgumentError(f"`step` must be below 4, where chains diverge; got {step}.")
    for name, value in (("localization", localization), ("temperature", temperature)):
        if value is not None:
            check_positive(name, value)
    check_one_of("curvature", curvature, KINDS)
    heat = _Heat.of(objective, temperature)
    state = State(objective.params) if params is None else objective.split(params)
    matrix = product_of(curvature, objective, params=params)
    largest = _curvature_at(objective, state.whole, curvature, seed)
    hold = localization or heat.beta * largest / _LOOSE or 1.0
    walker = _Walker(objective, state, heat.beta, hold, single=minibatches)
    _check_minimum(walker, largest, heat.beta)
    twin = _twin(objective, matrix, params, heat.beta / hold, seed)
    walker.step = _settled_step(walker, largest, step, curvature, seed)
    slowest = 1 / (walker.step * hold)
    kept = _kept_draws(draws, slowest)
    if minibatches:
        _check_noise(objective, walker, seed)
    burn_in = math.ceil(_BURN * slowest)
    runs = [walker.run(burn_in, kept, generator(seed, "chain", k)) for k in range(chains)]
    return _judged(runs, twin, walker, heat=heat, slowest=slowest, burn_in=burn_in, draws=kept)


@dataclass(frozen=True)
class _Heat:
    examples: float
    temperature: float

    @property
    def beta(self) -> float:
        """What the mean loss is multiplied by in the posterior."""
        return self.examples / self.temperature

    @classmethod
    def of(cls, objective: Objective, temperature: float | None) -> "_Heat":
        count = examples_of(objective)
        if temperature is None and count < 2:
            raise ArgumentError(
                f"`temperature` is log n by default, and there is {count:g} example; pass it, "
                "or take more examples."
            )
        return cls(count, temperature or math.log(count))


@dataclass(frozen=True, eq=False)
class _Run:
    # b (L - L(w*)) of each draw, the bias of the step in it, and a number of mean zero.
    rises: Array
    biases: Array
    controls: Array


class _Walker:
    """A Langevin chain around the weights."""

    def __init__(
        self, objective: Objective, state: State, beta: float, hold: float, *, single: bool
    ) -> None:
        self.objective, self.beta, self.hold = objective, beta, hold
        self._buffers = state.buffers
        self.center = {n: v.detach().clone() for n, v in state.params.items()}
        self._batches: list[Batch] = objective.map_batches(lambda b: b) if single else []
        with torch.no_grad():
            self._base = [self._loss_and_slopes(self.center, k)[0] for k in self._choices]
        self.step = 0.0

    @property
    def _choices(self) -> list[int]:
        return list(range(max(len(self._batches), 1)))

    @property
    def base(self) -> float:
        """The loss at the weights (of the first batch, where one is taken a step)."""
        return self._base[0]

    def run(self, burn_in: int, draws: int, drawn: torch.Generator) -> _Run:
        """Walk from the weights; what comes before `burn_in` is dropped."""
        point = {n: v.clone() for n, v in self.center.items()}
        found = np.array([self.advance(point, drawn) for _ in range(burn_in + draws)])
        kept = found[burn_in:]
        if not np.isfinite(kept).all():
            raise NonFiniteError(
                "a chain met a loss that is not finite; take a smaller `step` or a larger "
                "`localization`."
            )
        return _Run(*kept.T)

    def advance(
        self, point: dict[str, Tensor], drawn: torch.Generator
    ) -> tuple[float, float, float]:
        """One step, in place; b times the rise of the loss, its step bias and the control."""
        chosen = 0
        if len(self._batches) > 1:
            chosen = int(torch.randint(len(self._batches), (), generator=drawn))
        loss, slopes = self._loss_and_slopes(point, chosen)
        product = control = 0.0
        noise = math.sqrt(self.step)
        for name, value in point.items():
            away = value - self.center[name]
            drift = self.beta * slopes[name] + self.hold * away
            product += _dot(slopes[name], drift)
            # The squared distance keeps its mean from step to step.
            control += _dot(away, drift) - self.step / 4 * _dot(drift, drift) - value.numel()
            kick = torch.randn(value.shape, generator=drawn, dtype=value.dtype)
            value.add_(drift, alpha=-self.step / 2).add_(kick.to(value.device), alpha=noise)
        rise = self.beta * (loss - self._base[chosen])
        return rise, self.step * self.beta * product / 8, control

    def slopes(self) -> dict[str, Tensor]:
        """The gradient at the weights over all batches."""
        return self.objective.gradient(self.whole(self.center))

    def whole(self, point: Params) -> Params:
        """A point with the buffers that go with the weights."""
        return {**point, **self._buffers}

    def _loss_and_slopes(
        self, point: dict[str, Tensor], chosen: int
    ) -> tuple[float, dict[str, Tensor]]:
        leaves = {
            n: v.detach().requires_grad_(torch.is_grad_enabled()) for n, v in point.items()
        }
        sums = {n: torch.zeros_like(v) for n, v in point.items()}

        def walk() -> tuple[float, float]:
            loss = weight = 0.0
            for batch in self._walked(chosen):
                total = self.objective.total(batch)
                loss, weight = loss + float(total.sum.detach().double()), weight + total.weight
                if total.sum.requires_grad:
                    parts = torch.autograd.grad(
                        total.sum, list(leaves.values()), allow_unused=True
                    )
                    for value, part in zip(sums.values(), parts, strict=True):
                        if part is not None:
                            value.add_(part)
            return loss, weight

        loss, weight = self.objective.with_params(self.whole(leaves), walk)
        return loss / weight, {n: v.div_(weight) for n, v in sums.items()}

    def _walked(self, chosen: int) -> Any:
        if not self._batches:
            return self.objective.iter_batches()
        return [to_device(self._batches[chosen], self.objective.device)]


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())


def _check_minimum(walker: _Walker, largest: float, beta: float) -> None:
    slopes = walker.slopes()
    rate = 1 / largest if largest else 1.0
    there = {n: v - rate * slopes[n] for n, v in walker.center.items()}
    points = walker.whole(walker.center), walker.whole(there)
    before, after = (walker.objective.value(point) for point in points)
    if not math.isfinite(before):
        raise NonFiniteError(f"the loss at the weights is {before}; there is no minimum.")
    if before - after > 1 / beta:
        raise ModelError(
            f"the weights are not at a minimum: one gradient step lowers the loss by "
            f"{before - after:.3g}, and more than {1 / beta:.3g} (temperature / examples) "
            "makes the coefficient too low; train further, or take a higher `temperature`."
        )


def _settled_step(walker: _Walker, largest: float, share: float, kind: str, seed: int) -> float:
    # The curvature may grow away from the weights (it is 0 at the bottom of a quartic).
    drawn = generator(seed, "pilot")
    point = {n: v.clone() for n, v in walker.center.items()}
    for index, length in enumerate(_PILOTS):
        walker.step = share / (walker.beta * largest + walker.hold)
        for _ in range(length):
            walker.advance(point, drawn)
        if not all(bool(torch.isfinite(v).all()) for v in point.values()):
            largest *= 4
            point = {n: v.clone() for n, v in walker.center.items()}
            continue
        where = walker.whole(point)
        largest = max(largest, _curvature_at(walker.objective, where, kind, seed + index))
    return share / (walker.beta * largest + walker.hold)


def _curvature_at(objective: Objective, point: Params, kind: str, seed: int) -> float:
    options: Any = {"params": point, "curvature": kind, "seed": seed, "limit": 30}
    found = spectrum(objective, 1, 1, False, 0.01, **options)
    ends = np.abs(np.concatenate([found.top, found.bottom])) + found.bounds
    return float(ends.max())


def _kept_draws(draws: int | None, slowest: float) -> int:
    counted = max(slowest, _SHORTEST)
    kept = math.ceil(_DRAWS * counted) if draws is None else draws
    check_count("draws", kept, 2)
    needed = math.ceil(_FEWEST * counted)
    if kept < needed or kept > _MOST:
        came = f"got {kept:,}" if draws is not None else f"more than {_MOST:,}"
        raise ArgumentError(
            f"`draws` must be at least {needed:,} ({_FEWEST} times the slowest time of "
            f"{counted:,.0f} steps) for chains to mix, and at most {_MOST:,}; {came}. A larger "
            "`localization` mixes faster."
        )
    return kept


def _check_noise(objective: Objective, walker: _Walker, seed: int) -> None:
    batches = objective.map_batches(objective.size_of)
    scatter = gradient_noise(objective, walker.whole(walker.center), seed=seed).scatter
    if len(batches) < 2:
        return
    share = walker.step * walker.beta**2 * scatter.value / (4 * float(np.mean(batches)))
    if not share <= _NOISY:
        larger = math.ceil(float(np.mean(batches)) * share / _NOISY)
        raise ArgumentError(
            f"batches are too noisy: their gradients add up to {share:.2g} of the noise of the "
            f"chain, and {_NOISY:g} is allowed; take batches of {larger:,} examples, "
            "minibatches=False, or a smaller `step`."
        )


def _twin(
    objective: Objective, matrix: Any, params: Params | None, ratio: float, seed: int
) -> Estimate:
    def share(values: Array) -> Array:
        scaled = ratio * values
        return np.where(scaled > -1, scaled / (1 + scaled), np.nan) / 2

    found: EigenvalueSums = eigenvalue_sums(
        objective, (share,), matrix=matrix, params=params, seed=seed
    )
    (twin,) = found.estimates
    if 2 * ratio * found.smallest > -1:
        return twin
    why = (
        f"the loss curves downhill ({found.smallest:.3g}) too strongly for `localization`, so "
        "the quadratic has no posterior"
    )
    return Estimate(math.nan, why_no_error=why)


def _judged(
    runs: list[_Run],
    twin: Estimate,
    walker: _Walker,
    *,
    heat: _Heat,
    slowest: float,
    burn_in: int,
    draws: int,
) -> LearningCoefficient:
    series = np.array([run.rises - run.biases for run in runs])
    series, slower = steadied(series, np.array([run.controls for run in runs]))
    value, mixed = judged_mean(series, slower)
    if value.value + 3 * value.stderr < 0:
        raise ModelError(
            f"the weights are not at a minimum: the chains find lower losses (coefficient "
            f"{value}); train further, or take a larger `localization`."
        )
    return LearningCoefficient(
        value=value,
        twin=twin,
        anharmonicity=_ratio(value, twin),
        chains=series.mean(1),
        uncorrected=float(np.mean([run.rises.mean() for run in runs])),
        localization=float(walker.hold),
        temperature=float(heat.temperature),
        examples=heat.examples,
        step=walker.step,
        slowest=slowest,
        burn_in=burn_in,
        draws=draws,
        mixed=mixed,
    )


def steadied(series: Array, controls: Array) -> tuple[Array, float]:
    """A series less the share of controls (mean zero, both shape (chains, draws)) in it.

    Args:
        series: what the mean is asked of.
        controls: the control variate.

    Returns:
        A series with the same mean and less variance, and the correlation time of the
        controls; the same one and 0 where batch means are few.
    """
    _, count = _batches(series)
    if count * len(series) < _CONTROLLED:
        return series, 0.0
    first, second = (_batch_means(each, count).ravel() for each in (series, controls))
    first, second = first - first.mean(), second - second.mean()
    squares = float(second @ second)
    if not squares:
        return series, 0.0
    share = float(first @ second) / squares
    return series - share * controls, _correlation_time(controls)


def _batches(series: Array) -> tuple[float, int]:
    # Correlation time, and how many batch means a chain gives.
    time = _correlation_time(series)
    return time, min(int(series.shape[1] / (_LENGTH * time)), _MEANS)


def _batch_means(series: Array, count: int) -> Array:
    chains, draws = series.shape
    means: Array = series[:, : draws // count * count].reshape(chains, count, -1).mean(2)
    return means


def judged_mean(series: Array, slower: float = 0.0) -> tuple[Estimate, bool]:
    """The mean over chains, shape (chains, draws), with its error, and whether they mixed.

    Args:
        series: one row a chain.
        slower: correlation time of controls that were taken off; 0 for none.

    Returns:
        Mean with its error, NaN with the reason where chains did not mix, and whether they did.
    """
    chains, draws = series.shape
    mean, scatter = float(series.mean()), float(series.std())
    if scatter <= _ROUNDING * abs(mean):
        return Estimate(mean, scatter, series.size, chains * _MEANS), True
    time, count = _batches(series)
    if count < 2:
        why = (
            f"the chains did not mix: losses are correlated over {time:.0f} of {draws:,} "
            "draws; take more `draws` or a larger `localization`"
        )
        return Estimate(math.nan, samples=chains, why_no_error=why), False
    kept = _batch_means(series, count)
    if _disagree(kept):
        why = "the chains did not mix: they differ by more than chance; take more `draws`"
        return Estimate(math.nan, samples=chains, why_no_error=why), False
    found = mean_of(kept.ravel(), products=series.size)
    away = kept.ravel() - found.value
    # Batch means vary too little by the share that they are correlated, with controls by part
    # of theirs; and by the share of the controls, which was fitted to the same means.
    left = max(time, (time + slower) / 2)
    fitted = (1 + 1 / kept.size) * (kept.size - 1) / (kept.size - 2) if slower else 1.0
    correlated = math.sqrt((1 + left / (draws // count)) * fitted)
    squares = float(np.square(away).sum()) or 1.0
    return replace(
        found,
        value=mean,
        stderr=found.stderr * correlated,
        skewness=float((away**3).sum()) / squares**1.5,
        sample_unit="batch means",
    ), True


def _disagree(means: Array) -> bool:
    chains, count = means.shape
    if chains < 2:
        return False
    within = float(means.var(axis=1, ddof=1).mean())
    between = count * float(means.mean(1).var(ddof=1))
    if not within:
        return bool(between > 0)
    chance = scipy.stats.f.sf(between / within, chains - 1, chains * (count - 1))
    return bool(chance < _DISAGREE)


def _correlation_time(series: Array) -> float:
    # Sum of autocorrelations up to the first pair that is not positive (Geyer 1992).
    draws = series.shape[1]
    centered = series - series.mean()
    spectrum = np.abs(np.fft.rfft(centered, 2 * draws, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :draws].mean(0)
    if not covariance[0] > 0:
        return 1.0
    pairs = (covariance[: draws // 2 * 2] / covariance[0]).reshape(-1, 2).sum(1)
    below = np.flatnonzero(pairs <= 0)
    positive = pairs[: below[0]] if len(below) else pairs
    return max(float(2 * positive.sum() - 1), 1.0)


def _ratio(value: Estimate, twin: Estimate) -> Estimate:
    if not (math.isfinite(value.value) and math.isfinite(twin.value) and twin.value > 0):
        why = value.why_no_error or twin.why_no_error or "the quadratic twin is zero"
        return Estimate(math.nan, why_no_error=why)
    ratio = value.value / twin.value
    error = abs(ratio) * math.hypot(value.stderr / value.value, twin.stderr / twin.value)
    return Estimate(ratio, error, samples=value.samples)
