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
    """The loss of the probe after a few updates, for many initializations at once."""
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
    """The name of the feature."""
    return f"loss after {steps} step{'s' if steps > 1 else ''}"


def early_cost(steps: int, batch_size: int, probe: int) -> float:
    """What the feature costs."""
    return 3.0 * steps * batch_size / probe + 1.0
