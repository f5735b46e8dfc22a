"""Barriers between networks of different seeds, before and after alignment, and curves."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import problems
from problems import Problem, State

import lossatlas as la
from lossatlas.weights import Connection, align, connect, repair
from lossatlas.weights.paired import PairedLosses, blend, halfway

SEEDS = (0, 1, 2)
PAIRS = ((0, 1), (0, 2), (1, 2))
ALIGNED: dict[str, Callable[[], Problem]] = {
    "MLP 3x512": lambda: problems.mlp(512, 512, 512),
    "narrow ResNet": problems.resnet,
    "char-GPT": problems.chargpt,
}
CURVED: dict[str, Callable[[], Problem]] = {"MLP 3x128": lambda: problems.mlp(128, 128, 128)}
WAYS = {
    "MLP 3x512": ("unchanged", "weights", "best", "repaired"),
    "narrow ResNet": ("unchanged", "weights", "best", "refined"),
    "char-GPT": ("unchanged", "weights", "best"),
}
# Steps, rate and data of refining; the rate was chosen of three on held-out data of one pair.
STEPS, LR, EXAMPLES = 200, 0.03, 6000
BATCHES = {"char-GPT": 50}
# Running statistics fit no point between two networks: they are estimated anew.
MODES = {"narrow ResNet": "recalibrated"}


def network(name: str, seed: int) -> dict[str, Any]:
    """A trained network with its loss and accuracy on the test data."""
    problem = (ALIGNED | CURVED)[name]()
    state, _ = problems.trained(problem, seed)
    test = problem.objective(problem.test)
    found = test.evaluate_all({"loss": problems.loss, "accuracy": problems.accuracy}, state)
    return {"state": state, "ends": {key: one.value for key, one in found.items()}}


def aligned(name: str, first: State, second: State, way: str) -> dict[str, Any]:
    """The second network as near to the first as a way gets it, and the barrier between them.

    Args:
        name: of the problem.
        first: stays.
        second: is moved.
        way: one of those of `WAYS`.

    Returns:
        The moved state and numbers.
    """
    problem, mode = ALIGNED[name](), MODES.get(name, "eval")
    choose, test = (problem.objective(part, mode) for part in (problem.choose, problem.test))
    first, second = (dict(choose.split(state).whole) for state in (first, second))
    train = problem.objective(problem.train.take(EXAMPLES), mode, BATCHES.get(name, 250))
    began, state, how = time.process_time(), second, way
    if way == "refined":
        found = align(choose, first, second, refine=STEPS, lr=LR, train=train)
    elif way != "unchanged":
        by, starts = ("weights", 1) if way == "weights" else ("best", 3)
        found = align(choose, first, second, by=by, starts=starts)
    if way != "unchanged":
        state, how = dict(found.params), found.way
    seconds = time.process_time() - began
    if way == "repaired":
        measured = repaired_barrier(test, train, first, state)
    else:
        measured = barrier(test, first, state)
    return {"state": state, "way": how, "seconds": seconds} | measured


def barrier(test: la.Objective, first: State, second: State) -> dict[str, Any]:
    """The barrier on the test data, and losses halfway example by example."""
    path, losses = connect(test, first, second), PairedLosses(test)
    middle = losses.sums(halfway(first, second)) / losses.weights
    return {"barrier": described(path), "halfway": middle}


def repaired_barrier(
    test: la.Objective, train: la.Objective, first: State, second: State
) -> dict[str, Any]:
    """The same where every network in between is repaired on a part of the training data."""
    losses, at = PairedLosses(test), np.linspace(0, 1, 11)
    ends = losses.sums(first), losses.sums(second)
    found, middle = [losses.mean(0 * ends[0])], ends[0]
    for t in at[1:-1]:
        between = blend([first, second], [1 - t, t])
        sums = losses.sums(dict(repair(train, between, first, second, t).params))
        found.append(losses.mean(sums - (1 - t) * ends[0] - t * ends[1]))
        middle = sums / losses.weights if t == 0.5 else middle
    found.append(found[0])
    highest = max(range(len(at)), key=lambda k: found[k].value)
    value, error = found[highest].value, found[highest].stderr
    described = {
        "value": value,
        "stderr": error,
        "is certain": value > 1.96 * error,
        "where": at[highest],
        "at": at,
        "excess": [one.value for one in found],
        "band": [1.96 * one.stderr for one in found],
    }
    return {"barrier": described, "halfway": middle}


def described(path: Connection) -> dict[str, Any]:
    """The barrier with its error, and the excess along the path with its band."""
    return {
        "value": path.barrier.value,
        "stderr": path.barrier.stderr,
        "is certain": path.is_barrier_certain,
        "where": path.where,
        "at": path.at,
        "excess": path.excess,
        "band": path.band * path.excess_stderr,
    }


def curved(name: str, first: State, second: State, *, is_aligned: bool) -> dict[str, Any]:
    """The barrier on the line and on a trained curve with one bend."""
    problem = CURVED[name]()
    test, train = problem.objective(problem.test), problem.objective(problem.train)
    if is_aligned:
        second = dict(align(problem.objective(problem.choose), first, second).params)
    line = connect(test, first, second)
    began = time.process_time()
    curve = connect(test, first, second, kind="bezier", steps=3000, lr=0.1, train=train)
    seconds = time.process_time() - began
    return {
        "seconds": seconds,
        "length": curve.length / curve.chord,
        "line": described(line),
        "curve": described(curve),
    }
