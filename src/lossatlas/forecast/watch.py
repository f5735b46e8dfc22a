"""What a loss curve shows while it grows: spikes, and the bend where progress slows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.laws import BrokenPowerLaw, PowerLaw
from lossatlas.forecast.solver import FitSettings
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.robust import neighbor_noise
from lossatlas.text import count as counted
from lossatlas.text import number

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Floats = NDArray[np.float64]

AROUND = 11  # neighbors that show where the curve stands
FAR_OFF = 8.0  # deviations from which on a point is a spike, as in `watch.spikes`
VISIBLE = 0.01  # of a log error: a point nearer than this to its neighbors hides no error


def outstanding(log: Floats) -> NDArray[np.bool_]:
    """Log errors far from their neighbors: spikes of the loss, or mistakes in the log."""
    if log.size < AROUND:
        return np.zeros(log.size, dtype=bool)
    padded = np.pad(log, AROUND // 2, constant_values=np.nan)
    level = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, AROUND), axis=1)
    noise = neighbor_noise(log)
    return np.asarray(np.abs(log - level) > max(FAR_OFF * noise, VISIBLE))


ALIKE = 0.98  # correlation of neighbors beyond which a curve counts as one observation
FAINT = 1e-4  # a change of the log loss below this is no spike, however quiet the curve
LEVEL = 10  # losses whose median is where the run stands
DOUBT = 6.0  # of the criterion: less speaks for neither law (20 to 1)
FEWEST = 40  # points without which no bend is looked for


@record
@dataclass(frozen=True)
class Spike:
    """A loss far above those just before it.

    Attributes:
        step: where.
        loss: the loss there; not finite where the run blew up.
        deviations: how many robust standard deviations above the median before it.
    """

    step: int
    loss: float
    deviations: float


@result("loss-spikes")
class Spikes(Result):
    """The spikes of a loss curve; it reads as the tuple of them.

    Attributes:
        spikes: the spikes, in order.
        step: (n,) the steps that were looked at.
        loss: (n,) the losses there.
        threshold: deviations from which on a loss is a spike.

    Examples:
        >>> loss = 2 + 0.01 * np.sin(np.arange(100.0))
        >>> loss[80] = 9.0
        >>> found = spikes(np.arange(100), loss)
        >>> len(found), found[0].loss
        (1, 9.0)
    """

    spikes: tuple[Spike, ...]
    step: Floats
    loss: Floats
    threshold: float

    def __len__(self) -> int:
        return len(self.spikes)

    def __iter__(self) -> Iterator[Spike]:
        return iter(self.spikes)

    def __getitem__(self, index: int) -> Spike:
        return self.spikes[index]

    def estimates(self) -> tuple[Estimate, ...]:
        """How many there are."""
        return (Estimate(len(self), 0.0, name="spikes"),)

    def sentences(self) -> tuple[str, ...]:
        """How many there are, and the highest."""
        looked = f"{counted(self.loss.size, 'loss', 'losses')}"
        if not self.spikes:
            return (f"None of {looked} stands out from those before it.",)
        top = max(self.spikes, key=lambda spike: spike.deviations)
        return (
            f"{counted(len(self), 'spike')} in {looked}; the highest is {number(top.loss)} at "
            f"step {top.step:,}.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The losses, with the spikes marked."""
        return (chart_of("spikes", "Spikes of the loss", self._chart, alt=self.sentences()[0]),)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Layer, curve, marks

        marked = [spike for spike in self.spikes if np.isfinite(spike.loss)]
        layers: list[Layer] = [curve(self.step, self.loss, "loss")]
        if marked:
            x, y = zip(*((spike.step, spike.loss) for spike in marked), strict=True)
            layers.append(marks(x, y, "spike", style.PATH))
        return Chart("Spikes of the loss", Axis("update"), Axis("loss"), tuple(layers))


@result(
    "loss-deceleration",
    references=(
        Reference(
            "broken power law",
            "Caballero et al. Broken Neural Scaling Laws. ICLR 2023.",
            "https://arxiv.org/abs/2210.14891",
        ),
        Reference(
            "loss deceleration",
            "Mircea et al. Training Dynamics Underlying Language Model Scaling Laws: Loss "
            "Deceleration and Zero-Sum Learning. ACL 2025.",
            "https://arxiv.org/abs/2506.05447",
        ),
    ),
)
class Deceleration(Result):
    """A bend of the loss in log-log after which it falls more slowly.

    Attributes:
        step: t_d, where the two lines meet.
        loss: L_d, the loss there.
        before: the exponent before it.
        after: the exponent after it.
        curve: the losses that show it.

    Examples:
        >>> curve = Curve([100, 1000], [4.0, 3.0])
        >>> bend = Deceleration(300.0, 3.5, 0.2, 0.05, curve)
        >>> print(bend.sentences()[0])
        Progress slows at step 300, at a loss of 3.5: the exponent falls from 0.2 to 0.05.
    """

    step: float
    loss: float
    before: float
    after: float
    curve: Curve

    def estimates(self) -> tuple[Estimate, ...]:
        """Place and exponents of the bend."""
        why = "read off one curve"
        names = {"step": "step of the bend", "loss": "loss at the bend",
                 "before": "exponent before", "after": "exponent after"}  # fmt: skip
        return tuple(
            Estimate(getattr(self, key), why_no_error=why, name=name)
            for key, name in names.items()
        )

    def sentences(self) -> tuple[str, ...]:
        """Where progress slows, and by how much."""
        return (
            f"Progress slows at step {self.step:,.0f}, at a loss of {number(self.loss)}: the "
            f"exponent falls from {number(self.before, 2)} to {number(self.after, 2)}.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The losses and the two straight lines in log-log."""
        title = "Where progress slows"
        return (chart_of("bend", title, self._chart, alt=self.sentences()[0]),)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Layer, curve, dots

        step = self.curve.step.astype(np.float64)
        layers: list[Layer] = [dots(step, self.curve.loss, "measured")]
        parts = (
            ("before", self.before, step <= self.step),
            ("after", self.after, step >= self.step),
        )
        for dash, (name, exponent, part) in enumerate(parts):
            line = self.loss * (step[part] / self.step) ** -exponent
            layers.append(curve(step[part], line, name, style.PATH, dash))
        title = "Where progress slows"
        x, y = Axis("update", is_log=True), Axis("loss", is_log=True)
        return Chart(title, x, y, tuple(layers))


def spikes(
    step: ArrayLike, loss: ArrayLike, *, window: int = 50, threshold: float = FAR_OFF
) -> Spikes:
    """Losses that stand out from the ones before them.

    Each log loss is compared with the median of the ten before it, in units of the noise: the
    median absolute difference of neighbors in the `window` before it. Neither feels the trend,
    and a few spikes in the window do not hide the next one.

    Args:
        step: (n,) steps.
        loss: (n,) losses; ones that are not finite or not positive are spikes.
        window: how many losses tell of the noise. Default 50.
        threshold: deviations from which on a loss is a spike; 8 is beyond what noise with heavy
            tails does in ten thousand points. Default 8.

    Returns:
        The spikes, in order.

    Raises:
        ArgumentError: a number out of range, or lengths that differ.

    Examples:
        >>> loss = 2 + 0.01 * np.sin(np.arange(100.0))
        >>> loss[80] = 9.0
        >>> [spike.step for spike in spikes(np.arange(100), loss)]
        [80]
    """
    check_at_least("window", window, LEVEL)
    check_positive("threshold", threshold)
    steps, values = as_float_array("step", step), as_float_array("loss", loss)
    if steps.shape != values.shape or values.ndim != 1:
        raise ArgumentError(
            f"`step` and `loss` must have one length; got {steps.shape} and {values.shape}."
        )
    if not np.isfinite(steps).all():
        raise ArgumentError("`step` must be finite; leave rows without a step out.")
    good = np.isfinite(values) & (values > 0)
    logs = np.log(np.where(good, values, 1.0))
    high = [Spike(int(steps[i]), float(values[i]), float("inf")) for i in np.flatnonzero(~good)]
    kept, places = logs[good], np.flatnonzero(good)
    if kept.size > window:
        before = np.lib.stride_tricks.sliding_window_view(kept, window)[:-1]
        level = np.median(before[:, -LEVEL:], axis=1)
        noise = neighbor_noise(before)
        height = (kept[window:] - level) / np.maximum(noise, FAINT)
        for i in np.flatnonzero(height > threshold):
            at = places[window + i]
            high.append(Spike(int(steps[at]), float(values[at]), float(height[i])))
    rows = tuple(sorted(high, key=lambda spike: spike.step))
    return Spikes(rows, steps, values, float(threshold))


def deceleration(curve: Curve) -> Deceleration | None:
    """The bend of a curve, if there is one.

    A broken power law is fitted and believed where the second exponent is less than half the
    first, the bend lies well inside the data, and the Bayesian information criterion prefers it
    both to a straight line in log-log and to a power law with a floor, L0 + A t^-alpha, which
    slows down without any bend. Residuals that follow each other count as fewer.

    Args:
        curve: the run so far; its rates are not looked at.

    Returns:
        The bend, or None.

    Raises:
        ArgumentError: `curve` is not a `Curve`.

    Examples:
        >>> step = np.arange(10, 2000, 10)
        >>> bent = Curve(step, 4 * np.maximum((step / 300) ** -0.5, (step / 300) ** -0.05))
        >>> round(deceleration(bent).step, -1)
        300.0
    """
    if not isinstance(curve, Curve):
        raise ArgumentError(f"`curve` must be a Curve; got {type(curve).__name__}.")
    keep = curve.step >= 1
    if keep.sum() < FEWEST:
        return None
    usable = Curve(curve.step[keep], curve.loss[keep]).thinned(400)
    first = int(usable.step[0])
    bent, floor = (
        FitSettings(law, float("inf")).solve([usable]) for law in (BrokenPowerLaw(), PowerLaw())
    )
    level, bend, before, after, _ = bent.values
    inside = 2 * first < bend < curve.step[-1] / 2
    if not inside or after > before / 2:
        return None
    x, y = np.log(usable.step), np.log(usable.loss)
    straight = y - np.polyval(np.polyfit(x, y, 1), x)
    for residuals, parameters in ((straight, 2), (floor.residuals, 3)):
        if _evidence(residuals, bent.residuals, 5 - parameters) < DOUBT:
            return None
    return Deceleration(float(bend), float(level), float(before), float(after), usable)


# By how much the criterion prefers the second of two fits that has so many parameters more.
def _evidence(plain: Floats, richer: Floats, more: int) -> float:
    square = float(richer @ richer)
    alike = min(max(float(richer[1:] @ richer[:-1]) / max(square, 1e-300), 0.0), ALIKE)
    independent = richer.size * (1 - alike) / (1 + alike)
    gain = independent * np.log(max(float(plain @ plain), 1e-300) / max(square, 1e-300))
    return float(gain - more * np.log(max(independent, 2.0)))
