"""What the arguments of an objective say by themselves, before any pass."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.objective.in_place import WeightsInPlace, needs_in_place
from lossatlas.objective.modes import MODES
from lossatlas.objective.names import select
from lossatlas.objective.remedies import check_whole
from lossatlas.shards import reshard

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

Derivatives = Literal["autograd", "differences", "unchecked"]
DERIVATIVES: tuple[str, ...] = get_args(Derivatives)


def check_arguments(
    objective: "Objective", params: str | Iterable[str] | None, in_place: bool | None
) -> tuple[tuple[str, ...], WeightsInPlace | None]:
    """Which parameters move, and their places where points are written into the model."""
    model, loss, size = objective.model, objective.loss, objective.size
    _check_model(model)
    if not callable(loss):
        raise ArgumentError(f"`loss` must be callable; got {type(loss).__name__}.")
    check_one_of("mode", objective.mode, MODES)
    if size is not None and not callable(size):
        raise ArgumentError(
            "`size` must be a function batch -> how many examples it holds; got "
            f"{type(size).__name__}."
        )
    check_one_of("derivatives", objective.derivatives, DERIVATIVES)
    reshard(model)
    names = tuple(select(model, params))
    in_place = needs_in_place(model) if in_place is None else in_place
    return names, WeightsInPlace(model, names) if in_place else None


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        inner = next((n for n in ("module_", "module", "model") if hasattr(model, n)), None)
        remedy = f": pass its .{inner}" if inner else ""
        raise ArgumentError(f"`model` must be a torch.nn.Module; got {kind}{remedy}.")
    check_whole(model)
