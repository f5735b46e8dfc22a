"""Training of the points that a curve between two networks goes through."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.rng import generator
from lossatlas.weights.align import endless_batches
from lossatlas.weights.paired import blend
from lossatlas.weights.paths import PathKind, shares_at
from lossatlas.weights.unfinished import Unfinished

# How often the state of a training is kept.
_SAVES = 50


@dataclass(frozen=True)
class CurveTraining:
    """How the bends of a curve are trained: SGD on the loss at random positions."""

    steps: int
    lr: float
    momentum: float
    seed: int

    def rate(self, step: int) -> float:
        """Constant for half of the steps, linear to a hundredth at nine tenths."""
        done = step / self.steps
        return self.lr * min(1.0, max(0.01, 1 - 0.99 * (done - 0.5) / 0.4))


@dataclass(frozen=True)
class PathPlan:
    """What kind of path is measured, where, and how it is trained."""

    kind: PathKind
    points: int
    bends: int
    training: CurveTraining

    @property
    def count(self) -> int:
        """Trained points."""
        return {"line": 0, "bezier": 1, "chain": self.bends}[self.kind]


def trained_bends(
    objective: Objective,
    plan: PathPlan,
    ends: tuple[Params, Params],
    unfinished: Unfinished,
    tell: Callable[[int], None],
) -> tuple[dict[str, Tensor], ...]:
    """The bends of a curve after training; buffers stay means of those of the ends."""
    shares = [(k + 1) / (plan.count + 1) for k in range(plan.count)]
    bends = [blend(ends, [1 - share, share]) for share in shares]
    speed = [{n: torch.zeros_like(bend[n]) for n in objective.names} for bend in bends]
    training = plan.training
    draw = generator(training.seed, "positions")
    batches = endless_batches(objective, training.seed)
    start = _resumed(unfinished, bends, speed)
    tell(start)
    for step in range(training.steps):
        t, batch = float(torch.rand((), generator=draw, dtype=torch.float64)), next(batches)
        if step < start:
            # What is drawn is the same as if never stopped.
            continue
        part = shares_at(plan.kind, plan.count + 2, t)
        slope = objective.part([batch]).gradient(blend((ends[0], *bends, ends[1]), part))
        for bend, velocity, share in zip(bends, speed, part[1:-1], strict=True):
            for name, value in slope.items() if share else ():
                velocity[name].mul_(training.momentum).add_(value, alpha=share)
                bend[name] -= training.rate(step) * velocity[name]
        tell(1)
        done = step + 1
        if done == training.steps or done % max(1, training.steps // _SAVES) == 0:
            moved = [side[n] for n in objective.names for side in (*bends, *speed)]
            unfinished.put_tensors("training", [torch.tensor(float(done)), *moved])
    return tuple(bends)


def _resumed(
    unfinished: Unfinished, bends: list[dict[str, Tensor]], speed: list[dict[str, Tensor]]
) -> int:
    """Put back what was kept of a training; how many steps were done."""
    places = [(side, name) for name in speed[0] for side in (*bends, *speed)]
    like = [torch.zeros((), dtype=torch.float64), *(side[name] for side, name in places)]
    saved = unfinished.get_tensors("training", like)
    if saved is None:
        return 0
    for (side, name), value in zip(places, saved[1:], strict=True):
        side[name] = value.clone()
    return int(saved[0])
