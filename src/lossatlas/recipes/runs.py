"""Runs compared: recipes x rates x seeds, with paired differences, cost and decisions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.linalg.estimators import mean_of
from lossatlas.recipes.recipe import Recipe
from lossatlas.recipes.run import Run
from lossatlas.result import Estimate, Figure, Reference, Result, result
from lossatlas.steering.log import DecisionLog
from lossatlas.text import count, cut_off, with_error

Array = NDArray[np.float64]
_MAX_LOGS = 6
_DOTS = "Dots are seeds, the mark is their mean with its 95 % interval."
_STUDENT = Reference(
    "paired intervals",
    "Student, The probable error of a mean, Biometrika 6, 1908",
    "https://doi.org/10.1093/biomet/6.1.1",
)


def paired(first: ArrayLike, second: ArrayLike) -> Estimate:
    """How much higher the first is than the second, pair by pair.

    Args:
        first: one number a pair.
        second: likewise, in the same order.

    Returns:
        The mean difference; `.interval()` is Student's t over the pairs, unknown for one pair.

    Raises:
        ArgumentError: no pairs, unequal numbers, or numbers that are not finite.

    Examples:
        >>> gap = paired([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 2.0])
        >>> gap.value, verdict(gap)
        (1.25, 'higher')
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ArgumentError(
            f"pairs must be two rows of one length; got {a.shape} and {b.shape}."
        )
    if not np.isfinite(a - b).all():
        raise ArgumentError("pairs must be finite numbers; leave out runs that diverged.")
    return mean_of(a - b)


def verdict(difference: Estimate, level: float = 0.95) -> str:
    """What a paired difference says.

    Args:
        difference: from `paired`.
        level: of the interval.

    Returns:
        "higher", "lower", or "not told apart" where the interval holds zero or is unknown.

    Examples:
        >>> verdict(paired([1.0, 2.0], [0.0, 5.0]))
        'not told apart'
    """
    lower, upper = difference.interval(level)
    if lower > 0:
        return "higher"
    return "lower" if upper < 0 else "not told apart"


@dataclass(frozen=True)
class RecipeSummary:
    """One recipe at its best rate. Scores are of the test examples.

    Attributes:
        recipe: its name.
        measure: what is compared: "accuracy" or "loss".
        lr: the rate that the validation examples chose.
        score: of what is compared, mean over the seeds; where there is one seed, the error is
            over the examples.
        loss: likewise of the test loss.
        difference: of the score to the first recipe, seed by seed; None for the first one and
            where no pair is finite.
        loss_difference: likewise of the test loss.
        untuned: difference of the score averaged over all rates; None for one rate.
        overhead: CPU time over that of the first recipe: (ratio, lower, upper).
        steering: share of its CPU time that the controller took; NaN inside of a step.
        diverged: seeds whose training did not stay finite.
        decisions: of the controller, first seed.
        final_rate: of the last update, mean over the seeds.
    """

    recipe: str
    measure: str
    lr: float
    score: Estimate
    loss: Estimate
    difference: Estimate | None
    loss_difference: Estimate | None
    untuned: Estimate | None
    overhead: tuple[float, float, float]
    steering: float
    diverged: int
    decisions: int
    final_rate: float

    @property
    def verdict(self) -> str:
        """What the difference says; empty where there is none."""
        if self.difference is None:
            return ""
        if self.difference.samples == 1:
            return "one seed says nothing"
        return verdict(self.difference)

    @property
    def score_text(self) -> str:
        """The score with its error; accuracies in per cent."""
        if self.measure != "accuracy":
            return with_error(self.score.value, self.score.stderr)
        return f"{with_error(100 * self.score.value, 100 * self.score.stderr)} %"

    def signed(self, value: float) -> str:
        """A difference of scores with its sign; of accuracies in points.

        Args:
            value: the difference.

        Returns:
            Text, as in "+1.20".
        """
        return f"{100 * value:+.2f}" if self.measure == "accuracy" else f"{value:+.4g}"

    def interval_text(self, difference: Estimate | None) -> str:
        """The 95 % interval of a difference; empty where there is none.

        Args:
            difference: of scores.

        Returns:
            Text, as in "[+0.10, +2.30]".
        """
        if difference is None or difference.samples < 2:
            return ""
        return "[{}, {}]".format(*map(self.signed, difference.interval()))

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values.

        Returns:
            name -> number, text, list or mapping.
        """
        gaps = {
            n: _plain(getattr(self, n)) for n in ("difference", "loss_difference", "untuned")
        }
        return {
            **vars(self),
            "score": self.score.value,
            "stderr": self.score.stderr,
            "loss": self.loss.value,
            "loss_stderr": self.loss.stderr,
            **gaps,
            "overhead": list(self.overhead),
            "verdict": self.verdict,
        }


@result("runs", references=(_STUDENT,))
class Runs(Result):
    """Runs of some recipes; the first recipe is what the others are compared with.

    Attributes:
        recipes: in the order given.
        rates: base rates.
        seeds: the same for every recipe.
        horizons: updates at which runs are read, growing; the last one is the default.
        runs: all of them; recipes that only differ in the weights that are read share one.
        task: of the data: "classification", "regression" or "language".
        provenance: settings and fingerprints.
    """

    recipes: tuple[Recipe, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    horizons: tuple[int, ...]
    runs: tuple[Run, ...]
    task: str
    provenance: store.Provenance = field(default_factory=store.Provenance)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the recipes."""
        return tuple(recipe.name for recipe in self.recipes)

    @property
    def steps(self) -> int:
        """Updates of the longest runs."""
        return self.horizons[-1]

    @property
    def measure(self) -> str:
        """What is compared: accuracy where there are classes, otherwise the loss."""
        return "accuracy" if self.task == "classification" else "loss"

    def run(self, recipe: str, lr: float, seed: int, horizon: int | None = None) -> Run:
        """One run.

        Args:
            recipe: its name.
            lr: base rate.
            seed: of the run.
            horizon: updates; the last one by default. It matters for a schedule that needs it.

        Returns:
            The run.

        Raises:
            UnknownNameError: an unknown recipe.
            ArgumentError: there is no such run.
        """
        step, trained = horizon or self.steps, self._recipe(recipe).trained
        for run in self._by_key.get((trained, lr, seed), ()):
            if step in run.horizons:
                return run
        raise ArgumentError(
            f"there is no run of '{recipe}' at rate {lr:g}, seed {seed}, read after {step} "
            f"updates; rates are {list(self.rates_of(recipe))}, seeds {list(self.seeds)}, "
            f"horizons {list(self.horizons)}."
        )

    def rates_of(self, recipe: str) -> tuple[float, ...]:
        """The rates that a recipe was trained at.

        Args:
            recipe: its name.

        Returns:
            Some of `rates`.

        Raises:
            UnknownNameError: an unknown recipe.
        """
        trained = self._recipe(recipe).trained
        return tuple(lr for lr in self.rates if (trained, lr, self.seeds[0]) in self._by_key)

    def scores(
        self,
        recipe: str,
        lr: float,
        name: str,
        *,
        weights: str | None = None,
        horizon: int | None = None,
    ) -> Array:
        """One score of a recipe.

        Args:
            recipe: its name.
            lr: base rate.
            name: one of `SCORES`.
            weights: "raw" or an average; by default what the recipe says.
            horizon: updates; the last one by default.

        Returns:
            Shape (seeds, 2): values and standard errors over the examples.

        Raises:
            UnknownNameError: an unknown name.
            ArgumentError: there is no such run.
        """
        read = weights or ("average" if self._recipe(recipe).averaged else "raw")
        step = horizon or self.steps
        runs = [self.run(recipe, lr, seed, step) for seed in self.seeds]
        return np.array([run.score(read, name, step) for run in runs])

    def best_rate(self, recipe: str, **read: Any) -> float:
        """The rate that does best on the validation examples, on average over the seeds.

        Args:
            recipe: its name.
            **read: `weights` and `horizon`, as for `scores`.

        Returns:
            One of `rates`.

        Raises:
            UnknownNameError: an unknown recipe.
        """
        sign, rates = (1 if self.measure == "accuracy" else -1), self.rates_of(recipe)
        name = f"valid {self.measure}"
        tables = [self.scores(recipe, lr, name, **read)[:, 0] for lr in rates]
        return rates[int(np.argmax([sign * float(table.mean()) for table in tables]))]

    def tuned(self, recipe: str, name: str, **read: Any) -> Array:
        """A score at the best rate.

        Args:
            recipe: its name.
            name: one of `SCORES`.
            **read: `weights` and `horizon`, as for `scores`.

        Returns:
            Shape (seeds,).

        Raises:
            UnknownNameError: an unknown name.
        """
        return self.scores(recipe, self.best_rate(recipe, **read), name, **read)[:, 0]

    def untuned(self, recipe: str, name: str, **read: Any) -> Array:
        """A score averaged over the rates: what somebody who guesses a rate can expect.

        Args:
            recipe: its name.
            name: one of `SCORES`.
            **read: `weights` and `horizon`, as for `scores`.

        Returns:
            Shape (seeds,).

        Raises:
            UnknownNameError: an unknown name.
        """
        rates = self.rates_of(recipe)
        tables = [self.scores(recipe, lr, name, **read)[:, 0] for lr in rates]
        return np.asarray(np.mean(tables, axis=0))

    def difference(self, recipe: str, name: str, *, tuned: bool = True) -> Estimate | None:
        """How much higher a recipe scores than the first one, seed by seed.

        Args:
            recipe: its name.
            name: one of `SCORES`.
            tuned: at the best rate of each; otherwise averaged over all rates.

        Returns:
            The difference over the seeds where both are finite; None where there is none.

        Raises:
            UnknownNameError: an unknown name.
        """
        read = self.tuned if tuned else self.untuned
        ours, theirs = read(recipe, name), read(self.names[0], name)
        both = np.isfinite(ours) & np.isfinite(theirs)
        if not both.any():
            return None
        label = f"{recipe} - {self.names[0]}: {name}"
        return replace(paired(ours[both], theirs[both]), name=label)

    def overhead(self, recipe: str) -> tuple[float, float, float]:
        """CPU time over that of the first recipe, at the best rate of each.

        Args:
            recipe: its name.

        Returns:
            (ratio, lower, upper): the geometric mean over the seeds and its 95 % interval.

        Raises:
            UnknownNameError: an unknown recipe.
        """
        ours, theirs = (
            [math.log(max(float(run.seconds[-1]), 1e-9)) for run in self._best_runs(name)]
            for name in (recipe, self.names[0])
        )
        found = paired(ours, theirs)
        lower, upper = found.interval()
        return math.exp(found.value), math.exp(lower), math.exp(upper)

    def steering(self, recipe: str) -> float:
        """The share of a recipe's CPU time that its controller took.

        Args:
            recipe: its name.

        Returns:
            Between 0 and 1, over all its runs; NaN where the two cannot be told apart.

        Raises:
            UnknownNameError: an unknown recipe.
        """
        runs = [self.run(recipe, lr, s) for lr in self.rates_of(recipe) for s in self.seeds]
        total = sum(float(run.seconds[-1]) for run in runs)
        return sum(run.steering for run in runs) / total if total > 0 else 0.0

    def log(self, recipe: str, lr: float | None = None, seed: int = 0) -> DecisionLog:
        """The decisions of a run.

        Args:
            recipe: its name.
            lr: base rate; the best one by default.
            seed: of the run.

        Returns:
            The log; empty where there was no controller.

        Raises:
            UnknownNameError: an unknown recipe.
        """
        rate = self.best_rate(recipe) if lr is None else lr
        return DecisionLog(self.run(recipe, rate, seed).decisions, self.provenance)

    def summaries(self) -> tuple[RecipeSummary, ...]:
        """One summary a recipe.

        Returns:
            In the order of the recipes.
        """
        return self._summaries

    @property
    def headline(self) -> str:
        """The finding in one sentence."""
        first, *others = self._summaries
        if not others:
            return f"{first.recipe}: test {self.measure} {first.score_text}."
        words = ("higher", "lower") if self.measure == "accuracy" else ("lower", "higher")
        better, worse = ([row.recipe for row in others if row.verdict == w] for w in words)
        if not better and not worse:
            return f"No recipe is told apart from {first.recipe} by test {self.measure}."
        parts = [f"better than {first.recipe}: {', '.join(better)}"] if better else []
        parts += [f"worse: {', '.join(worse)}"] if worse else []
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        notes = []
        if len(self.recipes) > 2:
            notes.append(
                f"{len(self.recipes) - 1} intervals of 95 % stand side by side: with many "
                "recipes one may exclude zero by chance."
            )
        if len(self.rates) == 1:
            notes.append("One base rate for all: a recipe may do better at another one.")
        if len(self.seeds) == 1:
            notes.append("One seed: nothing here says how another one would come out.")
        return tuple(notes)

    def estimates(self) -> tuple[Estimate, ...]:
        """Scores of every recipe, and paired differences to the first one.

        Returns:
            Scores and losses, then differences.
        """
        made = []
        for row in self._summaries:
            made += [row.score, replace(row.loss, is_minor=True)][
                : 2 - (self.measure == "loss")
            ]
        gaps = [(r.difference, r.loss_difference) for r in self._summaries[1:]]
        made += [gap for gap, _ in gaps if gap is not None]
        if self.measure == "accuracy":
            made += [replace(gap, is_minor=True) for _, gap in gaps if gap is not None]
        return tuple(made)

    def sentences(self) -> tuple[str, ...]:
        """What the runs say, the most important first.

        Returns:
            Whole sentences.
        """
        first, *others = self._summaries
        lines = [f"{first.recipe} reaches a test {self.measure} of {first.score_text}."]
        lines += [_sentence(row) for row in others]
        lines += [
            f"{row.recipe}: {count(row.diverged, 'training')} of {len(self.seeds)} did not "
            "stay finite."
            for row in self._summaries
            if row.diverged
        ]
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Scores, differences, losses and rates over the updates, decisions.

        Returns:
            Figures named "scores", "differences", "loss", "rate" and "decisions RECIPE".
        """
        drawn = [self._score_figure()]
        drawn += [self._difference_figure()] if len(self.recipes) > 1 else []
        drawn += [
            self._trace_figure("loss", "training loss", "losses", smooth=True),
            self._trace_figure("rate", "learning rate", "rates", smooth=False),
        ]
        steered = [row for row in self._summaries if row.decisions]
        return (*drawn, *(self._log_figure(row) for row in steered[:_MAX_LOGS]))

    def _score_figure(self) -> Figure:
        percents = self.measure == "accuracy"
        label = f"test {self.measure}{' (%)' if percents else ''}"
        factor = 100 if percents else 1
        values = [factor * self.tuned(name, f"test {self.measure}") for name in self.names]
        return _intervals(
            ("scores", f"Test {self.measure} by recipe"),
            (self.names, values, label),
            f"Each recipe at the rate that validation chose. {_DOTS}",
            f"Test {self.measure} of each recipe with its interval.",
            wide=len(self.names) == 1,
        )

    def _difference_figure(self) -> Figure:
        first, *others = self.names
        name, percents = f"test {self.measure}", self.measure == "accuracy"
        base = self.tuned(first, name)
        gaps = [(100 if percents else 1) * (self.tuned(o, name) - base) for o in others]
        unit = "points" if percents else "loss"
        return _intervals(
            ("differences", f"Against {cut_off(first, 40)}"),
            (others, gaps, f"difference to {cut_off(first, 40)} ({unit})"),
            f"Paired by seed. {_DOTS} An interval that holds zero tells nothing apart.",
            "Paired difference of each recipe to the first one.",
            zero=True,
        )

    def _trace_figure(self, name: str, label: str, what: str, *, smooth: bool) -> Figure:
        def draw(backend: str, ax: Any = None) -> Any:
            from lossatlas.plots import trainings

            traces = [self._stacked(recipe, what) for recipe in self.names]
            style: dict[str, Any] = {"smooth": smooth, "log": True}
            if backend == "plotly":
                return trainings.traces_figure(self.names, traces, label, **style)
            return trainings.plot_traces(self.names, traces, label, ax=ax, **style)

        about = (
            "Loss of the batches as they came, penalties included, averaged over sixtieths of "
            "the training."
            if smooth
            else "Of the first parameter group, at the rate that validation chose."
        )
        return Figure(
            name,
            label.capitalize(),
            lambda ax: draw("matplotlib", ax),
            lambda: draw("plotly"),
            f"{about} Lines are means over the seeds, bands hold all of them.",
            f"{label.capitalize()} over the updates.",
        )

    def _log_figure(self, row: RecipeSummary) -> Figure:
        def draw(backend: str, ax: Any = None) -> Any:
            from lossatlas.plots import decisions

            log = self.log(row.recipe)
            if backend == "plotly":
                return decisions.decisions_figure(log)
            return decisions.plot_decisions(log, ax=ax)

        return Figure(
            f"decisions {row.recipe}",
            cut_off(row.recipe, 60),
            lambda ax: draw("matplotlib", ax),
            lambda: draw("plotly"),
            f"Seed 0, rate {row.lr:g}: {count(row.decisions, 'decision')}. Point at a mark for "
            "the reading and the reason.",
            f"Scale of the rate of {row.recipe} over the updates.",
        )

    def _stacked(self, recipe: str, what: str) -> Array:
        stacked = np.full((len(self.seeds), self.steps), np.nan)
        for line, run in zip(stacked, self._best_runs(recipe), strict=True):
            trace = getattr(run, what)
            line[: len(trace)] = trace
        return stacked

    def _best_runs(self, recipe: str) -> list[Run]:
        lr = self.best_rate(recipe)
        return [self.run(recipe, lr, seed) for seed in self.seeds]

    def _recipe(self, name: str) -> Recipe:
        check_one_of("recipe", name, self._by_name)
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Recipe]:
        return {recipe.name: recipe for recipe in self.recipes}

    @cached_property
    def _by_key(self) -> dict[tuple[str, float, int], list[Run]]:
        found: dict[tuple[str, float, int], list[Run]] = {}
        for run in self.runs:
            found.setdefault((run.recipe, run.lr, run.seed), []).append(run)
        return found

    @cached_property
    def _summaries(self) -> tuple[RecipeSummary, ...]:
        return tuple(self._summary(name) for name in self.names)

    def _summary(self, recipe: str) -> RecipeSummary:
        name, is_first, lr = (
            f"test {self.measure}",
            recipe == self.names[0],
            self.best_rate(recipe),
        )
        runs = self._best_runs(recipe)
        finals = [float(run.rates[-1]) for run in runs if len(run.rates)]
        compares = len(self.rates) > 1 and not is_first
        return RecipeSummary(
            recipe=recipe,
            measure=self.measure,
            lr=lr,
            score=self._over_seeds(recipe, lr, name),
            loss=self._over_seeds(recipe, lr, "test loss"),
            difference=None if is_first else self.difference(recipe, name),
            loss_difference=None if is_first else self.difference(recipe, "test loss"),
            untuned=self.difference(recipe, name, tuned=False) if compares else None,
            overhead=self.overhead(recipe),
            steering=self.steering(recipe),
            diverged=sum(run.diverged_at is not None for run in runs),
            decisions=len(runs[0].decisions),
            final_rate=float(np.mean(finals)) if finals else math.nan,
        )

    def _over_seeds(self, recipe: str, lr: float, name: str) -> Estimate:
        values, errors = self.scores(recipe, lr, name).T
        label, mean = f"{recipe}: {name}", f"mean over the seeds, rate {lr:g}"
        if len(values) == 1:
            about = "one seed; the error is over the examples"
            why = None if math.isfinite(errors[0]) else "one seed, which diverged"
            value, error = float(values[0]), float(errors[0])
            return Estimate(value, error, why_no_error=why, name=label, meaning=about)
        if not np.isfinite(values).all():
            why = "some trainings diverged"
            value = float(values.mean())
            return Estimate(value, why_no_error=why, name=label, meaning=mean)
        return replace(mean_of(values), name=label, meaning=mean)


def _intervals(
    heading: tuple[str, str],
    content: tuple[Sequence[str], Sequence[Array], str],
    caption: str,
    alt: str,
    *,
    zero: bool = False,
    wide: bool = False,
) -> Figure:
    names, values, label = content
    points = [row[np.isfinite(row)] for row in values]
    bands = [_band(row) for row in points]

    def drawing(name: str, **where: Any) -> Any:
        from lossatlas.plots import trainings

        return getattr(trainings, name)(names, bands, points, label, zero=zero, **where)

    return Figure(
        *heading,
        lambda ax: drawing("plot_intervals", ax=ax),
        lambda: drawing("intervals_figure"),
        caption,
        alt,
        wide,
    )


def _band(values: Array) -> tuple[float, float, float]:
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = mean_of(values)
    return (mean.value, *mean.interval())


def _sentence(row: RecipeSummary) -> str:
    gap = row.difference
    start = f"{row.recipe} reaches {row.score_text} at a rate of {row.lr:g}"
    if gap is None:
        return f"{start}; nothing finite to compare."
    middle = f"{row.signed(gap.value)}{' points' if row.measure == 'accuracy' else ''}"
    if gap.samples == 1:
        return f"{start}: {middle}, but one seed has no interval."
    return (
        f"{start}: {middle} {row.interval_text(gap)} over {gap.samples} seeds, {row.verdict}."
    )


def _plain(difference: Estimate | None) -> dict[str, float] | None:
    if difference is None:
        return None
    lower, upper = difference.interval()
    return {
        "mean": difference.value,
        "lower": lower,
        "upper": upper,
        "effect": effect_size(difference),
        "pairs": difference.samples,
    }


def effect_size(difference: Estimate) -> float:
    """The mean of paired differences over their standard deviation (Cohen's d for pairs).

    Args:
        difference: from `paired`.

    Returns:
        A number without unit; NaN for one pair, or where all differences are equal.

    Examples:
        >>> round(effect_size(paired([1.0, 2.0, 4.0], [0.0, 1.0, 1.0])), 2)
        1.44
    """
    deviation = difference.stderr * math.sqrt(difference.samples)
    return difference.value / deviation if deviation > 0 else math.nan
