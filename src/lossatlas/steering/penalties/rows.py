"""What a linear head sees of a batch: rows of logits, features and targets, with weights."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.checks import check_one_of, is_number
from lossatlas.errors import ArgumentError

HEADS = ("softmax", "sigmoid", "linear")


@dataclass(frozen=True)
class Rows:
    """A batch as a head sees it, one row an example or token, in float32 at least.

    Attributes:
        logits: shape (rows, outputs).
        features: the head's input, shape (rows, width).
        targets: what the outputs should be, shape (rows, outputs); None where nobody asked.
        mass: what each row counts, shape (rows,); None where each counts 1.
        total: what the weights are divided by; a number or a tensor without axes.
    """

    logits: Tensor
    features: Tensor
    targets: Tensor | None
    mass: Tensor | None
    total: Tensor | float

    def mean(self, values: Tensor) -> Tensor:
        """The weighted mean of one number a row; 0 where nothing counts."""
        weighted = values if self.mass is None else values * self.mass
        return weighted.sum() / self.total


def as_rows(
    logits: Tensor,
    features: Tensor,
    targets: Tensor | None,
    *,
    head: str = "softmax",
    dense: bool = True,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Rows:
    """Check a batch and lay it out in rows."""
    check_one_of("head", head, HEADS)
    _check_shapes(logits, features, targets, mask)
    _check_smoothing(head, targets, class_weights, label_smoothing)
    outputs = logits.shape[-1]
    z = _wide(logits).reshape(-1, outputs)
    h = _wide(features).reshape(-1, features.shape[-1])
    indices = targets is not None and not _is_like(targets, logits)
    y = (
        None
        if targets is None
        else targets.reshape(-1)
        if indices
        else targets.reshape(z.shape)
    )
    keep = _kept(y if indices else None, mask, ignore_index)
    if keep is not None:
        z, h = z.masked_fill(~keep[:, None], 0), h.masked_fill(~keep[:, None], 0)
        y = y if y is None else _without(y, keep)
    if indices and y is not None:
        _check_classes(y, outputs)
    soft = y is not None and (dense or class_weights is not None)
    wanted = _soft(y, z, label_smoothing) if soft and y is not None else None
    if class_weights is not None and wanted is not None:
        weights = _class_weights(class_weights, outputs).to(z)
        counted = weights[y] if indices and y is not None else torch.ones_like(z[:, 0])
        return Rows(z, h, *_weighted(wanted * weights, counted, keep))
    if keep is None:
        return Rows(z, h, wanted, None, float(max(len(z), 1)))
    mass = keep.to(z.dtype)
    return Rows(z, h, wanted, mass, mass.sum().clamp_min(1))


def _is_open(values: Tensor) -> bool:
    # A look at numbers costs a wait on a GPU, and a break of the graph for a compiler.
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_classes(indices: Tensor, outputs: int) -> None:
    if not len(indices) or not _is_open(indices):
        return
    low, high = (int(end) for end in indices.aminmax())
    if low < 0 or high >= outputs:
        raise ArgumentError(
            f"`targets` must be class indices from 0 to {outputs - 1}, or `ignore_index`; got "
            f"{low if low < 0 else high}."
        )


def _weighted(
    scaled: Tensor, counted: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    mass = scaled.sum(1)
    # A class of weight zero leaves rows without mass; their targets do not matter.
    shares = scaled / torch.where(mass > 0, mass, 1.0)[:, None]
    if keep is not None:
        mass, counted = mass * keep, counted * keep
    total = counted.sum()
    return shares, mass, torch.where(total > 0, total, 1.0)


def _soft(y: Tensor, z: Tensor, smoothing: float) -> Tensor:
    if y.ndim > 1:
        soft = y.to(z.dtype)
    else:
        soft = F.one_hot(y.to(torch.int64), z.shape[-1]).to(z.dtype)
    return soft if smoothing == 0 else (1 - smoothing) * soft + smoothing / z.shape[-1]


def _wide(tensor: Tensor) -> Tensor:
    # Squares of half-precision features overflow; sums of them lose their digits.
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _is_like(targets: Tensor, logits: Tensor) -> bool:
    return targets.shape == logits.shape and targets.is_floating_point()


def _kept(indices: Tensor | None, mask: Tensor | None, ignore_index: int) -> Tensor | None:
    keep = None if mask is None else mask.reshape(-1)
    if indices is None:
        return keep
    known = indices != ignore_index
    # Where nothing is ignored, leaving it at that saves a handful of kernels a step.
    if keep is None and _is_open(indices) and bool(known.all()):
        return None
    return known if keep is None else keep & known


def _without(y: Tensor, keep: Tensor) -> Tensor:
    return y.masked_fill(~(keep if y.ndim == 1 else keep[:, None]), 0)


def _check_shapes(
    logits: Tensor, features: Tensor, targets: Tensor | None, mask: Tensor | None
) -> None:
    if logits.ndim < 2 or features.ndim < 2 or logits.shape[:-1] != features.shape[:-1]:
        raise ArgumentError(
            "`logits` and `features` must be (..., outputs) and (..., width) with the same "
            f"leading axes; got {tuple(logits.shape)} and {tuple(features.shape)}: give the "
            "head's input with its batch axis."
        )
    if not logits.is_floating_point() or not features.is_floating_point():
        raise ArgumentError(
            "`logits` and `features` must be of a floating type; got "
            f"{logits.dtype} and {features.dtype}."
        )
    lead = logits.shape[:-1]
    if targets is not None and not (_is_like(targets, logits) or _is_index(targets, lead)):
        raise ArgumentError(
            f"`targets` must be class indices of shape {tuple(lead)} or floating numbers of "
            f"shape {tuple(logits.shape)}; got {targets.dtype} of shape {tuple(targets.shape)}."
        )
    if mask is not None and (mask.shape != lead or mask.dtype != torch.bool):
        raise ArgumentError(
            f"`mask` must be bool of shape {tuple(lead)}; got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )


def _is_index(targets: Tensor, lead: torch.Size) -> bool:
    counts = not targets.is_floating_point() and targets.dtype != torch.bool
    return counts and targets.shape == lead


def _class_weights(given: Tensor, classes: int) -> Tensor:
    if tuple(given.shape) != (classes,):
        raise ArgumentError(
            f"`class_weights` must have shape ({classes},), one weight a class; got "
            f"{tuple(given.shape)}."
        )
    return given


def _check_smoothing(
    head: str, targets: Tensor | None, class_weights: Tensor | None, smoothing: float
) -> None:
    if not is_number(smoothing) or not 0 <= smoothing < 1:
        raise ArgumentError(f"`label_smoothing` must be in [0, 1); got {smoothing!r}.")
    if head != "softmax" and (smoothing or class_weights is not None):
        raise ArgumentError(
            f"`class_weights` and `label_smoothing` belong to head='softmax'; "
            f"got head={head!r}."
        )
    if class_weights is not None and targets is None:
        raise ArgumentError("`targets` must be given where `class_weights` are; got None.")
