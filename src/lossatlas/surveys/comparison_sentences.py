"""What a comparison of two checkpoints says, sentence by sentence."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lossatlas.intervals import t_quantile
from lossatlas.result import Estimate
from lossatlas.text import count, interval_text, number, with_error
from lossatlas.weights.paired import EQUAL

if TYPE_CHECKING:
    from lossatlas.surveys.comparison import Comparison

MATCH_IS_NO_BASIN = (
    "A match compares the shapes of two maps, each around its own weights; it does not mean "
    "that the two checkpoints lie in one basin: a barrier separates them on the line."
)


def ends_sentence(comparison: "Comparison") -> str:
    """Which of the two has the lower loss, by how much."""
    if comparison.difference is not None:
        return _paired(comparison, comparison.difference)
    line, (one, two) = comparison.line, comparison.names
    first, second = (float(line.values[k]) for k in (0, -1))
    errors = [float(line.stderr[k]) for k in (0, -1)]
    step, both = second - first, math.hypot(*errors)
    text = f"The loss is {with_error(first, errors[0])} at {one} and "
    text += f"{with_error(second, errors[1])} at {two}"
    if not math.isfinite(both):
        return f"{text}; whether they differ by more than error is not known."
    allowed = float(t_quantile(0.95, line.count)) * both
    if math.isnan(allowed):
        return f"{text}; how many units these errors come from is not known."
    if abs(step) <= allowed:
        return f"{text}: equal within their errors, taken as independent."
    lower = two if step < 0 else one
    return f"{text}: {lower} is lower by {number(abs(step), 3)}, more than the errors allow."


def _paired(comparison: "Comparison", gap: Estimate) -> str:
    line, (one, two) = comparison.line, comparison.names
    first, second = (with_error(float(line.values[k]), float(line.stderr[k])) for k in (0, -1))
    low, high = gap.interval()
    text = f"The loss is {first} at {one} and {second} at {two}; on the same {gap.sample_unit} "
    if gap.why_no_error == EQUAL:
        return f"{text}the losses are {EQUAL}."
    text += f"they differ by {with_error(gap.value, gap.stderr)}, 95 % interval "
    text += interval_text(low, high)
    if not math.isfinite(gap.stderr) or low <= 0 <= high:
        return f"{text}: indistinguishable."
    return f"{text}: {two if high < 0 else one} is lower."


def line_sentences(comparison: "Comparison") -> Iterator[str]:
    """Whether a barrier lies between them, and where the line is lower."""
    line, bound = comparison.line, comparison.line_bound
    verdict = comparison.verdict
    if verdict.anew is not None:
        yield verdict.headline()
    if comparison.top is not None:
        tail = f" ({_reliability(comparison)}, 95 %, all points at once)" * (bound > 0)
        yield (
            f"The loss on the line{verdict.statistics} is highest above the straight line "
            f"between both losses {number(100 * comparison.excess.where, 3)} % of the way, by "
            f"{number(comparison.barrier.value, 3)}{tail}."
        )
    lost = int((~line.finite).sum())
    if lost:
        yield f"{count(lost, 'point')} of the line have no finite loss."
    yield from _lower_between(comparison)


# A point between the ends that is lower than both by more than its error.
def _lower_between(comparison: "Comparison") -> Iterator[str]:
    values, share = comparison.line.values, comparison.line.axes[0]
    low = comparison.line.lowest
    gain = min(float(values[0]), float(values[-1])) - float(values[low])
    if not (gain > 0 and 0 < low < share.size - 1):
        return
    place = f"{number(100 * float(share[low]), 3)} % of the way the loss is lower than at both"
    error = _gain_error(comparison, float(share[low]))
    if math.isnan(error):
        yield (
            f"{place} ends, by {number(gain, 3)}; whether that is more than its error is not "
            "known."
        )
    elif gain > error:
        yield (
            f"{place} ends, by {number(gain, 3)} (right to within {number(error, 2)}, 95 %): "
            "an average of the two may serve better."
        )


def _gain_error(comparison: "Comparison", where: float) -> float:
    """What the loss at a share of the way minus the lower end may be wrong by; NaN: unknown."""
    gap, rise = comparison.difference, comparison.excess
    if gap is None:
        return math.nan
    # The loss at t minus that at the end is the rise at t plus a share of the difference.
    share = 1 - where if gap.value < 0 else where
    low, high = gap.interval()
    near = int(np.abs(rise.at - where).argmin())
    return rise.band * float(rise.stderr[near]) + share * (high - low) / 2


def _reliability(comparison: "Comparison") -> str:
    # A lower point can prove a barrier where the error at the highest one reaches to zero.
    rise = comparison.excess
    if rise.is_certain and not rise.is_top_certain:
        return f"the highest rise is from {number(rise.lower, 2)} to {number(rise.upper, 2)}"
    return f"right to within {number(comparison.line_bound, 2)}"


def distance_sentence(comparison: "Comparison") -> str:
    """How far apart the landscapes are."""
    far, bound = comparison.bottleneck, comparison.depth_bound
    if not math.isfinite(far):
        return (
            "Points without a finite loss split the two maps into different numbers of pieces: "
            "their distance is not defined."
        )
    text = (
        "The bottleneck distance of the two maps is "
        f"{number(far, 3)}: where basins are paired by depth, the losses of their minima and "
        "saddles differ by no more"
    )
    if bound <= 0:
        return f"{text}; the error of that is not known."
    if far <= bound:
        return (
            f"{text}. The errors of the maps could cause it; it is at most "
            f"{reach(comparison)} (95 % for each map)."
        )
    return f"{text} (right to within {number(bound, 2)}, 95 % for each map)."


# What the distance cannot exceed.
def reach(comparison: "Comparison") -> str:
    """The largest distance that the errors of the maps leave possible."""
    return number(comparison.bottleneck + comparison.depth_bound, 2)
