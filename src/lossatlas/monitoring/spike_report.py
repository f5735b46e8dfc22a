"""Why a loss spiked: the last updates replayed with one change at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Adam, NAdam, Optimizer

from lossatlas.curvature.assumed_optimizers import warm_adam
from lossatlas.curvature.optimizer_steps import OptimizerLike
from lossatlas.curvature.stability import edge_of_stability
from lossatlas.errors import AtlasError
from lossatlas.io.records import record
from lossatlas.monitoring.replay import Batch, Loss, RecordedStep, Replay, Snapshot
from lossatlas.objective import Objective
from lossatlas.objective.batches import tensors
from lossatlas.result import Estimate, Figure, Reference, Result, Table, chart_of, result
from lossatlas.text import as_sentence, number

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Floats = NDArray[np.float64]

CAUSES = (
    "number overflow",
    "bad batch",
    "wrong labels",
    "stale second moments",
    "no warm-up",
    "rate too high",
    "unexplained",
)
# Batches at whose loss the weights are judged.
_REFERENCES = 4
# A change that takes away this share of the rise explains it.
_EXPLAINS = 0.7
# Other batches rise by this share of the own one where the weights have moved.
_BLAMED = 0.15
# ... or that of a single one by this share.
_BLAMED_ONE = 0.3
# Losses of a replay that differ by more are not those of the training.
_FAITHFUL = 0.02
# Inputs this many times as long as usual, or as short, are unlike the others.
_UNLIKE = 4.0
# A second moment this many times too small is stale.
_STALE = 3.0
_EARLY_STEPS = 64
# A first rate that is a smaller share of a later one has risen.
_RAISED = 0.67
_ADVICE = {
    "number overflow": "A value of the forward or backward pass exceeds the range of its data "
    "type: use bfloat16, a GradScaler, or float32 for that operation.",
    "bad batch": "Inspect the inputs of this batch, or skip it.",
    "wrong labels": "Check the labels of the listed examples; gradient clipping limits the "
    "effect of a few wrong ones.",
    "stale second moments": "The second moments of the optimizer were too small for the new "
    "gradients: lower beta2, clip the update (StableAdamW), or clip the gradient.",
    "no warm-up": "A warm-up prevents the spike at the same peak learning rate: increase the "
    "rate over the first updates.",
    "rate too high": "A lower learning rate prevents the spike: lower the peak rate, or clip "
    "the gradient.",
    "unexplained": "No single change prevents the spike.",
}
_REFERENCE = Reference(
    "second moments and spikes",
    "M. Wortsman, T. Dettmers, L. Zettlemoyer et al. Stable and low-precision training for "
    "large-scale vision-language models. NeurIPS 2023.",
    "https://arxiv.org/abs/2304.13013",
)


@record
@dataclass(frozen=True)
class Trial:
    """One replay of the last updates, with one change.

    Attributes:
        change: what was changed.
        loss: on the reference batches afterwards; infinite where it is not finite.
        helps: the share of the rise that it prevents, 0 to 1.
    """

    change: str
    loss: float
    helps: float


@result("spike", references=(_REFERENCE,))
class SpikeReport(Result):
    """A spike of the loss and why it happened.

    Attributes:
        step: the update at which the loss stood out.
        loss: of its batch, before that update.
        deviations: how many robust standard deviations it lies above earlier losses.
        cause: one of `CAUSES`.
        update: the update after which the loss of other batches is high; `step` itself where
            only the loss of its own batch is.
        steps: (n,) the recorded updates.
        losses: (n,) of their batches.
        reference: (n,) the loss of the same few batches before each update.
        gradient_norms: (n,) length of the gradient.
        trials: the reference loss after replays with one change each.
        layers: parameter -> its gradient over the median of the steps before, the largest
            first.
        examples: place in the batch -> loss, of the examples that stand out.
        edge_before: learning rate x curvature over what is stable on a quadratic, at the first
            recorded update.
        edge_after: the same at the spike.
        second_moments: root mean square of g^2 / v at `update`; about 1 is usual.
        is_faithful: whether the replay gave the recorded losses.
        note: what could not be measured, a sentence; empty where nothing failed.
    """

    step: int
    loss: float
    deviations: float
    cause: str
    update: int
    steps: Floats
    losses: Floats
    reference: Floats
    gradient_norms: Floats
    trials: tuple[Trial, ...]
    layers: Mapping[str, float]
    examples: Mapping[str, float]
    edge_before: Estimate
    edge_after: Estimate
    second_moments: float
    is_faithful: bool = True
    note: str = ""

    @classmethod
    def unexplained(cls, step: int, loss: float, deviations: float, why: str) -> "SpikeReport":
        """A spike whose updates could not be replayed."""
        none, lost = np.array([math.nan]), Estimate(math.nan, why_no_error=why)
        return cls(
            step, loss, deviations, "unexplained", step, np.array([float(step)]),
            np.array([loss]), none, none, (), {}, {}, lost, lost, math.nan, note=why,
        )  # fmt: skip

    def estimates(self) -> tuple[Estimate, ...]:
        """Height, gradient, second moments and the edge of stability."""
        norms = self.gradient_norms
        at = int(np.searchsorted(self.steps, self.update))
        usual = float(np.median(norms[:at])) if at else math.nan
        ratio = float(norms[at]) / usual if usual else math.nan
        once = "of one update"
        return (
            Estimate(self.loss, name="loss at the spike", why_no_error="of one batch"),
            Estimate(ratio, name="gradient over its median", why_no_error=once),
            Estimate(
                self.second_moments, name="gradient over second moments", why_no_error=once
            ),
            self.edge_before,
            self.edge_after,
        )

    def headline(self) -> str:
        """Where, and why."""
        return f"Spike at update {self.step:,}: {self.cause}."

    def sentences(self) -> tuple[str, ...]:
        """What happened, why, and what to do."""
        sentences = [self.headline(), self._what()]
        helped = [t for t in self.trials if t.helps >= _EXPLAINS]
        if helped:
            shown = "; ".join(f"{t.change} ({number(100 * t.helps, 2)} %)" for t in helped)
            sentences.append(f"Replays with one change prevent the rise of the loss: {shown}.")
        sentences.append(_ADVICE[self.cause])
        if not self.is_faithful:
            sentences.append(
                "The replayed updates do not reproduce the recorded losses (dropout, clipping "
                "or changing data): the cause is tentative."
            )
        if self.note:
            sentences.append(self.note)
        return tuple(sentences)

    def _what(self) -> str:
        if self.update == self.step:
            return (
                f"The loss of this batch is {number(self.loss)}; the loss of other batches did "
                "not rise, so the batch is the cause, not the weights."
            )
        return f"The loss of other batches rose too, most of all after update {self.update:,}."

    def figures(self) -> tuple[Figure, ...]:
        """The losses up to the spike."""
        caption = (
            "Loss of each batch (dots) and of the same reference batches (line) before each "
            "replayed update."
        )
        title = "Losses up to the spike"
        return (chart_of("spike", title, self._chart, caption=caption, alt=self.headline()),)

    def tables(self) -> tuple[Table, ...]:
        """What was tried, layers, examples."""
        trials = tuple(
            (t.change, number(t.loss), f"{number(100 * t.helps, 2)} %") for t in self.trials
        )
        layers = tuple((name, f"{number(value, 3)}x") for name, value in self.layers.items())
        examples = tuple((place, number(value)) for place, value in self.examples.items())
        tables = (
            Table(
                "Replays with one change", ("change", "loss after it", "rise prevented"), trials
            ),
            Table("Layers", ("parameter", "gradient over its median"), layers),
            Table("Examples", ("place in the batch", "loss"), examples),
        )
        return tuple(table for table in tables if table.rows)

    def _chart(self) -> "Chart":
        from lossatlas.plots import style
        from lossatlas.plots.chart import Axis, Chart, Layer, curve, marks

        layers: list[Layer] = [
            curve(self.steps, self.reference, "reference batches"),
            marks(self.steps, self.losses, "own batch", style.FAINT),
        ]
        if math.isfinite(self.loss):
            layers.append(marks([self.step], [self.loss], "spike", style.PATH, "star"))
        return Chart("Losses up to the spike", Axis("update"), Axis("loss"), tuple(layers))


def explain(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    snapshot: Snapshot,
    entries: Sequence[RecordedStep],
    *,
    deviations: float = math.inf,
    max_norm: float | None = None,
) -> SpikeReport:
    """Replay the recorded updates and find the cause of the spike at the last one.

    Args:
        model: of the training; stays as it is.
        optimizer: of the training; stays as it is.
        loss: (model, batch) -> a number or one number an example.
        snapshot: the training before the first entry.
        entries: the updates since, the spike last.
        deviations: how far the spike stands out.
        max_norm: length to which gradients were clipped.

    Returns:
        The report.

    Raises:
        ModelError: the model or the optimizer cannot be copied.

    Source: counterfactual replays are ours; the ratio of gradients to second moments is that of
        Wortsman et al., NeurIPS 2023, arXiv:2304.13013.
    """
    return _Case(Replay(model, optimizer, loss, max_norm), snapshot, entries).report(deviations)


class _Case:
    # One spike: the replayed updates, and what is measured on them.
    def __init__(
        self, replay: Replay, snapshot: Snapshot, entries: Sequence[RecordedStep]
    ) -> None:
        self.replay, self.snapshot = replay, snapshot
        self.notes: list[str] = []
        self.entries, self.spike = entries, entries[-1]
        self.before = list(entries[:-1])
        # The first and the last before the spike: the data may have changed in between.
        half = _REFERENCES // 2
        chosen = dict.fromkeys([*self.before[:half], *self.before[-half:]])
        self.references = [entry.batch for entry in chosen]
        self.each_reference, self.replayed, self.ratios = self._replay()
        known = bool(self.references)
        self.reference = self.each_reference.mean(1) if known else self.replayed * math.nan

    def _replay(self) -> tuple[Floats, Floats, Floats]:
        replay = self.replay
        replay.load(self.snapshot)
        reference, losses, ratios = [], [], []
        for entry in self.entries:
            reference.append(replay.losses(self.references))
            losses.append(replay.gradient(entry))
            ratios.append(replay.second_moment_ratio())
            if entry is not self.spike:
                replay.apply(entry)
        return np.array(reference), np.array(losses), np.array(ratios)

    @property
    def level(self) -> float:
        """The lowest reference loss before the spike."""
        earlier = self.reference[:-1]
        return float(earlier[np.isfinite(earlier)].min(initial=math.inf))

    @property
    def rise(self) -> float:
        """By how much the reference loss is above it at the spike."""
        last = float(self.reference[-1])
        return last - self.level if math.isfinite(last) else math.inf

    def is_faithful(self) -> bool:
        """Whether the losses are those of the training."""
        recorded = np.array([entry.loss for entry in self.entries])
        known = np.isfinite(recorded) & np.isfinite(self.replayed)
        gap = np.abs(recorded[known] - self.replayed[known])
        return bool((gap <= _FAITHFUL * (np.abs(recorded[known]) + 1e-6)).all())

    @property
    def largest_rise(self) -> float:
        """The same of the one reference batch whose loss rose most."""
        before, last = self.each_reference[:-1], self.each_reference[-1]
        if not len(before) or not np.isfinite(last).all():
            return self.rise
        lowest = np.where(np.isfinite(before), before, np.inf).min(0)
        return float((last - lowest).max())

    def weights_are_to_blame(self) -> bool:
        """Whether other batches have a high loss as well."""
        if not self.references:
            return False
        own = self.spike.loss - float(np.median([e.loss for e in self.before]))
        if not math.isfinite(own):
            return not math.isfinite(self.rise) or self.rise > abs(self.level)
        # Where the data have just changed, few of the other batches are of the new kind.
        return self.rise > _BLAMED * own or self.largest_rise > _BLAMED_ONE * own

    def report(self, deviations: float) -> SpikeReport:
        """The cause of the spike with all that was measured."""
        blamed = self.weights_are_to_blame()
        update = self._update() if blamed else self.spike
        trials = self._trials(update, blamed)
        ratio = float(self.ratios[self.entries.index(update)])
        examples = self._examples()
        edges = self._edges()
        return SpikeReport(
            self.spike.step,
            self.spike.loss,
            deviations,
            self._cause(update, trials, blamed=blamed),
            update.step,
            np.array([float(e.step) for e in self.entries]),
            np.array([e.loss for e in self.entries]),
            self.reference,
            np.array([e.gradient_norm for e in self.entries]),
            trials,
            self._layers(update),
            examples,
            edges[0],
            edges[1],
            ratio,
            self.is_faithful(),
            " ".join(dict.fromkeys(self.notes)),
        )

    def _update(self) -> RecordedStep:
        # The one after which the reference loss rose most.
        known = np.where(np.isfinite(self.reference), self.reference, np.inf)
        lost = np.flatnonzero(~np.isfinite(self.reference))
        if lost.size:
            return self.entries[max(int(lost[0]) - 1, 0)]
        return self.entries[int(np.argmax(np.diff(known)))]

    def _trial(self, change: str, **options: Any) -> Trial:
        self.replay.load(self.snapshot)
        losses = self.replay.run(self.before, references=self.references, **options)
        value = losses[-1] if math.isfinite(losses[-1]) else math.inf
        # Against its own lowest: at lower rates the loss falls more slowly.
        lowest = min(loss for loss in losses if math.isfinite(loss))
        if math.isfinite(self.rise):
            helps = min(max(1 - (value - lowest) / self.rise, 0.0), 1.0)
        else:
            helps = 1.0 if value <= 2 * abs(lowest) else 0.0
        return Trial(change, value, helps)

    def _trials(self, update: RecordedStep, blamed: bool) -> tuple[Trial, ...]:
        if not blamed or not self.before:
            return ()
        count = len(self.before)
        trials = [
            self._trial("skipping the batch", skip=(update.step,)),
            self._trial("a quarter of the learning rate", scales=[0.25] * count),
        ]
        ordinary = self._ordinary(update)
        if ordinary is not None:
            trials.append(
                self._trial("another batch in its place", other={update.step: ordinary.batch})
            )
        first = max(self.before[0].rates)
        kept = [min(1.0, first / max(*entry.rates, 1e-300)) for entry in self.before]
        if min(kept) < _RAISED:
            trials.append(self._trial("no increase of the learning rate", scales=kept))
        if math.isfinite(self.ratios[-1]):
            trials.append(self._trial("clipped updates", clip=True))
        if self.snapshot.step == 0 and self.spike.step <= _EARLY_STEPS:
            rates = [(at + 1) / _EARLY_STEPS for at in range(count)]
            trials.append(self._trial("a warm-up", scales=rates))
        return tuple(trials)

    def _cause(self, update: RecordedStep, trials: Sequence[Trial], *, blamed: bool) -> str:
        if self._overflows(update):
            return "number overflow"
        if not blamed:
            return "bad batch" if self._is_unlike(self.spike.batch) else "wrong labels"
        helps = {trial.change: trial.helps >= _EXPLAINS for trial in trials}
        skipped = helps.get("skipping the batch", False)
        other = helps.get("another batch in its place", True)
        # From the most special cause to the most general one.
        causes = {
            "stale second moments": helps.get("clipped updates", False)
            and self._is_stale(update),
            "bad batch": skipped and other and self._is_unlike(update.batch),
            "no warm-up": helps.get("a warm-up", False),
            # At these rates an ordinary batch in its place does the same.
            "rate too high": helps.get("a quarter of the learning rate", False)
            or (skipped and not other),
        }
        if helps.get("no increase of the learning rate", False):
            return "rate too high"
        causes_that_explain = (cause for cause, explains in causes.items() if explains)
        return next(causes_that_explain, "bad batch" if skipped else "unexplained")

    # A step whose batch can stand in for that of an update: the last before it, or the next.
    def _ordinary(self, update: RecordedStep) -> RecordedStep | None:
        others = [entry for entry in self.before if entry.batch is not update.batch]
        earlier = [entry for entry in others if entry.step < update.step]
        return (earlier[-1] if earlier else others[0]) if others else None

    # Whether the gradient of this update is large for its second moments at the first weights,
    # too: it came with the data, and was not caused by the updates before.
    def _is_stale(self, update: RecordedStep) -> bool:
        earlier = self.ratios[: max(self.entries.index(update), 1)]
        self.replay.load(self.snapshot)
        self.replay.gradient(update)
        return self.replay.second_moment_ratio() > _STALE * max(float(np.median(earlier)), 1.0)

    def _overflows(self, update: RecordedStep) -> bool:
        # Not finite as it was, and finite in double precision at the same weights.
        for entry in dict.fromkeys((self.spike, update)):
            if math.isfinite(entry.loss) and math.isfinite(entry.gradient_norm):
                continue
            self.replay.load(self.snapshot)
            self.replay.run([e for e in self.before if e.step < entry.step])
            if not math.isfinite(self.replay.mean_loss(self.references)):
                return False
            # A copy of its own: it stays in double precision.
            copied = Replay(self.replay.model, self.replay.optimizer, self.replay.loss)
            return copied.in_double(entry)
        return False

    def _is_unlike(self, batch: Batch) -> bool:
        # Whether the inputs are longer or shorter than those of the other batches.
        sizes = [_scale(entry.batch) for entry in self.before if entry.batch is not batch]
        own = _scale(batch)
        if own is None:
            return False
        if not math.isfinite(own):
            return True
        usual = [size for size in sizes if size is not None and math.isfinite(size)]
        if not usual:
            return False
        middle = float(np.median(usual))
        return own > _UNLIKE * middle or own < middle / _UNLIKE

    def _layers(self, update: RecordedStep) -> dict[str, float]:
        earlier = [entry.norms for entry in self.before if entry.step < update.step]
        names = [name for name, _ in self.replay.model.named_parameters()]
        if not earlier:
            return {}
        usual = torch.stack(earlier).median(0).values.clamp_min(1e-30)
        ratios = (update.norms / usual).tolist()
        order = sorted(zip(names, ratios, strict=True), key=lambda pair: -pair[1])
        return dict(order[:5])

    def _examples(self) -> dict[str, float]:
        # Those of the spiking batch whose losses stand out.
        self.replay.load(self.snapshot)
        self.replay.run(self.before)
        try:
            with torch.no_grad():
                each = self.replay.loss(self.replay.model, self.spike.batch)
        except RuntimeError:
            return {}
        if not isinstance(each, Tensor) or each.ndim != 1 or len(each) < 2:
            return {}
        values = each.double().nan_to_num(math.inf)
        highest = torch.argsort(values, descending=True)[:5]
        return {str(int(at)): float(values[at]) for at in highest}

    def _edges(self) -> tuple[Estimate, Estimate]:
        names = "edge of stability, before", "edge of stability, at the spike"
        edges = []
        for name, entries in zip(names, ([], self.before), strict=True):
            self.replay.load(self.snapshot)
            self.replay.run(entries)
            edges.append(self._edge(name))
        return edges[0], edges[1]

    def _edge(self, name: str) -> Estimate:
        replay = self.replay
        try:
            objective = Objective(
                replay.model, replay.loss, self.references or [self.spike.batch], check=False,
                derivatives="unchecked",
            )  # fmt: skip
            steps: OptimizerLike = replay.optimizer
            if isinstance(steps, Adam | NAdam) and not steps.state:
                steps = warm_adam(objective, float(steps.param_groups[0]["lr"]))
            stability = edge_of_stability(objective, steps, tolerance=0.05, limit=40)
        except AtlasError as error:
            return Estimate(math.nan, why_no_error=str(error), name=name)
        if stability.note:
            self.notes.append(as_sentence(f"{name}: {stability.note}"))
        return Estimate(
            stability.ratio,
            bound=stability.bound / stability.threshold,
            products=stability.products,
            reached=stability.reached,
            name=name,
            meaning="above 1 steps along the sharpest direction grow",
        )


def _scale(batch: Batch) -> float | None:
    # The root mean square of the first floating tensor of a batch: its inputs.
    for value in tensors(batch):
        if value.is_floating_point() and value.numel():
            return float(value.double().square().mean().sqrt())
    return None
