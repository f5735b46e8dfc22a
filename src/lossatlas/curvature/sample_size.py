"""How many examples the landscape needs: how much one more still changes it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.base_point import BasePoint
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.selfcheck import CheckedResult, says_checks
from lossatlas.curvature.spectrum import spectrum
from lossatlas.errors import ArgumentError, LossError, NonFiniteError
from lossatlas.intervals import t_quantile
from lossatlas.linalg.params import Params, add, multiply
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Figure, Reference, chart_of, result
from lossatlas.rng import derive_seed
from lossatlas.text import number

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Array = NDArray[np.float64]

_REFERENCE = Reference(
    "how many examples a landscape needs",
    "N. Kiselev, A. Grabovoy. Unraveling the Hessian: A Key to Smooth Convergence in Loss "
    "Function Landscapes. 2024.",
    "https://arxiv.org/abs/2409.11995",
)


@result("sample_size_curve", references=(_REFERENCE,))
class SampleSizeCurve(CheckedResult):
    """How much the next example moves the landscape, for growing numbers of examples.

    Attributes:
        sizes: numbers of examples k, shape (s,).
        change: expected squared change of the loss surface from k to k + 1 examples, over
            points drawn in the top eigenspace, with the change at the center removed; squared
            units of the loss. It holds curvature, unlike the published curve at fixed weights.
        stderr: standard error of `change` over points and orders of the examples; NaN with one
            point.
        enough: smallest size whose root change is within the tolerance, None where none is.
        enough_low: lower end of its 95 % interval over points and orders (not over other
            examples): where the lower end of the curve reaches the tolerance; None where it
            does not, or is unknown.
        enough_high: upper end; None where the upper end of the curve does not reach it.
        tolerance: the root change that counts as small, units of the loss.
        sigma: standard deviation of the points, units of the weights.
        directions: dimension of the eigenspace.
        degrees: degrees of freedom of `stderr`; NaN where they are unknown.
    """

    sizes: Array
    change: Array
    stderr: Array
    enough: int | None
    enough_low: int | None
    enough_high: int | None
    tolerance: float
    sigma: float
    directions: int
    degrees: float = math.nan

    @property
    def band(self) -> tuple[Array, Array]:
        """Both ends of the 95 % interval of `change` at every size; NaN where unknown."""
        return _band(self.change, self.stderr, self.degrees)

    def estimates(self) -> tuple[Estimate, ...]:
        """The size that suffices, and the change at the largest size."""
        change, error = float(self.change[-1]) ** 0.5, float(self.stderr[-1])
        last = Estimate(
            change,
            error / (2 * change) if change else 0.0,
            name=f"change by example {int(self.sizes[-1]) + 1:,}",
            meaning="root mean square change of the surface in the top eigenspace",
            is_minor=self.enough is not None,
        )
        if self.enough is None:
            return (last,)
        low, high = (
            "?" if end is None else f"{end:,}" for end in (self.enough_low, self.enough_high)
        )
        enough = Estimate(
            self.enough,
            why_no_error=f"95 % interval {low} to {high}, over points and orders",
            name="examples that suffice",
            meaning=f"one more changes the surface by less than {self.tolerance:.2g}",
        )
        return enough, last

    def answer(self) -> tuple[str, str]:
        """Whether there are enough examples."""
        if self.enough is None:
            return "no: more data would change the picture", "alarm"
        return f"yes: {self.enough:,} are enough", "sure"

    def sentences(self) -> tuple[str, ...]:
        """How many examples the landscape needs."""
        small = number(self.tolerance, 2)
        if self.enough is None:
            return (
                f"Even with {int(self.sizes[-1]):,} examples one more still changes the "
                f"landscape by more than {small}: more data would change the picture.",
            )
        known = self.enough_low is not None and self.enough_high is not None
        ends = f"{self.enough_low:,} to {self.enough_high:,}" if known else ""
        interval = f" (95 % interval {ends})" if ends else ""
        return (
            f"From {self.enough:,} examples on{interval}, one more changes the landscape by "
            f"less than {small}.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The curve with its band and the tolerance."""
        caption = (
            "How much one more example still changes the loss surface, over points drawn in "
            "the top eigenspace."
        )
        alt = "Root change of the landscape against the number of examples."
        about: dict[str, Any] = {"caption": caption, "alt": alt, "wide": True}
        return (chart_of("curve", "Sample size", self._chart, **about),)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Line, band
        from lossatlas.plots.logs import log_limits

        change = np.sqrt(self.change)
        low, high = (np.where(np.isfinite(e), e, change) for e in np.sqrt(self.band))
        across, up = log_limits(self.sizes), log_limits([*low, *high, self.tolerance])
        name = "change by the next example"
        look: dict[str, Any] = {"color": style.BASIN, "marks": 5, "name": name}
        layers = (
            band(self.sizes, low.clip(up[0]), high, "95 % band over points and orders"),
            Line(self.sizes, change, hover="values", **look),
            Line(across, [self.tolerance] * 2, color=style.PATH, dash=1, name="small enough"),
        )
        x = Axis("examples", limits=across, is_log=True)
        y = Axis("root mean square change of the loss", limits=up, is_log=True)
        return Chart("Sample size", x, y, layers, size=(5.4, 3.6), height=380)


@says_checks
def sample_size_curve(
    objective: Objective,
    sizes: Sequence[int] | None = None,
    *,
    tolerance: float | None = None,
    directions: int = 5,
    sigma: float | None = None,
    points: int = 32,
    orders: int = 50,
    seed: int = 0,
) -> SampleSizeCurve:
    """Measure Delta_2 in the top eigenspace: when do more examples stop to matter?

    The weights stay where they are (they are not trained anew for each k), so the answer is
    about the landscape around these weights.

    Args:
        objective: its loss must give one number an example.
        sizes: numbers of examples to look at; 20 of them, geometric from 20 to half of all, by
            default.
        tolerance: root change that counts as small; 1e-3 of the loss by default.
        directions: eigenvectors that span the space.
        sigma: spread of the points in weights; by default one at which the quadratic model
            rises by a tenth of the loss.
        points: points drawn.
        orders: random orders of the examples.
        seed: what points and orders are drawn from.

    Returns:
        The curve, and the size that suffices, with an interval.

    Raises:
        ArgumentError: a number of the wrong kind, more directions than parameters, too few
            examples, or no positive curvature.
        LossError: the loss gives only means.
        NonFiniteError: a loss is not finite.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import sample_size_curve
        >>> drawn = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(30, 2, generator=drawn)
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, [(inputs, inputs[:, :1])])
        >>> sample_size_curve(objective, sizes=(5, 10), directions=1, points=4).sizes
        array([ 5., 10.])

    Source: arXiv:2604.14870 (Delta_2 in the top eigenspace); the identity beneath it:
        arXiv:2409.11995.
    """
    check_objective(objective)
    for name, value in (("directions", directions), ("points", points), ("orders", orders)):
        check_count(name, value, 2 if name == "orders" else 1)
    size = sum(value.numel() for value in objective.params.values())
    if directions > size:
        raise ArgumentError(
            f"`directions` must be at most the number of parameters, {size}; got {directions}."
        )
    if objective.unit != "examples":
        raise LossError("a sample-size curve needs a loss that gives one number an example.")
    rises, base, spread = _rises(objective, directions, sigma, points, seed)
    curve_sizes = _sizes(sizes, rises.shape[1])
    threshold = 1e-3 * abs(base) if tolerance is None else tolerance
    check_positive("tolerance", threshold)
    seeds = [derive_seed(seed, "order", index) for index in range(orders)]
    rows = np.array([_curve(rises, curve_sizes, each) for each in seeds])
    change = rows.mean((0, 1))
    stderr, degrees = _two_way(rows)
    low, high = _band(change, stderr, degrees)
    return SampleSizeCurve(
        curve_sizes,
        change,
        stderr,
        _first_below(change, curve_sizes, threshold),
        _first_below(low, curve_sizes, threshold),
        _first_below(high, curve_sizes, threshold),
        threshold,
        spread,
        directions,
        degrees,
    )


@instrument(
    "sample_size",
    title="Sample size",
    question="Do I have enough examples to trust this landscape?",
    group="sharpness",
    cost="40 products, 32 losses",
    needs="50 examples, one loss an example",
    references=(_REFERENCE,),
    place=4,
)
def survey_sample_size(context: Context) -> Parts:
    """How many examples the landscape needs."""
    return {"curve": lambda: sample_size_curve(context.objective, seed=context.seed)}


def _rises(
    objective: Objective, directions: int, sigma: float | None, points: int, seed: int
) -> tuple[Array, float, float]:
    ground = BasePoint(objective)
    ends = spectrum(objective, top=directions, bottom=0, density=False, seed=seed, vectors=True)
    if ends.top[0] <= 0:
        raise ArgumentError(
            "the Hessian has no positive eigenvalue here, so there is no top eigenspace."
        )
    uphill = float(np.clip(ends.top, 0, None).sum())
    spread = math.sqrt(0.2 * abs(ground.value) / uphill) if sigma is None else sigma
    check_positive("sigma", spread)
    base = objective.example_losses().numpy()
    drawn = np.random.default_rng(derive_seed(seed, "points"))
    rows = []
    for _ in range(points):
        place: Params = ground.here
        for vector, step in zip(ends.vectors, drawn.normal(0, spread, directions), strict=True):
            place = add(place, multiply(vector, float(step)))
        rows.append(objective.example_losses(place).numpy() - base)
    rises = np.array(rows)
    if not np.isfinite(rises).all():
        raise NonFiniteError(
            f"the loss is not finite at a spread of {spread:g}; take a smaller `sigma`."
        )
    return rises, ground.value, spread


def _sizes(sizes: Sequence[int] | None, examples: int) -> Array:
    if sizes is None:
        if examples < 50:
            raise ArgumentError(
                f"a sample-size curve needs 50 examples; there are {examples}: give `sizes`, "
                "or more data."
            )
        # Half of the examples stay to be the next one, so that its effect is an average.
        wanted = np.geomspace(20, examples // 2, 20)
        return np.unique(wanted.astype(int)).astype(np.float64)
    try:
        numbers = np.unique(np.asarray(sizes, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    is_inside = numbers.size and np.all((numbers >= 1) & (numbers <= examples - 1))
    if not is_inside or np.any(numbers % 1):
        raise ArgumentError(
            f"`sizes` must be whole numbers between 1 and {examples - 1} (one example less "
            f"than there are); got {sizes!r}."
        )
    return numbers


def _curve(rises: Array, sizes: Array, seed: int) -> Array:
    order = np.random.default_rng(seed).permutation(rises.shape[1])
    shuffled, k = rises[:, order], sizes.astype(int)
    sums, squares = np.cumsum(shuffled, 1), np.cumsum(shuffled**2, 1)
    mean, left = sums[:, k - 1] / sizes, rises.shape[1] - sizes
    # L_{k+1} - L_k = (l_{k+1} - L_k) / (k + 1), averaged over all that may come next.
    rest = squares[:, -1:] - squares[:, k - 1]
    cross = sums[:, -1:] - sums[:, k - 1]
    spread = (rest - 2 * mean * cross) / left + mean**2
    return np.asarray(spread / (sizes + 1) ** 2)


def _first_below(change: Array, sizes: Array, tolerance: float) -> int | None:
    # A curve that dips below the tolerance once has not arrived: it must stay below.
    below = np.sqrt(change) <= tolerance
    stays = np.logical_and.accumulate(below[::-1])[::-1]
    return int(sizes[stays.argmax()]) if stays.any() else None


def _two_way(rows: Array) -> tuple[Array, float]:
    # Points and orders are both drawn: a mean over both scatters as each of them does.
    # Degrees of freedom by Welch and Satterthwaite, those of the size that has fewest.
    orders, points = rows.shape[:2]
    if points < 2:
        return np.full(rows.shape[2], math.nan), math.nan
    of_points = rows.mean(0).var(0, ddof=1) / points
    of_orders = rows.mean(1).var(0, ddof=1) / orders
    both = of_points + of_orders
    parts = of_points**2 / (points - 1) + of_orders**2 / (orders - 1)
    degrees = both[parts > 0] ** 2 / parts[parts > 0]
    return np.sqrt(both), float(degrees.min(initial=points + orders - 2))


def _band(change: Array, stderr: Array, degrees: float) -> tuple[Array, Array]:
    # Of the logarithm: squared changes are skewed, and never negative.
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(change > 0, stderr / change, 0.0)
    factor = np.exp(t_quantile(0.95, degrees + 1) * relative)
    return change / factor, change * factor
