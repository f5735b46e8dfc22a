"""The input of a model's head, caught on its way, so that no model need be rewritten."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lossatlas.checks import nearest
from lossatlas.errors import ArgumentError, ModelError, UnknownNameError


class Capture:
    """What `captured_features` hands out.

    Attributes:
        head: the layer whose input is caught.

    Examples:
        >>> layer = nn.Linear(3, 2)
        >>> Capture(layer).head is layer
        True
    """

    def __init__(self, head: nn.Module) -> None:
        self.head = head
        self._features: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """The head's input in the last forward pass, with its graph.

        Returns:
            Shape (..., width).

        Raises:
            ModelError: the head has not run inside the block.
        """
        if self._features is None:
            raise ModelError(
                "the head has not run inside `captured_features`: call the model inside the "
                "block (a model compiled before it was entered does not call hooks)."
            )
        return self._features

    def _take(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._features = args[0]


@contextmanager
def captured_features(
    model: nn.Module, head: str | nn.Module | None = None
) -> Iterator[Capture]:
    """Catch the head's input of every forward pass inside the block.

    Args:
        model: any module.
        head: the layer that makes the logits, or its name in `model.named_modules()`; by
            default the last `nn.Linear` in the order of registration.

    Yields:
        A `Capture`; `.features` is the input of the last pass.

    Raises:
        UnknownNameError: no layer has this name.
        ArgumentError: a layer that is not part of the model.
        ModelError: no linear layer to take by default.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with captured_features(model) as capture:
        ...     logits = model(torch.ones(5, 3))
        >>> capture.features.shape
        torch.Size([5, 4])
    """
    capture = Capture(find_head(model, head))
    handle = capture.head.register_forward_pre_hook(capture._take)
    try:
        yield capture
    finally:
        handle.remove()


def find_head(model: nn.Module, head: str | nn.Module | None = None) -> nn.Module:
    """The layer that makes the logits.

    Args:
        model: any module.
        head: the layer, its name, or None for the last `nn.Linear`.

    Returns:
        The layer.

    Raises:
        UnknownNameError: no layer has this name.
        ArgumentError: a layer that is not part of the model.
        ModelError: no linear layer to take by default.

    Examples:
        >>> find_head(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
        Linear(in_features=4, out_features=2, bias=True)
    """
    named: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(head, str):
        if head not in named:
            raise UnknownNameError(
                f"`head` must be the name of a layer of the model; got {head!r}"
                f"{nearest(head, named)}."
            )
        return named[head]
    if head is not None:
        if not any(head is module for module in named.values()):
            raise ArgumentError("`head` must be a layer of `model`; got one from elsewhere.")
        return head
    linear = [module for module in named.values() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(
            f"{type(model).__name__} has no nn.Linear to take as its head; name one: head=..."
        )
    return linear[-1]
