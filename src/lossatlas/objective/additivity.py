"""Is the loss of a batch the mean over its examples? A mean of means may be another number."""

from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lossatlas.errors import LossError
from lossatlas.objective.batches import Batch, batch_size, cut
from lossatlas.objective.losses import Supervised
from lossatlas.objective.weighted import pairs_of, total_of

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# A sum of parts rounds otherwise than the whole; weights of examples change far more.
_TOLERANCE = 1e-4
_BATCHES = 2
# TensorFloat-32 keeps ten bits after the leading one.
_TF32 = 2.0**-10
_PRECISIONS = {"highest": 0.0, "high": _TF32, "medium": torch.finfo(torch.bfloat16).eps}


def weighs_by_itself(objective: "Objective") -> str | None:
    """Compare the first batches of a loss that gives means with those batches in two parts."""
    if objective.mode != "eval":
        # Statistics of a part are others than those of the whole.
        return None
    if objective.collective_ranks is not None:
        # Parts of batches differ from process to process, and passes must not.
        return None
    pairs = objective.with_params(
        None, lambda: [_both(objective, b) for b in islice(objective.iter_batches(), _BATCHES)]
    )
    model = objective.model
    apart = [pair for pair in pairs if pair is not None and not _agree(model, *pair)]
    criterion = objective.loss if isinstance(objective.loss, Supervised) else None
    if criterion is not None and criterion.weighs and (apart or None in pairs):
        raise LossError(
            f"the criterion has `{criterion.weighs}` but gives only the mean of a batch, whose "
            "weight cannot be told: let it take reduction='none', write a loss that returns "
            "la.Weighted(sums, weights), or put all data into one batch."
        )
    if not apart:
        return None
    whole, parts = (f"{float(value):.4g}" for value in apart[0])
    return (
        f"The loss of a batch is not the mean over its examples: {whole} for one whole, "
        f"{parts} for the mean over its two parts. The value is a mean over batches, and "
        "depends on how data are split into them; where tokens or examples have weights, let "
        "the loss return la.Weighted(sums, weights)."
    )


def depends_on_others(objective: "Objective") -> str | None:
    """Compare losses of examples in the first batch with those in two parts of it."""
    if objective.mode != "eval" or objective.volatile.names:
        # Statistics and state are others in a part.
        return None
    batch = objective.first_batch()
    pairs = objective.with_params(None, lambda: _examples_of_both(objective, batch))
    if pairs is None or pairs[0].shape != pairs[1].shape:
        return None
    whole, parts = pairs
    rounding = max(_TOLERANCE, 4 * kernel_rounding(objective.model, whole))
    apart = (whole - parts).abs().double()
    typical = whole.abs().double().nanmean()
    at = int((apart / (whole.abs().double() + typical)).nan_to_num(0.0).argmax())
    if not apart[at] > rounding * (abs(whole[at].double()) + typical):
        return None
    return (
        f"The loss of an example depends on the others in its batch: {float(whole[at]):.4g} "
        f"beside all of them, {float(parts[at]):.4g} beside some. The value depends on how "
        "data are dealt to batches, and standard errors take examples for independent."
    )


def _examples_of_both(objective: "Objective", batch: Batch) -> tuple[Tensor, Tensor] | None:
    try:
        size = batch_size(batch)
        if size < 4:
            # One example alone may be no batch to the loss.
            return None
        middle = size // 2
        parts = (cut(batch, 0, middle), cut(batch, middle, size))
        whole, *pieces = (pairs_of(objective.batch_loss(part)).sums for part in (batch, *parts))
        return whole, torch.cat(pieces)
    except Exception:
        # Whatever a loss does with a part of a batch that it cannot serve.
        return None


def _both(objective: "Objective", batch: Batch) -> tuple[Tensor, Tensor] | None:
    size = batch_size(batch)
    if size < 2 or objective.size_of(batch) != size:
        # Where `size=` says another number, axis 0 is not that of the examples.
        return None
    middle = max(1, size // 3)
    try:
        whole = objective.batch_loss(batch)
        parts = [
            total_of(objective.batch_loss(part), objective.size_of(part))
            for part in (cut(batch, 0, middle), cut(batch, middle, size))
        ]
    except Exception:
        # Whatever a loss does with a part of a batch: there is nothing to compare then.
        return None
    if not isinstance(whole, Tensor) or whole.ndim:
        return None
    weight = parts[0].weight + parts[1].weight
    return whole, (parts[0].sum.double() + parts[1].sum.double()) / weight


def kernel_rounding(model: nn.Module, value: Tensor) -> float:
    """How coarsely the kernels in force round what a value is computed from."""
    kinds = [torch.finfo(value.dtype).eps]
    if value.dtype == torch.float32:
        kinds.append(_PRECISIONS[torch.get_float32_matmul_precision()])
        if value.is_cuda and torch.backends.cudnn.allow_tf32:
            convolves = any(isinstance(part, _ConvNd) for part in model.modules())
            kinds.append(_TF32 if convolves else 0.0)
    return max(kinds)


def _agree(model: nn.Module, whole: Tensor, parts: Tensor) -> bool:
    rounding = max(_TOLERANCE, 4 * kernel_rounding(model, whole))
    return bool(torch.isclose(whole.double(), parts, rtol=rounding, equal_nan=True))
