"""Predict long losses from short ones by a line with intervals, and rate a ranking by them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.errors import DataError
from lossatlas.intervals import t_quantile
from lossatlas.studies.inits import scores

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
FEWEST, RESAMPLES = 4, 2000


@dataclass(frozen=True, eq=False)
class Calibration:
    """The least-squares line from short to long losses on the checked candidates.

    With n checked candidates and residual variance s^2 (n - 2 degrees of freedom), the long
    loss of another candidate at x is normal around the line with variance
    s^2 (1 + 1/n + (x - mean)^2 / S_xx); the interval is that of Student's t.

    Attributes:
        short: short losses of the checked candidates, shape (n,).
        long: their long losses, shape (n,).
        offset: of the line.
        slope: of the line; 0 where all short losses are equal.
        scale: s, in the units of the loss.

    Raises:
        DataError: fewer than four checked candidates.
    """

    short: Array
    long: Array
    offset: float
    slope: float
    scale: float

    @classmethod
    def fit(cls, short: Array, long: Array) -> "Calibration":
        """Fit the line."""
        if len(short) < FEWEST:
            raise DataError(
                f"only {len(short)} of the candidates trained to the end stayed finite, "
                f"{FEWEST} are needed; train with a smaller rate (--set label.lr=...)."
            )
        centered = short - short.mean()
        square = float(centered @ centered)
        slope = float(centered @ (long - long.mean())) / square if square > 0 else 0.0
        offset = float(long.mean()) - slope * float(short.mean())
        rest = long - (offset + slope * short)
        return cls(short, long, offset, slope, float(np.sqrt(rest @ rest / (len(rest) - 2))))

    def predict(self, short: Array, level: float = 0.95) -> tuple[Array, Array, Array]:
        """The long losses of other candidates."""
        expected = self.offset + self.slope * short
        quantile = float(t_quantile(level, len(self.short) - 1))
        half = quantile * self.scale * np.sqrt(1 + self._leverage(short))
        return expected, expected - half, expected + half

    def simulate(self, short: Array, known: Array, seed: int) -> Array:
        """Long losses that the data allow, drawn from their posterior (flat prior)."""
        source = scores.random_source("rank", seed)
        count, freedom = len(self.short), len(self.short) - 2
        scale = self.scale * np.sqrt(freedom / source.chisquare(freedom, (RESAMPLES, 1)))
        centered = short - self.short.mean()
        square = float(((self.short - self.short.mean()) ** 2).sum())
        mean = source.standard_normal((RESAMPLES, 1)) / np.sqrt(count)
        tilt = source.standard_normal((RESAMPLES, 1)) / np.sqrt(
            square if square > 0 else np.inf
        )
        noise = source.standard_normal((RESAMPLES, len(short)))
        drawn = self.offset + self.slope * short + scale * (mean + tilt * centered + noise)
        return np.where(np.isnan(known), drawn, known)

    def _leverage(self, short: Array) -> Array:
        centered = self.short - self.short.mean()
        square = float(centered @ centered)
        far = (short - self.short.mean()) ** 2 / square if square > 0 else np.zeros_like(short)
        return np.asarray(1 / len(self.short) + far)


@dataclass(frozen=True)
class Trust:
    """What simulated long losses say of a ranking by short ones.

    Attributes:
        agreement: Spearman of short and long losses over all candidates that stayed finite:
            median and 95 % interval over the simulations.
        regret: loss of the first candidate above that of the best: mean and 95 % interval.
        chance: the mean of the same for a candidate drawn at random.
    """

    agreement: tuple[float, float, float]
    regret: tuple[float, float, float]
    chance: float


def trust(short: Array, simulated: Array) -> Trust:
    """How far to trust a ranking by short losses."""
    best = simulated.min(axis=1)
    regret = simulated[:, 0] - best
    ranks = stats.rankdata(simulated, axis=1)
    everyone = np.zeros(len(short), dtype=np.int64)
    agreements = scores.spearman(short, ranks, everyone)
    return Trust(
        (float(np.median(agreements)), *_middle(agreements)),
        (float(regret.mean()), *_middle(regret)),
        float((simulated.mean(axis=1) - best).mean()),
    )


def _middle(samples: Array) -> tuple[float, float]:
    # No interpolation: the regret of a candidate that diverged is infinite.
    lower, upper = np.quantile(samples, (0.025, 0.975), method="inverted_cdf")
    return float(lower), float(upper)
