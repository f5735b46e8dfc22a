"""Stage 2: predict the loss without computing it; how well that works and what it costs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas import io
from lossatlas.arguments import public
from lossatlas.checks import check_one_of
from lossatlas.errors import DataError
from lossatlas.executor import Progress
from lossatlas.inits import scores
from lossatlas.inits.networks import Rows
from lossatlas.inits.paths import one_thread, provenance, run_stage_tasks
from lossatlas.inits.predictors import (
    FITTERS,
    LocalSample,
    Task,
    gaussian_process,
    neighborhoods,
    timed,
)
from lossatlas.inits.problem import Problem
from lossatlas.inits.samples import Samples
from lossatlas.inits.scores import interval_estimate
from lossatlas.inits.settings import InitsSettings
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.rng import generator
from lossatlas.text import number

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
VIEWS = ("pooled", "within scheme", "same radius")
KINDS = ("flat", "statistics", "subspace", "equivariant")
# What a landscape of the published study takes, for each of its 200 initializations.
LANDSCAPE = (2000, 200)
_RESAMPLES = 500
_MIN_SAMPLES = 20
# As published: losses beyond are clipped.
_CLIP = (0.1, 100.0)
_TIMED = 512


@result(
    "inits-surrogates",
    references=(
        Reference(
            "equivariant predictor",
            "Lim et al., Graph metanetworks, ICLR 2024.",
            "https://arxiv.org/abs/2312.04501",
        ),
    ),
)
class Surrogates(Result):
    """Predictions of losses on points that no predictor was fitted to.

    Attributes:
        kinds: names of the predictors.
        tested: indices of the held-out samples, shape (tested,).
        schemes: of these, as many.
        truth: their losses, clipped to [0.1, 100], shape (tested,).
        predictions: shape (kinds, tested); NaN where a kind serves one initialization only.
        near_truth: losses around initializations, all at one distance relative to the length
            of each filter, shape (anchors, points).
        near: predictions there, shape (kinds, anchors, points).
        near_spread: standard deviation that a Gaussian process gives, likewise, else NaN.
        history: of the trainings: kind -> (epochs, 3), training loss, validation error, rate.
        seconds: CPU seconds, shape (kinds, 3): the data, the fit, and 1,000 predictions.
        true_seconds: CPU seconds of 1,000 true losses of a landscape.
        provenance: settings, seed, fingerprint of the data.
    """

    kinds: tuple[str, ...]
    tested: Ints
    schemes: tuple[str, ...]
    truth: Array = quantity("loss")
    predictions: Array = quantity("loss")
    near_truth: Array = quantity("loss")
    near: Array = quantity("loss")
    near_spread: Array = quantity("loss")
    history: Mapping[str, Array]
    seconds: Array = quantity("s")
    true_seconds: float = quantity("s")
    provenance: io.Provenance = field(default_factory=io.Provenance)

    def spearman(self, kind: str, view: str) -> tuple[float, float, float]:
        """The rank correlation of predicted and true losses, with its 95 % interval.

        Args:
            kind: one of `kinds`.
            view: "pooled" over all held-out pairs; "within scheme", averaged over schemes;
                "same radius", within the surroundings of each initialization, averaged over
                these.

        Returns:
            (value, lower, upper), bootstrap over points (over initializations for "same
            radius"); NaN where a kind does not serve this view.

        Raises:
            UnknownNameError: an unknown kind or view.
        """
        check_one_of("kind", kind, self.kinds)
        check_one_of("view", view, VIEWS)
        index = self.kinds.index(kind)
        if view == "same radius":
            return self._near(index)
        if not np.isfinite(self.predictions[index]).all():
            return (np.nan, np.nan, np.nan)
        blocks = np.zeros(len(self.truth), dtype=np.int64)
        if view == "within scheme":
            blocks = np.unique(self.schemes, return_inverse=True)[1].astype(np.int64)
        predicted = self.predictions[index]
        value = scores.spearman(self.truth, predicted[None], blocks)[0]
        drawn = scores.resamples(blocks, _RESAMPLES, 0)
        # Drawn within blocks: each place keeps its block.
        samples = scores.spearman(self.truth[drawn], predicted[drawn], blocks)
        return (float(value), *scores.interval(samples))

    def _near(self, index: int) -> tuple[float, float, float]:
        each = np.array(
            [
                scores.spearman(truth, predicted[None], np.zeros(len(truth), dtype=np.int64))[0]
                for truth, predicted in zip(self.near_truth, self.near[index], strict=True)
            ]
        )
        blocks = np.zeros(len(each), dtype=np.int64)
        samples = each[scores.resamples(blocks, _RESAMPLES, 0)].mean(axis=1)
        return (float(each.mean()), *scores.interval(samples))

    def error(self, kind: str) -> float:
        """The mean absolute error on the held-out pairs.

        Args:
            kind: one of `kinds`.

        Returns:
            In units of the loss; NaN where a kind serves one initialization only.

        Raises:
            UnknownNameError: an unknown kind.
        """
        check_one_of("kind", kind, self.kinds)
        return float(np.abs(self.predictions[self.kinds.index(kind)] - self.truth).mean())

    def coverage(self, kind: str, level: float = 1.645) -> float:
        """How often the true loss lies in the interval that a predictor gives.

        Args:
            kind: one of `kinds`.
            level: half the width in standard deviations; 1.645 is to cover 90 %.

        Returns:
            A share; NaN for kinds that give no deviation.

        Raises:
            UnknownNameError: an unknown kind.
        """
        check_one_of("kind", kind, self.kinds)
        index = self.kinds.index(kind)
        spread = self.near_spread[index]
        if not np.isfinite(spread).all():
            return float("nan")
        inside = np.abs(self.near[index] - self.near_truth) <= level * spread
        return float(inside.mean())

    def cost(self, kind: str, losses: int, initializations: int = 1) -> float:
        """CPU seconds of all that a predictor needs to give losses of landscapes.

        Args:
            kind: one of `kinds`.
            losses: of each initialization.
            initializations: how many share the data and the fit.

        Returns:
            Seconds an initialization. A predictor of one initialization shares nothing.

        Raises:
            UnknownNameError: an unknown kind.
        """
        check_one_of("kind", kind, self.kinds)
        data, fit, use = self.seconds[self.kinds.index(kind)]
        shared = 1 if kind == "subspace" else initializations
        return float((data + fit) / shared + use * losses / 1000)

    def estimates(self) -> tuple[Estimate, ...]:
        """Rank correlations of every predictor, its error and coverage, and what it costs."""
        points, initializations = LANDSCAPE
        what = f"{points:,} losses at each of {initializations} initializations, all counted"
        ranks = [self._rank_estimate(kind, view) for kind in self.kinds for view in VIEWS]
        costs = {f"cost, {kind}": self.cost(kind, *LANDSCAPE) for kind in self.kinds}
        costs["cost, true losses"] = self.true_seconds * points / 1000
        return (
            *(row for row in ranks if np.isfinite(row.value)),
            *(_timing(seconds, name, what) for name, seconds in costs.items()),
            *self._errors(),
        )

    def _rank_estimate(self, kind: str, view: str) -> Estimate:
        size = len(self.near_truth) if view == "same radius" else len(self.tested)
        return interval_estimate(f"{kind}, {view}", self.spearman(kind, view), size)

    def _errors(self) -> Iterator[Estimate]:
        why = "one set of held-out points"
        for kind in self.kinds:
            named = {
                f"mean absolute error, {kind}": self.error(kind),
                f"coverage of 90 % intervals, {kind}": self.coverage(kind),
            }
            for name, value in named.items():
                if np.isfinite(value):
                    yield Estimate(value, why_no_error=why, name=name, is_minor=True)

    def sentences(self) -> tuple[str, ...]:
        """Which predictor ranks losses best, and whether it is cheaper than true losses."""
        ranks = {kind: self.spearman(kind, VIEWS[-1]) for kind in self.kinds}
        best = max(ranks, key=lambda kind: ranks[kind][0])
        value, lower, upper = ranks[best]
        cost, true = self.cost(best, *LANDSCAPE), self.true_seconds * LANDSCAPE[0] / 1000
        cheaper = "less" if cost < true else "more"
        return (
            f"Among points at one distance from an initialization, {best} ranks losses best: "
            f"rank correlation {value:.2f} [{lower:.2f}, {upper:.2f}].",
            f"With its data and fit it takes {number(cost, 3)} CPU seconds for "
            f"{LANDSCAPE[0]:,} losses, {cheaper} than the true losses ({number(true, 3)}).",
        )

    def figures(self) -> tuple[Figure, ...]:
        """Rank correlations, predictions against the truth, and the trainings."""
        from lossatlas.plots.chart import backends

        alt = self.sentences()[0]
        whole = [k for k, row in enumerate(self.predictions) if np.isfinite(row).all()]
        charts: dict[str, tuple[str, Callable[[], Any]]] = {
            "scores": ("How well the loss is predicted", self._scores)
        }
        if whole:
            title = f"Held-out losses, {self.kinds[whole[0]]}"
            charts["predicted"] = (title, partial(self._predicted, whole[0], title))
        if any(len(rows) for rows in self.history.values()):
            charts["training"] = ("Training of the predictors", self._training)
        return tuple(
            Figure(name, title, *backends(chart), alt=alt)
            for name, (title, chart) in charts.items()
        )

    def _scores(self) -> Any:
        from lossatlas.plots.inits import scores_chart

        names = [f"{kind}, {view}" for kind in self.kinds for view in VIEWS]
        return scores_chart(
            names,
            [self.spearman(kind, view) for kind in self.kinds for view in VIEWS],
            title="Surrogates: how well the loss is predicted",
            label="rank correlation on held-out points, 95 % interval",
            strong=[name for name in names if name.endswith(VIEWS[-1])],
        )

    def _predicted(self, kind: int, title: str) -> Any:
        from lossatlas.plots.inits import predicted_chart

        row = self.predictions[kind]
        return predicted_chart(self.truth, row, self.schemes, title=title, label="loss")

    def _training(self) -> Any:
        from lossatlas.plots.inits import histories_chart

        errors = {kind: rows[:, 1] for kind, rows in self.history.items() if len(rows)}
        return histories_chart(errors, title="Surrogates: training", label="validation error")


def _timing(value: float, name: str, what: str) -> Estimate:
    return Estimate(
        value, why_no_error="a clock, read once", name=name, unit="CPU s", meaning=what
    )


@public
def fit_surrogates(
    settings: InitsSettings,
    problem: Problem,
    samples: Samples,
    *,
    progress: Progress | None = None,
) -> Surrogates:
    """Fit the predictors of `surrogate.kinds` and score them.

    A share `surrogate.held_out` of the samples is set aside before anything else; a tenth of
    the others says when to stop. What is done is kept in the folder, trainings in the middle
    too.

    Args:
        settings: of the study.
        problem: network and data.
        samples: of stage 1.
        progress: called with (done, total, label) after every predictor.

    Returns:
        Predictions, true losses, and what each cost.

    Raises:
        UnknownNameError: an unknown kind.
        DataError: too few samples with a finite loss.
        ModelError: a network that the equivariant predictor cannot read.
        ResumeError: the folder holds unfinished work of other settings.

    Examples:
        >>> from tempfile import mkdtemp
        >>> from lossatlas.inits.problem import load_problem
        >>> from lossatlas.inits.samples import generate
        >>> small = {"model": "mlp(4)", "examples": 40, "probe": 8, "generate": {"samples": 30}}
        >>> plan = {"kinds": ("subspace",), "anchors": 2, "points": 8}
        >>> settings = InitsSettings(out=mkdtemp(), surrogate=plan, **small)
        >>> problem = load_problem(settings)
        >>> surrogates = fit_surrogates(settings, problem, generate(settings, problem))
        >>> surrogates.near.shape
        (1, 2, 8)
    """
    plan = settings.surrogate
    for kind in plan.kinds:
        check_one_of("surrogate.kinds", kind, KINDS)
    held, fitting, checking = _parts(settings, samples)
    rows = Rows(problem.initializer, samples.candidates)
    losses = torch.from_numpy(np.clip(samples.losses, *_CLIP))
    task = Task(settings, problem, rows, losses, fitting, checking)
    with one_thread():
        around = neighborhoods(settings, problem)
        trial = _Trial(task, held, around, *_seconds(problem, samples))
        tables = run_stage_tasks(
            settings,
            "fit-surrogate",
            problem.fingerprint,
            {kind: kind for kind in plan.kinds},
            lambda: trial.run,
            executor="serial",
            progress=progress,
        )

    def stacked(name: str) -> Array:
        return np.stack([table[name] for table in tables])

    return Surrogates(
        kinds=plan.kinds,
        tested=held.numpy(),
        schemes=tuple(samples.schemes[held.numpy()].tolist()),
        truth=losses[held].numpy(),
        predictions=stacked("predictions"),
        near_truth=np.stack([each.tested_losses for each in around]),
        near=stacked("near"),
        near_spread=stacked("spread"),
        history={kind: t["history"] for kind, t in zip(plan.kinds, tables, strict=True)},
        seconds=stacked("seconds"),
        true_seconds=trial.true_seconds,
        provenance=provenance(settings, "fit-surrogate", problem.fingerprint),
    )


def _parts(settings: InitsSettings, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    finite = torch.from_numpy(np.flatnonzero(np.isfinite(samples.losses)))
    random = generator(settings.seed, "held out")
    mixed = finite[torch.randperm(len(finite), generator=random)]
    plan = settings.surrogate
    out = round(plan.held_out * len(mixed))
    rest = mixed[out:][: plan.limit]
    check = len(rest) // 10
    if len(mixed) < _MIN_SAMPLES or out < 5 or check < 2:
        raise DataError(
            f"a surrogate needs {_MIN_SAMPLES} samples with a finite loss, 5 of them held out; "
            f"got {len(mixed)} and {out}: generate more, as in --set generate.samples=5000."
        )
    return mixed[:out], rest[check:], rest[:check]


@dataclass(frozen=True)
class _Trial:
    """What every predictor has to go through; seconds are those of 1,000 pairs and losses."""

    task: Task
    held: Tensor
    around: Sequence[LocalSample]
    pair_seconds: float
    true_seconds: float

    def run(self, kind: str) -> dict[str, Array]:
        return self._local() if kind == "subspace" else self._global(kind)

    def _global(self, kind: str) -> dict[str, Array]:
        task, began = self.task, time.process_time()
        predictor, history = FITTERS[kind](task)
        fit = time.process_time() - began
        parts = torch.split(self.held, _TIMED)
        predictions = np.concatenate([predictor(task.rows(part)) for part in parts])
        near = np.stack([predictor(each.rows) for each in self.around])
        sample = task.rows(self.held[:_TIMED])
        _, use = timed(lambda: predictor(sample))
        data = self.pair_seconds * (len(task.fitting) + len(task.checking)) / 1000
        return {
            "predictions": predictions,
            "near": near,
            "spread": np.full_like(near, np.nan),
            "history": history,
            "seconds": np.array([data, fit, 1000 * use / len(sample)]),
        }

    def _local(self) -> dict[str, Array]:
        began = time.process_time()
        fitted = [gaussian_process(each) for each in self.around]
        fit = (time.process_time() - began) / len(self.around)
        data = self.true_seconds * len(self.around[0].fitted) / 1000
        return {
            "predictions": np.full(len(self.held), np.nan),
            "near": np.stack([mean for mean, _ in fitted]),
            "spread": np.stack([deviation for _, deviation in fitted]),
            "history": np.empty((0, 3)),
            # Fit and use of a local predictor are one: it is fitted for each use.
            "seconds": np.array([data, fit, 0.0]),
        }


def _seconds(problem: Problem, samples: Samples) -> tuple[float, float]:
    # CPU seconds of 1,000 pairs, and of 1,000 losses of a landscape, where nothing is drawn.
    initializer, losses = problem.initializer, problem.true_losses()
    chosen = samples.candidates[:_TIMED]
    stacked = initializer.stack(chosen)
    losses(stacked)
    _, draw = timed(lambda: initializer.rows(chosen).numpy())
    loss = min(timed(lambda: losses(stacked).numpy())[1] for _ in range(3))
    return 1000 * (draw + loss) / len(chosen), 1000 * loss / len(chosen)
