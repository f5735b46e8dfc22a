"""The five claims for penalties, tried again: tuned rivals, ten seeds, paired intervals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from problems import digits
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.curvature import trace
from lossatlas.objective import Objective, supervised
from lossatlas.rng import generator
from lossatlas.steering.penalties import (
    NGERWeighter,
    nger_weights,
    ntk_proxies,
    sbmp_penalty,
)
from lossatlas.store.ledger import Ledger
from lossatlas.studies.compare import Problem, parse_recipe
from lossatlas.studies.compare.losses import hang_on, training_loss
from lossatlas.workbench import build_model, train

SEEDS = 10
STEPS = 600
# Every method has four settings to choose from; plain training has none.
STRENGTHS = {
    "plain": [""],
    "L2": [f"+l2={x}" for x in (1e-4, 1e-3, 3e-3, 1e-2)],
    "label smoothing": [f"+smoothing={x}" for x in (0.05, 0.1, 0.2, 0.4)],
    "SAM": [f"+sam={x}" for x in (0.02, 0.05, 0.1, 0.3)],
    "SASP, GGN": [f"+sasp={x}" for x in (1e-3, 3e-3, 1e-2, 3e-2)],
    "SASP, Fisher": [f"+sasp-fisher={x}" for x in (1e-3, 3e-3, 1e-2, 3e-2)],
    "SASP + CVP": [f"+sasp={x}+cvp={y}" for x in (3e-3, 1e-2) for y in (1e-3, 1e-2)],
    "SASP + CVP, original": [
        f"+sasp-fisher={x}+cvp-original={y}" for x in (3e-3, 1e-2) for y in (1e-3, 1e-2)
    ],
}
DECAYS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
GATES = {
    "L2": "sgd+decay={}",
    "CVP, original": "sgd+cvp-original={}",
    "CVP, gate without units": "sgd+cvp={}",
    "Cautious Weight Decay": "sgd+cwd={}",
}
# The length of the move is that of the original, and twice it: per pixel 0.6 and 1.2.
ROBUST = {
    "plain": [""],
    "L2": STRENGTHS["L2"],
    "noisy inputs": [f"+noise={x}" for x in (0.25, 0.5, 1.0, 1.5)],
    "SBMP": [(lam, alpha) for lam in (1.0, 3.0) for alpha in (5.0, 10.0)],
}
NOISES = (0.0, 0.5, 1.0, 1.5)
TASK_STEPS = 800
WEIGHTINGS = {
    "equal": [0.5],
    "fixed": [0.02, 0.05, 0.2, 0.35],
    "NGER": [0.0, 0.5, 1.0, 2.0],
    "NGER, original": [0.0, 0.5, 1.0, 2.0],
}
ENDS = ("valid loss", "test loss", "test accuracy", "Hessian trace", "train loss")
TASK_ENDS = ("valid loss", "clean error, first task", "clean error, noisy task")

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
    jobs = _jobs(digits())
    rows: dict[str, list[np.ndarray]] = {name: [] for name in jobs}
    for seed in range(seeds):
        for name, job in jobs.items():
            rows[name].append(_once(ledger, f"{name} {seed}", job, seed, progress))
    return {name: np.array(found) for name, found in rows.items()}


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
    for setting in dict.fromkeys(s for settings in ROBUST.values() for s in settings):
        jobs[f"sbmp {setting}"] = _under_noise(clean, setting)
    for weighting, settings in WEIGHTINGS.items():
        for setting in settings:
            jobs[f"nger {weighting} {setting}"] = _two_tasks(weighting, setting)
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


def trained(
    problem: Problem, text: str, seed: int, add: Callable[..., Tensor] | None = None
) -> nn.Module:
    """One training of the recipe.

    Args:
        problem: data and model.
        text: the recipe.
        seed: of weights, order and penalties.
        add: (model, batch) -> what is added to the loss.

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

    base = training_loss(recipe, model)
    train(
        model,
        problem.train,
        base if add is None else lambda m, batch: base(m, batch) + add(m, batch),
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


def _under_noise(problem: Problem, setting: str | tuple[float, float]) -> Job:
    text, add = (setting, None) if isinstance(setting, str) else ("", _sbmp(*setting))

    def job(seed: int) -> list[float]:
        model = trained(problem, f"sgd{text}", seed, add)
        drawn = generator("test noise", seed)
        found = []
        for deviation in NOISES:
            for data in (problem.valid, problem.test):
                noise = deviation * torch.randn(data.inputs.shape, generator=drawn)
                found.append(_loss(model, replace(data, inputs=data.inputs + noise))[1])
        return found

    return job


def _sbmp(lam: float, alpha: float) -> Callable[..., Tensor]:
    return lambda model, batch: (
        lam * sbmp_penalty(model(batch[0]), model, batch[0], alpha, model=model)
    )


def _loss(model: nn.Module, data) -> tuple[float, float]:
    with torch.no_grad():
        outputs = model(data.inputs).double()
    right = (outputs.argmax(1) == data.targets).double().mean()
    return float(F.cross_entropy(outputs, data.targets)), float(right)


def _two_tasks(weighting: str, setting: float) -> Job:
    return lambda seed: _train_two_tasks(weighting, setting, seed)


def _train_two_tasks(weighting: str, setting: float, seed: int) -> list[float]:
    """Two signals of one input through one trunk, the second under heavy noise."""
    drawn = generator("two tasks", seed)
    x = torch.rand(400, 2, generator=drawn) * 4 - 2
    signals = torch.stack([(2 * x[:, 0]).sin() + x[:, 1], x[:, 0] * x[:, 1].cos()], 1)
    noisy = signals + torch.randn(400, 2, generator=drawn) * torch.tensor([0.05, 1.0])
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        model.append(nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    weigh = _weighter(weighting, setting, model[2].weight)
    for _ in range(TASK_STEPS):
        losses = (model(x[:100]) - noisy[:100]).square().mean(0)
        weights = weigh(losses)
        optimizer.zero_grad()
        (weights * losses).sum().backward()
        optimizer.step()
    with torch.no_grad():
        # What is chosen by is as noisy as what is trained on; only the end sees the signals.
        chosen = (model(x[100:200]) - noisy[100:200]).square().mean()
        errors = (model(x[200:]) - signals[200:]).square().mean(0)
    return [float(chosen), *errors.tolist()]


def _weighter(weighting: str, setting: float, shared: Tensor) -> Callable[[Tensor], Tensor]:
    if weighting in {"equal", "fixed"}:
        return lambda losses: torch.tensor([1 - setting, setting])
    if weighting == "NGER":
        weighter = NGERWeighter(2, gamma=setting, window=100)
        return lambda losses: weighter(losses, shared=[shared])
    window: list[Tensor] = []

    def original(losses: Tensor) -> Tensor:
        window.append(losses.detach())
        lowest = torch.stack(window[-200:]).min(0).values
        return nger_weights(losses.detach(), lowest, ntk_proxies(losses, [shared]), setting)

    return original
