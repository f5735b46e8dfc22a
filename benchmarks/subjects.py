"""The models and data of the benchmarks; real ones where they lie beside the checkout."""

import os
from dataclasses import dataclass
from pathlib import Path

import harness  # noqa: F401 (sets what OpenMP reads before torch starts it)
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.training.checkpoints import load_weights
from lossatlas.training.datasets import load_dataset
from lossatlas.training.models import build_model

_ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LOSSATLAS_SHARED", _ROOT.parent / "shared"))


@dataclass(frozen=True)
class Case:
    """A model with one batch of data.

    Attributes:
        model: in eval mode.
        inputs: shape (batch, ...).
        targets: class indices, shape (batch,).
        source: where weights and data come from.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    source: str

    @property
    def objective(self) -> la.Objective:
        batch = (self.inputs, self.targets)
        return la.Objective(self.model, la.supervised(F.cross_entropy), [batch])

    def forward(self) -> float:
        """The loss of the batch, as plain torch computes it."""
        with torch.no_grad():
            return F.cross_entropy(self.model(self.inputs), self.targets).item()


def small_network(examples: int = 512) -> Case:
    """An MLP 784-64-10 that was trained for a moment, on MNIST.

    Returns:
        The case; noise in place of pictures where MNIST is missing.
    """
    path = SHARED / "data/mnist/test.parquet"
    if path.exists():
        data = load_dataset(f"parquet:{path}", examples=examples)
        inputs, targets, source = data.inputs.flatten(1).contiguous(), data.targets, "MNIST"
    else:
        inputs, targets = _noise((examples, 784))
        source = "noise"
    model = build_model("mlp(64)", features=784, outputs=10).eval()
    _train(model, inputs, targets, steps=30)
    return Case(model, inputs, targets, source)


def resnet20(examples: int = 512) -> Case:
    """ResNet-20 with the given weights on CIFAR-10.

    Returns:
        The case; random weights on noise where they are missing.
    """
    path = SHARED / "data/cifar10-jpeg/test.parquet"
    weights = SHARED / "models/resnet20-cifar10.safetensors"
    if path.exists() and weights.exists():
        data = load_dataset(f"parquet:{path}", examples=examples, normalize="imagenet")
        model = load_weights(build_model("resnet20", data), weights).eval()
        return Case(model, data.inputs, data.targets, "CIFAR-10, trained")
    model = build_model("resnet20", outputs=10).eval()
    return Case(model, *_noise((examples, 3, 32, 32)), "noise, untrained")


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.before(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(found.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


class TiedTransformer(nn.Module):
    """A language model whose head is its table of tokens."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.table.weight
        for value in self.parameters():
            if value.ndim > 1:
                nn.init.normal_(value, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def language_model(
    vocabulary: int, width: int, layers: int, heads: int, batches: int
) -> la.Objective:
    """A random language model with a tied head, on batches of 8 sequences of 64 tokens.

    Returns:
        The objective; one number a sequence.
    """
    torch.manual_seed(0)
    model = TiedTransformer(vocabulary, width, layers, heads).eval()
    data = [tuple(torch.randint(vocabulary, (2, 8, 64))) for _ in range(batches)]
    return la.Objective(model, sequence_losses, data, check=False)


def sequence_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean loss of each sequence."""
    inputs, targets = batch
    logits = model(inputs)
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(inputs.shape).mean(1)


def _noise(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=source), torch.randint(10, shape[:1], generator=source)


def _train(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
