"""How results state an eigenvalue: its value with the residual bound of its error."""

from lossatlas.curvature.trace import UNIT
from lossatlas.result import Estimate


def eigenvalue_estimate(
    value: float, bound: float, name: str, meaning: str, *, is_minor: bool = False
) -> Estimate:
    """An eigenvalue as an estimate; its meaning says where the sign is not known."""
    unknown_sign = "; its sign is not known" if abs(value) < bound else ""
    return Estimate(
        value,
        bound=bound,
        name=name,
        unit=UNIT,
        meaning=f"{meaning}; error is a residual bound{unknown_sign}",
        is_minor=is_minor,
    )
