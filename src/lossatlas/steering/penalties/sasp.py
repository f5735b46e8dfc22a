"""SASP: the curvature of the head as a penalty, in closed form."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_one_of, check_tensors, is_number
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_weight

Head = Literal["softmax", "sigmoid", "linear"]
HEADS: tuple[str, ...] = get_args(Head)


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
    head: Head = "softmax",
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
    is_labeled = indices != ignore_index
    # Where nothing is ignored, leaving it at that saves a handful of kernels a step.
    if keep is None and _is_open(indices) and bool(is_labeled.all()):
        return None
    return is_labeled if keep is None else keep & is_labeled


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
    head: Head, targets: Tensor | None, class_weights: Tensor | None, smoothing: float
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


SaspKind = Literal["ggn", "fisher"]
KINDS: tuple[str, ...] = get_args(SaspKind)
PARTS = ("logits", "features")


def sasp_penalty(
    logits: Tensor,
    features: Tensor,
    targets: Tensor | None = None,
    *,
    kind: SaspKind = "ggn",
    head: Head = "softmax",
    include_bias: bool = True,
    detach: str | None = None,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The trace of the curvature of a linear head, one forward pass, no second derivatives.

    For `logits = head(features)` and the mean loss of the batch, "ggn" is the trace of the
    Hessian in the head's weights, exactly (the loss is convex in them): for cross-entropy
    `mean (1 - |p|^2) (|h|^2 + 1)`. "fisher" is the trace of the empirical Fisher matrix, the
    mean squared length of the examples' gradients: `mean |p - y|^2 (|h|^2 + 1)`. It is no
    curvature: it vanishes faster where examples fit and is largest on examples that are
    confidently wrong, mislabeled ones among them.

    Args:
        logits: shape (..., outputs), with gradient.
        features: the head's input, shape (..., width), with gradient: the penalty also
            shrinks it.
        targets: class indices (...), or numbers shaped like the logits. "ggn" needs them only
            for `ignore_index` and `class_weights`.
        kind: "ggn" or "fisher". Default "ggn".
        head: "softmax" (cross-entropy), "sigmoid" (binary cross-entropy with logits) or
            "linear" (squared error); of the latter two, the mean over outputs. Default
            "softmax".
        include_bias: whether the head has a bias. Default True.
        detach: "logits" or "features" lets no gradient through that factor. Default None.
        mask: bool, shape (...): False leaves a row out.
        ignore_index: class index of rows that are left out. Default -100.
        class_weights: shape (outputs,), as in `F.cross_entropy`.
        label_smoothing: as in `F.cross_entropy`. Default 0; it does not change "ggn".

    Returns:
        A scalar >= 0 in float32 at least, in units of loss / weight^2; 0 for an empty batch.

    Raises:
        ArgumentError: shapes or types that do not fit; "fisher" without targets.
        UnknownNameError: an unknown kind or head.

    Source: "ggn": the Hessian of softmax cross-entropy, diag(p) - p p^T, traced; "fisher":
        Topological Loss Engineering, eq. of SASP, doi:10.5281/zenodo.20497841.

    Examples:
        >>> import torch
        >>> z, h = torch.zeros(4, 2), torch.ones(4, 3)
        >>> sasp_penalty(z, h)
        tensor(2.)
    """
    check_one_of("kind", kind, KINDS)
    if detach is not None:
        check_one_of("detach", detach, PARTS)
    if kind == "fisher" and targets is None:
        raise ArgumentError("`targets` must be given for kind='fisher'; got None.")
    rows = as_rows(
        logits.detach() if detach == "logits" else logits,
        features.detach() if detach == "features" else features,
        targets,
        head=head,
        dense=kind == "fisher",
        mask=mask,
        ignore_index=ignore_index,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
    )
    return head_trace(rows, _OUTPUTS[head, kind](rows), include_bias=include_bias)


def head_trace(rows: Rows, curvature: Tensor, *, include_bias: bool) -> Tensor:
    """The mean of curvature in the outputs times squared length of the input."""
    squares = squared_length(rows.features)
    return rows.mean(curvature * (squares + 1 if include_bias else squares))


def squared_length(rows: Tensor) -> Tensor:
    """The sum of squares of each row; autocast leaves it alone (it lowers `vecdot`)."""
    return rows.square().sum(-1)


def per_example_sasp_penalty(
    losses: Tensor, params: Iterable[Tensor], *, create_graph: bool = True
) -> Tensor:
    """The mean squared length of the examples' gradients in any parameters.

    The trace of the empirical Fisher matrix of these parameters, by one backward pass an
    example; `sasp_penalty(..., kind="fisher")` is the closed form of a linear head.

    Args:
        losses: one number an example, shape (batch,), with their graph.
        params: those that require a gradient count; those that no loss reaches add nothing.
        create_graph: whether the penalty itself can be differentiated. Default True.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ArgumentError: not one loss an example, or no graph, or no parameters.

    Source: the general form of SASP, doi:10.5281/zenodo.20497841.

    Examples:
        >>> w = torch.ones(2, requires_grad=True)
        >>> losses = torch.tensor([[1.0, 0.0], [0.0, 2.0]]) @ w
        >>> per_example_sasp_penalty(losses, [w]).item()
        2.5
    """
    moved = [p for p in check_tensors("params", params) if p.requires_grad]
    if losses.ndim != 1 or not (losses.requires_grad or len(losses) == 0):
        raise ArgumentError(
            "`losses` must be one number an example with its graph, shape (batch,); got "
            f"shape {tuple(losses.shape)}, requires_grad={losses.requires_grad}."
        )
    if not moved:
        raise ArgumentError("`params` must hold a tensor that requires a gradient; got none.")
    total = losses.new_zeros(())
    for loss in losses:
        grads = torch.autograd.grad(
            loss, moved, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        total = total + sum((g.square().sum() for g in grads if g is not None), 0.0)
    return total / max(len(losses), 1)


class SASPLoss(nn.Module):
    """`weight` times `sasp_penalty`.

    Args:
        weight: of the penalty, >= 0. Default 1e-2.
        kind: "ggn" or "fisher". Default "ggn".
        include_bias: whether the head has a bias. Default True.
        head: "softmax", "sigmoid" or "linear". Default "softmax".
        detach: as in `sasp_penalty`.
        ignore_index: as in `sasp_penalty`.
        label_smoothing: as in `sasp_penalty`.

    Raises:
        ArgumentError: a negative weight.
        UnknownNameError: an unknown kind.

    Examples:
        >>> penalty = SASPLoss(weight=0.1)
        >>> penalty(torch.zeros(4, 2), torch.ones(4, 3)).item()
        0.20000000298023224
    """

    def __init__(
        self,
        weight: float = 1e-2,
        include_bias: bool = True,
        *,
        kind: SaspKind = "ggn",
        head: Head = "softmax",
        detach: str | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_one_of("kind", kind, KINDS)
        self.weight, self.include_bias = check_weight("weight", weight), include_bias
        self.kind, self.head, self.detach = kind, head, detach
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(
        self,
        logits: Tensor,
        features: Tensor,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """The weighted penalty.

        Args:
            logits: shape (..., outputs).
            features: shape (..., width).
            targets: as in `sasp_penalty`.
            mask: as in `sasp_penalty`.
            class_weights: as in `sasp_penalty`.

        Returns:
            A scalar.
        """
        return self.weight * sasp_penalty(
            logits,
            features,
            targets,
            kind=self.kind,
            head=self.head,
            include_bias=self.include_bias,
            detach=self.detach,
            mask=mask,
            ignore_index=self.ignore_index,
            class_weights=class_weights,
            label_smoothing=self.label_smoothing,
        )


def _softmax_ggn(rows: Rows) -> Tensor:
    p = rows.logits.softmax(-1)
    return 1 - squared_length(p)


def _softmax_fisher(rows: Rows) -> Tensor:
    return squared_length(rows.logits.softmax(-1) - _wanted(rows))


def _sigmoid_ggn(rows: Rows) -> Tensor:
    p = rows.logits.sigmoid()
    return (p * (1 - p)).mean(-1)


def _sigmoid_fisher(rows: Rows) -> Tensor:
    return squared_length((rows.logits.sigmoid() - _wanted(rows)) / rows.logits.shape[-1])


def _linear_ggn(rows: Rows) -> Tensor:
    return torch.full_like(rows.logits[:, 0], 2.0)


def _linear_fisher(rows: Rows) -> Tensor:
    return squared_length(2 * (rows.logits - _wanted(rows)) / rows.logits.shape[-1])


def _wanted(rows: Rows) -> Tensor:
    if rows.targets is None:
        raise ArgumentError("`targets` must be given for kind='fisher'; got None.")
    return rows.targets


# (head, kind) -> the trace of the curvature in the outputs, one number a row.
_OUTPUTS: dict[tuple[str, str], Callable[[Rows], Tensor]] = {
    ("softmax", "ggn"): _softmax_ggn,
    ("softmax", "fisher"): _softmax_fisher,
    ("sigmoid", "ggn"): _sigmoid_ggn,
    ("sigmoid", "fisher"): _sigmoid_fisher,
    ("linear", "ggn"): _linear_ggn,
    ("linear", "fisher"): _linear_fisher,
}
