"""Whether a barrier separates two networks: one verdict for every place that gives it."""

import math
from dataclasses import dataclass, replace

from lossatlas.io.records import record
from lossatlas.result import Estimate
from lossatlas.text import count, number
from lossatlas.weights.excess import Excess


@record
@dataclass(frozen=True, eq=False)
class Recalibration:
    """The excess along a path with running statistics measured anew at each point.

    Attributes:
        used: the running statistics that the path itself was measured with.
        excess: the excess with statistics measured anew, at the ends too, on the same examples
            everywhere; None where it could not be measured.
        why_unknown: why it could not.
    """

    used: str
    excess: Excess | None = None
    why_unknown: str = ""


@dataclass(frozen=True)
class BarrierVerdict:
    """Whether there is a barrier on a path.

    Running statistics that were interpolated fit no network in between, so that they alone can
    raise the loss. The verdict is then on the excess with statistics measured anew.

    Attributes:
        excess: of the path as it was measured.
        anew: the same with statistics measured anew; None where there is nothing to measure.
        path: what the path is called.
        has_place: whether the headline says where the barrier is.
    """

    excess: Excess
    anew: Recalibration | None = None
    path: str = "straight line"
    has_place: bool = True

    @property
    def judged(self) -> Excess:
        """The excess that the verdict is on."""
        return (self.anew.excess if self.anew else None) or self.excess

    @property
    def is_certain(self) -> bool | None:
        """Whether there is a barrier with 95 %; None where that is unknown."""
        is_open = self.anew is not None and self.anew.excess is None
        return None if is_open and self.excess.is_certain else self.judged.is_certain

    @property
    def statistics(self) -> str:
        """The running statistics of the path, as in " with ..."; empty where they fit."""
        return f" with {self.anew.used}" if self.anew else ""

    def short(self) -> str:
        """The verdict in a few words."""
        if self.is_certain:
            return f"yes: {_height(self.judged)}"
        if self.is_certain is None:
            is_seen = self.judged.barrier.value > 0
            return f"{_height(self.judged)}{self._unknown_as()}" if is_seen else "none seen"
        return "none beyond the error" if self.judged.upper > 0 else "none"

    def _unknown_as(self) -> str:
        if self.anew is not None and self.anew.excess is None:
            return f", {self.anew.used}"
        return ", error not known"

    def headline(self) -> str:
        """The verdict in one sentence."""
        return self.sentences()[0]

    def sentences(self) -> tuple[str, ...]:
        """The verdict, and how narrow a barrier may be missed where none was found."""
        if self.anew is not None:
            return (self._with_statistics(self.anew),)
        if self.excess.is_certain is None:
            height = _height(self.excess)
            return (f"The loss barrier on the {self.path} is {height}; its error is unknown.",)
        if not self.excess.is_certain:
            return self._none_found()
        if math.isinf(self.excess.barrier.value):
            return (f"The loss {_rise(self.excess)} on the {self.path}.",)
        is_placed = self.has_place and self.excess.is_top_certain
        place = f", at t = {number(self.excess.where, 2)}" * is_placed
        return (f"The loss barrier on the {self.path} is {_height(self.excess)}{place}.",)

    def _with_statistics(self, anew: Recalibration) -> str:
        start = f"The loss {_rise(self.excess)} on the {self.path} with {anew.used}"
        if anew.excess is None:
            return (
                f"{start}, which may not fit; with statistics measured anew it is not known: "
                f"{anew.why_unknown.rstrip('.')}."
            )
        points = count(len(anew.excess.at) - 2, "point")
        measured = f"with statistics measured anew at {points}"
        if anew.excess.is_certain and math.isfinite(anew.excess.barrier.value):
            return (
                f"The loss barrier on the {self.path} is {_height(anew.excess)} {measured} "
                f"(the loss {_rise(self.excess)} with {anew.used})."
            )
        text = f"{start}, and {_rise(anew.excess).removeprefix('rises ')} {measured}"
        if anew.excess.is_certain:
            return f"{text}."
        if anew.excess.is_certain is None:
            return f"{text}; the errors are unknown."
        beyond = " beyond the error" if anew.excess.upper > 0 else ""
        return f"{text}: no barrier between the networks themselves{beyond}."

    # What was measured where no barrier was: how high one may be, and how narrow.
    def _none_found(self) -> tuple[str, ...]:
        excess, positions = self.excess, len(self.excess.at) - 2
        start = f"No barrier on the {self.path}"
        narrow = (
            f"A barrier narrower than {number(excess.gap, 2)} of the path may be missed. The "
            "positions are an even grid, made finer around the highest loss."
        )
        if not excess.has_spread:
            return (
                f"{start}: at none of {positions} positions does the loss of any example "
                "exceed the linear interpolation of the end losses.",
                narrow,
            )
        if excess.upper == 0:
            return (
                f"{start}: the loss is below the linear interpolation of the end losses at all "
                f"{positions} positions.",
                f"It is below by more than its error (95 %, all positions at once). {narrow}",
            )
        return (
            f"{start} beyond the error: at most {number(excess.upper, 2)} at any of "
            f"{positions} positions (95 %, all at once).",
            narrow,
        )

    def estimates(self, barrier: Estimate) -> tuple[Estimate, ...]:
        """The barrier of the path, and the one with statistics measured anew."""
        if self.anew is None:
            return (barrier,)
        meaning = f"with {self.anew.used}: {barrier.meaning}"
        name = "barrier, statistics measured anew"
        if self.anew.excess is None:
            other = Estimate(math.nan, why_no_error=self.anew.why_unknown, unit="loss")
        else:
            other = self.anew.excess.barrier
        return replace(barrier, meaning=meaning), replace(other, name=name)


def _height(excess: Excess) -> str:
    value = excess.barrier.value
    return excess.barrier_text if math.isfinite(value) else "not finite somewhere"


def _rise(excess: Excess) -> str:
    """What the loss does on the path, as in "rises by 0.038 ± 0.009"."""
    if not math.isfinite(excess.barrier.value):
        return "is not finite somewhere"
    if excess.barrier.value > 0:
        return f"rises by {excess.barrier_text}"
    if excess.upper > 0:
        return f"rises by at most {number(excess.upper, 2)}"
    return "rises nowhere"
