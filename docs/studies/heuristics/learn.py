"""A policy fitted to readings and to what followed, and others to hold beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from stack import EVERY, HIGHEST, LOWEST, STEPS, Stack, Task

from lossatlas.rng import generator
from lossatlas.steering import Decision, Reading, RegimePolicy

# What a policy may do with the scale at a decision.
FACTORS = (0.7, 1.0, 1.43)
RIDGE = 1.0
NUMBERS = ("sharpness", "variability", "progress", "probe over average", "scale", "time")


@dataclass(frozen=True)
class LearnedPolicy:
    """Takes the factor after which the loss is predicted to fall most.

    The prediction is linear in the reading, one line for each factor.

    Attributes:
        weights: (factors, numbers + 1); the last column is the constant.
        means: (numbers,) of the readings it was fitted to.
        scales: (numbers,) their standard deviations.
    """

    weights: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]

    needs = frozenset({"probe"})
    every = None
    before = False
    limits = (LOWEST, HIGHEST)
    warmup = 0

    def start(self) -> dict[str, Any]:
        """The memory before the first reading."""
        return {"last": None}

    def decide(
        self, state: dict[str, Any], reading: Reading
    ) -> tuple[dict[str, Any], Decision]:
        """The factor with the lowest predicted loss."""
        row = described(state["last"], reading)
        after = {"last": reading.train_loss}
        if not np.isfinite(row).all():
            return after, Decision(FACTORS[0], "loss not finite: brake")
        known = [*((row - self.means) / self.scales).clip(-3, 3), 1.0]
        falls = [float(np.dot(line, known)) for line in self.weights]
        best = int(np.argmax(falls))
        return after, Decision(FACTORS[best], f"predicted fall {falls[best]:.3f}")


@dataclass(frozen=True)
class Constant:
    """Leaves the rate alone."""

    def start(self) -> dict[str, Any]:
        """No memory."""
        return {}

    def decide(self, state: dict[str, Any], reading: Reading) -> tuple[Any, Decision]:
        """Factor 1."""
        return state, Decision()


@dataclass(frozen=True)
class Random:
    """Draws a factor, so that all are tried in all states.

    Attributes:
        seed: of the draws.
    """

    seed: int

    def start(self) -> dict[str, Any]:
        """The memory: how many were drawn."""
        return {"drawn": 0}

    def decide(self, state: dict[str, Any], reading: Reading) -> tuple[Any, Decision]:
        """Any of the factors."""
        drawn = np.random.default_rng([self.seed, state["drawn"]])
        return {"drawn": state["drawn"] + 1}, Decision(float(drawn.choice(FACTORS)))


def described(last: float | None, reading: Reading) -> np.ndarray:
    """What the policy knows: six numbers without units of the loss."""
    train = reading.train_loss
    progress = 0.0 if last is None else _log_ratio(last, train)
    above = _log_ratio(reading.loss, train)
    scale = math.log(reading.scale[0]) if reading.scale else 0.0
    s, v = reading.sharpness, reading.variability
    return np.array(
        [
            math.log(max(s, 1e-4)) if math.isfinite(s) else math.nan,
            math.log(max(v, 1e-4)) if math.isfinite(v) else math.nan,
            progress, above, scale, reading.step / STEPS,
        ]
    )  # fmt: skip


def _log_ratio(first: float, second: float) -> float:
    known = 0 < first < math.inf and 0 < second < math.inf
    return math.log(first / second) if known else math.nan


@dataclass(frozen=True)
class Course:
    """What happened in one training of many.

    Attributes:
        losses: final validation losses, a member each.
        readings: (decision, member) of readings.
        factors: (decision, member) of factors that were taken.
        train: (decision, member) mean training losses before each decision; one more at the
            end.
    """

    losses: np.ndarray
    readings: list[list[Reading]]
    factors: np.ndarray
    train: np.ndarray


def run(
    task: Task,
    seeds: range,
    policy: Callable[[int], Any],
    limits: tuple[float, float] = (LOWEST, HIGHEST),
) -> Course:
    """Train all rates and seeds of a task under one policy.

    Args:
        task: data and network.
        seeds: of weights and order.
        policy: member -> its policy.
        limits: of the scale.

    Returns:
        What happened.
    """
    stack = Stack(task, seeds)
    policies = [policy(member) for member in range(stack.members)]
    states = [each.start() for each in policies]
    readings, factors, train = [], [], []
    for step in range(1, STEPS + 1):
        stack.update()
        if step % EVERY or step == STEPS:
            continue
        row = stack.read(step)
        scales = stack.scale.tolist()
        row = [_scaled(reading, scale) for reading, scale in zip(row, scales, strict=True)]
        taken = []
        for member, reading in enumerate(row):
            states[member], decision = policies[member].decide(states[member], reading)
            taken.append(float(decision.factors(1)[0]))
            stack.scale[member] = min(max(scales[member] * taken[-1], limits[0]), limits[1])
        readings.append(row)
        factors.append(taken)
        train.append([reading.train_loss for reading in row])
    train.append(_last(stack))
    return Course(stack.validation(), readings, np.array(factors), np.array(train))


def _scaled(reading: Reading, scale: float) -> Reading:
    return Reading(
        reading.step, loss=reading.loss, sharpness=reading.sharpness,
        variability=reading.variability, train_loss=reading.train_loss, scale=(scale,),
    )  # fmt: skip


def _last(stack: Stack) -> list[float]:
    import torch

    found: list[float] = torch.stack(stack.losses[-EVERY:]).double().mean(0).tolist()
    return found


def examples(course: Course, ahead: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings, factors, and by how much the log loss fell until `ahead` decisions later."""
    rows, factors, falls = [], [], []
    count, members = course.factors.shape
    for member in range(members):
        last = None
        for k in range(count):
            reading = course.readings[k][member]
            row, last = described(last, reading), reading.train_loss
            now, later = course.train[k][member], course.train[min(k + ahead, count)][member]
            if now > 0 and later > 0 and np.isfinite([*row, now, later]).all():
                rows.append(row)
                factors.append(course.factors[k][member])
                falls.append(float(np.clip(math.log(now / later), -2, 2)))
    return np.array(rows), np.array(factors), np.array(falls)


def fitted(courses: Sequence[Course], shuffled: int | None = None) -> LearnedPolicy:
    """Ridge regression of the fall on the reading, for each factor.

    Args:
        courses: trainings with random factors.
        shuffled: seed of a permutation of the readings, for the null; None keeps them.

    Returns:
        The policy.
    """
    rows, factors, falls = (
        np.concatenate(part) for part in zip(*map(examples, courses), strict=True)
    )
    if shuffled is not None:
        rows = rows[np.random.default_rng(shuffled).permutation(len(rows))]
    means, scales = rows.mean(0), rows.std(0) + 1e-9
    known = np.hstack([((rows - means) / scales).clip(-3, 3), np.ones((len(rows), 1))])
    lines = []
    for factor in FACTORS:
        at = np.isclose(factors, factor)
        a, b = known[at], falls[at]
        penalty = RIDGE * np.diag([*np.ones(rows.shape[1]), 0.0])
        lines.append(tuple(np.linalg.solve(a.T @ a + penalty, a.T @ b).tolist()))
    return LearnedPolicy(tuple(lines), tuple(means.tolist()), tuple(scales.tolist()))


def methods(learned: LearnedPolicy, null: Sequence[LearnedPolicy]) -> dict[str, Any]:
    """Name -> (policy of a member, limits of its scale)."""
    wide = (LOWEST, HIGHEST)
    table = RegimePolicy()
    return {
        "constant": (lambda member: Constant(), wide),
        "table": (lambda member: table, table.limits),
        "table, wide limits": (lambda member: table, wide),
        "learned": (lambda member: learned, wide),
        "shuffled readings": (lambda member: null[member % len(null)], wide),
    }


def explored(task: Task, seeds: range) -> Course:
    """A training with random factors; its own for every member."""
    drawn = generator("explore", task.name).initial_seed() % 2**31
    return run(task, seeds, lambda member: Random(drawn + member))
