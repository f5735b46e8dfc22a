"""Rank candidates of one's own: a short training of all, checked by long ones of a few."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.arguments import public
from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.executor import Progress
from lossatlas.inits.calibration import Calibration
from lossatlas.inits.candidate_trainings import ORDERS, CandidateTrainings, Halving
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.problem import Problem, load_problem
from lossatlas.inits.schemes import OWN
from lossatlas.inits.settings import InitsSettings
from lossatlas.inits.trust import Trust, trust
from lossatlas.result import Estimate, Figure, Result, quantity, result
from lossatlas.rng import derive_seed
from lossatlas.text import count, number, with_ends

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
# Candidates below which nothing can be said, and those trained to the end as a check.
MIN_CANDIDATES, CHECKED = 8, 8
# Candidates of a short table.
SHOWN = 10


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
        halving: rank of the candidate that successive halving takes, and its loss after the
            long training. What it trains to the end is measured in the ranking too.
        cost: forward passes over the probe that all trainings took: the short ones, the
            check, and those of halving.
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
        return (
            f"Successive halving takes number {place + 1}, with a test loss of {number(loss)}; "
            "what it trained to the end is measured in the ranking."
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
        from lossatlas.plots.rows import Dots, rows_chart

        names = [f"{k + 1}. {c}" for k, c in enumerate(self.candidates[:SHOWN])]
        values = self.expected[:SHOWN]
        errors = np.stack([values - self.lower[:SHOWN], self.upper[:SHOWN] - values])
        return rows_chart(names, [Dots("", values, errors)], title, "test loss")


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
    the long one; successive halving trains its finalists for as long. Candidates trained to
    the end rank by what is measured, the others by what is predicted; of eight candidates
    nothing is predicted. What is done is kept below `out`/rank.

    Args:
        settings: of the study. The candidates are seeds of the model's own initialization;
            where `label.schemes` is set they are drawn from these schemes at scale 1.
        candidates: how many, at least 8.
        problem: network and data; loaded by default.
        progress: called with (done, total, label) now and then.

    Returns:
        The ranking, its expected regret, and what successive halving takes.

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
    recipes = _recipes(settings, candidates)
    run = CandidateTrainings(settings, problem or load_problem(settings), recipes, progress)
    short, noise = run.short()
    by_short = np.argsort(np.where(np.isfinite(short), short, np.inf), kind="stable")
    checked = _spread_over(by_short, int(np.isfinite(short).sum()))
    halving = run.halving(by_short)
    truth = _long_losses(run, checked, halving)
    known = np.union1d(checked, halving.finalists)
    line, expected = _predicted(short, truth, checked, known)
    # Candidates that diverged are last; equal ones stay in the order of the short training.
    order = np.lexsort((short, expected[0]))
    trained, first = np.flatnonzero(np.isin(order, known)), halving.finalists[0]
    budgets, is_left = settings.label.budgets, ~np.isin(order, checked)
    epochs = candidates * ORDERS * budgets[0] + len(checked) * budgets[-1] + halving.epochs
    return Ranking(
        candidates=tuple(recipes[k] for k in order),
        short=short[order],
        noise=noise[order],
        expected=expected[0][order],
        lower=expected[1][order],
        upper=expected[2][order],
        epochs=(budgets[0], budgets[-1]),
        trained=trained,
        truth=truth[order][trained],
        calibration=line,
        trust=_trusted(
            line, short[order], truth[order], trained, is_left=is_left, seed=settings.seed
        ),
        halving=(int(np.flatnonzero(order == first)[0]), float(truth[first])),
        cost=run.passes(epochs),
        title=f"{candidates} initializations of {settings.model} on {settings.data}",
        measured_on=_measured_on(run.problem, settings),
    )


def _long_losses(run: CandidateTrainings, checked: Ints, halving: Halving) -> Array:
    truth = np.full(len(run.candidates), np.nan)
    # Both train alike; what was trained as a check stands.
    truth[halving.finalists] = halving.losses
    truth[checked] = run.long(checked)
    return truth


def _spread_over(by_short: Ints, finite: int) -> Ints:
    ranks = np.linspace(0, finite - 1, min(CHECKED, finite)).round().astype(np.int64)
    return by_short[np.unique(ranks)]


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


def _predicted(
    short: Array, truth: Array, checked: Ints, known: Ints
) -> tuple[Calibration | None, Array]:
    # Long losses and the ends of their intervals; what is measured is not predicted. Finalists
    # of halving were chosen by their long losses: the line is that of the check alone.
    measured = _measured(truth, known)
    is_known = ~np.isnan(measured)
    fitted = checked[np.isfinite(truth[checked])]
    if len(fitted) and not np.isfinite(short[~is_known]).any():
        nothing = np.full(len(short), np.nan)
        return None, np.stack([measured, nothing, nothing])
    line = Calibration.fit(short[fitted], truth[fitted])
    expected, lower, upper = line.predict(short)
    ends = (np.where(is_known, np.nan, end) for end in (lower, upper))
    return line, np.stack([np.where(is_known, measured, expected), *ends])


def _trusted(
    line: Calibration | None,
    short: Array,
    truth: Array,
    trained: Ints,
    *,
    is_left: NDArray[np.bool_],
    seed: int,
) -> Trust | None:
    if line is None:
        return None
    finite, measured = np.isfinite(short), _measured(truth, trained)
    simulated = line.simulate(short[finite], measured[finite], seed)
    return trust(short[finite], simulated, is_left[finite])


def _measured(truth: Array, trained: Ints) -> Array:
    # A candidate that diverged in the long training is worse than every other.
    measured = np.full(len(truth), np.nan)
    measured[trained] = np.where(np.isfinite(truth[trained]), truth[trained], np.inf)
    return measured
