"""The peers, each called as its own documentation does, and the loop that people write."""

from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import torch
from subjects import Case
from torch.nn import functional as F

from lossatlas.landscape.plane import Plane

Loss = Any
Map = Callable[[], np.ndarray]


def state_dict_loop(case: Case, plane: Plane, axes: tuple[np.ndarray, ...]) -> Map:
    """Every point of a map by loading a state dict."""
    weights = {name: value.clone() for name, value in case.model.state_dict().items()}
    first, second = ({n: d[n] for n in weights if n in d} for d in plane.directions)

    @torch.no_grad()
    def run() -> np.ndarray:
        losses = np.empty([len(axis) for axis in axes])
        for i, a in enumerate(axes[0].tolist()):
            for j, b in enumerate(axes[1].tolist()):
                case.model.load_state_dict(
                    {
                        n: value + a * first[n] + b * second[n] if n in first else value
                        for n, value in weights.items()
                    }
                )
                losses[i, j] = F.cross_entropy(case.model(case.inputs), case.targets).item()
        case.model.load_state_dict(weights)
        return losses

    return run


def loss_landscapes(
    case: Case, points: int, metric: Loss | None = None, *, copy: bool = True
) -> Map:
    """A filter-normalized random plane of loss-landscapes 3.0.6.

    It leaves the weights displaced and frozen; `copy=True` lets it do so to a copy.
    """
    import loss_landscapes
    from loss_landscapes.metrics import Loss as PeerLoss

    metric = metric or PeerLoss(F.cross_entropy, case.inputs, case.targets)

    @torch.no_grad()
    def run() -> np.ndarray:
        return loss_landscapes.random_plane(
            case.model, metric, 1, points, normalization="filter", deepcopy_model=copy
        )

    return run


def landscaper(case: Case, points: int, loss: Loss | None = None) -> Map:
    """The map of Landscaper 1.3.1 along two random directions, without its topology."""
    from landscaper.compute import compute_loss_landscape

    source = torch.Generator().manual_seed(0)
    shapes = [p.shape for p in case.model.parameters()]
    directions = [[torch.randn(s, generator=source) for s in shapes] for _ in range(2)]
    data = (case.inputs, case.targets)

    def run() -> np.ndarray:
        with harness.silence():
            losses, _ = compute_loss_landscape(
                case.model,
                data,
                directions,
                loss or _scalar,
                steps=points,
                distance=1.0,
                dim=2,
                device="cpu",
            )
        return losses

    return run


def _scalar(model: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    return F.cross_entropy(model(data[0]), data[1]).item()
