"""What steering costs a step: `python docs/studies/steering/costs.py [NETWORK ...]`.

CPU time on one thread, medians of interleaved rounds over the step without it; goes to
costs.json.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.steering import (
    GrowthPolicy,
    InterpolatedGradients,
    LandscapeLR,
    PolynomialAverage,
    sub_batch,
)
from lossatlas.steering.penalties import SASPCrossEntropy

HERE = Path(__file__).parent
BATCH = 128
Step = Callable[[], None]
Extra = Callable[[nn.Module, torch.optim.Optimizer], Callable[[Any], None]]


def main() -> None:
    """Measure all, and write."""
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "MLP 20-64-64-10": lambda: measured(_mlp(20, 64, 64, 10), rounds=25, inner=30),
        "MLP 784-512-512-10": lambda: measured(_mlp(784, 512, 512, 10), rounds=9, inner=6),
        "CNN 3-16-32": lambda: measured(_controllers(), rounds=5, inner=200),
        "GPT-2 of 2 layers, width 128, Trainer": _trainers,
    }
    kept = HERE / "costs.json"
    found = json.loads(kept.read_text())
    for name in sys.argv[1:] or parts:
        found[name] = parts[name]()
        kept.write_text(json.dumps(found, indent=1) + "\n")


def measured(steps: dict[str, Step], rounds: int, inner: int) -> dict[str, float]:
    """Ratios to the step called "plain".

    Args:
        steps: name -> one training step.
        rounds: in each of which every step has its turn.
        inner: steps of a turn.

    Returns:
        name -> median ratio over the rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.process_time()
            for _ in range(inner):
                step()
            times[name].append(time.process_time() - began)
    return _ratios(times)


def _ratios(times: dict[str, list[float]]) -> dict[str, float]:
    plain = np.array(times["plain"])
    ratios = {n: float(np.median(np.array(t) / plain)) for n, t in times.items()}
    print(ratios, flush=True)
    return {name: round(ratio, 3) for name, ratio in ratios.items() if name != "plain"}


def _mlp(*widths: int) -> dict[str, Step]:
    return {
        "plain": _step(widths),
        "SASP": _step(widths, SASPCrossEntropy(0.01)),
        "SASP, every=8": _step(widths, SASPCrossEntropy(0.01, every=8)),
        "one average": _step(widths, extra=_average(gamma=16)),
        "bank of three": _step(widths, extra=_average()),
        "bank of three after 10,000 updates": _step(widths, extra=_average(count=10_000)),
        "bank of three, every=4": _step(widths, extra=_average(every=4)),
        "growth": _step(widths, extra=_growth),
        "interpolated, bank of four": _step(widths, extra=_interpolated),
    }


def _step(widths: tuple[int, ...], loss: Any = None, extra: Extra | None = None) -> Step:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    body, head = model[:-1], model[-1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    after_step = extra(model, optimizer) if extra else None
    x, y = torch.randn(BATCH, widths[0]), torch.randint(0, widths[-1], (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        features = body(x)
        logits = head(features)
        value = F.cross_entropy(logits, y) if loss is None else loss(logits, features, y)
        value.backward()
        optimizer.step()
        if after_step is not None:
            after_step(value)

    return step


def _average(count: int = 0, **settings: Any) -> Extra:
    def make(model: nn.Module, _: torch.optim.Optimizer) -> Callable[[Any], None]:
        average = PolynomialAverage(model, **settings)
        if count:
            state = average.state_dict() | {"count": count}
            average.load_state_dict(state | {"taken": [count] * len(average.gammas)})
        return lambda _: average.update()

    return make


def _growth(_: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Any], None]:
    controller = LandscapeLR(optimizer, GrowthPolicy())
    return lambda value: controller.step(loss=value)


def _interpolated(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Any], None]:
    InterpolatedGradients(optimizer, PolynomialAverage(model, (0, 4, 16, 64)))
    return lambda _: None


def _controllers() -> dict[str, Step]:
    return {name: _steered(name) for name in ("plain", *CONTROLLERS)}


CONTROLLERS = {
    "LandscapeLR, a probe in 50 steps": {"interval": 50},
    "LandscapeLR, a probe in 50 to 200 steps": {"interval": 50, "max_interval": 200},
}


def _steered(name: str) -> Step:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    x, y = torch.randn(BATCH, 3, 16, 16), torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    controller = None
    if name in CONTROLLERS:
        controller = LandscapeLR(optimizer, warmup=0, **CONTROLLERS[name])
    closure = sub_batch(model, la.supervised(F.cross_entropy), (x, y))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if controller is not None:
            controller.step(closure)

    return step


# A probe makes 17 passes over `examples` of a batch of 16 here.
TRAINERS = (
    "AverageCallback", "SteeringMixin, growth", "SteeringMixin", "SteeringMixin, examples=4",
)  # fmt: skip


def _trainers(rounds: int = 5, steps: int = 53) -> dict[str, float]:
    """Seconds between the begin and the end of a training by Transformers' Trainer."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in ("plain", *TRAINERS):
            times.setdefault(name, []).append(_trained(name, steps))
    return _ratios(times)


def _trained(name: str, steps: int) -> float:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from lossatlas.integrations.huggingface import AverageCallback, SteeringMixin
    from lossatlas.integrations.huggingface_base import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in {2, steps - 1}:
                seconds.append(time.process_time())

    class Steered(SteeringMixin, Trainer): ...

    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=512, n_positions=64, n_embd=128, n_layer=2, n_head=4)
    )
    tokens = torch.randint(0, 512, (16 * steps, 64))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    policy = {"policy": GrowthPolicy()} if "growth" in name else {"warmup": 0}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant",
            logging_strategy="no",
        )  # fmt: skip
        steered: dict[str, Any] = {"steering": policy} if "Steering" in name else {}
        if "examples" in name:
            steered["examples"] = 4
        callbacks = [Clock(), *([AverageCallback()] if "Average" in name else [])]
        kind = Steered if steered else Trainer
        kind(
            model=model, args=settings, train_dataset=data, callbacks=callbacks, **steered
        ).train()  # fmt: skip
    return seconds[1] - seconds[0]


if __name__ == "__main__":
    main()
