"""What the library does on one card, in at most six minutes; writes benchmarks/GPU.md.

    python benchmarks/gpu.py                  # the first card
    python benchmarks/gpu.py --device cpu     # a dry run: the same jobs, smaller, no file

Each job says what it took, and how far its numbers are from those of the processor. A job that
fails is a row of the table; no job begins after the time is up.
"""

import argparse
import gc
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator
from lossatlas.steering import LandscapeLR

HERE = Path(__file__).resolve().parent
MINUTES = 6.0
CE = la.supervised(F.cross_entropy)


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    what: str
    seconds: float | None = None
    memory: float | None = None
    note: str = ""


class Card:
    """The device, its clock and its memory."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.small = self.device.type != "cuda"
        cuda = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name(self.device) if cuda else platform.processor()
        self.name = self.name or platform.machine()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, call: Callable[[], Any], rounds: int = 3) -> tuple[Any, float, float]:
        """What a call gives, its median seconds after one more call, and its peak in MiB."""
        found = call()
        seconds = []
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device) if not self.small else 0
        for _ in range(rounds):
            self.wait()
            started = time.perf_counter()
            found = call()
            self.wait()
            seconds.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated(self.device) - before if not self.small else 0
        return found, float(np.median(seconds)), peak / 2**20


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class LanguageModel(nn.Module):
    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embedding(tokens))).mT


def images(card: Card) -> tuple[nn.Module, list[Any]]:
    width, count = (8, 32) if card.small else (32, 512)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), Block(width),
        Block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip
    drawn = generator("gpu", "images")
    x = torch.randn(2 * count, 3, 32, 32, generator=drawn)
    y = torch.randint(0, 10, (2 * count,), generator=drawn)
    return model, list(zip(x.split(count), y.split(count), strict=True))


def vectors(card: Card) -> tuple[nn.Module, list[Any]]:
    drawn = generator("gpu", "vectors")
    model = nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))
    x = torch.randn(512, 784, generator=drawn)
    return model, [(x, torch.randint(0, 10, (512,), generator=drawn))]


def tokens(card: Card) -> tuple[nn.Module, list[Any]]:
    width, layers, vocabulary = (16, 2, 100) if card.small else (512, 8, 32_000)
    length, count = (16, 4) if card.small else (128, 16)
    drawn = generator("gpu", "tokens")
    text = torch.randint(0, vocabulary, (count, length + 1), generator=drawn)
    return LanguageModel(width, layers, vocabulary), [(text[:, :-1], text[:, 1:])]


def objective_on(card: Card, make: Callable[[Card], Any], device: Any = None) -> la.Objective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, batches = make(card)
    # Batches stay with the host: sending them is part of the work.
    return la.Objective(model.to(device or card.device), CE, batches)


def maps(card: Card) -> list[Line]:
    found = []
    points = 5 if card.small else 21
    for make in (vectors, images, tokens):
        objective = objective_on(card, make)
        plane = la.random_plane(objective, seed=0)
        engines = ["auto", "plain", "in_place"] + (["streaming"] if make is tokens else [])
        truth = la.map_plane(
            objective_on(card, make, "cpu"),
            la.random_plane(objective_on(card, make, "cpu"), seed=0),
            points=2,
            adaptive=False,
            engine="plain",
        )
        for engine in engines:
            size = min(points, 5) if make is tokens else points

            options = {"points": size, "adaptive": False, "engine": engine}
            call = partial(la.map_plane, objective, plane, **options)
            land, seconds, peak = card.timed(call, rounds=1 if make is tokens else 3)
            corners = land.values[:: size - 1, :: size - 1]
            apart = float(np.abs(corners / truth.values - 1).max())
            each = 1000 * seconds / land.values.size
            note = (
                f"{each:.2f} ms a point, engine {land.engine}, from the processor {apart:.0e}"
            )
            found.append(Line(f"map {size}x{size}, {make.__name__}", seconds, peak, note))
    return found


def bare_forward(card: Card) -> list[Line]:
    found = []
    for make in (images, tokens):
        objective = objective_on(card, make)
        batches = [tuple(v.to(card.device) for v in b) for b in objective.batches]

        def call(objective: la.Objective = objective, batches: Any = batches) -> None:
            with torch.no_grad():
                for x, y in batches:
                    CE(objective.model.eval(), (x, y))

        _, seconds, peak = card.timed(call, rounds=5)
        note = "what a point of a map stands beside"
        found.append(Line(f"forward passes of {make.__name__}", seconds, peak, note))
    return found


def curvature(card: Card) -> list[Line]:
    found = []
    for make in (vectors, images):
        objective, truth = objective_on(card, make), objective_on(card, make, "cpu")
        if card.small:
            truth = objective
        spectrum, seconds, peak = card.timed(
            lambda o=objective: la.spectrum(o, top=3, bottom=1, density=False), rounds=1
        )
        near = la.spectrum(truth, top=3, bottom=1, density=False)
        apart = float(np.abs(spectrum.top - near.top).max() / np.abs(near.top).max())
        bound = float(spectrum.bounds.max() / np.abs(near.top).max())
        note = (
            f"{spectrum.products} products, from the processor {apart:.0e}, bound {bound:.0e}"
        )
        found.append(Line(f"top 3 eigenvalues, {make.__name__}", seconds, peak, note))
        trace, seconds, peak = card.timed(lambda o=objective: la.trace(o, limit=30), rounds=1)
        found.append(Line(f"trace, {make.__name__}", seconds, peak, f"{trace}"))
    return found


def controller(card: Card) -> list[Line]:
    """What a controller adds to the steps of a training."""
    objective = objective_on(card, images)
    model, (x, y) = objective.model.train(), objective.batches[0]
    x, y = x.to(card.device), y.to(card.device)
    steps, took = (4, {}) if card.small else (60, {})
    for name in ("without", "with"):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        steered = LandscapeLR(optimizer, interval=20, warmup=0) if name == "with" else None

        def train(optimizer: Any = optimizer, steered: Any = steered) -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                if steered is not None:
                    steered.step(lambda: F.cross_entropy(model(x[:24]), y[:24]))

        _, took[name], _ = card.timed(train, rounds=3)
    share = took["with"] / took["without"] - 1
    return [
        Line(f"{steps} steps with LandscapeLR", took["with"], None, f"{share:+.1%} of them")
    ]


def waiting(card: Card) -> list[Line]:
    """How often a map waits for the device."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counted(TorchDispatchMode):
        waits = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            to_host = "_to_copy" in name and str((kwargs or {}).get("device")) == "cpu"
            self.waits += "_local_scalar_dense" in name or to_host
            return func(*args, **(kwargs or {}))

    from lossatlas.landscape.engines import Task, build

    objective = objective_on(card, images)
    engine = build(Task(objective, la.random_plane(objective)), "plain")
    points = np.linspace(-0.5, 0.5, 32).reshape(16, 2)
    with Counted() as counted:
        engine.evaluate(points)
    return [Line("waits for the device, 16 points", None, None, f"{counted.waits}")]


JOBS = (bare_forward, maps, waiting, curvature, controller)


def run(card: Card) -> list[Line]:
    started, lines = time.monotonic(), []
    for job in JOBS:
        left = 60 * MINUTES - (time.monotonic() - started)
        if left < 20:
            lines.append(Line(job.__name__, note="not begun: the time is up"))
            continue
        try:
            lines += job(card)
        except Exception as error:
            lines.append(Line(job.__name__, note=f"failed: {type(error).__name__}: {error}"))
        gc.collect()
        if card.device.type == "cuda":
            torch.cuda.empty_cache()
        for line in lines[-8:]:
            sys.stderr.write(f"{line}\n")
    return lines


def table(card: Card, lines: list[Line], seconds: float) -> str:
    versions = f"torch {torch.__version__}, lossatlas {la.__version__}"
    tf32 = torch.backends.cudnn.allow_tf32
    head = [
        "# On a card",
        "",
        f"{card.name}; {versions}; TensorFloat-32 in convolutions: {'yes' if tf32 else 'no'}. "
        f"`make gpu` took {seconds:.0f} s. Medians of wall time with the device waited for; "
        "memory is what was allocated beside the model; 'off by' is against the processor.",
        "",
        "| what | seconds | MiB | |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {line.what} | {'' if line.seconds is None else f'{line.seconds:.3g}'} | "
        f"{'' if line.memory is None else f'{line.memory:.0f}'} | {line.note} |"
        for line in lines
    ]
    return "\n".join([*head, *rows, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a dry run")
    parser.add_argument("--out", type=Path, default=None, help="by default benchmarks/GPU.md")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.stderr.write("no card can be used here; --device cpu makes a dry run.\n")
        return 2
    card, started = Card(given.device), time.monotonic()
    lines = run(card)
    text = table(card, lines, time.monotonic() - started)
    sys.stdout.write(text)
    out = given.out or (None if card.small else HERE / "GPU.md")
    if out is not None:
        out.write_text(text)
    return int(any(line.note.startswith("failed") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
