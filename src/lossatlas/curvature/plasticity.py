"""Plasticity: how well new tasks can still be learned from the present weights."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lossatlas.checks import check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.errors import DataError, LossError, NonFiniteError
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import batch_size, to_device
from lossatlas.objective.point import State
from lossatlas.objective.user_code import wrap_errors
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.rng import generator
from lossatlas.text import count, with_error

_BETAS = (0.9, 0.999)
_FIRST_PART = (
    "plasticity needs a model that takes the first part of a batch alone and returns logits."
)


# A survey's budget; ranks of networks depend on it, so it is one for all.
_TASKS, _STEPS = 3, 200
_REFERENCE = Reference(
    "plasticity on probe tasks",
    "C. Lyle et al. Understanding Plasticity in Neural Networks. ICML 2023.",
    "https://arxiv.org/abs/2303.01486",
)


@result("plasticity", references=(_REFERENCE,))
class Plasticity(Result):
    """How much of a random labeling can be learned in a fixed budget.

    Attributes:
        value: loss of the best constant prediction minus the loss reached, mean over tasks with
            its standard error; 0 where nothing was learned.
        reached: the loss reached on each task, nats.
        constant: the loss of the best constant prediction on each task, nats.
        steps: steps of Adam for each task.
        learning_rate: of Adam. Ranks of networks depend on both: compare at the same budget.
    """

    value: Estimate
    reached: NDArray[np.float64]
    constant: NDArray[np.float64]
    steps: int
    learning_rate: float

    def estimates(self) -> tuple[Estimate, ...]:
        """The gap to the best constant prediction."""
        meaning = (
            f"how far {self.steps} steps of Adam at {self.learning_rate:g} get below the best "
            "constant on random labels"
        )
        return (replace(self.value, name="plasticity", unit="nats", meaning=meaning),)

    def answer(self) -> tuple[str, str]:
        """Whether random labels were learned within the budget."""
        low, high = self.value.interval()
        if low > 0:
            shown = with_error(self.value.value, self.value.stderr)
            return f"yes: {shown} nats learned in {count(self.steps, 'step')}", "sure"
        if high <= 0:
            return f"not within {count(self.steps, 'step')}", "alarm"
        return f"not told within {count(self.steps, 'step')}", ""

    def sentences(self) -> tuple[str, ...]:
        """How well new labels can be learned."""
        start = f"In {count(self.steps, 'step')} on random labels the loss"
        shown = with_error(self.value.value, self.value.stderr)
        low, high = self.value.interval()
        if high <= 0:
            above = with_error(-self.value.value, self.value.stderr)
            return (
                f"{start} stayed {above} nats above the best constant: what is known here was "
                "not unlearned in that budget.",
            )
        if low > 0:
            return (f"{start} fell {shown} nats below the best constant.",)
        return (
            f"{start} ended {shown} nats below the best constant, which does not tell whether "
            "anything was learned.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The loss reached on each task beside that of the best constant."""
        from lossatlas.plots.rows import Dots, rows_chart

        pairs = {"loss reached": self.reached, "best constant": self.constant}
        series = [Dots(name, values) for name, values in pairs.items()]
        names = [f"task {k}" for k in range(1, len(self.reached) + 1)]
        title, axis = "Random labels", "loss on random labels (nats)"
        caption = "A loss below that of the best constant means that the labels were learned."
        chart = partial(rows_chart, names, series, title, axis)
        return (chart_of("tasks", title, chart, caption=caption, alt=caption),)


@instrument(
    "plasticity",
    title="Plasticity",
    question="Can the network still learn something new?",
    group="learning",
    cost="600 steps of training",
    needs="logits, batches that are pairs",
    references=(_REFERENCE,),
    place=2,
)
def survey_plasticity(context: Context) -> Parts:
    """How well random labels can be learned from here."""
    options: dict[str, Any] = {"tasks": _TASKS, "steps": _STEPS, "seed": context.seed}
    return {"plasticity": lambda: plasticity(context.objective, **options)}


def plasticity(
    objective: Objective,
    tasks: int = 5,
    steps: int = 200,
    learning_rate: float = 1e-3,
    *,
    seed: int = 0,
    params: Params | None = None,
) -> Plasticity:
    """Train on tasks with random labels from the present weights, and see how far it gets.

    Every task gives each example a class at random; fresh Adam takes `steps` steps over the
    batches in turn. The loss of plasticity is the difference between two calls, at the start
    and later (`params=`), with the same seed. Norm layers keep their statistics unless
    mode="train".

    Args:
        objective: its batches are pairs whose first part the model takes; the model must
            return logits with the classes along axis 1. Its loss and targets are not used.
        tasks: random labelings.
        steps: steps for each.
        learning_rate: of Adam.
        seed: what labels are drawn from.
        params: where to start; the present weights by default.

    Returns:
        Plasticity with an error over tasks.

    Raises:
        ArgumentError: a number of the wrong kind.
        DataError: batches are not pairs.
        LossError: the model does not take the first part of a batch alone, or does not return
            logits for at least two classes.
        NonFiniteError: the loss on random labels is not finite at the start or the end.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import plasticity
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> batch = (torch.randn(8, 2), torch.zeros(8, dtype=torch.long))
        >>> objective = la.Objective(torch.nn.Linear(2, 3), loss, [batch])
        >>> plasticity(objective, tasks=2, steps=3).reached.shape
        (2,)

    Source: Lyle et al., ICML 2023, arXiv:2303.01486 (probe tasks).
    """
    check_objective(objective, params)
    check_count("tasks", tasks, 1)
    check_count("steps", steps, 1)
    check_positive("learning_rate", learning_rate)
    batches = objective.map_batches(lambda batch: batch)
    classes = _classes(objective, batches[0])
    start = State(objective.params) if params is None else objective.split(params)
    rates = []
    for task in range(tasks):
        drawn = generator(seed, "task", task)
        labels = [torch.randint(0, classes, (batch_size(b),), generator=drawn) for b in batches]
        leaves = {n: v.detach().clone().requires_grad_() for n, v in start.params.items()}
        reached = _learned(
            objective, leaves, start.buffers, batches, labels, steps=steps, rate=learning_rate
        )
        rates.append((reached, _constant(torch.cat(labels), classes)))
    ends, constants = np.array(rates).T
    value = mean_of(constants - ends, tasks * steps)
    return Plasticity(value, ends, constants, steps, learning_rate)


def _inputs(batch: Batch) -> object:
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise DataError(
            "plasticity needs batches that are pairs (input, target), so that the targets can "
            f"be exchanged; got {type(batch).__name__}."
        )
    return batch[0]


def _classes(objective: Objective, batch: Batch) -> int:
    inputs = _inputs(batch)
    with torch.no_grad():
        device = objective.device
        with wrap_errors("the model", _FIRST_PART):
            output = objective.with_params(
                None, lambda: objective.model(to_device(inputs, device))
            )
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise LossError(
            "plasticity needs a model that returns logits, shape (batch, classes); "
            f"got {shape}."
        )
    return int(output.shape[1])


def _learned(
    objective: Objective,
    leaves: dict[str, Tensor],
    buffers: Params,
    batches: list[Batch],
    labels: list[Tensor],
    *,
    steps: int,
    rate: float,
) -> float:
    moments = {n: (torch.zeros_like(v), torch.zeros_like(v)) for n, v in leaves.items()}

    def loss_of(index: int) -> Tensor:
        inputs = to_device(_inputs(batches[index]), objective.device)
        target = labels[index].to(objective.device)
        return F.cross_entropy(objective.model(inputs), target)

    for step in range(steps):
        with torch.enable_grad():
            loss = objective.with_params(
                {**leaves, **buffers}, partial(loss_of, step % len(batches))
            )
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        if step == 0:
            _check(float(loss.detach()), "at the weights it starts from; check them")
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            if gradient is not None:
                _adam_step(leaf, gradient.to_dense(), moments[name], rate, step + 1)
    with torch.no_grad():
        losses = objective.with_params(
            {**leaves, **buffers}, lambda: [float(loss_of(i)) for i in range(len(batches))]
        )
    reached = float(np.average(losses, weights=[len(each) for each in labels]))
    _check(reached, f"after {steps} steps; check the inputs, or take a smaller `learning_rate`")
    return reached


def _check(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss on random labels is {loss} {where}.")


@torch.no_grad()
def _adam_step(
    leaf: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int
) -> None:
    # As torch.optim.Adam, whose first use imports torch's compiler: seconds.
    first, second = moments
    first.lerp_(gradient, 1 - _BETAS[0])
    second.lerp_(gradient.square(), 1 - _BETAS[1])
    root = (second / (1 - _BETAS[1] ** step)).sqrt_().add_(1e-8)
    leaf.addcdiv_(first, root, value=-rate / (1 - _BETAS[0] ** step))


def _constant(labels: Tensor, classes: int) -> float:
    # The best constant prediction gives each class its frequency.
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)
    return -math.fsum(float(p) * math.log(float(p)) for p in shares if p > 0)
