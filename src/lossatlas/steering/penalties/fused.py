"""Cross-entropy and SASP of one softmax."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.steering.penalties.sasp import (
    KINDS,
    SaspKind,
    as_rows,
    head_trace,
    squared_length,
)
from lossatlas.steering.penalties.terms import check_weight

_ZERO = torch.zeros(())
_WIDE = frozenset({torch.float32, torch.float64})


def sasp_cross_entropy(
    logits: Tensor,
    features: Tensor,
    targets: Tensor,
    *,
    weight: float = 1e-2,
    kind: SaspKind = "ggn",
    include_bias: bool = True,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy plus `weight` times `sasp_penalty`; the softmax is done once.

    Args:
        logits: shape (..., classes).
        features: the head's input, shape (..., width).
        targets: class indices (...), or probabilities shaped like the logits.
        weight: of the penalty, >= 0. Default 1e-2.
        kind: "ggn" or "fisher". Default "ggn".
        include_bias: whether the head has a bias. Default True.
        ignore_index: class index of rows that are left out. Default -100.
        class_weights: shape (classes,), as in `F.cross_entropy`.
        label_smoothing: as in `F.cross_entropy`. Default 0.

    Returns:
        (total, penalty): two scalars; the penalty is without weight and detached, for logs.

    Raises:
        ArgumentError: shapes or types that do not fit; a negative weight.
        UnknownNameError: an unknown kind.

    Examples:
        >>> total, penalty = sasp_cross_entropy(
        ...     torch.zeros(4, 2), torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), weight=0.1
        ... )
        >>> round(total.item(), 3), penalty.item()
        (0.893, 2.0)
    """
    check_one_of("kind", kind, KINDS)
    weight = check_weight("weight", weight)
    plain = kind == "ggn" and class_weights is None and label_smoothing == 0
    if plain and _is_usual(logits, features, targets, ignore_index):
        losses = _lean(logits, features, targets, weight, include_bias=include_bias)
        if losses is not None:
            return losses[0], losses[2] / len(targets)
    dense = kind == "fisher" or label_smoothing > 0 or targets.is_floating_point()
    rows = as_rows(
        logits,
        features,
        targets,
        dense=dense,
        ignore_index=ignore_index,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
    )
    log_p = rows.logits.log_softmax(-1)
    if rows.targets is None:
        indices = targets.reshape(-1)
        base = (
            F.nll_loss(log_p, indices.to(torch.int64), ignore_index=ignore_index)
            if rows.mass is None and len(indices)
            else rows.mean(-log_p.gather(1, _known(indices, ignore_index)).squeeze(1))
        )
    else:
        base = rows.mean(-(rows.targets * log_p).sum(-1))
    p = log_p.exp()
    error = p if kind == "ggn" or rows.targets is None else p - rows.targets
    square = squared_length(error)
    penalty = head_trace(
        rows, 1 - square if kind == "ggn" else square, include_bias=include_bias
    )
    return torch.add(base, penalty, alpha=weight), penalty.detach()


def _lean(
    logits: Tensor, features: Tensor, targets: Tensor, weight: float, *, include_bias: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    # Total, cross-entropy, and the sum of the penalty over the rows.
    # Where the network is small, every operation costs as much as a layer: as few as can be.
    log_p = logits.log_softmax(-1)
    try:
        base = F.nll_loss(log_p, targets)
    except IndexError:
        # Classes that do not exist: checked, and named, at length.
        return None
    p = log_p.exp()
    reach = torch.linalg.vecdot(features, features)
    curved = torch.dot(1 - torch.linalg.vecdot(p, p), reach + 1 if include_bias else reach)
    total = torch.add(base, curved, alpha=weight / len(targets))
    return total, base.detach(), curved.detach()


def _is_usual(logits: Tensor, features: Tensor, targets: Tensor, ignore_index: int) -> bool:
    # The case of nearly every step, recognized by its shapes; what is odd is checked at length.
    fits = logits.ndim == features.ndim == 2 and targets.dtype == torch.int64
    if not fits or not (features.shape[:1] == targets.shape == logits.shape[:1]):
        return False
    wide = logits.dtype == features.dtype and logits.dtype in _WIDE
    # Autocast lowers these products, and numbers are looked at only where that is free.
    if not wide or not targets.numel() or torch.is_autocast_enabled("cpu"):
        return False
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return ignore_index < 0 <= targets.min().item()


def _known(indices: Tensor, ignore_index: int) -> Tensor:
    return indices.masked_fill(indices == ignore_index, 0).to(torch.int64)[:, None]


class SASPCrossEntropy(nn.Module):
    """Cross-entropy with SASP: a drop-in for `nn.CrossEntropyLoss` that is given the features.

    Args:
        weight: of the penalty, >= 0. Default 1e-2.
        kind: "ggn" or "fisher". Default "ggn".
        include_bias: whether the head has a bias. Default True.
        class_weights: shape (classes,); kept as a buffer.
        ignore_index: class index of rows that are left out. Default -100.
        label_smoothing: as in `nn.CrossEntropyLoss`. Default 0.
        every: the penalty is on at every so many calls in training mode, with so many times its
            weight: nearly the same training at a part of the cost. In eval mode it is always
            on. Default 1.

    Attributes:
        components: "base" and "sasp" of the last call, detached scalars, without weight; "sasp"
            is zero where it was not computed.

    Raises:
        ArgumentError: a negative weight.
        UnknownNameError: an unknown kind.

    Examples:
        >>> criterion = SASPCrossEntropy(weight=0.1)
        >>> total = criterion(torch.zeros(2, 2), torch.ones(2, 3), torch.tensor([0, 1]))
        >>> round(total.item(), 3)
        0.893
    """

    class_weights: Tensor | None

    def __init__(
        self,
        weight: float = 1e-2,
        *,
        kind: SaspKind = "ggn",
        include_bias: bool = True,
        class_weights: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        every: int = 1,
    ) -> None:
        super().__init__()
        check_one_of("kind", kind, KINDS)
        check_at_least("every", every, 1)
        self.every = every
        self.calls = 0
        self.weight, self.kind, self.include_bias = (
            check_weight("weight", weight),
            kind,
            include_bias,
        )
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)
        # Cross-entropy, and the sum of the penalty over so many rows, of the last call; a list,
        # as modules take their time to set an attribute.
        self._last: list[tuple[Tensor, Tensor, int]] = []

    @property
    def components(self) -> dict[str, Tensor]:
        """The parts of the last call; nothing before it."""
        if not self._last:
            return {}
        base, curved, rows = self._last[0]
        return {"base": base, "sasp": curved / rows}

    def forward(self, logits: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """The loss with its penalty.

        Args:
            logits: shape (..., classes).
            features: shape (..., width).
            targets: class indices or probabilities.

        Returns:
            A scalar.
        """
        if self.training and self.every > 1:
            self.calls += 1
            if self.calls % self.every:
                return self._bare(logits, targets)
        weight = self.weight * (self.every if self.training else 1)
        weights = self._buffers["class_weights"]
        plain = self.kind == "ggn" and weights is None and not self.label_smoothing
        if plain and _is_usual(logits, features, targets, self.ignore_index):
            bias = self.include_bias
            losses = _lean(logits, features, targets, weight, include_bias=bias)
            if losses is not None:
                self._last[:] = [(losses[1], losses[2], len(targets))]
                return losses[0]
        total, penalty = sasp_cross_entropy(
            logits,
            features,
            targets,
            weight=weight,
            kind=self.kind,
            include_bias=self.include_bias,
            ignore_index=self.ignore_index,
            class_weights=weights,
            label_smoothing=self.label_smoothing,
        )
        self._last[:] = [(torch.sub(total, penalty, alpha=weight).detach(), penalty, 1)]
        return total

    def get_extra_state(self) -> dict[str, int]:
        """How many calls there were, for the state dict.

        Returns:
            "calls".
        """
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on from a state.

        Args:
            state: what `get_extra_state` gave.
        """
        self.calls = state["calls"]

    def _bare(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.ndim > 2 or targets.dtype != torch.int64:
            classes = logits.shape[-1]
            soft = targets.shape == logits.shape and targets.is_floating_point()
            targets = targets.reshape(-1, classes) if soft else targets.reshape(-1).long()
            logits = logits.reshape(-1, classes)
        base = F.cross_entropy(
            logits,
            targets,
            self.class_weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        self._last[:] = [(base.detach(), _ZERO, 1)]
        return base
