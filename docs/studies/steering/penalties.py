"""The five claims for penalties, tried again: tuned rivals, many seeds, paired intervals."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from problems import digits
from stacked import Setting, Training, Weights, each_member
from torch import Tensor
from torch.nn import functional as F

from lossatlas.curvature import trace
from lossatlas.executor import run_tasks
from lossatlas.io import open_ledger, run_identity
from lossatlas.objective import Objective, supervised
from lossatlas.recipes import TrainingSetup
from lossatlas.rng import generator
from lossatlas.steering.penalties import NGERWeighter, nger_weights
from lossatlas.training import build_model

SEEDS = 20
STEPS = 400
# Every method has four settings to choose from, around the best on the validation examples of
# a first round; plain training has none.
STRENGTHS: dict[str, list[Setting]] = {
    "plain": [{}],
    "L2": [{"l2": x} for x in (3e-3, 1e-2, 3e-2, 1e-1)],
    "label smoothing": [{"smoothing": x} for x in (0.02, 0.05, 0.1, 0.2)],
    "SAM": [{"sam": x} for x in (0.1, 0.3, 0.6, 1.0)],
    "SASP, GGN": [{"sasp": x} for x in (3e-3, 1e-2, 3e-2, 1e-1)],
    "SASP, Fisher": [{"sasp-fisher": x} for x in (1e-2, 3e-2, 1e-1, 3e-1)],
    "SASP + CVP": [{"sasp": x, "cvp": y} for x in (1e-2, 3e-2) for y in (1e-2, 3e-2)],
    "SASP + CVP, original": [
        {"sasp-fisher": x, "cvp-original": y} for x in (1e-2, 1e-1) for y in (1e-2, 3e-2)
    ],
}
DECAYS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
GATES = {
    "L2": "l2",
    "CVP, original": "cvp-original",
    "CVP, gate without units": "cvp",
    "Cautious Weight Decay": "cwd",
}
# The length of the move is that of the original, and twice it: 0.6 and 1.2 a pixel.
ROBUST: dict[str, list[Setting]] = {
    "plain": [{}],
    "L2": STRENGTHS["L2"],
    "noisy inputs": [{"noise": x} for x in (0.25, 0.5, 1.0, 1.5)],
    "SBMP": [{"sbmp": lam, "alpha": a} for lam in (1.0, 3.0) for a in (5.0, 10.0)],
}
NOISES = (0.0, 0.5, 1.0, 1.5)
TASK_STEPS = 600
WEIGHTINGS = {
    "equal": [0.5],
    "fixed": [0.005, 0.02, 0.08, 0.3],
    "NGER": [0.0, 0.5, 1.0, 2.0],
    "NGER, original": [0.0, 0.5, 1.0, 2.0],
}
ENDS = ("valid loss", "test loss", "test accuracy", "train loss", "Hessian trace")
TASK_ENDS = ("valid loss", "clean error, first task", "clean error, noisy task")

Array = np.ndarray


def measure(folder: Path) -> dict[str, Array]:
    """Run everything, or go on with it.

    Args:
        folder: where what is done is kept.

    Returns:
        "claim method" -> shape (settings, seeds, numbers).
    """
    jobs, run = _jobs(digits()), run_identity("penalties", {"steps": STEPS, "seeds": SEEDS})
    with open_ledger(folder / "penalties.sqlite", run) as ledger:
        tables = list(run_tasks(jobs, lambda: lambda job: job(), ledger=ledger, progress=True))
    return {n: t.reshape(len(t), SEEDS, -1) for n, t in zip(jobs, tables, strict=True)}


def _jobs(clean: TrainingSetup) -> dict[str, Callable[[], Array]]:
    jobs: dict[str, Callable[[], Array]] = {}
    for noise, problem in (("clean", clean), ("mislabeled", mislabeled(clean, 0.2))):
        for method, settings in STRENGTHS.items():
            jobs[f"{noise} {method}"] = partial(_ends, problem, settings)
    for method, part in GATES.items():
        jobs[f"decay {method}"] = partial(
            _ends, clean, [{part: x} for x in DECAYS], curved=False
        )
    for method, settings in ROBUST.items():
        jobs[f"robust {method}"] = partial(_under_noise, clean, settings)
    for method, numbers in WEIGHTINGS.items():
        jobs[f"tasks {method}"] = partial(_two_tasks, method, numbers)
    return jobs


def mislabeled(problem: TrainingSetup, share: float) -> TrainingSetup:
    """The problem with some training labels drawn at random.

    Args:
        problem: any.
        share: of the labels.

    Returns:
        A problem with the same validation and test examples.
    """
    drawn = generator("mislabeled")
    targets = problem.train.targets
    wrong = torch.rand(len(targets), generator=drawn) < share
    other = torch.randint(0, problem.train.outputs, targets.shape, generator=drawn)
    changed = torch.where(wrong, other, targets)
    return replace(problem, train=replace(problem.train, targets=changed))


def _ends(problem: TrainingSetup, settings: list[Setting], *, curved: bool = True) -> Array:
    weights = Training(problem, settings, SEEDS).run(STEPS)
    columns = [*_losses(weights, problem), np.full(len(weights[0]), np.nan)]
    table = np.stack(columns, 1).reshape(len(settings), SEEDS, len(ENDS))
    if curved:
        # Only where the validation examples send us: traces cost more than trainings.
        best = int(table[..., 0].mean(1).argmin())
        for seed in range(SEEDS):
            table[best, seed, -1] = _trace(problem, weights, best * SEEDS + seed)
    return table


def _losses(weights: Weights, problem: TrainingSetup) -> list[Array]:
    found = []
    for data in (problem.valid, problem.test, problem.train):
        outputs = each_member(weights, data.inputs).double()
        targets = data.targets.expand(len(outputs), -1)
        losses = F.cross_entropy(outputs.mT, targets, reduction="none").mean(1)
        found.append((losses.numpy(), _accuracies(outputs, data.targets)))
    (valid, _), (test, right), (train, _) = found
    return [valid, test, right, train]


def _accuracies(outputs: Tensor, targets: Tensor) -> Array:
    return (outputs.argmax(2) == targets).double().mean(1).numpy()


def _trace(problem: TrainingSetup, weights: Weights, member: int) -> float:
    model = build_model(problem.model, problem.train, seed=0)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value[member])
    objective = Objective(model, supervised(F.cross_entropy), problem.train.batches(400))
    return trace(objective, 0.1, limit=100).value


def _under_noise(problem: TrainingSetup, settings: list[Setting]) -> Array:
    weights = Training(problem, settings, SEEDS).run(STEPS)
    drawn = generator("test noise")
    columns = []
    for deviation in NOISES:
        for data in (problem.valid, problem.test):
            noise = deviation * torch.randn(data.inputs.shape, generator=drawn)
            outputs = each_member(weights, data.inputs + noise)
            columns.append(_accuracies(outputs, data.targets))
    return np.stack(columns, 1).reshape(len(settings), SEEDS, len(columns))


def _two_tasks(method: str, numbers: list[float]) -> Array:
    """Two signals of one input through one trunk, the second under heavy noise."""
    return np.stack([_one_weighting(method, number) for number in numbers])


def _one_weighting(method: str, number: float) -> Array:
    drawn = generator("two tasks")
    x = torch.rand(SEEDS, 400, 2, generator=drawn) * 4 - 2
    signals = torch.stack([(2 * x[..., 0]).sin() + x[..., 1], x[..., 0] * x[..., 1].cos()], -1)
    noisy = signals + torch.randn(signals.shape, generator=drawn) * torch.tensor([0.05, 1.0])
    weights = [
        (torch.rand(SEEDS, *shape, generator=drawn) * 2 - 1).mul_(shape[0] ** -0.5)
        for shape in ((2, 64), (64, 64), (64, 2))
    ]
    weights = [w.requires_grad_() for w in weights]
    biases = [torch.zeros(SEEDS, 1, w.shape[2], requires_grad=True) for w in weights]
    optimizer = torch.optim.Adam([*weights, *biases], lr=3e-3)
    weigh = _weighter(method, number)
    for _ in range(TASK_STEPS):
        losses = (_tanh_net(weights, biases, x[:, :100]) - noisy[:, :100]).square().mean(1)
        kappas = _kappas(losses, weights[1]) if "NGER" in method else losses.detach()
        optimizer.zero_grad()
        (weigh(losses.detach(), kappas) * losses).sum().backward()
        optimizer.step()
    with torch.no_grad():
        found = _tanh_net(weights, biases, x[:, 100:])
    # What is chosen by is as noisy as what is trained on; only the end sees the signals.
    chosen = (found[:, :100] - noisy[:, 100:200]).square().mean((1, 2))
    errors = (found[:, 100:] - signals[:, 200:]).square().mean(1)
    return torch.cat([chosen[:, None], errors], 1).double().numpy()


def _tanh_net(weights: list[Tensor], biases: list[Tensor], hidden: Tensor) -> Tensor:
    *inner, last = zip(weights, biases, strict=True)
    for weight, bias in inner:
        hidden = torch.baddbmm(bias, hidden, weight).tanh()
    return torch.baddbmm(last[1], hidden, last[0])


def _kappas(losses: Tensor, shared: Tensor) -> Tensor:
    """Squared lengths of the gradients of each task in the layer before the last."""
    columns = [
        torch.autograd.grad(task.sum(), shared, retain_graph=True)[0].square().sum((1, 2))
        for task in losses.unbind(1)
    ]
    return torch.stack(columns, 1)


def _weighter(method: str, number: float) -> Callable[[Tensor, Tensor], Tensor]:
    if method in {"equal", "fixed"}:
        return lambda losses, kappas: torch.tensor([1 - number, number])
    if method == "NGER":
        members = [NGERWeighter(2, gamma=number, window=100) for _ in range(SEEDS)]
        return lambda losses, kappas: torch.stack(
            [own(*row) for own, *row in zip(members, losses, kappas, strict=True)]
        )
    window: list[Tensor] = []

    def original(losses: Tensor, kappas: Tensor) -> Tensor:
        window.append(losses)
        lowest = torch.stack(window[-200:]).min(0).values
        return torch.func.vmap(partial(nger_weights, gamma=number))(losses, lowest, kappas)

    return original
