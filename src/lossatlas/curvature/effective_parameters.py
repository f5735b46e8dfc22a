"""How many parameters the data determine, and the evidence for the model (Laplace)."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lossatlas.checks import check_one_of, check_positive
from lossatlas.curvature.activations import read_head
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.eigenvalue_sums import eigenvalue_sums, examples_of
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.matrices import KINDS, MatrixKind, product_of
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.errors import ModelError, NonFiniteError
from lossatlas.linalg.params import Params, add, dot
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Figure, Reference, quantity, result, rows_figure
from lossatlas.text import number

# Where the posterior is no bowl the logarithm is not taken; that is an error below.
_TINY = 1e-12
# Products at most to solve for a Newton step, and what is left of the slope then.
_SOLVES, _SOLVED = 200, 1e-8
# A quadratic posterior holds where its predicted gain is small, or the loss confirms it.
_SMALL, _AGREES = 0.1, 0.1
_REFERENCE = Reference(
    "effective number of parameters and evidence",
    "D. J. C. MacKay. Bayesian Interpolation. Neural Computation 4, 1992.",
    "https://doi.org/10.1162/neco.1992.4.3.415",
)


@result("effective_parameters", references=(_REFERENCE,))
class EffectiveParameters(CheckedResult):
    """What the data determine of the weights, under a Gaussian prior.

    Attributes:
        effective: tr nH (nH + a)^-1 with n examples, curvature H of the mean loss and precision
            a of the prior: parameters that the data determine.
        log_evidence: log probability of the data by Laplace's method.
        log_determinant: log det(1 + nH / a), the Occam factor is exp(-half of it).
        gain: how much higher the log posterior is at its maximum than at the weights, as the
            quadratic has it; its error is that of the solver.
        parameters: how many there are.
        examples: n, or the sum of their weights.
        prior: a, one over squared weight.
        names: parameters that it is over.
        length: squared length of the weights.
    """

    effective: Estimate
    log_evidence: Estimate = quantity("nats")
    log_determinant: Estimate = quantity("nats")
    gain: Estimate = quantity("nats")
    parameters: int
    examples: float
    prior: float = quantity("1 / weight²")
    names: tuple[str, ...]
    length: float = quantity("weight²")

    def estimates(self) -> tuple[Estimate, ...]:
        """Effective parameters, evidence, determinant and what a Newton step would gain."""
        of = f"of {self.parameters:,}, prior precision {number(self.prior)}"
        evidence = "log probability of the data by Laplace's method, the prior integrated out"
        gain = "what the log posterior gains on the way to its maximum, as the quadratic has it"
        estimates = (
            (self.effective, "effective parameters", "", of),
            (self.log_evidence, "log evidence", "nats", evidence),
            (self.log_determinant, "log determinant", "nats", "log det(1 + n H / prior)"),
            (self.gain, "gain of a Newton step", "nats", gain),
        )
        return tuple(
            replace(e, name=name, unit=unit, meaning=meaning, is_minor=k > 1)
            for k, (e, name, unit, meaning) in enumerate(estimates)
        )

    def answer(self) -> tuple[str, str]:
        """How many of how many."""
        return f"{number(self.effective.value)} of {self.parameters:,}", "sure"

    def sentences(self) -> tuple[str, ...]:
        """How many parameters the data determine, and what prior they ask for."""
        start = (
            f"The data determine {self.effective} of {self.parameters:,} parameters; the prior "
            "determines the rest."
        )
        if not self.effective.value > 0 or not self.length:
            return (start,)
        next_prior = number(self.effective.value / self.length, 3)
        return (
            start,
            f"MacKay's next prior precision is {next_prior}, beside {number(self.prior, 3)} "
            "here.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """Effective parameters beside all."""
        every = Estimate(float(self.parameters), 0.0, name="all parameters")
        mine = replace(self.effective, name="determined by the data")
        return (
            rows_figure("Effective parameters", (mine, every), "parameters", is_minor=True),
        )


@instrument(
    "effective_parameters",
    title="Effective parameters",
    question="How many of my parameters do the data determine?",
    group="curvature",
    cost="400 to 3,000 products of the last layer",
    needs="a negative log likelihood; a linear layer",
    references=(_REFERENCE,),
    place=4,
)
def survey_effective_parameters(context: Context) -> Parts:
    """Of the last layer, under a prior of one in all directions."""
    options = {"names": "last", "tolerance": 0.05, "seed": context.seed}
    return {
        "last_layer": lambda: effective_parameters(context.objective, 1.0, **options)  # type: ignore[arg-type]
    }


@says_checks
def effective_parameters(
    objective: Objective,
    prior: float,
    *,
    names: str | Iterable[str] | None = None,
    curvature: MatrixKind = "gauss_newton",
    params: Params | None = None,
    probes: int = 8,
    tolerance: float = 0.005,
    seed: int = 0,
) -> EffectiveParameters:
    """How many parameters the data determine, and the log evidence.

    With A = nH + a, J = nL + a |w|^2 / 2 and G its gradient, the log evidence is
    -J + G^T A^-1 G / 2 - log det(A / a) / 2: exact for models that are linear in the weights,
    at any weights. It is of the data that the objective holds, under the prior N(0, 1 / a).

    Args:
        objective: model, batches and a loss that is a negative log likelihood in nats, as
            cross-entropy is. For squared errors with noise of variance s^2, an example counts
            error^2 / (2 s^2) + log(2 pi s^2) / 2.
        prior: precision a of the prior, one over squared weight: n times the weight decay.
        names: names or patterns of the parameters, others being held; "last" for the last
            linear layer, None for all.
        curvature: "gauss_newton", "hessian", "fisher" or "empirical_fisher".
        params: where; the present weights by default.
        probes: random starts of the density, at least 2; of no use where all eigenvalues are
            computed: up to 512 parameters, and where it costs less than probes up to 4,096 or
            where the model has outputs on all examples for fewer than half of the parameters,
            if that fits into half of the memory that is free.
        tolerance: standard error of the effective parameters and of the log determinant,
            relative to them. The spread of the first `probes` says how many reach it, 8 times
            as many at most, and the errors come from that spread (Stein's two stages), so few
            probes make wide intervals.
        seed: what they are drawn from.

    Returns:
        Effective parameters and evidence. Errors are of the density; where all eigenvalues are
        computed there is a bound in their place, of what rounding of the products may do: a
        small prior needs a float64 model. The evidence is NaN, with the reason, where the loss
        contradicts the quadratic.

    Raises:
        ArgumentError: a number of the wrong kind.
        ModelError: the posterior is no bowl (Hessian), or there is no last linear layer.
        NonFiniteError: weights or loss are not finite.
        UnknownNameError: an unknown parameter or kind of curvature.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import effective_parameters
        >>> model, batch = torch.nn.Linear(2, 1, bias=False), (torch.eye(2), torch.ones(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> found = effective_parameters(la.Objective(model, loss, [batch]), prior=2.0)
        >>> round(found.effective.value, 4)
        1.0

    Source: MacKay, Neural Computation 4 (1992), eq. 15-25.
    """
    check_objective(objective, params)
    check_positive("prior", prior)
    check_count("probes", probes, 2)
    check_positive("tolerance", tolerance)
    check_one_of("curvature", curvature, KINDS)
    chosen = _chosen(objective, names, params)
    matrix = product_of(curvature, objective, params=params, names=chosen)
    ratio = examples_of(objective) / prior
    sums = eigenvalue_sums(
        objective,
        (
            lambda h: ratio * h / (1 + ratio * h),
            lambda h: np.log1p(np.maximum(ratio * h, -1 + _TINY)),
        ),
        matrix=matrix,
        params=params,
        seed=seed,
        probes=probes,
        tolerance=tolerance,
    )
    if 1 + ratio * sums.smallest <= 0:
        raise ModelError(
            f"the posterior is no bowl: the smallest eigenvalue is {sums.smallest:.3g}, which "
            f"the prior ({prior:g}) does not outweigh; train further, take a larger `prior` or "
            "curvature='gauss_newton'."
        )
    effective, log_determinant = sums.estimates
    posterior = _Posterior(objective, matrix, prior, params)
    gain = posterior.gain()
    return EffectiveParameters(
        effective,
        posterior.evidence(gain, log_determinant),
        log_determinant,
        gain,
        parameters=matrix.size,
        examples=posterior.examples,
        prior=float(prior),
        names=tuple(matrix.params),
        length=dot(matrix.params, matrix.params),
    )


def _chosen(
    objective: Objective, names: str | Iterable[str] | None, params: Params | None
) -> str | list[str] | None:
    if names != "last":
        return names if names is None or isinstance(names, str) else list(names)
    head = read_head(objective, params).name
    inside = [n for n in objective.names if n.startswith(f"{head}." if head else "")]
    if not inside:
        raise ModelError(
            f"the last linear layer ('{head}') has no parameter that the objective moves; "
            "name others with `names`."
        )
    return inside


class _Posterior:
    # nL + a |w|^2 / 2 over some of the parameters, at the weights and a Newton step away.
    def __init__(
        self,
        objective: Objective,
        matrix: CurvatureOperator,
        prior: float,
        params: Params | None,
    ) -> None:
        self.objective, self.matrix, self.prior = objective, matrix, prior
        self.examples = examples_of(objective)
        self._state = State(objective.params) if params is None else objective.split(params)
        self.here = self._energy(matrix.params)
        self._step: dict[str, Tensor] = {}
        if not math.isfinite(self.here):
            raise NonFiniteError("the loss or a weight is not finite; there is no evidence.")

    def _energy(self, params: Params) -> float:
        point = {**self._state.params, **params, **self._state.buffers}
        return self.examples * self.objective.value(point) + self.prior / 2 * dot(
            params, params
        )

    def gain(self) -> Estimate:
        """G^T A^-1 G / 2 by conjugate gradients, with what is left as its bound."""
        point = {**self._state.params, **self._state.buffers}
        slopes, here = self.objective.gradient(point), self.matrix.params
        parts = [self.examples * slopes[n].double() + self.prior * here[n] for n in here]
        slope = torch.cat([p.flatten() for p in parts]).double()
        step, left, spent = torch.zeros_like(slope), slope.clone(), 0
        way, length = left.clone(), float(left.square().sum())
        start = length
        while length > _SOLVED**2 * start and spent < _SOLVES and length:
            image = self._applied(way)
            rate = length / float(way @ image)
            step.add_(way, alpha=rate)
            left.sub_(image, alpha=rate)
            before, length, spent = length, float(left.square().sum()), spent + 1
            way = left + (length / before) * way
        value = float(slope @ step) / 2
        self._step = self.matrix.unflatten(step.to(self.matrix.dtype))
        return Estimate(value, products=spent, bound=length / (2 * self.prior))

    def evidence(self, gain: Estimate, log_determinant: Estimate) -> Estimate:
        """Of the data, by Laplace's method."""
        why = self.contradiction(gain.value)
        if why:
            return Estimate(math.nan, why_no_error=why)
        value = -self.here + gain.value - log_determinant.value / 2
        why, samples = log_determinant.why_no_error, log_determinant.samples
        error = math.hypot(log_determinant.error / 2, gain.bound)
        return Estimate(value, error, samples=samples, why_no_error=why)

    def _applied(self, vector: Tensor) -> Tensor:
        image = self.matrix.flat(vector.to(self.matrix.dtype)).double()
        return self.examples * image + self.prior * vector

    def contradiction(self, gain: float) -> str | None:
        """Why the quadratic does not hold on the way to the maximum."""
        if gain <= _SMALL:
            return None
        there = self._energy(add(self.matrix.params, self._step, scale=-1.0))
        real = self.here - there
        if abs(real - gain) <= max(_SMALL, _AGREES * gain):
            return None
        return (
            "the weights are not at a maximum of the posterior: a Newton step gains "
            f"{gain:.3g} nats of the quadratic and {real:.3g} of the loss; train on with "
            "weight decay prior / n"
        )
