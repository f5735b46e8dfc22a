"""How far to trust a ranking by short losses: agreement and regret over simulated long ones."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.inits import scores
from lossatlas.inits.calibration import RESAMPLES
from lossatlas.inits.scores import interval_estimate
from lossatlas.result import Estimate, Figure, Result, quantity, result, rows_figure
from lossatlas.text import number

Array = NDArray[np.float64]
# Candidates left out of the check that a rank correlation needs.
MIN_LEFT_OUT = 4


@result("inits-trust")
class Trust(Result):
    """How far to trust a ranking by short losses, from simulated long ones.

    Attributes:
        agreement: Spearman of short and long losses over the candidates that were not trained
            to the end as a check: median and 95 % interval over the simulations; NaN where
            they are fewer than four.
        regret: loss of the first candidate above that of the best: mean and 95 % interval.
        chance: the mean of the same for a candidate drawn at random.
        left_out: how many candidates were not trained to the end as a check.
    """

    agreement: tuple[float, float, float]
    regret: tuple[float, float, float] = quantity("loss")
    chance: float = quantity("loss")
    left_out: int

    @property
    def verdict(self) -> str:
        """Whether agreement and regret exclude an order by chance, in words."""
        _, lower, _ = self.agreement
        if np.isnan(lower):
            return f"how far the order can be trusted is unknown: {self._why_unknown}"
        # A first candidate that is no better than any other speaks against every correlation.
        if lower <= 0 or not self.regret[0] < self.chance:
            return (
                "the order of the candidates that were not trained as a check cannot be "
                "distinguished from chance"
            )
        if lower > 0.5:
            return "the order can be trusted"
        return "the order is better than chance; take several of the first"

    @property
    def _why_unknown(self) -> str:
        return (
            f"only {self.left_out} of the candidates were not trained as a check, "
            f"{MIN_LEFT_OUT} are needed"
        )

    def estimates(self) -> tuple[Estimate, ...]:
        """Rank correlation, and expected regret of the first candidate and of any."""
        why = "a mean over simulated losses"
        return (
            self._correlation(),
            interval_estimate(
                "regret of taking the first", self.regret, RESAMPLES, unit="loss"
            ),
            Estimate(self.chance, why_no_error=why, name="regret of taking any", unit="loss"),
        )

    def _correlation(self) -> Estimate:
        name = "rank correlation of short and long training"
        if np.isnan(self.agreement[0]):
            return Estimate(float("nan"), why_no_error=self._why_unknown, name=name)
        return interval_estimate(name, self.agreement, RESAMPLES)

    def figures(self) -> tuple[Figure, ...]:
        """The regret of taking the first candidate, beside that of taking any."""
        caption = "Loss above that of the best candidate, expected where none is trained."
        return (rows_figure("Regret", self.estimates()[1:], "loss", caption=caption),)

    def sentences(self) -> tuple[str, ...]:
        """The verdict, and the regret of the first candidate and of any."""
        regret, chance = number(self.regret[0], 3), number(self.chance, 3)
        return (
            f"{self.verdict[0].upper()}{self.verdict[1:]}.",
            f"The expected regret of the first candidate is {regret}, that of a random one "
            f"{chance}.",
        )


def trust(short: Array, simulated: Array, left_out: NDArray[np.bool_] | None = None) -> Trust:
    """How far to trust a ranking by short losses.

    Args:
        short: short losses in the order of the ranking, shape (candidates,).
        simulated: long losses that the data allow, shape (simulations, candidates).
        left_out: whether a candidate was not trained to the end as a check, shape
            (candidates,); by default none was.

    Returns:
        Agreement over those left out, and regret over all, with their 95 % intervals.

    Examples:
        >>> trust(np.arange(3.0), np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])).regret
        (0.0, 0.0, 0.0)
    """
    best = simulated.min(axis=1)
    regret = simulated[:, 0] - best
    left = np.ones(len(short), dtype=bool) if left_out is None else left_out
    return Trust(
        _agreement(short[left], simulated[:, left]),
        (float(regret.mean()), *_middle(regret)),
        float((simulated.mean(axis=1) - best).mean()),
        int(left.sum()),
    )


def _agreement(short: Array, simulated: Array) -> tuple[float, float, float]:
    # What was trained as a check is known: with it the interval would shrink to a point.
    if len(short) < MIN_LEFT_OUT:
        return (float("nan"),) * 3
    everyone = np.zeros(len(short), dtype=np.int64)
    agreements = scores.spearman(short, stats.rankdata(simulated, axis=1), everyone)
    return float(np.median(agreements)), *_middle(agreements)


def _middle(samples: Array) -> tuple[float, float]:
    # No interpolation: the regret of a candidate that diverged is infinite.
    lower, upper = np.quantile(samples, (0.025, 0.975), method="inverted_cdf")
    return float(lower), float(upper)
