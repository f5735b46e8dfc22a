"""Runs compared: recipes x rates x seeds, with paired differences, cost and decisions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas import io
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.intervals import t_quantile
from lossatlas.linalg.estimators import mean_of
from lossatlas.recipes.differences import effect_size, paired, verdict
from lossatlas.recipes.recipe import Recipe
from lossatlas.recipes.run import Run
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.steering.log import DecisionLog
from lossatlas.text import count, cut_off, listed, number, with_error

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Array = NDArray[np.float64]
_MAX_LOGS, _WINDOWS = 6, 60
# Seeds below which Student's t makes the intervals very wide.
_ENOUGH = 5
_DOTS = "Dots are seeds, the mark is their mean with its 95 % interval."
_LOSS_TRACE = (
    "Loss of the batches as they came, penalties included, averaged over sixtieths of the "
    "training."
)
_RATE_TRACE = "Of the first parameter group, at the rate that validation chose."
_STUDENT = Reference(
    "paired intervals",
    "Student, The probable error of a mean, Biometrika 6, 1908",
    "https://doi.org/10.1093/biomet/6.1.1",
)


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
        if self.score.stderr == 0 and self.score.samples > 1:
            # Few seeds may agree by chance; that makes no score exact.
            shown = number(self.score.value * (100 if self.measure == "accuracy" else 1))
            unit = " %" if self.measure == "accuracy" else ""
            return f"{shown}{unit} for every seed"
        if self.measure != "accuracy":
            return with_error(self.score.value, self.score.stderr)
        return f"{with_error(100 * self.score.value, 100 * self.score.stderr)} %"

    def signed(self, value: float, digits: int = 2) -> str:
        """A difference of scores with its sign; of accuracies in points.

        Args:
            value: the difference.
            digits: after the point; of losses two more, significant.

        Returns:
            Text, as in "+1.20".
        """
        if self.measure == "accuracy":
            return f"{100 * value:+.{digits}f}"
        return f"{value:+.{digits + 2}g}"

    def interval_text(self, difference: Estimate | None) -> str:
        """The 95 % interval of a difference; empty where there is none.

        Args:
            difference: of scores.

        Returns:
            Text, as in "[+0.10, +2.30]".
        """
        if difference is None or difference.samples < 2:
            return ""
        low, high = difference.interval()
        if not low < high:
            return ""
        for digits in range(2, 12):
            texts = [self.signed(end, digits) for end in (low, high)]
            if texts[0] != texts[1]:
                break
        return f"[{', '.join(texts)}]"

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

    Recipes are named as they were written; an unknown name is an `UnknownNameError`.

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
    provenance: io.Provenance = field(default_factory=io.Provenance)

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
        read = weights or self._recipe(recipe).weights
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
        """
        tables = [self.scores(recipe, lr, name, **read)[:, 0] for lr in self.rates_of(recipe)]
        return np.asarray(np.mean(tables, axis=0))

    def difference(self, recipe: str, name: str, *, tuned: bool = True) -> Estimate | None:
        """How much higher a recipe scores than the first one, seed by seed.

        Args:
            recipe: its name.
            name: one of `SCORES`.
            tuned: at the best rate of each; otherwise averaged over all rates.

        Returns:
            The difference over the seeds where both are finite; None where there is none.
        """
        read = self.tuned if tuned else self.untuned
        ours, theirs = read(recipe, name), read(self.names[0], name)
        both = np.isfinite(ours) & np.isfinite(theirs)
        if not both.any():
            return None
        label = f"{recipe} - {self.names[0]}: {name}"
        return replace(paired(ours[both], theirs[both]), name=label)

    def log(self, recipe: str, lr: float | None = None, seed: int = 0) -> DecisionLog:
        """The decisions of a run.

        Args:
            recipe: its name.
            lr: base rate; the best one by default.
            seed: of the run.

        Returns:
            The log; empty where there was no controller.
        """
        rate = self.best_rate(recipe) if lr is None else lr
        return DecisionLog(self.run(recipe, rate, seed).decisions, self.provenance)

    def summaries(self) -> tuple[RecipeSummary, ...]:
        """One summary a recipe.

        Returns:
            In the order of the recipes.
        """
        return self._summaries

    def headline(self) -> str:
        """The finding in one sentence."""
        first, *others = self._summaries
        if not others:
            return f"{first.recipe}: test {self.measure} {first.score_text}."
        words = ("higher", "lower") if self.measure == "accuracy" else ("lower", "higher")
        better, worse = ([row.recipe for row in others if row.verdict == w] for w in words)
        if not better and not worse:
            return f"No recipe is distinguishable from {first.recipe} by test {self.measure}."
        told = {"better": better, "worse": worse}
        parts = [
            f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word} than {first.recipe}"
            for word, names in told.items()
            if names
        ]
        return f"{'; '.join(parts)} by test {self.measure}."

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
        if 1 < len(self.seeds) < _ENOUGH and len(self.recipes) > 1:
            wide = float(t_quantile(0.95, len(self.seeds)))
            notes.append(
                f"{len(self.seeds)} seeds make an interval reach {wide:.1f} standard errors to "
                f"each side; take {_ENOUGH}."
            )
        return tuple(notes)

    def estimates(self) -> tuple[Estimate, ...]:
        """Scores of every recipe, and paired differences to the first one.

        Returns:
            Scores, differences, then losses and their differences, which are minor.
        """
        rows, others = self._summaries, self._summaries[1:]
        scores: list[Estimate | None] = [row.score for row in rows]
        gaps: list[Estimate | None] = [row.difference for row in others]
        minor = [row.loss for row in rows] + [row.loss_difference for row in others]
        if self.measure == "loss":
            minor = []
        made = [e for e in (*scores, *gaps) if e is not None]
        return (*made, *(replace(e, is_minor=True) for e in minor if e is not None))

    def sentences(self) -> tuple[str, ...]:
        """What the runs say, the most important first.

        Returns:
            Whole sentences.
        """
        first, *others = self._summaries
        lines = [f"{first.recipe} reaches a test {self.measure} of {first.score_text}."]
        lines += [_sentence(row) for row in others]
        lines += [_untuned_sentence(row, gap) for row in others if (gap := row.untuned)]
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
            self._trace_figure("loss", "training loss", "losses", _LOSS_TRACE),
            self._trace_figure("rate", "learning rate", "rates", _RATE_TRACE),
        ]
        steered = [row for row in self._summaries if row.decisions]
        return (*drawn, *(self._log_figure(row) for row in steered[:_MAX_LOGS]))

    def _score_figure(self) -> Figure:
        name, percents = f"test {self.measure}", self.measure == "accuracy"
        values = [(100 if percents else 1) * self.tuned(recipe, name) for recipe in self.names]
        title, axis = f"{name.capitalize()} by recipe", f"{name} (%)" if percents else name
        return chart_of(
            "scores",
            title,
            lambda: _intervals(self.names, values, title, axis),
            caption=f"Each recipe at the rate that validation chose. {_DOTS}",
            alt=f"{name.capitalize()} of each recipe with its interval.",
            wide=len(self.names) == 1,
        )

    def _difference_figure(self) -> Figure:
        first, *others = self.names
        name, percents = f"test {self.measure}", self.measure == "accuracy"
        base, short = self.tuned(first, name), cut_off(first, 40)
        gaps = [(100 if percents else 1) * (self.tuned(o, name) - base) for o in others]
        title, axis = f"Against {short}", f"difference to {short}"
        axis = f"{axis} ({'points' if percents else 'loss'})"
        return chart_of(
            "differences",
            title,
            lambda: _intervals(others, gaps, title, axis, zero=True),
            caption=f"Paired by seed. {_DOTS} Where an interval holds zero, the two are "
            "indistinguishable.",
            alt="Paired difference of each recipe to the first one.",
        )

    def _trace_figure(self, name: str, label: str, what: str, about: str) -> Figure:
        def chart() -> "Chart":
            traces = [self._stacked(recipe, what) for recipe in self.names]
            return _traces(self.names, traces, label, smooth=what == "losses")

        return chart_of(
            name,
            label.capitalize(),
            chart,
            caption=f"{about} Lines are means over the seeds, bands hold all of them.",
            alt=f"{label.capitalize()} over the updates.",
        )

    def _log_figure(self, row: RecipeSummary) -> Figure:
        (drawn,) = self.log(row.recipe).figures()
        return replace(
            drawn,
            name=f"decisions {row.recipe}",
            title=cut_off(row.recipe, 60),
            caption=f"Seed 0, rate {row.lr:g}: {count(row.decisions, 'decision')}. Point at a "
            "mark for the reading and the reason.",
            alt=f"Scale of the rate of {row.recipe} over the updates.",
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
        runs: dict[tuple[str, float, int], list[Run]] = {}
        for run in self.runs:
            runs.setdefault((run.recipe, run.lr, run.seed), []).append(run)
        return runs

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
            overhead=self._overhead(runs),
            steering=self._steering(recipe),
            diverged=sum(run.diverged_at is not None for run in runs),
            decisions=len(runs[0].decisions),
            final_rate=float(np.mean(finals)) if finals else math.nan,
        )

    def _overhead(self, runs: Sequence[Run]) -> tuple[float, float, float]:
        """CPU time over that of the first recipe: geometric mean over the seeds, interval."""
        ours, theirs = (
            [math.log(max(float(run.seconds[-1]), 1e-9)) for run in several]
            for several in (runs, self._best_runs(self.names[0]))
        )
        ratio = paired(ours, theirs)
        mean, low, high = (math.exp(value) for value in (ratio.value, *ratio.interval()))
        return mean, low, high

    def _steering(self, recipe: str) -> float:
        """The share of CPU time that the controller took, over all runs of a recipe."""
        runs = [self.run(recipe, lr, s) for lr in self.rates_of(recipe) for s in self.seeds]
        total = sum(float(run.seconds[-1]) for run in runs)
        return sum(run.steering for run in runs) / total if total > 0 else 0.0

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
    names: Sequence[str], values: Sequence[Array], title: str, axis: str, *, zero: bool = False
) -> "Chart":
    """A row a name: every seed as a dot, their mean with its interval."""
    from lossatlas.plots.rows import Dots, rows_chart

    points = [row[np.isfinite(row)] for row in values]
    mean, low, high = np.array([_band(row) for row in points]).T
    dots = [Dots("mean", mean, np.stack([mean - low, high - mean]))]
    return rows_chart(names, dots, title, axis, samples=points, zero=zero)


def _traces(
    names: Sequence[str], traces: Sequence[Array], label: str, *, smooth: bool
) -> "Chart":
    """A line a name: the mean over its runs, and the band that holds all of them."""
    from lossatlas.plots import style
    from lossatlas.plots.chart import Area, Axis, Chart, Layer, Line

    layers: list[Layer] = []
    for index, (name, trace) in enumerate(zip(names, traces, strict=True)):
        color, dash = style.hue(index)
        every = np.arange(1, trace.shape[1] + 1)
        update, values = _windows(trace) if smooth else (every, trace)
        some = ~np.isnan(values).all(0)
        if not some.any():
            continue
        update, values = update[some], values[:, some]
        low, high = np.nanmin(values, 0), np.nanmax(values, 0)
        if len(trace) > 1:
            around = np.concatenate([update, update[::-1]])
            layers.append(Area(around, np.concatenate([high, low[::-1]]), color, opacity=0.15))
        look: dict[str, Any] = {"color": color, "width": 2, "dash": dash, "name": name}
        layers.append(Line(update, np.nanmean(values, 0), hover="values", **look))
    y = Axis(label, is_log=True)
    return Chart(label.capitalize(), Axis("update"), y, tuple(layers), size=(5.4, 3.4))


def _windows(trace: Array) -> tuple[NDArray[np.int64], Array]:
    updates = trace.shape[1]
    width = max(updates // _WINDOWS, 1)
    starts = np.arange(0, updates, width)
    sums = np.add.reduceat(trace, starts, axis=1)
    ends = np.minimum(starts + width, updates)
    return ends, sums / (ends - starts)


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
    shown = " ".join(filter(None, (middle, row.interval_text(gap))))
    return f"{start}: {shown} over {gap.samples} seeds, {row.verdict}."


def _untuned_sentence(row: RecipeSummary, gap: Estimate) -> str:
    unit = " points" if row.measure == "accuracy" else ""
    told = " ".join(filter(None, (f"{row.signed(gap.value)}{unit}", row.interval_text(gap))))
    judged = verdict(gap) if gap.samples > 1 else "one seed says nothing"
    return f"Averaged over all rates, that is without tuning, {row.recipe}: {told}, {judged}."


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
