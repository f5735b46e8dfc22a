"""Laws of single points: in model size and tokens, and in the loss on another data set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.checks import check_flag
from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import FitData, Law, check_parameters

Floats = NDArray[np.float64]

EXPONENTS = (0.1, 0.25, 0.4, 0.6, 0.9)


@dataclass(frozen=True)
class ChinchillaLaw(Law):
    """L = E + A / N^alpha + B / D^beta, in model size N and tokens D.

    Attributes:
        tokens: False leaves out the term of D: L = E + A / N^alpha, which is the law of widths
            under muP with one set of hyperparameters. Default True.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, eq. 2; fitting as in Besiroglu et al. 2024,
    arXiv:2404.10102.

    Examples:
        >>> from lossatlas.forecast import points
        >>> curve = points([3.2, 2.9], size=[1e6, 1e8], tokens=[1e8, 1e10])
        >>> ChinchillaLaw().predict([1.7, 400.0, 0.34, 410.0, 0.28], curve.inputs).round(3)
        array([7.707, 3.112])
    """

    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "alpha", "B", "beta")
    needs: ClassVar[tuple[str, ...]] = ("size", "tokens")
    pointwise: ClassVar[bool] = True
    tokens: bool = True

    def __post_init__(self) -> None:
        """Without tokens the law has three parameters."""
        check_flag("tokens", self.tokens)
        if not self.tokens:
            # The names are a class variable; this instance hides it with a shorter one.
            object.__setattr__(self, "parameters", ("E", "A", "alpha"))
            object.__setattr__(self, "needs", ("size",))

    def features(self, inputs: Inputs) -> Floats:
        """Logarithms of size and tokens."""
        columns = [np.asarray(getattr(inputs, need), dtype=np.float64) for need in self.needs]
        return np.asarray(np.log(np.stack(columns, axis=1)))

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        powers = np.exp(-features * values[2::2])
        terms = powers * values[1::2]
        jacobian = np.empty((len(features), values.size))
        jacobian[:, 0] = 1.0
        jacobian[:, 1::2] = powers
        jacobian[:, 2::2] = -terms * features
        return values[0] + terms.sum(axis=1), jacobian

    def starts(self, problem: FitData) -> Floats:
        """The best non-negative mix for a grid of exponents."""
        x, loss = np.concatenate(problem.features), problem.loss
        rows = []
        for exponents in product(EXPONENTS, repeat=x.shape[1]):
            columns = np.column_stack([np.ones(len(x)), np.exp(-x * np.array(exponents))])
            mix, _ = scipy.optimize.nnls(columns / loss[:, None], np.ones(loss.size))
            mix = np.maximum(mix, 1e-3 * loss.min() / columns.max(axis=0))
            row = np.empty(1 + 2 * len(exponents))
            row[0], row[1::2], row[2::2] = mix[0], mix[1:], exponents
            rows.append(row)
        return np.array(rows)

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """Exponents between 0.01 and 3, a floor below the highest loss."""
        low, top = problem.loss.min(), problem.loss.max()
        reach = np.concatenate(problem.features).max(axis=0)
        low_limits, high_limits = [1e-4 * low], [top]
        for far in reach:
            low_limits += [1e-8 * low, 0.01]
            high_limits += [1e3 * top * np.exp(3 * max(far, 0.0)), 3.0]
        return np.array(low_limits), np.array(high_limits)


@dataclass(frozen=True)
class KaplanLaw(Law):
    """L = E + ((A / N)^(alpha / beta) + B / D)^beta, in model size N and tokens D.

    `translate` of a `ShiftedPowerLaw` keeps this form.

    Source: Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5, with a floor as in Brandfonbrener et
    al. 2024, arXiv:2411.12925.

    Examples:
        >>> from lossatlas.forecast import points
        >>> curve = points([3.2, 2.9], size=[1e6, 1e8], tokens=[1e8, 1e10])
        >>> KaplanLaw().predict([1.0, 8.8e13, 0.076, 5.4e13, 0.095], curve.inputs).round(3)
        array([5.098, 3.854])
    """

    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "alpha", "B", "beta")
    needs: ClassVar[tuple[str, ...]] = ("size", "tokens")
    pointwise: ClassVar[bool] = True

    def features(self, inputs: Inputs) -> Floats:
        """Logarithms of size and tokens."""
        columns = [np.asarray(part, dtype=np.float64) for part in (inputs.size, inputs.tokens)]
        return np.asarray(np.log(np.stack(columns, axis=1)))

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        floor, size_unit, alpha, token_unit, beta = values
        n, d = np.log(size_unit) - features[:, 0], np.log(token_unit) - features[:, 1]
        log_sum = np.logaddexp(alpha / beta * n, d)
        share = np.exp(alpha / beta * n - log_sum)  # of the size term in the inner sum
        body = np.exp(beta * log_sum)
        slopes = np.stack(
            [
                np.ones_like(body),
                body * alpha * share / size_unit,
                body * share * n,
                body * beta * (1 - share) / token_unit,
                body * (log_sum - share * alpha / beta * n),
            ],
            axis=1,
        )
        return floor + body, slopes

    def starts(self, problem: FitData) -> Floats:
        """From the sum of two powers, which has the same asymptotes."""
        return np.array(list(self._starts(problem)))

    def _starts(self, problem: FitData) -> Iterator[Floats]:
        for floor, a, alpha, b, beta in ChinchillaLaw().starts(problem):
            yield np.array([floor, a ** (1 / alpha), alpha, b ** (1 / beta), beta])

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """Exponents between 0.01 and 3, a floor below the highest loss."""
        low, top = problem.loss.min(), problem.loss.max()
        x = np.concatenate(problem.features)
        near, far = np.exp(x.min(axis=0) - 30), np.exp(x.max(axis=0) + 60)
        return (
            np.array([1e-4 * low, near[0], 0.01, near[1], 0.01]),
            np.array([top, far[0], 3.0, far[1], 3.0]),
        )


@dataclass(frozen=True)
class ShiftedPowerLaw(Law):
    """L = K (source - E0)^kappa + E1: a loss from a loss.

    Which floors are known decides the kind: `fit(law, curves, fixed={"E0": ..., "E1": ...})` is
    train-to-train (both floors from the scaling laws of the two sets), `fixed={"E0": ...}` is
    train-to-test, and nothing fixed is test-to-test.

    Source: Brandfonbrener et al. 2024, arXiv:2411.12925.

    Examples:
        >>> from lossatlas.forecast import points
        >>> curve = points([3.2, 2.9], source=[3.0, 2.5])
        >>> ShiftedPowerLaw().predict([1.1, 0.9, 1.7, 1.5], curve.inputs).round(3)
        array([2.893, 2.4  ])
    """

    parameters: ClassVar[tuple[str, ...]] = ("K", "kappa", "E0", "E1")
    needs: ClassVar[tuple[str, ...]] = ("source",)
    pointwise: ClassVar[bool] = True

    def features(self, inputs: Inputs) -> Floats:
        """The other loss."""
        return np.asarray(inputs.source)

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        scale, power, source_floor, floor = values
        # A source at its floor is as far as the law reaches: a tiny positive gap keeps it real.
        gap = np.maximum(features - source_floor, 1e-9 * features)
        body = gap**power
        slopes = np.stack(
            [
                body,
                scale * body * np.log(gap),
                -scale * power * body / gap,
                np.ones_like(body),
            ],
            axis=1,
        )
        return scale * body + floor, slopes

    def starts(self, problem: FitData) -> Floats:
        """Straight lines in log-log for a grid of floors."""
        x, y = np.concatenate(problem.features), problem.loss
        rows = []
        for share in (1e-3, 0.3, 0.6, 0.8, 0.9):
            for floor_share in (1e-3, 0.3, 0.6, 0.8, 0.9):
                source_floor, floor = share * x.min(), floor_share * y.min()
                power, level = np.polyfit(np.log(x - source_floor), np.log(y - floor), 1)
                rows.append([np.exp(level), np.clip(power, 0.05, 10), source_floor, floor])
        return np.array(rows)

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """E0 below the lowest source, which is taken as exact; E1 below the highest loss."""
        x, y = np.concatenate(problem.features), problem.loss
        return (
            np.array([1e-6 * y.min(), 0.02, 1e-4 * x.min(), 1e-4 * y.min()]),
            np.array([1e6 * y.max(), 20.0, (1 - 1e-6) * x.min(), y.max()]),
        )


def translate(law: Mapping[str, float], shift: Mapping[str, float]) -> dict[str, float]:
    """Carry a Kaplan law from one data set to another through a shifted power law.

    Closed form: the gap above the floor is raised to kappa, so both exponents are multiplied by
    kappa and both units by powers of K.

    Args:
        law: E, A, alpha, B, beta of a `KaplanLaw` fit on the first set.
        shift: K, kappa, E0, E1 of a `ShiftedPowerLaw` from the first set to the second, with E0
            equal to the law's E.

    Returns:
        E, A, alpha, B, beta of the law on the second set.

    Raises:
        ArgumentError: parameters that are missing or no positive numbers, or floors that
            differ, so that the form is not kept.

    Source: Brandfonbrener et al. 2024, sec. 4, arXiv:2411.12925.

    Examples:
        >>> law = {"E": 1.7, "A": 8e6, "alpha": 0.4, "B": 4e8, "beta": 0.5}
        >>> other = translate(law, {"K": 1.0, "kappa": 0.5, "E0": 1.7, "E1": 1.2})
        >>> other["E"], other["alpha"], other["beta"]
        (1.2, 0.2, 0.25)
    """
    for argument, given, names in (
        ("law", law, KaplanLaw.parameters), ("shift", shift, ShiftedPowerLaw.parameters)
    ):  # fmt: skip
        check_parameters(argument, given, names)
    if not np.isclose(shift["E0"], law["E"], rtol=1e-6):
        raise ArgumentError(
            f"`shift` starts from the floor E0 = {shift['E0']:g} but the law's is "
            f"E = {law['E']:g}; fit it with fixed={{'E0': {law['E']:g}}}."
        )
    scale, kappa = shift["K"], shift["kappa"]
    return {
        "E": shift["E1"],
        "A": law["A"] * scale ** (1 / (kappa * law["alpha"])),
        "alpha": kappa * law["alpha"],
        "B": law["B"] * scale ** (1 / (kappa * law["beta"])),
        "beta": kappa * law["beta"],
    }
