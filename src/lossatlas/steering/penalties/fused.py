"""Cross-entropy and SASP of one softmax."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from lossatlas.checks import check_one_of
from lossatlas.steering.penalties.onepass import OnePass
from lossatlas.steering.penalties.rows import as_rows
from lossatlas.steering.penalties.sasp import KINDS, head_trace, squared_length
from lossatlas.steering.penalties.terms import check_weight


def sasp_cross_entropy(
    logits: Tensor,
    features: Tensor,
    targets: Tensor,
    *,
    rho: float = 1e-2,
    kind: str = "ggn",
    include_bias: bool = True,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy plus `rho` times `sasp_penalty`; the softmax is done once.

    Args:
        logits: shape (..., classes).
        features: the head's input, shape (..., width).
        targets: class indices (...), or probabilities shaped like the logits.
        rho: weight of the penalty, >= 0. Default 1e-2.
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
    """
    check_one_of("kind", kind, KINDS)
    rho = check_weight("rho", rho)
    plain = kind == "ggn" and class_weights is None and label_smoothing == 0
    if plain and _by_hand(logits, features, targets, ignore_index):
        numbers = (rho, 1.0 if include_bias else 0.0)
        made = OnePass.apply(logits, features, targets, numbers)  # type: ignore[no-untyped-call]
        return made[0], made[1]
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
    return torch.add(base, penalty, alpha=rho), penalty.detach()


def _by_hand(logits: Tensor, features: Tensor, targets: Tensor, ignore_index: int) -> bool:
    # The case of nearly every step, told from its shapes; whatever is odd is checked at length.
    # Compilers and function transforms write the gradient by themselves.
    fits = logits.ndim == features.ndim == 2 and targets.dtype == torch.int64
    if not fits:
        return False
    sizes = (len(features),) == targets.shape == logits.shape[:1] and len(logits) > 0
    wide = logits.dtype == features.dtype and logits.dtype in {torch.float32, torch.float64}
    if not (sizes and wide and logits.device.type == "cpu") or (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    ):
        return False
    if _has_tangent(logits) or _has_tangent(features):
        return False
    low, high = targets.aminmax()
    return ignore_index < 0 and low.item() >= 0 and high.item() < logits.shape[1]


def _has_tangent(part: Tensor) -> bool:
    return forward_ad.unpack_dual(part).tangent is not None  # type: ignore[no-untyped-call]


def _known(indices: Tensor, ignore_index: int) -> Tensor:
    return indices.masked_fill(indices == ignore_index, 0).to(torch.int64)[:, None]


class SASPCrossEntropy(nn.Module):
    """Cross-entropy with SASP: a drop-in for `nn.CrossEntropyLoss` that is given the features.

    Args:
        rho: weight of the penalty, >= 0. Default 1e-2.
        kind: "ggn" or "fisher". Default "ggn".
        include_bias: whether the head has a bias. Default True.
        class_weights: shape (classes,); kept as a buffer.
        ignore_index: class index of rows that are left out. Default -100.
        label_smoothing: as in `nn.CrossEntropyLoss`. Default 0.

    Attributes:
        components: "base" and "sasp" of the last call, detached scalars, without weight.

    Raises:
        ArgumentError: a negative weight.
        UnknownNameError: an unknown kind.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        rho: float = 1e-2,
        *,
        kind: str = "ggn",
        include_bias: bool = True,
        class_weights: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_one_of("kind", kind, KINDS)
        self.rho, self.kind, self.include_bias = check_weight("rho", rho), kind, include_bias
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def components(self) -> dict[str, Tensor]:
        """The parts of the last call; nothing before it."""
        if self._last is None:
            return {}
        total, penalty = self._last
        return {"base": torch.sub(total, penalty, alpha=self.rho), "sasp": penalty}

    def forward(self, logits: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """The loss with its penalty.

        Args:
            logits: shape (..., classes).
            features: shape (..., width).
            targets: class indices or probabilities.

        Returns:
            A scalar.
        """
        total, penalty = sasp_cross_entropy(
            logits,
            features,
            targets,
            rho=self.rho,
            kind=self.kind,
            include_bias=self.include_bias,
            ignore_index=self.ignore_index,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )
        self._last = (total.detach(), penalty)
        return total
