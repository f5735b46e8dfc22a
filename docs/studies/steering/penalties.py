"""The five claims for penalties, tried again: tuned rivals, ten seeds, paired intervals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from problems import digits
from torch import nn
from torch.nn import functional as F

from lossatlas.curvature import trace
from lossatlas.objective import Objective, supervised
from lossatlas.rng import generator
from lossatlas.steering.penalties import NGERWeighter, nger_weights
from lossatlas.store.ledger import Ledger
from lossatlas.studies.compare import Problem, parse_recipe
from lossatlas.studies.compare.losses import hang_on, training_loss
from lossatlas.workbench import build_model, train

SEEDS = 10
STEPS = 600
# Every method has one number and four values of it; plain training has none.
STRENGTHS = {
    "plain": [""],
    "L2": [f"+l2={x}" for x in (1e-4, 1e-3, 3e-3, 1e-2)],
    "label smoothing": [f"+smoothing={x}" for x in (0.05, 0.1, 0.2, 0.4)],
    "SAM": [f"+sam={x}" for x in (0.02, 0.05, 0.1, 0.3)],
    "SASP, GGN": [f"+sasp={x}" for x in (1e-3, 3e-3, 1e-2, 3e-2)],
    "SASP, Fisher": [f"+sasp-fisher={x}" for x in (1e-3, 3e-3, 1e-2, 3e-2)],
    "SASP + CVP": [f"+sasp={x}+cvp={y}" for x in (3e-3, 1e-2) for y in (1e-3, 1e-2)],
}
DECAYS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
GATES = {
    "L2": "sgd+decay={}",
    "CVP (expansion)": "sgd+cvp={}",
    "Cautious Weight Decay": "sgd+cwd={}",
}
ROBUST = {
    "plain": [""],
    "L2": STRENGTHS["L2"],
    "noisy inputs": [f"+noise={x}" for x in (0.25, 0.5, 1.0, 1.5)],
    "SBMP": [f"+sbmp={x}" for x in (0.3, 1.0, 3.0, 10.0)],
}
NOISES = (0.0, 0.5, 1.0, 1.5)
WEIGHTINGS = ("equal", "NGER", "NGER of the original", "fixed 0.05", "fixed 0.2", "fixed 0.35")
ENDS = ("valid loss", "test loss", "test accuracy", "Hessian trace", "train loss")

Progress = Callable[[str], object]
Job = Callable[[int], list[float]]


def measure(folder: Path, progress: Progress, seeds: int = SEEDS) -> dict[str, np.ndarray]:
    """Run everything, or go on with it.

    Args:
        folder: where what is done is kept.
        progress: called with a line after every training.
        seeds: how many.

    Returns:
        name -> shape (seeds, numbers).
    """
    ledger = Ledger(folder / "penalties.sqlite", {"study": "penalties", "steps": STEPS})
    return {
        name: np.array(
            [_once(ledger, f"{name} {seed}", job, seed, progress) for seed in range(seeds)]
        )
        for name, job in _jobs(digits()).items()
    }


def _once(ledger: Ledger, name: str, job: Job, seed: int, progress: Progress) -> np.ndarray:
    row = ledger.get(name)
    if row is None:
        row = np.array([job(seed)])
        ledger.put(name, row)
        progress(name)
    return row[0]


def _jobs(clean: Problem) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    for noise, problem in ((0, clean), (20, mislabelled(clean, 0.2))):
        for text in dict.fromkeys(t for texts in STRENGTHS.values() for t in texts):
            jobs[f"sasp {noise} {text}"] = _ends(problem, f"sgd{text}")
    for method in GATES.values():
        for lam in DECAYS:
            jobs[f"cvp {method.format(lam)}"] = _ends(clean, method.format(lam))
    for text in dict.fromkeys(t for texts in ROBUST.values() for t in texts):
        jobs[f"sbmp {text}"] = _under_noise(clean, f"sgd{text}")
    for weighting in WEIGHTINGS:
        jobs[f"nger {weighting}"] = _two_tasks(weighting)
    return jobs


def mislabelled(problem: Problem, share: float) -> Problem:
    """The problem with some training labels drawn at random.

    Args:
        problem: any.
        share: of the labels.

    Returns:
        A problem with the same validation and test examples.
    """
    drawn = generator("mislabelled")
    targets = problem.train.targets
    wrong = torch.rand(len(targets), generator=drawn) < share
    other = torch.randint(0, problem.train.outputs, targets.shape, generator=drawn)
    changed = torch.where(wrong, other, targets)
    return replace(problem, train=replace(problem.train, targets=changed))


def trained(problem: Problem, text: str, seed: int) -> nn.Module:
    """One training of the recipe.

    Args:
        problem: data and model.
        text: the recipe.
        seed: of weights, order and penalties.

    Returns:
        The model.
    """
    recipe = parse_recipe(text)
    model = build_model(problem.model, problem.train, seed=seed)

    def make(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        decay = recipe.setting("decay", 0.0)
        optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=decay)
        hang_on(recipe, optimizer)
        return optimizer

    train(
        model,
        problem.train,
        training_loss(recipe, model),
        steps=STEPS,
        optimizer=make,
        batch_size=problem.batch_size,
        schedule="cosine",
        seed=seed,
    )
    return model.eval()


def _ends(problem: Problem, text: str) -> Callable[[int], list[float]]:
    def job(seed: int) -> list[float]:
        model = trained(problem, text, seed)
        found = [_loss(model, data)[0] for data in (problem.valid, problem.test)]
        objective = Objective(model, supervised(F.cross_entropy), problem.train.batches(400))
        curvature = float("nan")
        if np.isfinite(found).all():
            curvature = trace(objective, 0.05, limit=200).value
        return [
            *found,
            _loss(model, problem.test)[1],
            curvature,
            _loss(model, problem.train)[0],
        ]

    return job


def _under_noise(problem: Problem, text: str) -> Callable[[int], list[float]]:
    def job(seed: int) -> list[float]:
        model = trained(problem, text, seed)
        drawn = generator("test noise", seed)
        found = []
        for deviation in NOISES:
            for data in (problem.valid, problem.test):
                noise = deviation * torch.randn(data.inputs.shape, generator=drawn)
                found.append(_loss(model, replace(data, inputs=data.inputs + noise))[1])
        return found

    return job


def _loss(model: nn.Module, data) -> tuple[float, float]:
    with torch.no_grad():
        outputs = model(data.inputs).double()
    right = (outputs.argmax(1) == data.targets).double().mean()
    return float(F.cross_entropy(outputs, data.targets)), float(right)


def _two_tasks(weighting: str) -> Callable[[int], list[float]]:
    def job(seed: int) -> list[float]:
        return _train_two_tasks(weighting, seed)

    return job


def _train_two_tasks(weighting: str, seed: int) -> list[float]:
    """Two signals of one input through one trunk, the second under heavy noise."""
    drawn = generator("two tasks", seed)
    x = torch.rand(300, 2, generator=drawn) * 4 - 2
    signals = torch.stack([(2 * x[:, 0]).sin() + x[:, 1], x[:, 0] * x[:, 1].cos()], 1)
    noise = torch.randn(100, 2, generator=drawn) * torch.tensor([0.05, 1.0])
    seen, targets = x[:100], signals[:100] + noise
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        model.append(nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    weighter, lowest = NGERWeighter(2, window=100), torch.full((2,), torch.inf)
    for _ in range(1500):
        losses = (model(seen) - targets).square().mean(0)
        lowest = torch.minimum(lowest, losses.detach())
        if weighting == "NGER":
            weights = weighter(losses, shared=[model[2].weight])
        elif weighting == "NGER of the original":
            weights = nger_weights(losses.detach(), lowest, torch.ones(2))
        else:
            second = 0.5 if weighting == "equal" else float(weighting.split()[1])
            weights = torch.tensor([1 - second, second])
        optimizer.zero_grad()
        (weights * losses).sum().backward()
        optimizer.step()
    with torch.no_grad():
        errors = (model(x[200:]) - signals[200:]).square().mean(0)
        held = (model(x[100:200]) - signals[100:200]).square().mean(0)
    return [*held.tolist(), *errors.tolist()]
