"""Rank candidates of one's own: a short training of all, checked by long ones of a few."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lossatlas.arguments import public
from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError, DataError
from lossatlas.executor import Progress
from lossatlas.inits import scores
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.labels import Labels, label
from lossatlas.inits.problem import Problem, load_problem
from lossatlas.inits.schemes import OWN
from lossatlas.inits.scores import interval_estimate
from lossatlas.inits.settings import InitsSettings
from lossatlas.intervals import t_quantile
from lossatlas.objective.batches import batch_size as size_of
from lossatlas.result import Estimate, Figure, Result, quantity, result, rows_figure
from lossatlas.rng import derive_seed
from lossatlas.text import count, number, with_ends

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
# Candidates below which nothing can be said, and those trained to the end as a check.
MIN_CANDIDATES, CHECKED = 8, 8
# Checked candidates that a line needs, and long losses simulated from it.
MIN_CHECKED, RESAMPLES = 4, 2000
# Candidates left out of the long training that a rank correlation needs.
MIN_LEFT_OUT = 4
ORDERS = 2
# Candidates of a short table.
SHOWN = 10


@result("inits-calibration")
class Calibration(Result):
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

    Examples:
        >>> line = Calibration.fit(np.arange(5.0), 2 * np.arange(5.0) + 1)
        >>> line.slope, line.offset
        (2.0, 1.0)
    """

    short: Array = quantity("loss")
    long: Array = quantity("loss")
    offset: float = quantity("loss")
    slope: float
    scale: float = quantity("loss")

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
        centered = short - short.mean()
        square = float(centered @ centered)
        slope = float(centered @ (long - long.mean())) / square if square > 0 else 0.0
        offset = float(long.mean()) - slope * float(short.mean())
        rest = long - (offset + slope * short)
        return cls(short, long, offset, slope, float(np.sqrt(rest @ rest / (len(rest) - 2))))

    def predict(self, short: Array, level: float = 0.95) -> tuple[Array, Array, Array]:
        """The long losses of other candidates: expected, lower and upper end."""
        expected = self.offset + self.slope * short
        half = float(t_quantile(level, len(self.short) - 1)) * self.stderr(short)
        return expected, expected - half, expected + half

    def stderr(self, short: Array) -> Array:
        """Standard errors of these predictions."""
        return np.asarray(self.scale * np.sqrt(1 + self._leverage(short)))

    def simulate(self, short: Array, measured: Array, seed: int) -> Array:
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
        return np.where(np.isnan(measured), drawn, measured)

    def _leverage(self, short: Array) -> Array:
        centered = self.short - self.short.mean()
        square = float(centered @ centered)
        far = (short - self.short.mean()) ** 2 / square if square > 0 else np.zeros_like(short)
        return np.asarray(1 / len(self.short) + far)

    def estimates(self) -> tuple[Estimate, ...]:
        """Slope and residual standard deviation of the line."""
        centered = self.short - self.short.mean()
        length = float(np.sqrt(centered @ centered))
        count = len(self.short)
        stderr = self.scale / length if length > 0 else float("nan")
        spread = self.scale / float(np.sqrt(2 * (count - 2)))
        return (
            Estimate(self.slope, stderr, samples=count - 1, name="slope"),
            Estimate(self.scale, spread, samples=count - 1, name="residual", unit="loss"),
        )

    def sentences(self) -> tuple[str, ...]:
        """How far long losses lie from the line."""
        return (
            f"Long losses of {len(self.short)} candidates lie {number(self.scale, 2)} from the "
            "line through their short losses (root mean square).",
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


@result("inits-trust")
class Trust(Result):
    """How far to trust a ranking by short losses, from simulated long ones.

    Attributes:
        agreement: Spearman of short and long losses over the candidates whose long losses are
            predicted: median and 95 % interval over the simulations; NaN where they are fewer
            than four.
        regret: loss of the first candidate above that of the best: mean and 95 % interval.
        chance: the mean of the same for a candidate drawn at random.
        left_out: how many long losses are predicted, not measured.
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
                "the order of the candidates that were not trained to the end cannot be "
                "distinguished from chance"
            )
        if lower > 0.5:
            return "the order can be trusted"
        return "the order is better than chance; take several of the first"

    @property
    def _why_unknown(self) -> str:
        return (
            f"only {self.left_out} of the candidates were not trained to the end, "
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
        left_out: whether the long loss of a candidate is predicted, shape (candidates,); by
            default all are.

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
    # What is measured is known: with it the interval would shrink to a point.
    if len(short) < MIN_LEFT_OUT:
        return (float("nan"),) * 3
    everyone = np.zeros(len(short), dtype=np.int64)
    agreements = scores.spearman(short, stats.rankdata(simulated, axis=1), everyone)
    return float(np.median(agreements)), *_middle(agreements)


def _middle(samples: Array) -> tuple[float, float]:
    # No interpolation: the regret of a candidate that diverged is infinite.
    lower, upper = np.quantile(samples, (0.025, 0.975), method="inverted_cdf")
    return float(lower), float(upper)


@result("inits-ranking")
class Ranking(Result):
    """Candidates from the most to the least promising, and how far to trust that.

    Attributes:
        candidates: recipes, the most promising first.
        short: loss after the short training, the mean of the data orders; NaN where one
            diverged, which puts a candidate last.
        noise: standard error of `short` over the data orders.
        expected: loss after the long training, by which candidates are ranked: measured where
            a candidate was trained to the end (infinite where that diverged), else predicted.
        lower: lower end of its 95 % prediction interval (one training in one data order); NaN
            where it is measured.
        upper: upper end.
        epochs: of the short and of the long training.
        trained: ranks of the candidates that were trained to the end.
        truth: their losses, shape (trained,); NaN where a training diverged.
        calibration: the line from short to long losses; None where nothing is predicted.
        trust: agreement of short and long losses, and regret; None where nothing is predicted.
        halving: rank of the candidate that successive halving takes at no greater cost, and
            its loss after the long training.
        cost: forward passes over the probe that the ranking took, the check with it.
        title: what was ranked.
        measured_on: which examples the losses are means over, as in "450 test examples of
            digits"; empty where not known.
    """

    candidates: tuple[Candidate, ...]
    short: Array = quantity("loss")
    noise: Array = quantity("loss")
    expected: Array = quantity("loss")
    lower: Array = quantity("loss")
    upper: Array = quantity("loss")
    epochs: tuple[int, int]
    trained: Ints
    truth: Array = quantity("loss")
    calibration: Calibration | None
    trust: Trust | None
    halving: tuple[int, float]
    cost: float = quantity("forward passes")
    title: str
    measured_on: str = ""

    def estimates(self) -> tuple[Estimate, ...]:
        """Expected losses in the order of the ranking, trust, and what was measured."""
        trusted = () if self.trust is None else self.trust.estimates()
        return (*self._expected(), *trusted, *self._measured())

    def _expected(self) -> Iterator[Estimate]:
        for k, candidate in enumerate(self.candidates):
            yield Estimate(
                float(self.expected[k]),
                **self._error(k),
                name=f"{k + 1}. {candidate}",
                unit="loss",
                is_minor=k >= SHOWN,
            )

    def _error(self, rank: int) -> dict[str, Any]:
        if rank in self.trained:
            return {"why_no_error": f"measured after {self.epochs[1]} epochs, in one training"}
        if self.calibration is None or np.isnan(self.expected[rank]):
            return {"why_no_error": "diverged in the short training"}
        return {
            "stderr": float(self.calibration.stderr(self.short[rank])),
            "samples": len(self.calibration.short) - 1,
            "ends": (float(self.lower[rank]), float(self.upper[rank])),
            "meaning": f"expected after {self.epochs[1]} epochs",
        }

    def _measured(self) -> Iterator[Estimate]:
        place, loss = self.halving
        measured = f"measured after {self.epochs[1]} epochs, in one training"
        if place not in self.trained:
            # The row of the ranking is a prediction: this training was not there to rank it.
            measured += f"; number {place + 1} above is its prediction"
        name = f"successive halving takes number {place + 1}, loss"
        yield Estimate(loss, why_no_error=measured, name=name, unit="loss")
        yield Estimate(
            self.cost, why_no_error="a count, exact", name="cost",
            unit="forward passes over the probe examples",
            meaning="probe examples: the training examples on which landscapes are measured",
        )  # fmt: skip

    def sentences(self) -> tuple[str, ...]:
        """How far to trust the order, which candidate is first, and what halving takes."""
        measured = ("All candidates were trained; the order is measured.",)
        return (
            *(measured if self.trust is None else self.trust.sentences()),
            self._first(),
            self._of_one_order(),
            self._halving(),
            *((f"Losses are on {self.measured_on}.",) if self.measured_on else ()),
        )

    def _halving(self) -> str:
        place, loss = self.halving
        said = f"Successive halving at no greater cost takes number {place + 1}"
        if place in self.trained or not np.isfinite(self.expected[place]):
            return f"{said}."
        return (
            f"{said} and trains it to the end: its loss is {number(loss)}, where the ranking "
            f"predicts {number(float(self.expected[place]))}."
        )

    # What the order of the data does to a loss is measured after the short training only.
    def _of_one_order(self) -> str:
        finite = self.noise[np.isfinite(self.noise)]
        spread = float(np.sqrt(ORDERS * np.mean(finite**2))) if finite.size else float("nan")
        epochs = count(self.epochs[0], "epoch")
        return (
            "Losses after the long training, their intervals and the regret hold for one order "
            "of the data; another order may put another candidate first. After "
            f"{epochs} the order alone moves a loss by {number(spread, 2)} (standard "
            "deviation)."
        )

    def _first(self) -> str:
        best, value = self.candidates[0], number(float(self.expected[0]))
        if 0 in self.trained:
            return (
                f"The first candidate ({best}) has a test loss of {value}, measured after "
                f"{self.epochs[1]} epochs."
            )
        low, high = float(self.lower[0]), float(self.upper[0])
        value, ends = with_ends(float(self.expected[0]), low, high)
        return (
            f"The first candidate ({best}) is expected to have a test loss of {value} after "
            f"{self.epochs[1]} epochs, 95 % prediction interval {ends}."
        )

    def details(self) -> dict[str, Any]:
        """The candidates in their order, with what is expected of each."""
        trained = set(self.trained.tolist())
        return {
            "ranking": [
                {
                    "scheme": candidate.scheme,
                    "scale": candidate.scale,
                    "seed": candidate.seed,
                    "expected_loss": self.expected[k],
                    "interval": (self.lower[k], self.upper[k]),
                    "measured": k in trained,
                }
                for k, candidate in enumerate(self.candidates)
            ]
        }

    def figures(self) -> tuple[Figure, ...]:
        """Expected losses with their intervals, and the line that they come from."""
        from lossatlas.plots.chart import backends

        title = f"Test loss {'expected ' if self.trust else ''}after {self.epochs[1]} epochs"
        drawn = backends(lambda: self._chart(title))
        figure = Figure("ranking", title, *drawn, alt=self._first())
        return (figure, *(self.calibration.figures() if self.calibration else ()))

    def _chart(self, title: str) -> Any:
        from lossatlas.plots.inits import scores_chart

        names = [f"{k + 1}. {c}" for k, c in enumerate(self.candidates[:SHOWN])]
        ends = [np.where(np.isnan(e), self.expected, e) for e in (self.lower, self.upper)]
        rows = np.column_stack([self.expected, *ends])[:SHOWN]
        return scores_chart(names, rows, title=title, label="test loss", lowest_first=True)


@public
def rank(
    settings: InitsSettings,
    candidates: int = 32,
    *,
    problem: Problem | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank initializations of one network by what a short training shows.

    All candidates are trained for the first of `label.budgets` in two data orders; eight spread
    over the order are trained for the last budget, and say how far the short training predicts
    the long one. Candidates trained to the end rank by what is measured, the others by what is
    predicted; of eight candidates nothing is predicted. What is done is kept below `out`/rank.

    Args:
        settings: of the study. The candidates are seeds of the model's own initialization;
            where `label.schemes` is set they are drawn from these schemes at scale 1.
        candidates: how many, at least 8.
        problem: network and data; loaded by default.
        progress: called with (done, total, label) now and then.

    Returns:
        The ranking, its expected regret, and what successive halving takes at no greater cost.

    Raises:
        ArgumentError: fewer than 8 candidates, or one budget only.
        ModelError: a network without supported layers (schemes only).
        DataError: all candidates diverged.

    Examples:
        >>> from tempfile import mkdtemp
        >>> small = {"model": "mlp(4)", "examples": 40, "probe": 8}
        >>> settings = InitsSettings(out=mkdtemp(), label={"budgets": (1, 2)}, **small)
        >>> ranking = rank(settings, 8)
        >>> len(ranking.candidates), ranking.sentences()[0]
        (8, 'All candidates were trained; the order is measured.')
    """
    check_at_least("candidates", candidates, MIN_CANDIDATES)
    if len(settings.label.budgets) < 2:
        raise ArgumentError(
            "a ranking needs two budgets, a short and a long one; got "
            f"{list(settings.label.budgets)}: set label.budgets, as in [1, 25]."
        )
    run = _Run(
        settings, problem or load_problem(settings), _recipes(settings, candidates), progress
    )
    short, noise = run.short()
    by_short = np.argsort(np.where(np.isfinite(short), short, np.inf), kind="stable")
    count = int(np.isfinite(short).sum())
    spread = np.linspace(0, count - 1, min(CHECKED, count)).round().astype(np.int64)
    checked = by_short[np.unique(spread)]
    truth = np.full(candidates, np.nan)
    truth[checked] = run.long(checked)
    line, expected = _predicted(short, truth, checked)
    # Candidates that diverged are last; equal ones stay in the order of the short training.
    order = np.lexsort((short, expected[0]))
    trained = np.flatnonzero(np.isin(order, checked))
    taken, loss = run.halving(by_short)
    budgets = settings.label.budgets
    return Ranking(
        candidates=tuple(run.candidates[k] for k in order),
        short=short[order],
        noise=noise[order],
        expected=expected[0][order],
        lower=expected[1][order],
        upper=expected[2][order],
        epochs=(budgets[0], budgets[-1]),
        trained=trained,
        truth=truth[order][trained],
        calibration=line,
        trust=_trusted(line, short[order], truth[order], trained, settings.seed),
        halving=(int(np.flatnonzero(order == taken)[0]), loss),
        cost=run.epochs(candidates * ORDERS * budgets[0] + len(checked) * budgets[-1]),
        title=f"{candidates} initializations of {settings.model} on {settings.data}",
        measured_on=_measured_on(run.problem, settings),
    )


def _measured_on(problem: Problem, settings: InitsSettings) -> str:
    test, train = len(problem.test), len(problem.train)
    return (
        f"{test:,} test examples of {settings.data} that no training saw; trainings use the "
        f"other {train:,}"
    )


def _recipes(settings: InitsSettings, count: int) -> tuple[Candidate, ...]:
    schemes = settings.label.schemes or (OWN,)
    return tuple(
        Candidate(schemes[k % len(schemes)], 1.0, derive_seed(settings.seed, "rank", k) % 2**31)
        for k in range(count)
    )


@dataclass(frozen=True, eq=False)
class _Run:
    settings: InitsSettings
    problem: Problem
    candidates: tuple[Candidate, ...]
    progress: Progress | None

    def short(self) -> tuple[Array, Array]:
        labels = self._labels("short", range(len(self.candidates)), 0, ORDERS)
        losses = labels.of(labels.budgets[0])
        if not np.isfinite(losses).all(axis=1).any():
            raise DataError(
                f"all {len(losses)} candidates diverged; train with a smaller rate "
                "(--set label.lr=...)."
            )
        return losses.mean(1), losses.std(1, ddof=1) / np.sqrt(ORDERS)

    def long(self, rows: Sequence[int] | Ints) -> Array:
        labels = self._labels("long", rows, -1, 1)
        return np.asarray(labels.of(labels.budgets[0])[:, 0])

    def halving(self, order: Ints) -> tuple[int, float]:
        # The first rung is the short training that is there already.
        budgets, left = self.settings.label.budgets, order
        for rung in range(1, len(budgets)):
            keep = max(round(len(order) / 4**rung), 1)
            labels = self._labels(f"rung {rung}", left[:keep], rung, 1)
            losses = labels.of(labels.budgets[0])[:, 0]
            best = np.argsort(np.where(np.isfinite(losses), losses, np.inf), kind="stable")
            left, lowest = left[:keep][best], float(losses[best[0]])
        return int(left[0]), lowest

    def epochs(self, count: float) -> float:
        return 3.0 * count * len(self.problem.train) / size_of(self.problem.probe)

    def _labels(self, name: str, rows: Any, budget: int, orders: int) -> Labels:
        plan = self.settings.label
        part = plan.model_copy(update={"budgets": (plan.budgets[budget],), "orders": orders})
        folder = self.settings.out / "rank" / name.replace(" ", "-")
        settings = self.settings.model_copy(update={"label": part, "out": folder})
        chosen = [self.candidates[int(row)] for row in rows]
        return label(settings, self.problem, chosen, progress=self.progress)


def _predicted(short: Array, truth: Array, checked: Ints) -> tuple[Calibration | None, Array]:
    # Long losses and the ends of their intervals; what is measured is not predicted.
    trained, measured = np.isfinite(truth), _measured(truth, checked)
    is_known = ~np.isnan(measured)
    if trained.any() and not np.isfinite(short[~is_known]).any():
        nothing = np.full(len(short), np.nan)
        return None, np.stack([measured, nothing, nothing])
    line = Calibration.fit(short[trained], truth[trained])
    expected, lower, upper = line.predict(short)
    ends = (np.where(is_known, np.nan, end) for end in (lower, upper))
    return line, np.stack([np.where(is_known, measured, expected), *ends])


def _trusted(
    line: Calibration | None, short: Array, truth: Array, trained: Ints, seed: int
) -> Trust | None:
    if line is None:
        return None
    finite, measured = np.isfinite(short), _measured(truth, trained)
    simulated = line.simulate(short[finite], measured[finite], seed)
    return trust(short[finite], simulated, np.isnan(measured[finite]))


def _measured(truth: Array, trained: Ints) -> Array:
    # A candidate that diverged in the long training is worse than every other.
    measured = np.full(len(truth), np.nan)
    measured[trained] = np.where(np.isfinite(truth[trained]), truth[trained], np.inf)
    return measured
