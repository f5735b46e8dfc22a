"""True losses of many initializations, labels, and a predictor of losses beside the truth.

The digits MLP with 256 examples is bound by arithmetic: 1.7 million operations a loss, in which
one network at a time spends a quarter of its time already. What is left to gain is the rest.
"""

import math
import tempfile
from pathlib import Path

import torch
from harness import QUICK, Row, interleaved, once
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.inits.candidates import Candidate, Initializer
from lossatlas.inits.losses import TrueLosses
from lossatlas.inits.pipeline import run_stage
from lossatlas.inits.settings import InitsSettings
from lossatlas.objective import supervised
from lossatlas.training import build_loss, build_model, load_dataset, train_ensemble
from lossatlas.training.seeding import epoch_order

PEER = "weights copied into the model, one forward at a time"
LOSSES = 100_000


def small_cnn() -> nn.Sequential:
    """The network of the published study: 34,522 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def rows() -> list[Row]:
    """CPU time, one thread."""
    digits = load_dataset("digits")
    pictures = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = (pictures, torch.arange(256) % 10)
    mlp = build_model("mlp(32, 32)", digits)
    return [
        _losses("SmallCNN, 34,522 parameters, batch 256", small_cnn(), batch, 288, ">= 3x"),
        _losses("digits MLP 64-32-32-10, batch 256", mlp, _first(digits, 256), 512, ">= 10x"),
        _losses("digits MLP 64-32-32-10, batch 64", mlp, _first(digits, 64), 512, ""),
        _losses("digits MLP 64-32-32-10, batch 32", mlp, _first(digits, 32), 512, ">= 10x"),
        *_drawn(mlp, _first(digits, 256)),
        _labels(digits.take(1347)),
        _surrogate(),
    ]


def _first(data, size: int) -> tuple[Tensor, Tensor]:
    return data.inputs[:size], data.targets[:size]


def _losses(what: str, model: nn.Module, batch, members: int, goal: str) -> Row:
    members = members // 16 if QUICK else members
    loss = supervised(build_loss("cross_entropy"))
    recipes = [Candidate("xavier_normal", 1.0, seed, 0.02) for seed in range(members)]
    stacked = Initializer(model, loss, batch).stack(recipes)
    many = TrueLosses(model.eval(), loss, batch)
    own, (inputs, targets) = dict(model.named_parameters()), batch

    @torch.no_grad()
    def alone() -> list[float]:
        found = []
        for index in range(members):
            for name, value in own.items():
                value.copy_(stacked[name][index])
            found.append(F.cross_entropy(model(inputs), targets).item())
        return found

    worst = float((many(stacked) - torch.tensor(alone())).abs().max())
    if not math.isfinite(worst) or worst > 1e-4:
        raise RuntimeError(f"the two ways differ by {worst:.1e}.")
    times = interleaved({"ours": lambda: many(stacked), "peer": alone})
    scale = LOSSES / members
    return Row(
        f"100,000 true losses, {what}", PEER, times["ours"].median * scale,
        times["peer"].median * scale, "s", goal,
        f"extrapolated from {times['ours'].rounds} x {members} losses; largest difference "
        f"{worst:.0e}",
    )  # fmt: skip


def _drawn(model: nn.Module, batch) -> list[Row]:
    """Drawing the parameters as well: what a pair of stage 1 costs."""
    members = 64 if QUICK else 512
    loss = supervised(build_loss("cross_entropy"))
    initializer = Initializer(model, loss, batch)
    recipes = [Candidate("xavier_normal", 1.0, seed, 0.02) for seed in range(members)]
    many = TrueLosses(model.eval(), loss, batch)
    inputs, targets = batch

    @torch.no_grad()
    def alone() -> list[float]:
        found = []
        for seed in range(members):
            random = torch.Generator().manual_seed(seed)
            for value in model.parameters():
                if value.ndim > 1:
                    nn.init.xavier_normal_(value, generator=random)
                else:
                    nn.init.zeros_(value)
                value.add_(torch.randn(value.shape, generator=random), alpha=0.02)
            found.append(F.cross_entropy(model(inputs), targets).item())
        return found

    jobs = {"ours": lambda: many(initializer.stack(recipes)), "peer": alone}
    times = interleaved(jobs)
    scale = LOSSES / members
    return [
        Row(
            "100,000 pairs, drawn and measured, digits MLP, batch 256",
            "torch.nn.init and one forward at a time", times["ours"].median * scale,
            times["peer"].median * scale, "s", "",
            f"extrapolated from {times['ours'].rounds} x {members} pairs",
        )
    ]  # fmt: skip


def _surrogate() -> Row:
    """What a landscape costs from the published predictor, all it needs counted."""
    points, initializations = (2000, 200)
    plan = {"kinds": ("flat",), "epochs": 1 if QUICK else 5, "anchors": 1, "points": 8}
    with tempfile.TemporaryDirectory() as folder:
        settings = InitsSettings(
            out=Path(folder),
            generate={"samples": 200 if QUICK else 1000},
            surrogate=plan,
        )
        done = [run_stage(settings, stage).result for stage in ("generate", "fit-surrogate")]
    found = done[-1]
    return Row(
        "2,000 landscape losses at each of 200 initializations, digits MLP",
        "the published predictor on flat weights: data, training and use",
        found.true_seconds * points / 1000,
        found.cost("flat", points, initializations),
        "s", ">= 1x",
        f"for one initialization; fitted to {len(done[0])} pairs for {plan['epochs']} epochs, "
        "published are 100,000 for 200",
    )  # fmt: skip


def _labels(data) -> Row:
    members, some, epochs = (20, 4, 1) if QUICK else (200, 20, 25)
    # What is imported with the first training is not its cost.
    _plain(build_model("mlp(32, 32)", data), data.take(64), 0, 1)
    models = [build_model("mlp(32, 32)", data, seed=seed) for seed in range(members)]
    initial = [{n: p.detach().clone() for n, p in m.named_parameters()} for m in models]

    def ours() -> None:
        train_ensemble(
            models[0], data, initial=initial, orders=range(members), epochs=epochs,
            lr=0.05, weight_decay=1e-4, batch_size=32, schedule="cosine",
        )  # fmt: skip

    def alone() -> None:
        for seed, model in enumerate(models[:some]):
            _plain(model, data, seed, epochs)

    _, taken = once(ours)
    _, theirs = once(alone)
    return Row(
        f"{members} digits MLPs, {epochs} epochs, batch 32",
        "plain torch loop, one after another",
        taken, theirs * members / some, "s", ">= 10x",
        f"the peer extrapolated from {some} trainings",
    )  # fmt: skip


def _plain(model: nn.Module, data, seed: int, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    steps = epochs * -(-len(data) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        for picked in epoch_order(seed, epoch, len(data)).split(32):
            loss = F.cross_entropy(model(data.inputs[picked]), data.targets[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
