"""Laws in model size and training tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from lossatlas.checks import check_flag
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import Law, Problem

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
    """

    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "alpha", "B", "beta")
    needs: ClassVar[tuple[str, ...]] = ("size", "tokens")
    pointwise: ClassVar[bool] = True
    tokens: bool = True

    def __post_init__(self) -> None:
        """Without tokens the law has three parameters.

        Raises:
            ArgumentError: `tokens` is neither True nor False.
        """
        check_flag("tokens", self.tokens)
        if not self.tokens:
            # The names are a class variable; this instance hides it with a shorter one.
            object.__setattr__(self, "parameters", ("E", "A", "alpha"))
            object.__setattr__(self, "needs", ("size",))

    def features(self, inputs: Inputs) -> Floats:
        """Logarithms of size and tokens.

        Args:
            inputs: the conditions.

        Returns:
            (n, 2) or (n, 1) logarithms.
        """
        columns = [np.asarray(getattr(inputs, need), dtype=np.float64) for need in self.needs]
        return np.asarray(np.log(np.stack(columns, axis=1)))

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives.

        Args:
            values: (5,) or (3,) parameters.
            features: from `features`.

        Returns:
            (n,) losses and the Jacobian.
        """
        powers = np.exp(-features * values[2::2])
        terms = powers * values[1::2]
        jacobian = np.empty((len(features), values.size))
        jacobian[:, 0] = 1.0
        jacobian[:, 1::2] = powers
        jacobian[:, 2::2] = -terms * features
        return values[0] + terms.sum(axis=1), jacobian

    def starts(self, problem: Problem) -> Floats:
        """The best non-negative mix for a grid of exponents.

        Args:
            problem: the data.

        Returns:
            (k, p) starts.
        """
        x, loss = np.concatenate(problem.features), problem.loss
        rows = []
        for exponents in product(EXPONENTS, repeat=x.shape[1]):
            columns = np.column_stack([np.ones(len(x)), np.exp(-x * np.array(exponents))])
            mix, _ = nnls(columns / loss[:, None], np.ones(loss.size))
            mix = np.maximum(mix, 1e-3 * loss.min() / columns.max(axis=0))
            row = np.empty(1 + 2 * len(exponents))
            row[0], row[1::2], row[2::2] = mix[0], mix[1:], exponents
            rows.append(row)
        return np.array(rows)

    def limits(self, problem: Problem) -> tuple[Floats, Floats]:
        """Exponents between 0.01 and 3, a floor below the highest loss.

        Args:
            problem: the data.

        Returns:
            Lowest and highest values.
        """
        low, top = problem.loss.min(), problem.loss.max()
        reach = np.concatenate(problem.features).max(axis=0)
        least, most = [1e-4 * low], [top]
        for far in reach:
            least += [1e-8 * low, 0.01]
            most += [1e3 * top * np.exp(3 * max(far, 0.0)), 3.0]
        return np.array(least), np.array(most)


@dataclass(frozen=True)
class KaplanLaw(Law):
    """L = E + ((A / N)^(alpha / beta) + B / D)^beta, in model size N and tokens D.

    `translate` of a `ShiftedPowerLaw` keeps this form.

    Source: Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5, with a floor as in Brandfonbrener et
    al. 2024, arXiv:2411.12925.
    """

    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "alpha", "B", "beta")
    needs: ClassVar[tuple[str, ...]] = ("size", "tokens")
    pointwise: ClassVar[bool] = True

    def features(self, inputs: Inputs) -> Floats:
        """Logarithms of size and tokens.

        Args:
            inputs: the conditions.

        Returns:
            (n, 2) logarithms.
        """
        columns = [np.asarray(part, dtype=np.float64) for part in (inputs.size, inputs.tokens)]
        return np.asarray(np.log(np.stack(columns, axis=1)))

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives.

        Args:
            values: (5,) parameters.
            features: from `features`.

        Returns:
            (n,) losses and the (n, 5) Jacobian.
        """
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

    def starts(self, problem: Problem) -> Floats:
        """From the sum of two powers, which has the same asymptotes.

        Args:
            problem: the data.

        Returns:
            (k, 5) starts.
        """
        return np.array(list(self._starts(problem)))

    def _starts(self, problem: Problem) -> Iterator[Floats]:
        for floor, a, alpha, b, beta in ChinchillaLaw().starts(problem):
            yield np.array([floor, a ** (1 / alpha), alpha, b ** (1 / beta), beta])

    def limits(self, problem: Problem) -> tuple[Floats, Floats]:
        """Exponents between 0.01 and 3, a floor below the highest loss.

        Args:
            problem: the data.

        Returns:
            Lowest and highest values.
        """
        low, top = problem.loss.min(), problem.loss.max()
        x = np.concatenate(problem.features)
        near, far = np.exp(x.min(axis=0) - 30), np.exp(x.max(axis=0) + 60)
        return (
            np.array([1e-4 * low, near[0], 0.01, near[1], 0.01]),
            np.array([top, far[0], 3.0, far[1], 3.0]),
        )
