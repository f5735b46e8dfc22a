"""Differences between losses in words and as a picture."""

import math
from collections.abc import Mapping
from dataclasses import replace

from lossatlas.result import Estimate, Figure
from lossatlas.text import listed
from lossatlas.weights.paired import EQUAL


def differences_figure(
    title: str, found: Mapping[str, Estimate], name: str = "differences"
) -> Figure:
    """Differences of losses with their 95 % intervals, one a row."""
    from lossatlas.plots.chart import backends
    from lossatlas.plots.paths import Difference, difference_chart

    shown = [Difference(name, e.value, *e.interval()) for name, e in found.items()]
    return Figure(
        name,
        title,
        *backends(lambda: difference_chart(shown, title, "difference of losses")),
        caption="With 95 % intervals of paired differences; left of 0 is better.",
        alt="Intervals of differences of losses, one a row.",
    )


def is_same(found: Estimate) -> bool:
    """Whether a difference is 0 to rounding."""
    return found.value == 0 and found.stderr == 0


def reasoned(found: Estimate, name: str) -> Estimate:
    """A difference with its name; one of 0 has a reason in place of an error."""
    if is_same(found):
        return replace(found, stderr=math.nan, why_no_error=EQUAL, name=name)
    return replace(found, name=name)


def difference_text(found: Estimate) -> str:
    """The difference with its error, as a remark at the end of a sentence."""
    return ", up to rounding error" if is_same(found) else f" (difference {found})"


def verdict(found: Estimate) -> str:
    """How the first loss of a difference stands to the second, by the 95 % interval."""
    if is_same(found):
        return "equal to that of"
    low, high = found.interval()
    if math.isnan(low):
        return "not compared with an error to that of"
    if high < 0:
        return "below that of"
    return "above that of" if low > 0 else "not told apart from that of"


# The verdict says which is lower; the sign would only repeat it.
def _size(found: Estimate) -> Estimate:
    return replace(found, value=abs(found.value))


def compared_with(
    name: str, loss: Estimate, against: Mapping[str, Estimate]
) -> tuple[str, ...]:
    """How one network compares with others; `against` are its losses minus theirs."""
    verdicts = {
        "below that of": "is better than",
        "above that of": "is worse than",
        "not told apart from that of": "is not told apart from",
        "equal to that of": "has, up to rounding error, the same loss as",
        "not compared with an error to that of": "is not compared with an error to",
    }
    plain, parts = {"below that of", "equal to that of"}, []
    for which, said in verdicts.items():
        names = [
            ("the base" if other == "base" else other)
            + (f" (difference {number_text(_size(found))})" if which not in plain else "")
            for other, found in against.items()
            if verdict(found) == which
        ]
        if names:
            parts.append(f"{said} {listed(names)}")
    return (f"{name} ({number_text(loss)}) {'; it '.join(parts)}.",) if parts else ()


def number_text(found: Estimate) -> str:
    """Value and error without the unit."""
    return " ".join(filter(None, found.texts))
