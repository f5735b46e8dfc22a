"""What a survey says of basins, passes and ridges, in plain sentences."""

from dataclasses import dataclass

import numpy as np

from lossatlas.surveys import Survey
from lossatlas.text import count, number
from lossatlas.topology import MergeTree, merge_tree
from lossatlas.topology.certainty import rarest_sentence


@dataclass(frozen=True)
class Basins:
    """How many basins a map has, and how many of them are real.

    Attributes:
        total: minima of the map.
        certain: those that outlast the error of the map; the deepest one always does.
        parts: parts of the map that walls keep apart.
        judged: whether the errors of the map are known, to judge them by.
    """

    total: int
    certain: int
    parts: int
    judged: bool


def count_basins(survey: Survey) -> Basins:
    """Count the basins of a survey."""
    tree = survey.tree
    return Basins(
        total=len(tree),
        certain=int(np.count_nonzero(tree.certain)),
        parts=int(np.count_nonzero(np.isposinf(tree.persistences))),
        judged=not tree.why_unknown,
    )


def is_flat(survey: Survey) -> bool:
    """Whether the whole range of a map is within its error."""
    extent = survey.landscape.range
    return extent == 0 or 0 < extent <= survey.tree.threshold


def read_basins(survey: Survey) -> list[str]:
    """How many basins there are, which are certain, how high the passes between them."""
    found = count_basins(survey)
    if survey.landscape.range == 0:
        return ["The loss is the same everywhere on the map."]
    sentences = [_count_sentence(found, survey.tree, flat=is_flat(survey))]
    if found.parts > 1:
        sentences.append(f"Walls of non-finite loss part the map into {found.parts} pieces.")
    merges = np.flatnonzero(survey.tree.certain[survey.tree.ended])
    if found.judged and merges.size:
        lives = survey.tree.persistences[survey.tree.ended[merges]]
        longest = merges[int(np.argmax(lives))]
        basin, other = int(survey.tree.ended[longest]), int(survey.tree.into[longest])
        climb = with_bound(float(lives.max()), survey.tree.threshold)
        sentences.append(
            f"On this map the loss must climb by {climb} to leave the basin of minimum {basin} "
            f"for the deeper one of minimum {other}."
        )
    return sentences


def _count_sentence(found: Basins, tree: MergeTree, *, flat: bool) -> str:
    bound = f"the 95 % bound of {number(tree.threshold, 2)}"
    if flat:
        return f"The whole map ranges over less than {bound}: no basin on it is certain."
    if found.total == 1:
        return "One basin at this scale: from every point of the map the way down leads to it."
    basins = count(found.total, "basin")
    if not found.judged:
        return f"{basins}; which are certain is unknown: {tree.why_unknown}."
    if found.certain == found.total:
        return f"{basins}, all certain: each is deeper than {bound}."
    rest = found.total - found.certain
    are = "is" if rest == 1 else "are"
    if found.certain == found.parts:
        which = "the deepest one is" if found.parts == 1 else "the deepest of each piece is"
        return (
            f"{basins}, but only {which} certain: the other "
            f"{'one' if rest == 1 else rest} {are} within the error of the map "
            f"(less deep than {bound})."
        )
    return (
        f"{basins}: {found.certain} are certain (deeper than {bound}), "
        f"{rest} {are} within the error of the map."
    )


def with_bound(value: float, threshold: float) -> str:
    """A difference of two losses of a map and the bound on its error."""
    if not threshold > 0:
        return number(value, 3)
    return f"{number(value, 3)} (to within {number(threshold, 2)} at 95 %)"


def read_ridges(survey: Survey) -> list[str]:
    """Closed ridges: hills that are ringed by lower ground."""
    ridges = survey.diagram.dimensions == 1
    total = int(np.count_nonzero(ridges))
    if not total or survey.diagram.why_unknown:
        return []
    sure = int(np.count_nonzero(survey.diagram.certain & ridges))
    if not sure:
        verb = "is" if total == 1 else "are"
        noun = "hill ringed" if total == 1 else "hills ringed"
        return [f"{total:,} {noun} by lower ground {verb} within the error of the map."]
    noun = "hill is" if sure == 1 else "hills are"
    return [f"{sure} {noun} ringed by lower ground with certainty (of {total:,} seen)."]


def read_resolution(survey: Survey) -> list[str]:
    """Whether the grid is fine enough for its own findings."""
    mine, other = certain_counts(survey)
    if mine == other:
        return []
    return [
        f"The map is under-resolved: the two notions of neighborhood count {mine} and "
        f"{other} certain basins; take more points."
    ]


def read_rarest(survey: Survey) -> list[str]:
    """How rare an effect may be that the sample does not show."""
    land, tree = survey.landscape, survey.tree
    if tree.why_unknown:
        return []
    sentence = rarest_sentence(tree.rarest_share, land.count, land.unit)
    return [sentence] if sentence else []


def certain_counts(survey: Survey) -> tuple[int, int]:
    """Certain basins by the survey's notion of neighborhood, and by the other."""
    tree = survey.tree
    mine = int(np.count_nonzero(tree.certain))
    pair = {"full": "axis", "axis": "full"}
    if tree.why_unknown or tree.connectivity not in pair:
        return mine, mine
    other = merge_tree(survey.landscape, connectivity=pair[tree.connectivity], min_share=None)
    return mine, int(np.count_nonzero(other.certain))
