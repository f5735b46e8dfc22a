"""The line from losses after a short training to losses after a long one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.errors import DataError
from lossatlas.inits import scores
from lossatlas.intervals import t_quantile
from lossatlas.result import Estimate, Figure, Result, quantity, result
from lossatlas.text import number

Array = NDArray[np.float64]
# Checked candidates that a line needs, and long losses simulated from it.
MIN_CHECKED, RESAMPLES = 4, 2000


@result("inits-calibration")
class Calibration(Result):
    """The least-squares line from short to long losses on the checked candidates.

    Losses that are all positive are fitted by their logarithms, so that no interval holds a
    negative loss. With n checked candidates and residual variance s^2 (n - 2 degrees of
    freedom), the (log) long loss of another candidate at x is normal around the line with
    variance s^2 (1 + 1/n + (x - mean)^2 / S_xx); the interval is that of Student's t.

    Attributes:
        short: short losses of the checked candidates, shape (n,).
        long: their long losses, shape (n,).
        offset: of the line, in log losses where `is_log`.
        slope: of the line; 0 where all short losses are equal.
        scale: s, in log losses where `is_log`.
        is_log: whether the line is that of log losses; without it, losses that are never
            negative have no interval below 0 either: it is cut there.

    Examples:
        >>> short = np.array([1.0, 2.0, 4.0, 8.0])
        >>> line = Calibration.fit(short, 3 * short**2)
        >>> round(line.slope, 6), line.predict(np.array([3.0]))[0].round(6)
        (2.0, array([27.]))
    """

    short: Array = quantity("loss")
    long: Array = quantity("loss")
    offset: float
    slope: float
    scale: float
    is_log: bool = False

    @classmethod
    def fit(cls, short: Array, long: Array) -> "Calibration":
        """Fit the line.

        Args:
            short: short losses of the checked candidates, finite, shape (n,).
            long: their long losses, likewise.

        Returns:
            The line.

        Raises:
            DataError: fewer than four candidates.
        """
        if len(short) < MIN_CHECKED:
            raise DataError(
                f"only {len(short)} of the candidates trained to the end stayed finite, "
                f"{MIN_CHECKED} are needed; train with a smaller rate (--set label.lr=...)."
            )
        is_log = bool(min(short.min(), long.min()) > 0)
        x, y = (np.log(short), np.log(long)) if is_log else (short, long)
        centered = x - x.mean()
        square = float(centered @ centered)
        slope = float(centered @ (y - y.mean())) / square if square > 0 else 0.0
        offset = float(y.mean()) - slope * float(x.mean())
        rest = y - (offset + slope * x)
        scale = float(np.sqrt(rest @ rest / (len(rest) - 2)))
        return cls(short, long, offset, slope, scale, is_log)

    def predict(self, short: Array, level: float = 0.95) -> tuple[Array, Array, Array]:
        """The long losses of other candidates: expected (median), lower and upper end."""
        x = self._scaled(short)
        expected = self.offset + self.slope * x
        half = float(t_quantile(level, len(self.short) - 1)) * self._spread(x)
        return (
            self._losses(expected),
            self._losses(expected - half),
            self._losses(expected + half),
        )

    def stderr(self, short: Array) -> Array:
        """Standard errors of these predictions; to first order where losses are logarithms."""
        x = self._scaled(short)
        slope = self._losses(self.offset + self.slope * x) if self.is_log else 1.0
        return np.asarray(slope * self._spread(x))

    def simulate(self, short: Array, measured: Array, seed: int) -> Array:
        """Long losses that the data allow, drawn from their posterior (flat prior)."""
        source = scores.random_source("rank", seed)
        x, own = self._scaled(short), self._scaled(self.short)
        count, freedom = len(own), len(own) - 2
        scale = self.scale * np.sqrt(freedom / source.chisquare(freedom, (RESAMPLES, 1)))
        centered = x - own.mean()
        square = float(((own - own.mean()) ** 2).sum())
        mean = source.standard_normal((RESAMPLES, 1)) / np.sqrt(count)
        tilt = source.standard_normal((RESAMPLES, 1)) / np.sqrt(
            square if square > 0 else np.inf
        )
        noise = source.standard_normal((RESAMPLES, len(x)))
        drawn = self.offset + self.slope * x + scale * (mean + tilt * centered + noise)
        return np.where(np.isnan(measured), self._losses(drawn), measured)

    def _scaled(self, losses: Array) -> Array:
        return np.log(np.asarray(losses)) if self.is_log else np.asarray(losses)

    def _losses(self, values: Array) -> Array:
        if self.is_log:
            return np.asarray(np.exp(values))
        bound = 0.0 if min(self.short.min(), self.long.min()) >= 0 else -np.inf
        return np.maximum(values, bound)

    def _spread(self, x: Array) -> Array:
        own = self._scaled(self.short)
        centered = own - own.mean()
        square = float(centered @ centered)
        far = (x - own.mean()) ** 2 / square if square > 0 else np.zeros_like(x)
        return np.asarray(self.scale * np.sqrt(1 + 1 / len(own) + far))

    def estimates(self) -> tuple[Estimate, ...]:
        """Slope and residual standard deviation of the line."""
        own = self._scaled(self.short)
        length = float(np.sqrt(np.square(own - own.mean()).sum()))
        count = len(self.short)
        stderr = self.scale / length if length > 0 else float("nan")
        spread = self.scale / float(np.sqrt(2 * (count - 2)))
        unit, meaning = ("", "of log losses") if self.is_log else ("loss", "of losses")
        return (
            Estimate(self.slope, stderr, samples=count - 1, name="slope", meaning=meaning),
            Estimate(
                self.scale, spread, samples=count - 1, name="residual", unit=unit,
                meaning=meaning,
            ),
        )  # fmt: skip

    def sentences(self) -> tuple[str, ...]:
        """How far long losses lie from the line."""
        far = number(self.scale, 2)
        far = f"a factor of {number(float(np.exp(self.scale)), 3)}" if self.is_log else far
        return (
            f"Long losses of {len(self.short)} candidates lie {far} from the line through "
            f"their short losses (root mean square{' of logarithms' if self.is_log else ''}).",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The checked candidates, the line, and its prediction intervals."""
        from lossatlas.plots.chart import backends

        title = "Long losses predicted from short ones"
        alt = self.sentences()[0]
        return (Figure("calibration", title, *backends(lambda: self._chart(title)), alt=alt),)

    def _chart(self, title: str) -> Any:
        from lossatlas.plots.inits import calibration_chart

        x = np.linspace(self.short.min(), self.short.max(), 50)
        line = np.column_stack([x, *self.predict(x)])
        labels = ("loss after the short training", "loss after the long training")
        return calibration_chart(self.short, self.long, line, title=title, labels=labels)
