"""What is compared on MNIST: each method as blocks of networks, with its real optimizer."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from side_by_side import Block, run, shares, starts

from lossatlas.steering.controller import TopologyLR
from lossatlas.steering.policies import ClimbPolicy, PlateauCooldown, RegimePolicy
from lossatlas.steering.reading import Policy
from lossatlas.studies.compare import Problem

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
FEW = (3e-3, 1e-2, 3e-2)
HORIZONS = (125, 250, 500)


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        rates: base rates.
        told: the schedule that is told the horizon, and so is trained once for each.
        policy: of a controller, which then owns its network.
        optimizer: "adamw", or a class of pytorch_optimizer.
        interval: of the controller, steps.
        patience: its first steps without decisions.
    """

    rates: tuple[float, ...] = RATES
    told: str | None = None
    policy: Callable[[], Policy] | None = None
    optimizer: str = "adamw"
    interval: int = 50
    patience: int = 150


METHODS = {
    "constant": Method(),
    "cosine": Method(told="cosine"),
    "WSD": Method(rates=FEW, told="wsd"),
    "schedule-free": Method(optimizer="ScheduleFreeAdamW"),
    "Prodigy": Method(rates=(1.0,), optimizer="Prodigy"),
    # Both ends of what a user may guess: the rate drops out.
    "climb": Method(rates=(1e-4, 1e-1), policy=ClimbPolicy, interval=4, patience=0),
    "TopoAdamW": Method(rates=FEW, policy=lambda: RegimePolicy(compat="0.1.0")),
    "plateau": Method(rates=FEW, policy=PlateauCooldown, interval=25, patience=50),
}


def measured(problem: Problem, method: Method, seeds: int) -> np.ndarray:
    """Train a method at all its rates.

    Args:
        problem: data and model.
        method: one of `METHODS`.
        seeds: how many.

    Returns:
        Shape (rates, seeds, horizons, 2, measures), as in `side_by_side.run`.
    """
    spans: Sequence[Sequence[int]] = [[h] for h in HORIZONS] if method.told else [HORIZONS]
    tables = [run(problem, _blocks(problem, method, seeds, span[-1]), span) for span in spans]
    table = np.concatenate(tables, 1)
    return table.reshape(len(method.rates), seeds, *table.shape[1:])


def _blocks(problem: Problem, method: Method, seeds: int, steps: int) -> list[Block]:
    alone = method.policy is not None or method.optimizer == "Prodigy"
    groups = [[seed] for seed in range(seeds)] if alone else [list(range(seeds))]
    return [
        _block(problem, method, rate, group, steps) for rate in method.rates for group in groups
    ]


def _block(
    problem: Problem, method: Method, rate: float, seeds: list[int], steps: int
) -> Block:
    weights = starts(problem, seeds)
    optimizer = _optimizer(problem, method, weights, rate)
    free = method.optimizer != "adamw" or method.policy is ClimbPolicy
    share = shares(method.told, steps, problem.warmup)
    scheduler = None if free else torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    if method.policy is None:
        return Block(
            seeds, weights, optimizer, lambda *_: scheduler.step() if scheduler else None
        )
    controller = TopologyLR(
        optimizer,
        method.policy(),
        interval=method.interval,
        warmup=method.patience,
        scheduler=scheduler,
    )
    return Block(
        seeds,
        weights,
        optimizer,
        lambda step, loss, closure: controller.step(closure, loss=loss),
    )


def _optimizer(
    problem: Problem, method: Method, weights: list[torch.Tensor], rate: float
) -> torch.optim.Optimizer:
    if method.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=problem.decay)
    others = importlib.import_module("pytorch_optimizer")
    warmup = {"warmup_steps": problem.warmup} if "Free" in method.optimizer else {}
    made: torch.optim.Optimizer = getattr(others, method.optimizer)(
        weights, lr=rate, weight_decay=problem.decay, **warmup
    )
    return made
