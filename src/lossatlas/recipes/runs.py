"""Runs compared: recipes x rates x seeds, with paired differences, cost and decisions."""

import math
from collections.abc import Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossatlas import io
from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.intervals import t_quantile
from lossatlas.latex_table import text_table
from lossatlas.linalg.estimators import mean_of
from lossatlas.recipes.charts import curves_chart, intervals_chart
from lossatlas.recipes.differences import paired
from lossatlas.recipes.recipe import Recipe
from lossatlas.recipes.run import Run
from lossatlas.recipes.summary import RecipeSummary, score_sentence, untuned_sentence
from lossatlas.recipes.table import recipe_table, short_table
from lossatlas.result import Estimate, Figure, Reference, Result, Table, chart_of, result
from lossatlas.steering.log import DecisionLog
from lossatlas.text import MINUS, count, cut_off, listed

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Array = NDArray[np.float64]
# Recipes whose decisions are drawn.
_MAX_LOGS = 6
# Seeds below which Student's t makes the intervals very wide.
_ENOUGH_SEEDS = 5
_DOTS = "Dots are seeds, the mark is their mean with its 95 % interval."
_LOSS_CURVE = (
    "Loss of the batches as they came, penalties included, averaged over sixtieths of the "
    "training."
)
_RATE_CURVE = "Of the first parameter group, at the rate that validation chose."
_STUDENT = Reference(
    "paired intervals",
    "Student, The probable error of a mean, Biometrika 6, 1908",
    "https://doi.org/10.1093/biomet/6.1.1",
)


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
        scores = [self.scores(recipe, lr, name, **read)[:, 0] for lr in rates]
        return rates[int(np.argmax([sign * float(each.mean()) for each in scores]))]

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
        scores = [self.scores(recipe, lr, name, **read)[:, 0] for lr in self.rates_of(recipe)]
        return np.asarray(np.mean(scores, axis=0))

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
        scores, base = read(recipe, name), read(self.names[0], name)
        both = np.isfinite(scores) & np.isfinite(base)
        if not both.any():
            return None
        label = f"{recipe} {MINUS} {self.names[0]}: {name}"
        return replace(paired(scores[both], base[both]), name=label)

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
        verdicts = {"better": "higher", "worse": "lower"}
        if self.measure == "loss":
            verdicts = {"better": "lower", "worse": "higher"}
        parts = []
        for adjective, verdict in verdicts.items():
            names = [row.recipe for row in others if row.verdict == verdict]
            if names:
                verb = "is" if len(names) == 1 else "are"
                parts.append(f"{listed(names)} {verb} {adjective} than {first.recipe}")
        if not parts:
            return f"No recipe is distinguishable from {first.recipe} by test {self.measure}."
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
        if 1 < len(self.seeds) < _ENOUGH_SEEDS and len(self.recipes) > 1:
            wide = float(t_quantile(0.95, len(self.seeds)))
            notes.append(
                f"{len(self.seeds)} seeds make an interval reach {wide:.1f} standard errors to "
                f"each side; take {_ENOUGH_SEEDS}."
            )
        return tuple(notes)

    def estimates(self) -> tuple[Estimate, ...]:
        """Scores of every recipe, and paired differences to the first one.

        Returns:
            Scores, differences, then losses and their differences, which are minor.
        """
        rows, others = self._summaries, self._summaries[1:]
        major = [*(row.score for row in rows), *(row.difference for row in others)]
        minor: list[Estimate | None] = []
        if self.measure != "loss":
            minor = [*(row.loss for row in rows), *(row.loss_difference for row in others)]
        return (
            *(each for each in major if each is not None),
            *(replace(each, is_minor=True) for each in minor if each is not None),
        )

    def sentences(self) -> tuple[str, ...]:
        """What the runs say, the most important first.

        Returns:
            Whole sentences.
        """
        scores, untuned = self.score_sentences(), self.untuned_sentences()
        return (*scores, *untuned, *self.divergence_sentences())

    def score_sentences(self) -> tuple[str, ...]:
        """The score of each recipe and its difference to the first one.

        Returns:
            One sentence a recipe.
        """
        first, *others = self._summaries
        start = f"{first.recipe} reaches a test {self.measure} of {first.score_text}."
        return (start, *map(score_sentence, others))

    def untuned_sentences(self) -> tuple[str, ...]:
        """Differences averaged over all rates; none for one rate.

        Returns:
            One sentence a recipe but the first; none for one rate.
        """
        rows = [(row, row.untuned) for row in self._summaries[1:]]
        return tuple(untuned_sentence(row, untuned) for row, untuned in rows if untuned)

    def divergence_sentences(self) -> tuple[str, ...]:
        """Trainings at the chosen rates that did not stay finite.

        Returns:
            One sentence a recipe with such trainings.
        """
        return tuple(
            f"{row.recipe}: {count(row.diverged, 'training')} of {len(self.seeds)} did not "
            "stay finite."
            for row in self._summaries
            if row.diverged
        )

    def tables(self) -> tuple[Table, ...]:
        """Rate, scores, difference to the first recipe, interval and verdict of each recipe.

        Returns:
            One table; columns that would be empty are left out.
        """
        return (recipe_table(self._summaries, len(self.rates), len(self.seeds)),)

    def to_latex(self, *, minor: bool = False) -> str:
        r"""The recipes as a LaTeX table.

        Args:
            minor: whether to add the test loss, the effect size and the difference averaged
                over all rates.

        Returns:
            A `tabular` environment that needs no package, one row a recipe: rate, score ±
            standard error, difference to the first recipe with its 95 % interval, and verdict.
            The last rows explain them; references are in comments.
        """
        (table,) = self.tables()
        shown = table if minor else short_table(table)
        return text_table(shown.head, shown.rows, self._table_notes(), self.cited())

    def _table_notes(self) -> list[str]:
        seeds = len(self.seeds)
        over = "examples" if seeds == 1 else f"{seeds} seeds"
        notes = [f"± standard error over the {over}"]
        if len(self.recipes) > 1:
            unit = ", in points" if self.measure == "accuracy" else ""
            interval = "; 95 % interval by Student's t" if seeds > 1 else ""
            notes.append(f"difference to {self.names[0]}, seed by seed{unit}{interval}")
        return notes

    def figures(self) -> tuple[Figure, ...]:
        """Scores, differences, losses and rates over the updates, decisions.

        Returns:
            Figures named "scores", "differences", "loss", "rate" and "decisions RECIPE".
        """
        figures = [self._score_figure()]
        if len(self.recipes) > 1:
            figures.append(self._difference_figure())
        figures.append(self._curve_figure("loss", "training loss", "losses", _LOSS_CURVE))
        figures.append(self._curve_figure("rate", "learning rate", "rates", _RATE_CURVE))
        steered = [row for row in self._summaries if row.decisions]
        return (*figures, *(self._log_figure(row) for row in steered[:_MAX_LOGS]))

    @property
    def _factor(self) -> int:
        # Accuracies are drawn in per cent.
        return 100 if self.measure == "accuracy" else 1

    def _score_figure(self) -> Figure:
        name = f"test {self.measure}"
        values = [self._factor * self.tuned(recipe, name) for recipe in self.names]
        title = f"{name.capitalize()} by recipe"
        axis = f"{name} (%)" if self.measure == "accuracy" else name
        return chart_of(
            "scores",
            title,
            lambda: intervals_chart(self.names, values, title, axis),
            caption=f"Each recipe at the rate that validation chose. {_DOTS}",
            alt=f"{name.capitalize()} of each recipe with its interval.",
            wide=len(self.names) == 1,
        )

    def _difference_figure(self) -> Figure:
        first, *others = self.names
        name, short = f"test {self.measure}", cut_off(first, 40)
        base = self.tuned(first, name)
        differences = [self._factor * (self.tuned(other, name) - base) for other in others]
        unit = "points" if self.measure == "accuracy" else "loss"
        title, axis = f"Against {short}", f"difference to {short} ({unit})"
        return chart_of(
            "differences",
            title,
            lambda: intervals_chart(others, differences, title, axis, zero=True),
            caption=f"Paired by seed. {_DOTS} Where an interval holds zero, the two are "
            "indistinguishable.",
            alt="Paired difference of each recipe to the first one.",
        )

    def _curve_figure(self, name: str, label: str, attribute: str, about: str) -> Figure:
        def chart() -> "Chart":
            traces = [self._stacked(recipe, attribute) for recipe in self.names]
            return curves_chart(self.names, traces, label, smooth=attribute == "losses")

        return chart_of(
            name,
            label.capitalize(),
            chart,
            caption=f"{about} Lines are means over the seeds, bands hold all of them.",
            alt=f"{label.capitalize()} over the updates.",
        )

    def _log_figure(self, row: RecipeSummary) -> Figure:
        (figure,) = self.log(row.recipe).figures()
        return replace(
            figure,
            name=f"decisions {row.recipe}",
            title=cut_off(row.recipe, 60),
            caption=f"Seed 0, rate {row.lr:g}: {count(row.decisions, 'decision')}. Point at a "
            "mark for the reading and the reason.",
            alt=f"Scale of the rate of {row.recipe} over the updates.",
        )

    def _stacked(self, recipe: str, attribute: str) -> Array:
        stacked = np.full((len(self.seeds), self.steps), np.nan)
        for row, run in zip(stacked, self._best_runs(recipe), strict=True):
            trace = getattr(run, attribute)
            row[: len(trace)] = trace
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
        name, lr = f"test {self.measure}", self.best_rate(recipe)
        runs, is_first = self._best_runs(recipe), recipe == self.names[0]
        final_rates = [float(run.rates[-1]) for run in runs if len(run.rates)]
        is_tuned = len(self.rates) > 1 and not is_first
        return RecipeSummary(
            recipe=recipe,
            measure=self.measure,
            lr=lr,
            score=self._over_seeds(recipe, lr, name),
            loss=self._over_seeds(recipe, lr, "test loss"),
            difference=None if is_first else self.difference(recipe, name),
            loss_difference=None if is_first else self.difference(recipe, "test loss"),
            untuned=self.difference(recipe, name, tuned=False) if is_tuned else None,
            overhead=self._overhead(runs),
            steering=self._steering(recipe),
            diverged=sum(run.diverged_at is not None for run in runs),
            decisions=len(runs[0].decisions),
            final_rate=float(np.mean(final_rates)) if final_rates else math.nan,
        )

    def _overhead(self, runs: Sequence[Run]) -> tuple[float, float, float]:
        """CPU time over that of the first recipe: geometric mean over the seeds, interval."""
        seconds, base = _log_seconds(runs), _log_seconds(self._best_runs(self.names[0]))
        log_ratio = paired(seconds, base)
        low, high = log_ratio.interval()
        return math.exp(log_ratio.value), math.exp(low), math.exp(high)

    def _steering(self, recipe: str) -> float:
        """The share of CPU time that the controller took, over all runs of a recipe."""
        rates = self.rates_of(recipe)
        runs = [self.run(recipe, lr, seed) for lr in rates for seed in self.seeds]
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


def _log_seconds(runs: Sequence[Run]) -> list[float]:
    return [math.log(max(float(run.seconds[-1]), 1e-9)) for run in runs]
