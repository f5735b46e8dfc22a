"""What instruments cost, in evaluations of the loss, from what they say about it."""

import re
from collections.abc import Sequence

from lossatlas.curvature.instrument import Instrument
from lossatlas.objective import Objective

# What the costs of instruments count, in evaluations of the loss on all data: a gradient takes
# about three, a product with the Hessian about two gradients.
_EVALUATIONS = {"loss": 1, "pass": 1, "gradient": 3, "product": 6}
_WORDS = {"a": 1, "one": 1, "three": 3}
_COST = re.compile(r"(?:([\d,]+) to )?\b([\d,]+|a|one|three) (loss|pass|gradient|product)(.*)")


def instrument_evaluations(
    tools: Sequence[Instrument], objective: Objective
) -> tuple[float, float]:
    """How many evaluations instruments take, at least and at most, from their stated costs."""
    costs = [_evaluations(tool.cost, objective) for tool in tools]
    return sum(low for low, _ in costs), sum(high for _, high in costs)


def _evaluations(cost: str, objective: Objective) -> tuple[float, float]:
    low = high = each = 0.0
    for part in re.split(r"[,;] ", cost):
        match = _COST.search(part)
        if match is None:
            # "100 to 200 products; up to 460 where ...": of the same kind.
            more = re.match(r"up to ([\d,]+) ", part)
            high = max(high, each * _count(more[1])) if more else high
            continue
        fewest, most, unit, rest = match.groups()
        each = _EVALUATIONS[unit] * _repeats(rest, objective)
        high += each * _count(most)
        open_ended = part.startswith("up to")
        low += 0 if open_ended else each * _count(fewest or most)
    return low, high


def _count(text: str) -> int:
    return _WORDS[text] if text in _WORDS else int(text.replace(",", ""))


# "a layer", "a block", "a class": as many as there are layers, about. One gradient of every
# example is one pass of gradients.
def _repeats(rest: str, objective: Objective) -> int:
    if re.search(r" a (layer|block|class)", rest):
        return sum(value.ndim > 1 for value in objective.params.values())
    return 1
