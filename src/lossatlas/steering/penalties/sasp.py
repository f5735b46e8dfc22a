"""SASP: the curvature of the head as a penalty, in closed form."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.rows import Rows, as_rows
from lossatlas.steering.penalties.terms import check_weight

KINDS = ("ggn", "fisher")
PARTS = ("logits", "features")


def sasp_penalty(
    logits: Tensor,
    features: Tensor,
    targets: Tensor | None = None,
    *,
    kind: str = "ggn",
    head: str = "softmax",
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
    """
    moved = [p for p in params if p.requires_grad]
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
    """`rho` times `sasp_penalty`.

    Args:
        rho: weight of the penalty, >= 0. Default 1e-2.
        kind: "ggn" or "fisher". Default "ggn".
        include_bias: whether the head has a bias. Default True.
        head: "softmax", "sigmoid" or "linear". Default "softmax".
        detach: as in `sasp_penalty`.
        ignore_index: as in `sasp_penalty`.
        label_smoothing: as in `sasp_penalty`.

    Raises:
        ArgumentError: a negative weight.
        UnknownNameError: an unknown kind.
    """

    def __init__(
        self,
        rho: float = 1e-2,
        include_bias: bool = True,
        *,
        kind: str = "ggn",
        head: str = "softmax",
        detach: str | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_one_of("kind", kind, KINDS)
        self.rho, self.include_bias = check_weight("rho", rho), include_bias
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
        return self.rho * sasp_penalty(
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
