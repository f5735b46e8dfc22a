"""What the further instruments say in plain sentences."""

import math

from lossatlas.curvature import SampleSizeCurve
from lossatlas.result import Estimate
from lossatlas.surveys import Survey, named
from lossatlas.text import count, number, percent, with_error


def _shown(found: Estimate) -> str:
    return with_error(found.value, found.stderr)


def read_sharpness(survey: Survey) -> list[str]:
    """How much the loss rises within a small ball."""
    worst, average = (survey.part("sharpness", key) for key in ("worst", "average"))
    if worst is None or average is None:
        return []
    return [
        f"A step of {worst.radius:g} in the weights raises the loss by {_shown(worst.rise)} in "
        f"the worst direction found, by {_shown(average)} on average."
    ]


def read_roughness(survey: Survey) -> list[str]:
    """Whether random lines look like bowls."""
    found = survey.part("roughness", "roughness")
    if found is None or not math.isfinite(found.mean.value):
        return []
    start = f"Along random lines the loss travels {_shown(found.mean)} times its range"
    low, high = found.mean.interval()
    if low > 2:
        return [f"{start}: they have further ups and downs."]
    if high <= 2:
        return [f"{start}: as smooth as a bowl (2)."]
    return [f"{start}; whether that is more than the 2 of a bowl is not known."]


def read_samples(survey: Survey) -> list[str]:
    """How many examples the landscape needs."""
    curve = survey.part("samples", "curve")
    if curve is None:
        return []
    small = number(curve.tolerance, 2)
    if curve.enough is None:
        return [
            f"Even with {int(curve.sizes[-1]):,} examples one more still changes the landscape "
            f"by more than {small}: more data would change the picture."
        ]
    return [
        f"From {curve.enough:,} examples on{_range(curve)}, one more changes the landscape by "
        f"less than {small}."
    ]


def _range(curve: SampleSizeCurve) -> str:
    if curve.enough_low is None or curve.enough_high is None:
        return ""
    return f" (95 % interval {curve.enough_low:,} to {curve.enough_high:,})"


def read_interference(survey: Survey) -> list[str]:
    """How far examples cancel each other."""
    gradients, losses = (survey.part("interference", key) for key in ("gradients", "losses"))
    found = []
    if gradients is not None and math.isfinite(gradients.overall.value):
        share = percent(gradients.overall.value)
        found.append(f"{share} of the gradients of single examples cancel, weight by weight.")
    if losses is not None and math.isfinite(losses.interference.value):
        found.append(
            f"Since half of the way {percent(losses.worsened)} of the examples got worse; "
            f"{percent(losses.interference.value)} of the changes of the loss cancel."
        )
    return found


def read_plasticity(survey: Survey) -> list[str]:
    """How well new labels can be learned."""
    found = survey.part("plasticity", "plasticity")
    if found is None:
        return []
    start = f"In {count(found.steps, 'step')} on random labels the loss"
    low, high = found.value.interval()
    if high <= 0:
        return [
            f"{start} stayed {with_error(-found.value.value, found.value.stderr)} nats above "
            "the best constant: what is known here was not unlearned in that budget."
        ]
    if low > 0:
        return [f"{start} fell {_shown(found.value)} nats below the best constant."]
    return [
        f"{start} ended {_shown(found.value)} nats below the best constant, which does not "
        "tell whether anything was learned."
    ]


def read_spikes(survey: Survey) -> list[str]:
    """How much the blocks can amplify a gradient."""
    found = survey.part("spikes", "spikes")
    if found is None:
        return []
    weakest = min(found.blocks, key=lambda block: block.shortcut)
    stretch = number(math.exp(min(found.log_bound, 700)), 3)
    safe = "on the safe side of 1" if weakest.shortcut >= 1 else "below 1, where norms amplify"
    return [
        f"Together {count(len(found.blocks), 'block')} can stretch a gradient by a factor of "
        f"{stretch} at most; the smallest shortcut has a deviation of "
        f"{number(weakest.shortcut, 2)}, {safe}."
    ]


def read_representations(survey: Survey) -> list[str]:
    """How many directions the features use."""
    rank = survey.part("representations", "rankme")
    effective = survey.part("representations", "effective_rank")
    if rank is None or effective is None:
        return []
    return [
        f"The features of the last layer use about {_shown(effective)} directions "
        f"({_shown(rank)} before centring, RankMe)."
    ]


def read_collapse(survey: Survey) -> list[str]:
    """How far classes have collapsed to points."""
    found = survey.part("collapse", "collapse")
    if found is None:
        return []
    if not math.isfinite(found.within.value):
        return []
    start = (
        "Neural collapse: scatter within classes over that between them (NC1) is "
        f"{_shown(found.within)}"
    )
    if not math.isfinite(found.nearest.value):
        return [f"{start}."]
    near = percent(1 - found.nearest.value)
    return [
        f"{start}; the nearest class mean decides as the network does for {near} of the "
        "examples."
    ]


def read_similarity(survey: Survey) -> list[str]:
    """How far the features have come from the start."""
    start = survey.part("similarity", "start")
    if start is None or not math.isfinite(start.value):
        return []
    return [
        f"The features are alike to those of the first checkpoint by {_shown(start)} (CKA; 1 "
        "is equal up to rotation)."
    ]


def read_unavailable(survey: Survey) -> list[str]:
    """Which instruments could not serve."""
    lost = [named(name).title for name, found in survey.findings.items() if found.why_not]
    if not lost:
        return []
    return [f"Not measured, with the reason below: {', '.join(lost)}."]
