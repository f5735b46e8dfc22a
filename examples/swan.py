"""SWAN whose step length comes from measured curvature: `python examples/swan.py`.

SWAN keeps no state: the gradient of a matrix is standardized row by row and whitened, vectors
take the plain gradient. How far to go along that direction d it leaves to a schedule. Here the
length is -<g, d> / <d, G d>, with G the Gauss-Newton matrix of the batch: the minimum of the
quadratic model along d, at the price of one product.

Source: Ma et al., SWAN, arXiv:2412.13148.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import gauss_newton
from lossatlas.training import build_model, load_dataset


def direction(gradient: Tensor, eps: float = 1e-8) -> Tensor:
    """The gradient as SWAN steps against it; a matrix gets equal singular values."""
    if gradient.ndim < 2:
        return gradient / (gradient.norm() + eps)
    rows = gradient.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / (rows.std(1, correction=0, keepdim=True) + eps)
    # The orthogonal factor is (G G^T)^(-1/2) G, which the paper finds by Newton-Schulz.
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    white: Tensor = left @ right
    return (white * (rows.norm() / white.norm())).view_as(gradient)


def train(lr: float | None = None, steps: int = 30, seed: int = 0) -> list[float]:
    """Train on digits with full batches.

    Args:
        lr: length of every step; None reads it off the curvature.
        steps: how many.
        seed: of the network.

    Returns:
        The loss before every step.
    """
    data = load_dataset("digits", normalize="standardized", examples=400)
    model = build_model("mlp(16, activation=tanh)", data, seed=seed)
    batch = data.inputs, data.targets
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    losses = []
    for _ in range(steps):
        losses.append(objective.value())
        gradient = objective.gradient()
        down = {name: -direction(value) for name, value in gradient.items()}
        length = lr
        if length is None:
            bent = _inner(down, gauss_newton(objective) @ down)
            length = -_inner(gradient, down) / max(bent, 1e-12)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.add_(down[name], alpha=length)
    return losses


def _inner(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[name] * value).sum()) for name, value in second.items())


def main() -> None:
    """Print the losses."""
    for lr in (0.003, 0.01, 0.03, None):
        losses = train(lr)
        what = "length from the curvature" if lr is None else f"length {lr}"
        print(f"{what}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
