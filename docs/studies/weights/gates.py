"""How well Kronecker factors describe gates of an LSTM: cosines to the exact Fisher block."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator
from lossatlas.weights import LayerFactors, factors

STEPS, EXAMPLES, SEEDS = (1, 2, 4, 8), (1, 16), 4
NAMES = ("rnn.weight_ih_l0", "rnn.weight_hh_l0")


class Recurrent(nn.Module):
    """An LSTM of four units that reads three inputs a step, and five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits after the last step."""
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def cosines(steps: int, count: int, seed: int) -> dict[str, Any]:
    """Of K-FAC and of EK-FAC, for the weights of inputs and of the hidden state.

    Args:
        steps: length of the sequences.
        count: how many there are.
        seed: of weights and inputs.

    Returns:
        "K-FAC" and "EK-FAC" -> one cosine a weight.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Recurrent().double()
    draw = generator(seed, "inputs", steps)
    x = torch.randn(count, steps, 3, generator=draw, dtype=torch.float64)
    batch = x, torch.zeros(count, dtype=torch.int64)
    task = la.Objective(model, la.supervised(F.cross_entropy), [batch], check=False)
    found: dict[str, Any] = {}
    for how, correct in (("K-FAC", False), ("EK-FAC", True)):
        known = factors(
            task, "rnn", draws=500 if count == 1 else 100, correct=correct, examples=0
        )
        found[how] = [_cosine(known[name], _exact(model, x, known[name])) for name in NAMES]
    return found


def _exact(model: nn.Module, x: Tensor, layer: LayerFactors) -> Tensor:
    """The Fisher block with every label by its probability, over outputs and inputs."""
    named = dict(model.named_parameters())
    total = torch.zeros(layer.eigenvalues.numel(), layer.eigenvalues.numel()).double()
    for example in x:
        logits = model(example[None])[0]
        for share, score in zip(logits.detach().softmax(0), logits.log_softmax(0), strict=True):
            parts = torch.autograd.grad(
                score, [named[name] for name in layer.names], retain_graph=True
            )
            slopes = dict(zip(layer.names, parts, strict=True))
            flat = layer.to_basis(layer.matrix_of(slopes)).flatten()
            total += share * torch.outer(flat, flat) / len(x)
    return total


def _cosine(layer: LayerFactors, exact: Tensor) -> float:
    # In the basis of the factors their own matrix is diagonal.
    about = layer.eigenvalues.flatten()
    return float((about * exact.diagonal()).sum() / (about.norm() * exact.norm()))
