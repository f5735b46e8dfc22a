"""Barriers between networks of different seeds, before and after alignment, and curves."""

import time
from collections.abc import Callable
from typing import Any

import problems
from problems import Problem, State

from lossatlas.weights import align, connect
from lossatlas.weights.paired import PairedLosses, halfway

SEEDS = (0, 1, 2)
PAIRS = ((0, 1), (0, 2), (1, 2))
ALIGNED: dict[str, Callable[[], Problem]] = {
    "MLP 3x512": lambda: problems.mlp(512, 512, 512),
    "narrow ResNet": problems.resnet,
    "char-GPT": problems.chargpt,
}
CURVED: dict[str, Callable[[], Problem]] = {"MLP 3x128": lambda: problems.mlp(128, 128, 128)}
WAYS = ("unchanged", "weights", "best")


def network(name: str, seed: int) -> dict[str, Any]:
    """A trained network with its loss and accuracy on the test data."""
    problem = (ALIGNED | CURVED)[name]()
    state, _ = problems.trained(problem, seed)
    test = problem.objective(problem.test)
    found = test.evaluate_all({"loss": problems.loss, "accuracy": problems.accuracy}, state)
    return {"state": state, "ends": {key: one.value for key, one in found.items()}}


def aligned(
    name: str, first: State, second: State, way: str, start: State | None = None
) -> dict[str, Any]:
    """The second network as near to the first as a way gets it, and the barrier between them.

    Args:
        name: of the problem.
        first: stays.
        second: is moved.
        way: one of `WAYS`.
        start: for "refined", the network that "best" gave.

    Returns:
        The moved state and numbers.
    """
    problem = ALIGNED[name]()
    began, state, how = time.process_time(), dict(second), way
    if way in {"weights", "best"}:
        objective = problem.objective(problem.choose)
        starts = 1 if way == "weights" else 3
        found = align(objective, first, second, by=way, starts=starts)
        state, how = dict(found.params), found.way
    if way == "refined":
        objective = problem.objective(problem.choose)
        found = align(
            objective, first, start or second, by="weights", starts=1, refine=STEPS[name],
            train=problem.objective(problem.train.take(TRAINED[name])), lr=RATE,
        )  # fmt: skip
        state, how = dict(found.params), found.way
    seconds = time.process_time() - began
    numbers = barriers(problem, first, state)
    return {"state": state, "way": how, "seconds": seconds, **numbers}


# Of `refine`: steps and how many training examples they go through; the rate.
STEPS = {"MLP 3x512": 100, "narrow ResNet": 200, "char-GPT": 200}
TRAINED = {"MLP 3x512": 20_000, "narrow ResNet": 6000, "char-GPT": 5000}
RATE = 0.03


def barriers(problem: Problem, first: State, second: State) -> dict[str, Any]:
    """Barriers on the test data: as interpolated, and with statistics estimated anew."""
    objective = problem.objective(problem.test)
    found = {"line": connect(objective, first, second)}
    if any(name.endswith("running_mean") for name in first):
        found["norms"] = connect(objective, first, second, repair="norms")
    losses = PairedLosses(objective)
    middle = losses.sums(halfway(first, second)) / losses.weights
    return {
        "barriers": {
            key: {
                "value": path.barrier.value,
                "stderr": path.barrier.stderr,
                "is certain": path.is_barrier_certain,
                "where": path.where,
                "at": path.at,
                "excess": path.excess,
                "band": path.band * path.excess_stderr,
            }
            for key, path in found.items()
        },
        "halfway": middle,
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
        **{
            key: {
                "value": path.barrier.value,
                "stderr": path.barrier.stderr,
                "is certain": path.is_barrier_certain,
                "at": path.at,
                "excess": path.excess,
                "band": path.band * path.excess_stderr,
            }
            for key, path in (("line", line), ("curve", curve))
        },
    }
