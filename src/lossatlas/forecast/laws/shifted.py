"""The shifted power law: the loss on one set from the loss on another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import Law, Problem, check_parameters
from lossatlas.forecast.laws.scaling import KaplanLaw

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ShiftedPowerLaw(Law):
    """L = K (source - E0)^kappa + E1: a loss from a loss.

    Which floors are known decides the kind: `fit(law, curves, fixed={"E0": ..., "E1": ...})` is
    train-to-train (both floors from the scaling laws of the two sets), `fixed={"E0": ...}` is
    train-to-test, and nothing fixed is test-to-test.

    Source: Brandfonbrener et al. 2024, arXiv:2411.12925.
    """

    parameters: ClassVar[tuple[str, ...]] = ("K", "kappa", "E0", "E1")
    needs: ClassVar[tuple[str, ...]] = ("source",)
    pointwise: ClassVar[bool] = True

    def features(self, inputs: Inputs) -> Floats:
        """The other loss.

        Args:
            inputs: the conditions.

        Returns:
            (n,) losses.
        """
        return np.asarray(inputs.source)

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives.

        Args:
            values: (4,) parameters.
            features: from `features`.

        Returns:
            (n,) losses and the (n, 4) Jacobian; below the floor E0 the loss is E1.
        """
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

    def starts(self, problem: Problem) -> Floats:
        """Straight lines in log-log for a grid of floors.

        Args:
            problem: the data.

        Returns:
            (k, 4) starts.
        """
        x, y = np.concatenate(problem.features), problem.loss
        rows = []
        for share in (1e-3, 0.3, 0.6, 0.8, 0.9):
            for floor_share in (1e-3, 0.3, 0.6, 0.8, 0.9):
                source_floor, floor = share * x.min(), floor_share * y.min()
                power, level = np.polyfit(np.log(x - source_floor), np.log(y - floor), 1)
                rows.append([np.exp(level), np.clip(power, 0.05, 10), source_floor, floor])
        return np.array(rows)

    def limits(self, problem: Problem) -> tuple[Floats, Floats]:
        """E0 below the lowest source, which is taken as exact; E1 below the highest loss.

        Args:
            problem: the data.

        Returns:
            Lowest and highest values.
        """
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
    """
    for argument, found, names in (
        ("law", law, KaplanLaw.parameters), ("shift", shift, ShiftedPowerLaw.parameters)
    ):  # fmt: skip
        check_parameters(argument, found, names)
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
