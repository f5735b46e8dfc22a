"""A number with its uncertainty, or the reason why it has none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError
from lossatlas.intervals import few_units_note, interval, skewed_note
from lossatlas.io.records import equal, record
from lossatlas.text import with_ends, with_error

UNKNOWN = "not known"
_LEVEL = 0.95


@record
@dataclass(frozen=True, eq=False)
class Estimate:
    """A number with its uncertainty, or the reason why it has none.

    Attributes:
        value: the number.
        stderr: its standard error, same units; 0 if exact (`why_no_error`, if given, is shown
            instead), NaN if unknown.
        products: number of matrix products (or evaluations) used.
        samples: number of independent samples behind the error; 0 if exact.
        reached: whether the requested tolerance was reached.
        why_no_error: why `stderr` is NaN or 0, as a sentence; None if there is an error.
        checked: checks of the derivatives it depends on, one sentence each.
        bound: maximum error instead of a standard error (such as the residual of an
            eigenvalue), same units; NaN if there is none.
        name: name of the quantity, such as "trace".
        unit: unit of value, error and bound.
        meaning: explanation for readers new to the quantity.
        is_minor: whether it is omitted from short tables.
        sample_unit: plural name of a sample, such as "examples".
        effective: effective number of samples with unequal weights, (sum w)^2 / sum w^2; NaN
            means equal weights.
        skewness: skewness of the value over samples of this size: positive if it is often
            slightly too low and rarely much too high; 0 if symmetric or unknown.
        ends: ends of its 95 % interval if computed directly (such as by a bootstrap) and
            possibly asymmetric; None if `interval` derives it from the error.
    """

    value: float
    stderr: float = math.nan
    products: int = 0
    samples: int = 0
    reached: bool = True
    why_no_error: str | None = None
    checked: tuple[str, ...] = ()
    bound: float = math.nan
    name: str = ""
    unit: str = ""
    meaning: str = ""
    is_minor: bool = False
    sample_unit: str = "samples"
    effective: float = math.nan
    skewness: float = 0.0
    ends: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """The bound if there is one, otherwise the standard error; NaN if unknown."""
        return self.bound if math.isfinite(self.bound) else self.stderr

    @property
    def reason(self) -> str:
        """Why there is no error, or an error of zero; otherwise empty."""
        if self.why_no_error is not None or self.error != 0:
            return self.why_no_error or ""
        several = self.samples > 1
        return f"the same for all {self.samples:,} {self.sample_unit}" if several else "exact"

    @property
    def caveat(self) -> str:
        """Assumptions of the interval of a mean over few or skewed losses; often empty."""
        if self.sample_unit not in {"examples", "batches"} or not self.error > 0:
            return ""
        few = few_units_note(self.samples, self.sample_unit)
        return few or skewed_note(self.samples, self.sample_unit, self.skewness)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval: `ends`, value -+ bound, or Student's t."""
        if not is_number(level) or not 0 < level < 1:
            raise ArgumentError(f"`level` must be between 0 and 1; got {level!r}.")
        if self.ends is not None:
            if level != _LEVEL:
                raise ArgumentError(
                    f"`level` must be {_LEVEL}: only that interval of '{self.name}' was "
                    f"computed; got {level!r}."
                )
            return self.ends
        if math.isfinite(self.bound):
            return self.value - self.bound, self.value + self.bound
        if self.stderr == 0 and self.samples != 1:
            return self.value, self.value
        return interval(
            self.value,
            self.stderr,
            self.samples,
            level,
            effective=self.effective,
            skewness=self.skewness,
        )

    def __eq__(self, other: object) -> bool:
        """Equality of all fields; NaN equals NaN, so a stored estimate equals itself."""
        return equal(self, other) if isinstance(other, Estimate) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.samples, self.products, self.unit))

    @property
    def texts(self) -> tuple[str, str]:
        """The value rounded to its error, and "± error", "[low, high]" or an empty string.

        A value that is NaN is "not known".
        """
        if math.isnan(self.value):
            return UNKNOWN, ""
        if self.ends is not None:
            return with_ends(self.value, *self.ends)
        value, error = _rounded(self.value, self.error)
        return value, f"± {error}" if error else ""

    @property
    def shown(self) -> str:
        """The value rounded to its error, with its unit; "not known" if NaN."""
        return " ".join(filter(None, (self.texts[0], self._unit)))

    @property
    def _unit(self) -> str:
        return "" if math.isnan(self.value) else self.unit

    def __str__(self) -> str:
        """Name, value, error and unit, as `print` shows them."""
        return f"{self.name}: {self:}" if self.name else f"{self:}"

    def __format__(self, form: str) -> str:
        """Value, error and unit, for use in a sentence."""
        return format(" ".join(filter(None, (*self.texts, self._unit))), form)


def estimate_row(estimate: Estimate) -> tuple[str, str, str]:
    """An estimate as cells of a table: name, value, error or the reason for none."""
    error = estimate.texts[1]
    kind = " (bound)" if math.isfinite(estimate.bound) and estimate.ends is None else ""
    if error and few_units_note(estimate.samples, estimate.sample_unit) and estimate.caveat:
        kind = f", from {estimate.samples} {estimate.sample_unit} only"
    elif error and estimate.caveat:
        kind = f", dominated by few of {estimate.samples:,} {estimate.sample_unit}"
    remark = f"{error}{kind}" if error else estimate.reason
    return estimate.name, estimate.shown, remark or estimate.meaning


def estimate_to_dict(estimate: Estimate) -> dict[str, Any]:
    """An estimate for JSON: value, stderr or bound, unit, reasons, interval."""
    error = (
        {"bound": estimate.bound}
        if math.isfinite(estimate.bound)
        else {"stderr": estimate.stderr}
    )
    words = {
        "unit": estimate.unit,
        "why_no_error": estimate.why_no_error,
        "caveat": estimate.caveat,
        "interval": to_plain(estimate.ends),
    }
    shown: dict[str, Any] = to_plain({"value": estimate.value} | error)
    return shown | {name: text for name, text in words.items() if text}


def error_lengths(estimate: Estimate) -> tuple[float, float]:
    """Lengths of the error bar below and above the number."""
    if estimate.ends is None:
        return estimate.error, estimate.error
    return estimate.value - estimate.ends[0], estimate.ends[1] - estimate.value


def to_plain(value: Any) -> Any:
    """Values for JSON; NaN and infinity become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def is_exact_count(estimate: Estimate) -> bool:
    """Whether the estimate is an exact count."""
    reason = estimate.why_no_error or ""
    return "exact" in reason and float(estimate.value).is_integer()


def _rounded(value: float, error: float) -> tuple[str, str]:
    shown, _, around = with_error(value, error).partition(" ± ")
    return shown, around
