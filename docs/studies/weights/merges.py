"""Merges of experts: every method beside the average, on data that none was trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import problems
import torch
from problems import Problem, State

import lossatlas as la
from lossatlas.linalg.params import Params
from lossatlas.rng import generator
from lossatlas.training.dataset import Dataset
from lossatlas.weights import MergeComparison, compare_merges
from lossatlas.weights.example_gradients import squared_gradients
from lossatlas.weights.paired import PairedLosses

SEEDS = tuple(range(5))
SEARCH = "search"
ONE_SCALE = "one scale, chosen on the tuning data"
JOINT = "joint training"
SCALES = tuple(round(0.3 + 0.05 * k, 2) for k in range(19))
METHODS = (
    "task_arithmetic:scale=0.7",
    "task_arithmetic:scale=1.0",
    "slerp",
    "ties:density=0.2",
    "ties:density=0.5",
    "dare:density=0.5",
    "dare:density=0.1",
    "stock",
    "regmean",
    "fisher",
    "fisher:normalize=false",
    "ota",
    SEARCH,
)
# A target that counts for nothing in a cross-entropy.
IGNORED = -100
# Weighted by Adam's second moments in the place of Fisher diagonals.
BY_MOMENTS = ("fisher", "ota")


def compared(name: str, seed: int) -> dict[str, Any]:
    """Train a base and two experts, and merge them in every way.

    Args:
        name: of the setting, one of `SETTINGS`.
        seed: of the networks and of random choices.

    Returns:
        "losses", "against" the average (value, paired error), and "coefficients".
    """
    problem, basis, parts, steps, mode = SETTINGS[name]()
    base, _ = problems.trained(problem, seed, data=basis)
    runs = [problems.trained(problem, seed, start=base, data=d, steps=steps) for d in parts]
    both = Dataset(
        torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])
    )
    joint, _ = problems.trained(problem, seed, start=base, data=both, steps=2 * steps)
    test, tune = (problem.objective(part, mode) for part in (problem.test, problem.choose))
    names = test.params.keys()
    base, joint, *experts = (
        {n: s[n] for n in names} for s in (base, joint, *(r[0] for r in runs))
    )
    few = [part.take(500) for part in parts]
    fisher = [_fisher(problem, d, mode, e, seed) for d, e in zip(few, experts, strict=True)]
    found = compare_merges(
        test, base, *experts, methods=METHODS, importances=fisher,
        objectives=[problem.objective(part, mode) for part in few], tune=tune,
        seed=seed,
    )  # fmt: skip
    moments = compare_merges(
        test, base, *experts, methods=BY_MOMENTS, importances=[run[1] for run in runs]
    )
    scale = _best_scale(tune, base, experts)
    scaled = compare_merges(test, base, *experts, methods=[f"task_arithmetic:scale={scale}"])
    rows = _rows(found) | {
        f"{method}, v of Adam": _rows(moments)[method] for method in BY_MOMENTS
    }
    rows[ONE_SCALE] = _rows(scaled)[f"task_arithmetic:scale={scale}"]
    rows[JOINT] = _against(test, joint, base, experts)
    return {
        "against": rows,
        "average": found.losses["average"].value,
        "coefficients": list(found.coefficients[SEARCH]),
        "scale": scale,
        "failed": dict(found.failed),
    }


def _rows(found: MergeComparison) -> dict[str, Any]:
    return {name: [e.value, e.stderr] for name, e in found.against.items()}


def _fisher(problem: Problem, data: Dataset, mode: str, params: Params, seed: int) -> State:
    """Diagonal of the Fisher matrix: squared gradients of labels drawn from the model."""
    objective, draw = problem.objective(data, mode), generator(seed, "labels")

    def drawn() -> torch.Tensor:
        with torch.no_grad():
            logits = torch.cat([objective.model(x) for x, _ in objective.batches])
        labels = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=draw)
        return labels.view(logits.shape[:-1])

    labels = objective.with_params(params, drawn)
    labels[data.targets == IGNORED] = IGNORED
    sampled = problem.objective(replace(data, targets=labels), mode)
    return squared_gradients(sampled, params)


def _moved(base: Params, experts: Sequence[Params], scale: float) -> dict[str, torch.Tensor]:
    return {n: v + scale * sum(e[n] - v for e in experts) for n, v in base.items()}


def _best_scale(tune: la.Objective, base: Params, experts: Sequence[Params]) -> float:
    losses = [tune.value(_moved(base, experts, scale)) for scale in SCALES]
    return SCALES[int(np.argmin(losses))]


def _against(
    test: la.Objective, params: Params, base: Params, experts: Sequence[Params]
) -> list[float]:
    losses = PairedLosses(test)
    average = losses.sums(_moved(base, experts, 1 / len(experts)))
    found = losses.mean(losses.sums(params) - average)
    return [found.value, found.stderr]


Setting = tuple[Problem, Dataset, list[Dataset], int, str]


def by_class() -> Setting:
    """A CNN on MNIST: a base that saw 1,500 images, experts for the digits 0-4 and 5-9."""
    problem = problems.cnn()
    rest = problem.train.skip(1500).take(24_000)
    low = rest.targets < 5
    parts = [rest.pick(side.nonzero().flatten()) for side in (low, ~low)]
    return problem, problem.train.take(1500), parts, 300, "recalibrated"


def by_domain() -> Setting:
    """A char-GPT: a base from all plays, experts for histories and for comedies."""
    problem = problems.chargpt()
    count = len(problem.train)
    basis = problem.train.pick(torch.arange(0, count, 10))
    parts = [problem.train.take(count * 3 // 10), problem.train.skip(count * 7 // 10)]
    problem = replace(problem, steps=200, test=problem.test.take(600))
    return problem, basis, parts, 150, "eval"


def by_character() -> Setting:
    """A char-GPT: experts for two halves of the alphabet as targets, with the same inputs."""
    problem, basis, parts, steps, mode = by_domain()
    whole = Dataset(
        torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])
    )
    halves = [whole.targets % 2 == side for side in (0, 1)]
    parts = [replace(whole, targets=whole.targets.where(half, IGNORED)) for half in halves]
    return problem, basis, parts, steps, mode


def by_turn() -> Setting:
    """A CNN on MNIST: experts for pictures as they are and for those turned by a quarter."""
    problem = problems.cnn()
    problem = replace(
        problem,
        train=problem.train.take(25_500),
        choose=_half_turned(problem.choose),
        test=_half_turned(problem.test),
    )
    basis, rest = _half_turned(problem.train.take(1500)), problem.train.skip(1500)
    parts = [rest.take(12_000), _turned(rest.skip(12_000))]
    return problem, basis, parts, 300, "recalibrated"


def _turned(data: Dataset) -> Dataset:
    return replace(data, inputs=data.inputs.rot90(1, (2, 3)))


def _half_turned(data: Dataset) -> Dataset:
    turned = torch.arange(len(data)) % 2 == 1
    inputs = data.inputs.clone()
    inputs[turned] = inputs[turned].rot90(1, (2, 3))
    return replace(data, inputs=inputs)


SETTINGS: Mapping[str, Callable[[], Setting]] = {
    "experts by domain, char-GPT": by_domain,
    "experts by domain, CNN": by_turn,
    "experts by class, CNN": by_class,
    "experts by class, char-GPT": by_character,
}
