"""AdaHessian with Hessian diagonals that have known errors: `python examples/adahessian.py`.

AdaHessian divides momentum by the size of the Hessian's diagonal, which it estimates from one
random vector a step. `lossatlas.curvature.diagonal` measures the same diagonal to a tolerance;
`step(hessian=...)` of pytorch_optimizer takes it. A measured diagonal needs no averaging over
steps, so it may be renewed every tenth step only.
"""

import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import diagonal
from lossatlas.training import build_model, load_dataset

PERIOD = 10


def train(*, is_measured: bool, steps: int = 40, seed: int = 0) -> list[float]:
    """Train on digits with full batches.

    Args:
        is_measured: with measured diagonals; otherwise with those of AdaHessian itself.
        steps: how many.
        seed: of the network and of random vectors.

    Returns:
        The loss before every step.
    """
    from pytorch_optimizer import AdaHessian

    data = load_dataset("digits", normalize="standardized", examples=400)
    model = build_model("mlp(16, activation=tanh)", data, seed=seed)
    batch = data.inputs, data.targets
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
    betas, period = ((0.9, 0.0), 10**9) if is_measured else ((0.9, 0.999), 1)
    optimizer = AdaHessian(
        model.parameters(), lr=0.1, betas=betas, update_period=period, eps=1e-3
    )
    torch.manual_seed(seed)
    losses = []
    for step in range(steps):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        losses.append(loss.item())
        optimizer.zero_grad()
        slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        for value, slope in zip(model.parameters(), slopes, strict=True):
            value.grad = slope if not is_measured else slope.detach()
        hessian = None
        if is_measured and step % PERIOD == 0:
            found = diagonal(objective, tolerance=0.3, limit=60, seed=step)
            hessian = [found.value[name] for name, _ in model.named_parameters()]
        optimizer.step(hessian=hessian)
    return losses


def main() -> None:
    """Print both losses."""
    for is_measured in (False, True):
        losses = train(is_measured=is_measured)
        what = "measured every tenth step" if is_measured else "one random vector a step"
        print(f"{what}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
