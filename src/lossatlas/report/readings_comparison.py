"""What a comparison says, in plain sentences, and no more than it can say."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lossatlas.intervals import t_quantile
from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.matched import lie_apart
from lossatlas.surveys import Comparison
from lossatlas.text import count, cut_off, number, with_error
from lossatlas.topology import Diagram, MergeTree, merge_tree


@dataclass(frozen=True, eq=False)
class View:
    """A comparison with what its page shows more than once.

    Attributes:
        found: the comparison.
        names: of the two checkpoints, short.
    """

    found: Comparison
    names: tuple[str, str] = ("A", "B")

    @cached_property
    def lands(self) -> tuple[Landscape, Landscape]:
        """The two maps."""
        return self.found.first, self.found.second

    @cached_property
    def trees(self) -> tuple[MergeTree, MergeTree]:
        """Their merge trees."""
        one, two = (
            _judged_as(diagram, land)
            for land, diagram in zip(self.lands, self.found.diagrams, strict=True)
        )
        return one, two

    @cached_property
    def excess(self) -> NDArray[np.float64]:
        """How far the line lies above its chord, at each of its points."""
        line = self.found.line
        share = line.axes[0]
        chord = (1 - share) * line.values[0] + share * line.values[-1]
        return np.asarray(line.values - chord)

    @cached_property
    def top(self) -> int | None:
        """Index of the point that rises highest above the chord; None where none does."""
        finite = np.where(np.isfinite(self.excess), self.excess, -np.inf)
        top = int(finite.argmax())
        return top if self.found.barrier > 0 and math.isfinite(self.found.barrier) else None

    @cached_property
    def apart(self) -> int:
        """How many matched basins have their partner in another place."""
        return int(lie_apart(self.trees, self.found.pairs).sum())

    @cached_property
    def line_bound(self) -> float:
        """What a rise above the chord may be wrong by, all points at once; 0 if unknown."""
        # Twice the bound on one value: the point itself, and the chord between two others.
        tree = merge_tree(self.found.line, min_share=None)
        return 0.0 if tree.why_unknown else tree.threshold

    @property
    def depth_bound(self) -> float:
        """What the bottleneck distance may be wrong by; 0 where no error is known."""
        return sum(tree.threshold for tree in self.trees) / 2 if self.judged else 0.0

    @property
    def judged(self) -> bool:
        """Whether the errors of both maps are known, to judge their basins by."""
        return not any(tree.why_unknown for tree in self.trees)


def _judged_as(diagram: Diagram, land: Landscape) -> MergeTree:
    tree = merge_tree(land, connectivity=diagram.connectivity, min_share=None)
    return replace(tree, threshold=diagram.threshold, why_unknown=diagram.why_unknown)


def headline(view: View) -> str:
    """The comparison in one sentence.

    Args:
        view: the comparison.

    Returns:
        Whether a barrier stands between the two, and how sure that is.
    """
    barrier = view.found.barrier
    if not math.isfinite(barrier):
        return "Between the two the loss is not finite somewhere along the line."
    if barrier == 0:
        return "The two lie in one basin along the line: no barrier."
    shown = with_error(barrier, view.found.barrier_stderr)
    if view.line_bound <= 0:
        return f"A barrier of {shown} stands between them; its error is not known."
    if barrier <= view.line_bound:
        return (
            f"No barrier that could be told from error: the line rises by {shown}, which is "
            "within what the samples leave open."
        )
    return f"A barrier of {shown} stands between them."


def read_ends(view: View) -> list[str]:
    """Which of the two is lower."""
    line = view.found.line
    first, second = (float(line.values[k]) for k in (0, -1))
    errors = [float(line.stderr[k]) for k in (0, -1)]
    one, two = view.names
    step = second - first
    text = f"The loss is {with_error(first, errors[0])} at {one} and "
    text += f"{with_error(second, errors[1])} at {two}"
    both = math.hypot(*errors)
    if not math.isfinite(both):
        return [f"{text}; whether they differ by more than error is not known."]
    allowed = float(t_quantile(0.95, line.count)) * both
    if math.isnan(allowed):
        return [f"{text}; how many units these errors come from is not known."]
    if abs(step) <= allowed:
        return [f"{text}: equal within their errors, taken as independent."]
    lower = two if step < 0 else one
    return [f"{text}: {lower} is lower by {number(abs(step), 3)}, more than the errors allow."]


def read_line(view: View) -> list[str]:
    """What the line between them looks like."""
    line, bound = view.found.line, view.line_bound
    share = line.axes[0]
    sentences = []
    if view.top is not None:
        place = number(100 * float(share[view.top]), 3)
        tail = f" (right to within {number(bound, 2)}, 95 %, all points at once)" * (bound > 0)
        sentences.append(
            f"The line rises highest above the chord {place} % of the way, "
            f"by {number(view.found.barrier, 3)}{tail}."
        )
    lost = int((~line.finite).sum())
    if lost:
        sentences.append(f"{count(lost, 'point')} of the line have no finite loss.")
    low = int(np.where(line.finite, line.values, np.inf).argmin())
    gain = min(float(line.values[0]), float(line.values[-1])) - float(line.values[low])
    if gain > max(bound, 0.0) and 0 < low < share.size - 1:
        sure = "" if bound > 0 else "; whether that is more than its error is not known"
        sentences.append(
            f"{number(100 * float(share[low]), 3)} % of the way lies ground that is lower than "
            f"both, by {number(gain, 3)}{sure}: an average of the two may serve better."
        )
    return sentences


def read_basins(view: View) -> list[str]:
    """Which basins of one map are there in the other."""
    found, (one, two) = view.found, view.names
    sizes = [len(tree) for tree in view.trees]
    pairs, gone, new = (len(part) for part in (found.pairs, found.gone, found.new))
    sentences = [
        f"Of {count(sizes[0], 'basin')} around {one} and {sizes[1]:,} around {two}, "
        f"{pairs:,} {'is' if pairs == 1 else 'are'} in both; {gone:,} "
        f"{'is' if gone == 1 else 'are'} gone, {new:,} {'is' if new == 1 else 'are'} new."
    ]
    if view.apart:
        sentences.append(
            f"{view.apart:,} of the matched have their partner in another place: they end at "
            "the same pass, as happens where depths are nearly equal."
        )
    if not view.judged:
        return [*sentences, "Which of them are certain is unknown: the maps lack errors."]
    sure = certain_fates(view)
    lost = sure["gone"] + sure["new"]
    if gone + new and not lost:
        sentences.append("None of those that are gone or new is more than error.")
    elif lost:
        sentences.append(
            f"Of those, {sure['gone']:,} gone and {sure['new']:,} new are deeper than the "
            "errors of their map allow."
        )
    return sentences


def certain_fates(view: View) -> dict[str, int]:
    """How many basins without a partner are deeper than the errors of their map."""
    parts = zip(("gone", "new"), (view.found.gone, view.found.new), view.trees, strict=True)
    return {kind: int(np.count_nonzero(tree.certain[numbers])) for kind, numbers, tree in parts}


def read_distances(view: View) -> list[str]:
    """How far the two diagrams are apart."""
    far, bound = view.found.bottleneck, view.depth_bound
    if not math.isfinite(far):
        return ["Walls part the two maps into different numbers of pieces: no distance."]
    text = (
        f"Matched by depth alone, no minimum and no pass of one map moves by more than "
        f"{number(far, 3)} in the other"
    )
    if bound <= 0:
        return [f"{text}; the error of that is not known."]
    if far <= bound:
        return [f"{text}, which is within the errors of the maps ({number(bound, 2)})."]
    return [f"{text} (right to within {number(bound, 2)}, 95 % for each map)."]


def read_walls(view: View) -> list[str]:
    """Where the maps have no finite loss."""
    return [
        f"{count(lost, 'point')} of the map around {name} have no finite loss."
        for name, land in zip(view.names, view.lands, strict=True)
        if (lost := int((~land.finite).sum()))
    ]


READERS: tuple[Callable[[View], list[str]], ...] = (
    read_ends,
    read_line,
    read_basins,
    read_distances,
    read_walls,
)


def reading(view: View) -> tuple[str, ...]:
    """Everything that can be said in words about a comparison.

    Args:
        view: the comparison.

    Returns:
        Sentences, the most important first.
    """
    return tuple(sentence for reader in READERS for sentence in reader(view))


def ends_in_words(view: View, files: tuple[str, str]) -> str:
    """Which checkpoint is which."""
    known = [
        f"{name} is {cut_off(file, 160)}"
        for name, file in zip(view.names, files, strict=True)
        if file
    ]
    return ", ".join(known)
