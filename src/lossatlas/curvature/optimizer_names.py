"""How sentences name an optimizer: its class, and the momentum of SGD."""

import math
from collections.abc import Mapping
from typing import Any

from lossatlas.checks import check_number
from lossatlas.errors import ArgumentError


def named_with_momentum(name: str, momentum: float, *, nesterov: bool = False) -> str:
    """A name with its momentum, as in "SGD with momentum 0.9"; NaN for an unknown one."""
    if not momentum:
        return f"{name} without momentum"
    word = "Nesterov momentum" if nesterov else "momentum"
    return f"{name} with {word}" + ("" if math.isnan(momentum) else f" {momentum:g}")


def check_momentum(momentum: object) -> None:
    """Require a momentum of SGD, from 0 to below 1."""
    check_number("momentum", momentum, 0.0)
    if not float(momentum) < 1:  # type: ignore[arg-type]
        raise ArgumentError(f"`momentum` must be below 1; got {momentum}.")


def optimizer_name(optimizer: Any) -> str:
    """The class of an optimizer, with the momentum that its groups have."""
    name = type(optimizer).__name__
    groups: list[Mapping[str, Any]] = optimizer.param_groups
    momenta = {
        (float(g["momentum"]), bool(g.get("nesterov"))) for g in groups if "momentum" in g
    }
    if not momenta:
        return name
    if len(momenta) > 1:
        return f"{name} with several momenta"
    ((momentum, nesterov),) = momenta
    return named_with_momentum(name, momentum, nesterov=nesterov)
