"""Ties between a controller and its optimizer: updates about to be made, updates made."""

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import LRScheduler

from lossatlas.errors import ArgumentError


class Steerer(Protocol):
    """What is told of updates."""

    def before_update(self) -> None:
        """An update is about to be made."""
        ...

    def after_update(self) -> None:
        """An update was made."""
        ...


def attach(optimizer: torch.optim.Optimizer, steerer: Steerer) -> None:
    """Tell somebody of every update of an optimizer, for as long as somebody else holds it."""
    reference = weakref.ref(steerer)

    def before(
        _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        present = reference()
        if present is None:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            present.before_update()
            return None
        told = _telling(closure, present)
        if "closure" in kwargs:
            return args, kwargs | {"closure": told}
        return (args[0], told, *args[2:]), kwargs

    def after(*_: Any) -> None:
        present = reference()
        if present is not None:
            present.after_update()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _telling(closure: Callable[[], Any], steerer: Steerer) -> Callable[[], Any]:
    untold = [steerer]

    def told() -> Any:
        value = closure()
        if untold:
            untold.pop().before_update()
        return value

    return told


def check_pair(optimizer: Any, scheduler: Any) -> None:
    """Require an optimizer, and a scheduler of it or none."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(
            f"`optimizer` must be a torch.optim.Optimizer; got {type(optimizer).__name__}."
        )
    if scheduler is None:
        return
    if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
        raise ArgumentError(
            "`scheduler` must be an LRScheduler of the same optimizer; got "
            f"{type(scheduler).__name__}."
        )
