"""The simplest rival of all predictors: train a little, and look."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.training.criteria import Loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.ensemble import train_ensemble
from lossatlas.training.evaluation import evaluate_ensemble

Array = NDArray[np.float64]
AFTER = (1, 5, 20)


def early_losses(
    model: nn.Module,
    data: Dataset,
    loss: Loss,
    probe: Batch,
    initial: Sequence[Params],
    *,
    lr: float,
    optimizer: str = "sgd",
    batch_size: int = 128,
    seed: int = 0,
    after: Sequence[int] = AFTER,
) -> dict[str, Array]:
    """The loss of the probe after a few updates, for many initializations at once.

    Args:
        model: the architecture.
        data: what is trained on.
        loss: loss(model, batch).
        probe: the fixed batch.
        initial: parameters of each candidate.
        lr: constant rate.
        optimizer: "sgd" or "adamw".
        batch_size: examples a batch.
        seed: of the order of the data; the same for all.
        after: numbers of updates.

    Returns:
        "loss after k steps" -> shape (candidates,). After one step it is what GradInit looks at
        (Zhu et al., arXiv:2102.08098). A candidate that diverged stays at its last point.
    """
    run = train_ensemble(
        model,
        data,
        loss,
        initial=list(initial),
        steps=max(after),
        optimizer=optimizer,
        lr=lr,
        orders=seed,
        batch_size=batch_size,
        keep=tuple(sorted(after)),
    )
    kept = dict(zip(run.checkpoint_steps, run.checkpoints, strict=True))
    return {
        early_name(k): evaluate_ensemble(model, kept[k], [probe], loss) for k in sorted(after)
    }


def early_name(steps: int) -> str:
    """The name of the feature.

    Args:
        steps: updates.

    Returns:
        "loss after 1 step", "loss after 5 steps", ...
    """
    return f"loss after {steps} step{'s' if steps > 1 else ''}"


def early_cost(steps: int, batch_size: int, probe: int) -> float:
    """What the feature costs.

    Args:
        steps: updates.
        batch_size: examples a batch.
        probe: examples of the probe.

    Returns:
        Forward passes over the probe; an update counts as three forward passes of its batch.
    """
    return 3.0 * steps * batch_size / probe + 1.0
