"""What the library does on one card, in at most six minutes; writes benchmarks/GPU.md.

    python benchmarks/gpu.py                  # the first card
    python benchmarks/gpu.py --device cpu     # a dry run: the same jobs, smaller, no file

Each job says what it took, and how far its numbers are from those of the processor. A job that
fails is a row of the table; no job begins after the time is up. The file is written anew after
every row, so that a run that is cut off leaves what it measured.
"""

import argparse
import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator
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
# Seconds without which no row is begun.
LEAST = 20
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


Make = Callable[[Card], tuple[nn.Module, list[Any]]]
Job = Callable[[Card], Iterator[Line]]


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


def maps(card: Card, make: Make) -> Iterator[Line]:
    """Every engine, beside the plain loop on the processor."""
    objective, here = objective_on(card, make), objective_on(card, make, "cpu")
    plane = la.random_plane(objective, seed=0)
    options = {"points": 2, "adaptive": False, "engine": "plain"}
    truth = la.map_plane(here, la.random_plane(here, seed=0), **options)
    for engine in ["auto", "plain", "in_place"] + (["streaming"] if make is tokens else []):
        try:
            yield _map(card, objective, plane, truth.values, make, engine)
        except Exception as error:
            note = f"failed: {type(error).__name__}: {error}"
            yield Line(f"map, {make.__name__}, {engine}", note=note)


def _map(
    card: Card, objective: la.Objective, plane: Any, truth: Any, make: Make, engine: str
) -> Line:
    size = 5 if card.small or make is tokens else 21
    options = {"points": size, "adaptive": False, "engine": engine}
    call = partial(la.map_plane, objective, plane, **options)
    land, seconds, peak = card.timed(call, rounds=1 if make is tokens else 3)
    corners = land.values[:: size - 1, :: size - 1]
    apart = float(np.abs(corners / truth - 1).max())
    each = 1000 * seconds / land.values.size
    note = f"{each:.2f} ms a point, engine {land.engine}, from the processor {apart:.0e}"
    return Line(f"map {size}x{size}, {make.__name__}", seconds, peak, note)


def bare_forward(card: Card) -> Iterator[Line]:
    for make in (images, tokens):
        objective = objective_on(card, make)
        batches = [tuple(v.to(card.device) for v in b) for b in objective.batches]

        def call(objective: la.Objective = objective, batches: Any = batches) -> None:
            with torch.no_grad():
                for x, y in batches:
                    CE(objective.model.eval(), (x, y))

        _, seconds, peak = card.timed(call, rounds=5)
        note = "what a point of a map stands beside"
        yield Line(f"forward passes of {make.__name__}", seconds, peak, note)


def curvature(card: Card, make: Make) -> Iterator[Line]:
    """Eigenvalues and a trace; beside the processor where that takes seconds."""
    objective = objective_on(card, make)
    spectrum, seconds, peak = card.timed(
        lambda: la.spectrum(objective, top=3, bottom=1, density=False), rounds=1
    )
    largest = np.abs(spectrum.top).max()
    note = f"{spectrum.products} products, bound {spectrum.bounds.max() / largest:.0e}"
    if make is vectors:
        near = la.spectrum(objective_on(card, make, "cpu"), top=3, bottom=1, density=False)
        note += f", from the processor {np.abs(spectrum.top - near.top).max() / largest:.0e}"
    yield Line(f"top 3 eigenvalues, {make.__name__}", seconds, peak, note)
    trace, seconds, peak = card.timed(lambda: la.trace(objective, limit=30), rounds=1)
    yield Line(f"trace, {make.__name__}", seconds, peak, f"{trace}")


def controller(card: Card) -> Iterator[Line]:
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
    yield Line(f"{steps} steps with LandscapeLR", took["with"], None, f"{share:+.1%} of them")


def waiting(card: Card) -> Iterator[Line]:
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
    yield Line("waits for the device, 16 points", None, None, f"{counted.waits}")


# What is small first: where time ends, little is missing.
JOBS: dict[str, Job] = {
    "forward passes": bare_forward,
    "maps of vectors": partial(maps, make=vectors),
    "curvature of vectors": partial(curvature, make=vectors),
    "maps of images": partial(maps, make=images),
    "maps of tokens": partial(maps, make=tokens),
    "waits": waiting,
    "controller": controller,
    "curvature of images": partial(curvature, make=images),
}


def run(card: Card, keep: Callable[[list[Line]], None]) -> list[Line]:
    """All jobs, one row after another; `keep` is handed those that are done."""
    started, lines = time.monotonic(), []

    def done(line: Line) -> None:
        lines.append(line)
        sys.stderr.write(f"{line}\n")
        keep(lines)

    for name, job in JOBS.items():
        try:
            for line in _within(name, job(card), started):
                done(line)
        except Exception as error:
            done(Line(name, note=f"failed: {type(error).__name__}: {error}"))
        gc.collect()
        if card.device.type == "cuda":
            torch.cuda.empty_cache()
    return lines


def _within(name: str, rows: Iterator[Line], started: float) -> Iterator[Line]:
    # No row is begun that could not end in time.
    while time.monotonic() - started < 60 * MINUTES - LEAST:
        line = next(rows, None)
        if line is None:
            return
        yield line
    yield Line(name, note="not begun: the time is up")


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
    out = given.out or (None if card.small else HERE / "GPU.md")

    def keep(lines: list[Line]) -> None:
        if out is not None:
            out.write_text(table(card, lines, time.monotonic() - started))

    lines = run(card, keep)
    sys.stdout.write(table(card, lines, time.monotonic() - started))
    return int(any(line.note.startswith("failed") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
