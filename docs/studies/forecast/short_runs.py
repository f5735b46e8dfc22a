"""Two hundred short trainings, whose logs the intervals of simple forecasts are measured on."""

import csv
import random
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from torch import nn
from torch.nn import functional

SHARED = Path(__file__).parents[4] / "shared" / "data"
TASKS = (
    "digits-mlp", "digits-logit", "mnist-cnn", "mnist-mlp", "cifar-cnn", "cifar-bn", "gru",
    "tf", "diabetes", "teacher",
)  # fmt: skip
RUNS, CONTEXT, WIDTH = 200, 32, 48
RATES = {"sgd": 0.2, "mom": 0.03, "adam": 3e-3}


@dataclass(frozen=True)
class Setup:
    """One training, drawn from its number."""

    number: int
    task: str
    schedule: str
    optimizer: str
    peak: float
    steps: int
    batch: int
    warmup: int
    every: int
    is_mean: bool

    @property
    def name(self):
        """The name of its log."""
        mean = "m" * self.is_mean
        return (
            f"{self.number:03d}_{self.task}_{self.schedule}_{self.optimizer}_{self.steps}_"
            f"{self.batch}_{self.every}{mean}"
        )

    def rate(self, step):
        """The rate of an update, from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        shapes = {
            "constant": 1.0, "cosine": 0.5 * (1 + np.cos(np.pi * share)), "linear": 1 - share,
            "wsd": min(1.0, max(0.0, (1 - share) / 0.2)),
        }  # fmt: skip
        return self.peak * shapes[self.schedule]


def setup(number):
    """Draw a training."""
    rng, task = random.Random(number), TASKS[number % len(TASKS)]
    schedule = rng.choice(["constant", "constant", "cosine", "linear", "wsd"])
    optimizer = rng.choice(["sgd", "mom", "adam"])
    peak = RATES[optimizer] * 10 ** rng.uniform(-1, 0.3)
    lengths = [200, 400, 800] if task in {"gru", "tf"} else [200, 400, 800, 1600]
    steps, batch = rng.choice(lengths), rng.choice([16, 64])
    warmup, every = rng.choice([0, 0, steps // 20]), rng.choice([1, 1, 5, 10])
    every = every if steps // every >= 40 else 1
    is_mean = every > 1 and rng.random() < 0.5
    return Setup(
        number, task, schedule, optimizer, peak, steps, batch, warmup, every, is_mean
    )  # fmt: skip


def train(run, folder):
    """Train and write the log; a training that diverges has none."""
    torch.manual_seed(run.number)
    generator = torch.Generator().manual_seed(run.number)
    model, batch, loss = _problem(run.task, generator)
    optimizer = _optimizer(run, model)
    rows, recent = [], []
    for step in range(run.steps):
        rate = run.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, target = batch(run.batch)
        value = loss(model(inputs), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        recent.append(value.item())
        if (step + 1) % run.every == 0:
            rows.append((step + 1, np.mean(recent) if run.is_mean else recent[-1], rate))
            recent = []
    if np.isfinite([row[1] for row in rows]).all():
        with (folder / f"{run.name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "loss", "lr"), *rows])


def _optimizer(run, model):
    if run.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), run.peak)
    momentum = 0.9 if run.optimizer == "mom" else 0.0
    return torch.optim.SGD(model.parameters(), run.peak, momentum=momentum)


# A model, a function that draws a batch, and a loss. The order of random draws is part of it.
def _problem(task, generator):
    if task in {"gru", "tf"}:
        return _text_problem(task, generator)
    if task == "diabetes":
        data = load_diabetes()
        x = _float(data.data / data.data.std(0))
        y = _float((data.target - data.target.mean()) / data.target.std())[:, None]
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
    elif task == "teacher":
        weight = torch.randn(20, 1, generator=generator)
        x = torch.randn(4000, 20, generator=generator)
        y = torch.tanh(x @ weight) + 0.1 * torch.randn(4000, 1, generator=generator)
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
    else:
        (x, y), model = _images(task.partition("-")[0]), _classifier(task)

    def batch(size):
        index = torch.randint(len(x), (size,), generator=generator)
        return x[index], y[index]

    is_regression = task in {"diabetes", "teacher"}
    return model, batch, functional.mse_loss if is_regression else functional.cross_entropy


def _classifier(task):
    if task == "digits-logit":
        return nn.Linear(64, 10)
    if task == "digits-mlp":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    if task == "mnist-mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))
    channels, side = (1, 28) if task == "mnist-cnn" else (3, 16)

    def norm(width):
        return nn.BatchNorm2d(width) if task == "cifar-bn" else nn.Identity()

    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1), norm(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), norm(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * ((side + 3) // 4) ** 2, 10),
    )  # fmt: skip


def _float(values):
    return torch.tensor(values, dtype=torch.float32)


@cache
def _images(data):
    if data == "digits":
        digits = load_digits()
        return _float(digits.data / 16), torch.tensor(digits.target)
    folder, count = ("mnist", 6000) if data == "mnist" else ("cifar10-jpeg", 5000)
    table = pq.read_table(SHARED / folder / "train.parquet").slice(0, count).to_pydict()
    (key,) = (name for name in table if name != "label")
    opened = [Image.open(BytesIO(row["bytes"])) for row in table[key]]
    if data == "cifar":
        opened = [image.resize((16, 16)) for image in opened]
    x = _float(np.stack([np.asarray(image) for image in opened]) / 255.0)
    return x[:, None] if data == "mnist" else x.permute(0, 3, 1, 2), torch.tensor(
        table["label"]
    )


@cache
def _text():
    text = (SHARED / "tinyshakespeare" / "input.txt").read_text()
    place = {letter: i for i, letter in enumerate(sorted(set(text)))}
    return torch.tensor([place[letter] for letter in text]), len(place)


def _text_problem(task, generator):
    ids, letters = _text()
    model = Recurrent(letters) if task == "gru" else Transformer(letters)

    def batch(size):
        first = torch.randint(len(ids) - CONTEXT - 1, (size,), generator=generator)
        window = ids[first[:, None] + torch.arange(CONTEXT + 1)]
        return window[:, :-1], window[:, 1:]

    return model, batch, lambda out, y: functional.cross_entropy(out.flatten(0, 1), y.flatten())


class Recurrent(nn.Module):
    """Letters, one after the other."""

    def __init__(self, letters):
        super().__init__()
        self.embed = nn.Embedding(letters, WIDTH)
        self.cells = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, letters)

    def forward(self, x):
        """Logits of the next letter."""
        return self.out(self.cells(self.embed(x))[0])


class Transformer(nn.Module):
    """Two layers with causal attention."""

    def __init__(self, letters):
        super().__init__()
        self.embed = nn.Embedding(letters, WIDTH)
        self.position = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.out = nn.Linear(WIDTH, letters)

    def forward(self, x):
        """Logits of the next letter."""
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.embed(x) + self.position[:length]
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask, is_causal=True)
        return self.out(hidden)
