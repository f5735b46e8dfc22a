"""Differences between losses in words and as a picture."""

import math
from collections.abc import Mapping
from dataclasses import replace

from lossatlas.result import Estimate, Figure
from lossatlas.text import listed
from lossatlas.weights.paired import EQUAL

JOINTLY = "The intervals of these differences hold together with 95 %."


def differences_figure(
    title: str, differences: Mapping[str, Estimate], name: str = "differences"
) -> Figure:
    """Differences of losses with their 95 % intervals, one a row."""
    from lossatlas.plots.chart import backends
    from lossatlas.plots.paths import Difference, difference_chart

    shown = [Difference(name, e.value, *e.interval()) for name, e in differences.items()]
    return Figure(
        name,
        title,
        *backends(lambda: difference_chart(shown, title, "difference of losses")),
        caption="With 95 % intervals of paired differences; left of 0 is better.",
        alt="Intervals of differences of losses, one a row.",
    )


def is_same(estimate: Estimate) -> bool:
    """Whether a difference is 0 to rounding."""
    return estimate.value == 0 and estimate.stderr == 0


def reasoned(estimate: Estimate, name: str) -> Estimate:
    """A difference with its name; one of 0 has a reason in place of an error."""
    if is_same(estimate):
        return replace(estimate, stderr=math.nan, why_no_error=EQUAL, name=name)
    return replace(estimate, name=name)


def joint_level(merges: int, networks: int) -> float:
    """Confidence of one interval where those of all pairs of both hold together with 95 %."""
    return 1 - 0.05 / (merges * networks)


def at_level(estimate: Estimate, level: float) -> Estimate:
    """A difference with its interval at another level; one without an error as it is."""
    return replace(estimate, ends=estimate.interval(level)) if estimate.stderr > 0 else estimate


def negated(estimate: Estimate) -> Estimate:
    """The difference of the same two losses the other way round."""
    ends = None if estimate.ends is None else (-estimate.ends[1], -estimate.ends[0])
    return replace(estimate, value=-estimate.value, skewness=-estimate.skewness, ends=ends)


def recommendation(made: str, loss: Estimate, others: Mapping[str, Estimate]) -> str:
    """What to use, in one sentence: what was made, the best of `others`, or either."""
    # The others by name, each with the loss of what was made minus its own.
    other, gap = max(others.items(), key=lambda item: _or_lowest(item[1].value))
    relation, size = verdict(gap), number_text(gap)
    if relation == "below that of":
        size = number_text(negated(gap))
        return f"Use {made} (loss {number_text(loss)}): better than {other} by {size}."
    if relation == "above that of":
        return f"Use {other}: better than {made} (loss {number_text(loss)}) by {size}."
    if relation == "equal to that of":
        return f"Use {made} or {other}: equal up to rounding error (loss {number_text(loss)})."
    if relation == "indistinguishable from that of":
        return (
            f"Use {made} or {other}: indistinguishable (loss {number_text(loss)}, "
            f"{_distance(gap, f' than that of {other}')})."
        )
    return f"{made[:1].upper()}{made[1:]} has a loss of {number_text(loss)}, without an error."


def _or_lowest(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def difference_text(estimate: Estimate) -> str:
    """The difference with its error, as a remark at the end of a sentence."""
    return ", up to rounding error" if is_same(estimate) else f" (difference {estimate})"


def verdict(estimate: Estimate) -> str:
    """How the first loss of a difference stands to the second, by its interval."""
    if is_same(estimate):
        return "equal to that of"
    low, high = estimate.interval()
    if math.isnan(low):
        return "not compared with an error to that of"
    if high < 0:
        return "below that of"
    return "above that of" if low > 0 else "indistinguishable from that of"


def _distance(gap: Estimate, than: str = "") -> str:
    """A difference in words, so that no reader has to know which loss is subtracted."""
    if not abs(gap.value) > 0:
        return f"difference {number_text(gap)}"
    if gap.value < 0:
        return f"lower{than} by {number_text(negated(gap))}"
    return f"higher{than} by {number_text(gap)}"


def compared_with(
    name: str, loss: Estimate, against: Mapping[str, Estimate]
) -> tuple[str, ...]:
    """How one network compares with others; `against` are its losses minus theirs."""
    verdicts = {
        "below that of": "is better than",
        "above that of": "is worse than",
        "indistinguishable from that of": "is indistinguishable from",
        "equal to that of": "has, up to rounding error, the same loss as",
        "not compared with an error to that of": "is not compared with an error to",
    }
    plain, parts = {"below that of", "equal to that of"}, []
    for which, said in verdicts.items():
        names = [
            called(other) + (f" ({_distance(difference)})" if which not in plain else "")
            for other, difference in against.items()
            if verdict(difference) == which
        ]
        if names:
            parts.append(f"{said} {listed(names)}")
    return (f"{name} ({number_text(loss)}) {'; it '.join(parts)}.",) if parts else ()


def called(name: str) -> str:
    """A network of a merge in a sentence."""
    return {"base": "the base", "average": "the average"}.get(name, name)


def number_text(estimate: Estimate) -> str:
    """Value and error without the unit."""
    return " ".join(filter(None, estimate.texts))
