"""The local learning coefficient: how fast the volume of low loss around a minimum shrinks."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.checks import check_flag, check_one_of, check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.eigenvalue_sums import (
    EigenvalueSums,
    eigenvalue_sums,
    examples_of,
)
from lossatlas.curvature.gradient_noise import gradient_noise
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.langevin import LangevinChain, Trajectory
from lossatlas.curvature.matrices import KINDS, MatrixKind, product_of
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.curvature.spectrum import spectrum
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError
from lossatlas.linalg.chains import mean_of_chains, subtract_control
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Figure, Reference, result, rows_figure
from lossatlas.rng import generator
from lossatlas.text import as_sentence, number

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
_SAMPLER = Reference(
    "Langevin steps without bias on Gaussians",
    "B. Leimkuhler, C. Matthews. Rational Construction of Stochastic Numerical Methods for "
    "Molecular Sampling. Applied Mathematics Research eXpress, 2013.",
    "https://arxiv.org/abs/1203.5428",
)


@result("learning_coefficient", references=(_REFERENCE, _SAMPLER))
class LearningCoefficient(CheckedResult):
    """The local learning coefficient, beside that of a quadratic.

    Attributes:
        value: n (E[L] - L(w)) / T over the local posterior. NaN, with the reason, where the
            chains did not mix.
        twin: what the eigenvalues of the Hessian at the weights give: half of the effective
            number of parameters.
        anharmonicity: value / twin; 1 for a quadratic.
        chains: mean of each chain.
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
        estimates = (
            (self.value, "learning coefficient", held),
            (self.twin, "quadratic twin", "half of the effective number of parameters"),
            (self.anharmonicity, "anharmonicity", "learning coefficient over quadratic twin"),
        )
        return tuple(replace(e, name=name, meaning=meaning) for e, name, meaning in estimates)

    def sentences(self) -> tuple[str, ...]:
        """The coefficient, and whether a quadratic explains it."""
        if not math.isfinite(self.value.value):
            return (
                as_sentence(
                    f"The learning coefficient is not known: {self.value.why_no_error}"
                ),
            )
        start = (
            f"The local learning coefficient is {self.value} (localization "
            f"{number(self.localization, 3)}, temperature {number(self.temperature, 3)})"
        )
        if self.value.value < 0:
            return (f"{start}; it is not below zero by more than its error.",)
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
    `step` / (b h_max + g), with h_max an upper bound of the curvature that the chain meets.
    Noise is averaged over two steps, so that the step adds no bias on a quadratic and one of
    order step^2 elsewhere. With drift G = b grad L + g (w - w*), (w - w*) . G - d has mean
    zero in d dimensions and is a control variate.

    Args:
        objective: model, loss (its mean over examples), batches.
        chains: independent chains.
        draws: steps kept of each; by default 50 times the slowest correlation time,
            1 / (step x localization), or 500.
        localization: g, one over squared weight. By default b h_max / 20. It rules the
            number: take one value for all checkpoints that are compared.
        temperature: T; log n by default.
        minibatches: take the gradient of one batch a step instead of all.
        step: share of the way that one step takes along the sharpest direction; below 4. A
            chain of step=1 needs 2.5 times fewer gradients for the same error; the default
            leaves less bias where the loss is far from a quadratic.
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

    Source: Lau et al., arXiv:2308.12108; the steps: Leimkuhler and Matthews, Appl. Math. Res.
        Express 2013, 34-56.
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
    chain = LangevinChain(objective, state, heat.beta, hold, single=minibatches)
    _check_minimum(chain, largest)
    twin = _twin(objective, matrix, params, heat.beta / hold, seed)
    chain.step = _settled_step(chain, largest, step, curvature, seed)
    slowest = 1 / (chain.step * hold)
    kept = _kept_draws(draws, slowest)
    if minibatches:
        _check_noise(objective, chain, seed)
    burn_in = math.ceil(_BURN * slowest)
    runs = [chain.run(burn_in, kept, generator(seed, "chain", k)) for k in range(chains)]
    return _judged(runs, twin, chain, heat=heat, slowest=slowest, burn_in=burn_in, draws=kept)


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


def _check_minimum(chain: LangevinChain, largest: float) -> None:
    beta = chain.beta
    slopes = chain.slopes()
    rate = 1 / largest if largest else 1.0
    there = {n: v - rate * slopes[n] for n, v in chain.center.items()}
    points = chain.whole(chain.center), chain.whole(there)
    before, after = (chain.objective.value(point) for point in points)
    if not math.isfinite(before):
        raise NonFiniteError(f"the loss at the weights is {before}; there is no minimum.")
    if before - after > 1 / beta:
        raise ModelError(
            f"the weights are not at a minimum: one gradient step lowers the loss by "
            f"{before - after:.3g}, and more than {1 / beta:.3g} (temperature / examples) "
            "makes the coefficient too low; train further, or take a higher `temperature`."
        )


def _settled_step(
    chain: LangevinChain, largest: float, share: float, kind: str, seed: int
) -> float:
    # The curvature may grow away from the weights (it is 0 at the bottom of a quartic).
    drawn = generator(seed, "pilot")
    point = {n: v.clone() for n, v in chain.center.items()}
    for index, length in enumerate(_PILOTS):
        chain.step = share / (chain.beta * largest + chain.localization)
        for _ in range(length):
            chain.advance(point, drawn)
        if not all(bool(torch.isfinite(v).all()) for v in point.values()):
            largest *= 4
            point = {n: v.clone() for n, v in chain.center.items()}
            continue
        where = chain.whole(point)
        largest = max(largest, _curvature_at(chain.objective, where, kind, seed + index))
    return share / (chain.beta * largest + chain.localization)


def _curvature_at(objective: Objective, point: Params, kind: str, seed: int) -> float:
    options: Any = {"params": point, "curvature": kind, "seed": seed, "limit": 30}
    ends = spectrum(objective, 1, 1, False, 0.01, **options)
    sizes = np.abs(np.concatenate([ends.top, ends.bottom])) + ends.bounds
    return float(sizes.max())


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


def _check_noise(objective: Objective, chain: LangevinChain, seed: int) -> None:
    batches = objective.map_batches(objective.size_of)
    scatter = gradient_noise(objective, chain.whole(chain.center), seed=seed).scatter
    if len(batches) < 2:
        return
    share = chain.step * chain.beta**2 * scatter.value / (4 * float(np.mean(batches)))
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

    sums: EigenvalueSums = eigenvalue_sums(
        objective, (share,), matrix=matrix, params=params, seed=seed
    )
    (twin,) = sums.estimates
    if 2 * ratio * sums.smallest > -1:
        return twin
    why = (
        f"the loss curves downhill ({sums.smallest:.3g}) too strongly for `localization`, so "
        "the quadratic has no posterior"
    )
    return Estimate(math.nan, why_no_error=why)


def _judged(
    runs: list[Trajectory],
    twin: Estimate,
    chain: LangevinChain,
    *,
    heat: _Heat,
    slowest: float,
    burn_in: int,
    draws: int,
) -> LearningCoefficient:
    series, slower = subtract_control(
        np.array([run.rises for run in runs]), np.array([run.controls for run in runs])
    )
    value, mixed = mean_of_chains(series, slower)
    # A control can take off all scatter, but not the rounding that draws have in common.
    value = replace(value, stderr=math.hypot(value.stderr, chain.rounding(value.value)))
    if value.interval()[1] < 0:
        raise ModelError(
            f"the weights are not at a minimum: the chains find lower losses (coefficient "
            f"{value}); train further, or take a larger `localization`."
        )
    return LearningCoefficient(
        value=value,
        twin=twin,
        anharmonicity=_ratio(value, twin),
        chains=series.mean(1),
        localization=float(chain.localization),
        temperature=float(heat.temperature),
        examples=heat.examples,
        step=chain.step,
        slowest=slowest,
        burn_in=burn_in,
        draws=draws,
        mixed=mixed,
    )


def _ratio(value: Estimate, twin: Estimate) -> Estimate:
    if not (math.isfinite(value.value) and math.isfinite(twin.value) and twin.value > 0):
        why = value.why_no_error or twin.why_no_error or "the quadratic twin is zero"
        return Estimate(math.nan, why_no_error=why)
    ratio = value.value / twin.value
    error = abs(ratio) * math.hypot(value.stderr / value.value, twin.error / twin.value)
    return Estimate(ratio, error, samples=value.samples, why_no_error=twin.why_no_error)
