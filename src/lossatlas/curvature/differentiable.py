"""Twice differentiable or a named error: kernels with a second derivative, and what to say."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.errors import LossError, NonFiniteError
from lossatlas.guard import patched
from lossatlas.linalg.params import on_host
from lossatlas.objective.graph import nodes_behind
from lossatlas.objective.recurrent import unfused_recurrent_layers
from lossatlas.objective.user_code import wrap_errors

_MISSING = re.compile(r"derivative for '?(?:aten::)?([\w:]+)'? is not implemented")
_ONCE = "once_differentiable"
_ONCE_SENTENCE = (
    "the loss is not twice differentiable: a custom torch.autograd.Function is marked "
    "@once_differentiable; write its backward with differentiable operations."
)
_ATTENTION = " (in transformers: attn_implementation='sdpa' or 'eager')"
_REENTRANT = "use_reentrant=True"
_COMPILED = "does not currently support double backward"
_CUT_OFF = (
    "the loss does not depend on the parameters through differentiable operations "
    "(argmax, rounding, .item() or .detach() cut the path); use a smooth loss."
)
_OTHERWISE = (
    "use operations that have one, or pass Objective(..., derivatives='differences') where the "
    "loss is smooth."
)
_CUT = "torch::autograd::Error"
_IN_PLACE = "modified by an inplace operation"
_NO_PATH = "does not require grad"


_SENTENCES = (
    (
        _COMPILED,
        "the loss is not twice differentiable: torch.compile gives no second derivative; "
        "pass the model that was compiled (`model._orig_mod`).",
    ),
    (
        _REENTRANT,
        "the loss is not twice differentiable: torch.utils.checkpoint gives a second "
        "derivative with use_reentrant=False only.",
    ),
    (_ONCE, _ONCE_SENTENCE),
    (
        _IN_PLACE,
        "the model writes into tensors that its gradient needs; switch its cache off (as "
        "in model(..., use_cache=False)), or write `x = x + y` for `x += y`.",
    ),
    (_NO_PATH, _CUT_OFF),
)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


# The parametrization looks it up in torch, the older hook in its own module.
_WEIGHT_NORMS = tuple(
    (place, "_weight_norm", _weight_norm)
    for place in (torch, sys.modules["torch.nn.utils.weight_norm"])
)


class UnreachedError(LossError):
    """The loss of a batch does not depend on the parameters that move.

    Args:
        sentence: how that shows.
    """

    def __init__(self, sentence: str = _CUT_OFF) -> None:
        super().__init__(sentence)
        self.note = "the loss does not depend on it" if sentence == _CUT_OFF else sentence


@contextmanager
def second_derivatives(model: nn.Module) -> Iterator[None]:
    """Use kernels that can be differentiated twice, and say which operation cannot."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(patched(*_WEIGHT_NORMS))
        stack.enter_context(unfused_recurrent_layers(model))
        try:
            yield
        except (RuntimeError, LossError) as error:
            # What fails within the loss comes under another name, with its cause.
            # (That something has no graph may also be the user's own mistake.)
            sentence = explained(str(error.__cause__ or error))
            if sentence == _CUT_OFF and error.__cause__ is not None:
                raise
            if sentence is None:
                with wrap_errors("the second derivative of `loss`", _OTHERWISE):
                    raise
            raise LossError(sentence) from None


def explained(message: str) -> str | None:
    """What an error of torch says about second derivatives."""
    missing = _MISSING.search(message)
    if missing:
        return (
            f"the loss is not twice differentiable: the operation {missing[1]} has no second "
            f"derivative; replace it{_ATTENTION if 'attention' in missing[1] else ''}, or pass "
            "Objective(..., derivatives='differences')."
        )
    return next((sentence for words, sentence in _SENTENCES if words in message), None)


def check_graph(values: Iterable[Tensor | None]) -> None:
    """Require derivatives whose graph has no cut where torch would go past in silence."""
    for node in nodes_behind(value for value in values if value is not None):
        if node.name() == _CUT:
            raise LossError(_ONCE_SENTENCE)


def check_finite(gradients: Mapping[str, Tensor | None]) -> None:
    """Require a gradient without NaN and inf."""
    name = not_finite(gradients)
    if name is not None:
        raise NonFiniteError(
            f"the gradient with respect to '{name}' is not finite at these weights, so "
            "there is no curvature to measure; check the loss (overflow, log of zero)."
        )


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor inf."""
    return not_finite({"": value}) is None


def not_finite(values: Mapping[str, Tensor | None]) -> str | None:
    """The first of some tensors that holds NaN or inf; None where none does."""
    there = {name: value.detach() for name, value in values.items() if value is not None}
    # Sums cost a fraction of the look at every number; they may only overflow in vain.
    sums = on_host([value.sum() for value in there.values()])
    for (name, value), total in zip(there.items(), sums, strict=True):
        if not (math.isfinite(total) or bool(torch.isfinite(value).all())):
            return name
    return None
