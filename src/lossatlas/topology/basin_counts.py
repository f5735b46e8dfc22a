"""How many basins a map has: which minima count as one, and how a reader is told."""

from dataclasses import dataclass

import numpy as np

from lossatlas.text import as_sentence, count, number
from lossatlas.topology.field import Bools, Ints

_MAX_NAMED = 12


@dataclass(frozen=True, eq=False)
class BasinCounts:
    """Which minima of a map are certain basins.

    Attributes:
        certain: whether the branch of each minimum is longer than the threshold.
        on_edge: whether it lies on the edge of the map.
        pieces: parts of the map that points which are not finite keep apart.
        extent: the range of the map.
        threshold: what the errors of the map can make; NaN where unknown.
        why_unknown: why it is unknown.
    """

    certain: Bools
    on_edge: Bools
    pieces: int
    extent: float
    threshold: float
    why_unknown: str = ""

    @property
    def total(self) -> int:
        """The number of minima."""
        return int(self.certain.size)

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal."""
        return self.extent == 0

    @property
    def is_within_error(self) -> bool:
        """Whether the range of the map is no longer than the threshold."""
        return self.is_constant or 0 < self.extent <= self.threshold

    @property
    def counted(self) -> Bools:
        """Certain minima with a basin of their own on this map: none on its edge."""
        # The lowest of a map within its error is a basin wherever it lies: every map has one.
        return self.certain if self.is_within_error else self.certain & ~self.on_edge

    @property
    def basins(self) -> int:
        """The number of certain basins."""
        return int(self.counted.sum())

    @property
    def edge(self) -> Ints:
        """Numbers of the certain minima on the edge, which are not counted."""
        return np.flatnonzero(self.certain & ~self.counted)

    @property
    def unsure(self) -> int:
        """How many minima are not certain."""
        return int(np.count_nonzero(~self.certain))

    @property
    def short(self) -> str:
        """The counts in a few words."""
        minima = count(self.total, "minimum", "minima")
        if self.why_unknown:
            return f"{minima}, certainty unknown"
        parts = [f"{minima}, {count(self.basins, 'certain basin')}"]
        if self.edge.size:
            parts.append(f"{self.edge.size} on the edge of the map")
        if self.unsure:
            parts.append(f"{self.unsure:,} within the error")
        return ", ".join(parts)

    @property
    def legend(self) -> str:
        """The counts as bars show them: gray within the error, hollow on the edge."""
        edge, gray_edge = self.edge.size, int((self.on_edge & ~self.certain).sum())
        parts = []
        if not self.why_unknown:
            parts.append(f"{self.basins} certain{' inside the map' if edge else ''}")
        if self.unsure:
            how = "of unknown certainty" if self.why_unknown else "within the error"
            part = f"{self.unsure:,} {how} (gray)"
            if gray_edge:
                which = "" if gray_edge == self.unsure == 1 else f"{gray_edge:,} of them "
                part += f", {which}on the edge of the map (hollow)"
            parts.append(part)
        if edge:
            parts.append(f"{edge} on the edge of the map (hollow), not counted")
        return f"{'; '.join(parts)}."

    def headline(self) -> str:
        """How many basins there are and how sure that is, in one sentence."""
        if self.is_constant:
            return "The loss is the same everywhere on this map."
        bound = number(self.threshold, 2)
        if self.is_within_error:
            return (
                f"The losses on this map range over {number(self.extent, 2)}, less than their "
                f"95 % bound of {bound}: only {self._lowest}, which every map has, "
                f"{'is' if self.pieces < 2 else 'are'} certain."
            )
        if self.total == 1:
            way = "from every point of the map descent leads to"
            if self.on_edge.any():
                tail = "its edge, where the loss may go on falling: no minimum lies inside."
                return f"{way[0].upper()}{way[1:]} {tail}"
            return f"One basin at this scale: {way} it."
        if self.why_unknown:
            minima = count(self.total, "minimum", "minima")
            why = f"which of them have certain basins is unknown: {self.why_unknown}"
            return as_sentence(f"{minima}; {why}")
        return self._with_edge() if self.edge.size else self._inside(f"95 % bound of {bound}")

    @property
    def _lowest(self) -> str:
        return "the lowest basin" if self.pieces < 2 else "the lowest basin of each piece"

    def _inside(self, bound: str) -> str:
        if not self.unsure:
            return (
                f"{count(self.total, 'basin')}, all certain: each is deeper than the {bound}."
            )
        rest = "the other minimum is" if self.unsure == 1 else "every other minimum is"
        tail = f"{rest} within the error of the map (less deep than the {bound})."
        if self.basins == self.pieces > 1:
            return f"Only the deepest basin of each piece is certain; {tail}"
        start = "One basin is" if self.basins == 1 else f"{self.basins} basins are"
        return f"{start} certain; {tail}"

    def _with_edge(self) -> str:
        inside, edge = self.basins, self.edge
        start = "No basin" if not inside else "One basin" if inside == 1 else f"{inside} basins"
        are, counts = "are" if inside > 1 else "is", "is" if edge.size == 1 else "are"
        text = (
            f"{start} inside the map {are} certain; {edge_words(edge)}, where the loss may go "
            f"on falling, and {counts} not counted"
        )
        rest = "minimum is" if self.unsure == 1 else "minima are"
        more = f"; {self.unsure:,} more {rest} within the error" if self.unsure else ""
        return f"{text}{more}."

    def answer(self) -> tuple[str, str]:
        """Whether the map is one basin, in a few words; "sure" where that is certain."""
        if self.is_within_error and self.total > 1:
            return "not known: the map is within its error", ""
        mark, edge = "" if self.why_unknown else "sure", self.edge
        if self.total == 1:
            on_edge = bool(self.on_edge.any()) and not self.is_within_error
            return (
                ("none inside: the minimum lies on the edge", "") if on_edge else ("yes", mark)
            )
        if self.why_unknown:
            return f"{self.total:,} minima, certainty unknown", mark
        if not edge.size:
            one = "yes, within the error of the map"
            return (one if self.basins <= 1 else f"no: {self.basins:,} are certain"), mark
        uncounted = f"{edge_words(edge)}, not counted"
        if self.basins > 1:
            return f"no: {self.basins:,} inside the map; {uncounted}", mark
        start = "yes, inside the map" if self.basins else "none certain inside the map"
        return f"{start}; {uncounted}", ""

    def verdict(self, minimum: int) -> str:
        """What is known of one minimum.

        Args:
            minimum: its number.

        Returns:
            Whether its basin is certain, and whether it lies on the edge of the map.
        """
        if self.why_unknown:
            return "unknown"
        where = "on the edge of the map, not counted"
        if self.counted[minimum]:
            return "certain"
        if self.certain[minimum]:
            return where
        return "within the error" + (f"; {where}" if self.on_edge[minimum] else "")


def edge_words(minima: Ints) -> str:
    """Which minima lie on the edge of a map, as in "minimum 1 lies on its edge"."""
    names = ", ".join(map(str, minima.tolist()[:_MAX_NAMED]))
    if minima.size == 1:
        return f"minimum {names} lies on its edge"
    more = ", ..." if minima.size > _MAX_NAMED else ""
    return f"minima {names}{more} lie on its edge"
