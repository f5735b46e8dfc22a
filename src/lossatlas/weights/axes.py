"""Index sets of tensor axes: which axes of a computation must be permuted together.

Every axis of every tensor carries an `Axis`. Operations unify the axes that they pair, so that
in the end each class of axes is one group of symmetries. An axis may be a *product* (heads x
width, stored row by row) or a *sum* (the pieces of a concatenation, one after another).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence


class Axis:
    """One index set.

    Attributes:
        size: how many indices.
        why_held: why they may not be permuted; empty where they may.
        bent: whether only permutations commute with what it met, and rotations do not.
        kind: "leaf", "product" or "sum".
        parts: the factors of a product, the pieces of a sum.
        whole: the product whose first factor this is, where a view made it so.
        alternatives: for each index of a sliced first factor, what stands for the others.
        copies: what stands for this axis after the first factor beside it was sliced.
        met: whether it was ever unified with another axis.
        stack: the factors of a product that became a sum of copies when it was sliced.
    """

    __slots__ = (
        "_same", "alternatives", "bent", "copies", "kind", "met", "parts", "size", "stack",
        "whole", "why_held",
    )  # fmt: skip

    def __init__(self, size: int, why_held: str = "", *, bent: bool = False) -> None:
        self.size, self.why_held, self.bent = size, why_held, bent
        self.kind, self.parts = "leaf", list[Axis]()
        self.whole: Axis | None = None
        self.alternatives: list[list[tuple[Axis, Axis]]] = []
        self.copies: list[Axis] = []
        self.met = False
        self.stack: list[Axis] = []
        self._same: Axis | None = None

    def root(self) -> "Axis":
        """What stands for the whole class of unified axes."""
        axis = self
        while axis._same is not None:
            axis = axis._same
        return axis

    def become(self, other: "Axis") -> None:
        """Make this root one with another."""
        self._same = other

    @property
    def is_held(self) -> bool:
        """Whether no index of it may move."""
        root = self.root()
        return bool(root.why_held) or (
            bool(root.parts) and all(part.is_held for part in root.parts)
        )


def hold(axis: Axis, why: str) -> None:
    """Let no index of an axis move."""
    root = axis.root()
    for part in (*root.parts, *root.copies, *root.stack):
        hold(part, why)
    root.why_held = root.why_held or why


def bend(axis: Axis) -> None:
    """Say that an axis met something that only permutations commute with."""
    root = axis.root()
    if not root.bent:
        root.bent = True
        for part in (*root.parts, *root.copies, *root.stack):
            bend(part)


def product(factors: Iterable[Axis]) -> Axis:
    """The axis whose indices are tuples, the last running fastest."""
    parts = [part.root() for part in factors if part.size > 1]
    return _joined("product", parts, math.prod(part.size for part in parts))


def concatenation(pieces: Iterable[Axis]) -> Axis:
    """The axis that has the indices of one piece after those of another."""
    parts = [part.root() for part in pieces if part.size > 0]
    return _joined("sum", parts, sum(part.size for part in parts))


def _joined(kind: str, parts: list[Axis], size: int) -> Axis:
    if len(parts) == 1:
        return parts[0]
    axis = Axis(size)
    axis.kind, axis.parts = kind, parts
    return axis


def factors(axis: Axis) -> list[Axis]:
    """An axis as factors, none of which is a product."""
    return _flat(axis.root(), "product")


def pieces(axis: Axis) -> list[Axis]:
    """An axis as pieces, none of which is a sum."""
    return _flat(axis.root(), "sum")


def _flat(axis: Axis, kind: str) -> list[Axis]:
    if axis.kind != kind:
        return [axis]
    return [leaf for part in axis.parts for leaf in _flat(part.root(), kind)]


def leaves(axis: Axis) -> Iterator[Axis]:
    """All axes without parts that an axis is made of."""
    root = axis.root()
    if not root.parts:
        yield root
    for part in root.parts:
        yield from leaves(part)


def unify(a: Axis, b: Axis, where: str) -> None:
    """Let two axes be permuted together from now on; what cannot be is held."""
    a, b = a.root(), b.root()
    if a is b:
        return
    a.met = b.met = True
    if a.bent or b.bent:
        bend(a)
        bend(b)
    copies = (*((copy, b) for copy in a.copies), *((copy, a) for copy in b.copies))
    if a.size != b.size or not _link(a, b, where):
        for axis in (a, b):
            hold(axis, f"{where}: axes of different structure meet")
    for copy, other in copies:
        unify(copy, other, where)


def _link(a: Axis, b: Axis, where: str) -> bool:
    if a.is_held or b.is_held:
        why = a.why_held or b.why_held or where
        hold(a, why)
        hold(b, why)
    if a.kind == "leaf":
        a.become(b)
        return True
    if b.kind == "leaf":
        b.become(a)
        return True
    if a.kind != b.kind:
        a, b = (a, b) if a.kind == "sum" else (b, a)
        if not _unstack(b):
            return False
    how = (pieces, split_sum) if a.kind == "sum" else (factors, split_product)
    if not _refine(a, b, *how):
        return False
    b.become(a)
    for left, right in zip(a.parts, b.parts, strict=True):
        unify(left, right, where)
    return True


def _refine(
    a: Axis,
    b: Axis,
    parts_of: Callable[[Axis], list[Axis]],
    split: Callable[[Axis, int], list[Axis] | None],
) -> bool:
    # Common factors or pieces: the larger of two is cut by the smaller, from the left.
    left, right = parts_of(a), parts_of(b)
    k = 0
    while k < min(len(left), len(right)):
        x, y = left[k].root(), right[k].root()
        if x.size != y.size:
            longer, large, small = (left, x, y) if x.size > y.size else (right, y, x)
            cut = split(large, small.size)
            if cut is None:
                return False
            longer[k : k + 1] = cut
        k += 1
    a.parts, b.parts = left, right
    return len(left) == len(right)


def split_product(axis: Axis, first: int) -> list[Axis] | None:
    """Cut an axis without parts into a first factor of some size and the rest."""
    root = axis.root()
    if root.size % first or root.kind != "leaf":
        return None
    rest = root.size // first
    cut = [Axis(size, root.why_held, bent=root.bent) for size in (first, rest)]
    if not root.why_held:
        root.kind, root.parts = "product", cut
        cut[0].whole = root
        if root.copies:
            # What was copied before stays one with this: copies would have to be cut alike.
            _tie_copies(root)
    return cut


def _tie_copies(root: Axis) -> None:
    copies, root.copies = root.copies, []
    for copy in copies:
        unify(copy, root, "view")


def split_sum(axis: Axis, first: int) -> list[Axis] | None:
    """Cut an axis into a first piece of some size and the rest."""
    root = axis.root()
    if root.why_held:
        return [Axis(first, root.why_held), Axis(root.size - first, root.why_held)]
    if root.kind == "leaf":
        cut = [Axis(size, bent=root.bent) for size in (first, root.size - first)]
        root.kind, root.parts = "sum", cut
        if root.copies:
            _tie_copies(root)
        return cut
    if root.kind == "product" and _unstack(root):
        inner = root.parts[0].size
        if first % inner == 0:
            k = first // inner
            return [concatenation(root.parts[:k]), concatenation(root.parts[k:])]
    return None


def _unstack(axis: Axis) -> bool:
    # A product whose first factor is sliced becomes a sum of copies of the others.
    first, *others = factors(axis)
    if first.kind != "leaf" or not others:
        return False
    if first.alternatives:
        return False
    hold(first, "sliced")
    table = [[(other, _copied(other)) for other in others] for _ in range(first.size)]
    first.alternatives = table
    axis.stack = [first, *others]
    axis.kind = "sum"
    axis.parts = [product(copy for _, copy in row) for row in table]
    return True


def _copied(axis: Axis) -> Axis:
    # What met other axes before the slice is shared by all slices.
    root = axis.root()
    if root.met or root.is_held or root.kind != "leaf":
        return root
    copy = Axis(root.size, bent=root.bent)
    root.copies.append(copy)
    return copy


def piece(axis: Axis, start: int, stop: int) -> Axis:
    """The indices from `start` to before `stop`."""
    root = axis.root()
    if start == 0 and stop >= root.size:
        return root
    if root.why_held:
        return Axis(stop - start, root.why_held)
    parts, position, k, inside = pieces(root), 0, 0, list[Axis]()
    while k < len(parts):
        part = parts[k].root()
        low, high = position, position + part.size
        bounds = [bound - low for bound in (start, stop) if low < bound < high]
        if bounds:
            cut = split_sum(part, bounds[0])
            if cut is None:
                hold(root, "sliced")
                return Axis(stop - start, "sliced")
            parts[k : k + 1] = [leaf for half in cut for leaf in pieces(half)]
            continue
        if start <= low and high <= stop:
            inside.append(part)
        position, k = high, k + 1
    return concatenation(inside)


def selected(axis: Axis, index: int, others: Sequence[Axis]) -> list[Axis]:
    """What the other axes of a tensor become when one index of an axis is taken."""
    root = axis.root()
    if not root.alternatives and root.whole is not None:
        whole = root.whole.root()
        if whole.kind == "product" and factors(whole)[0] is root:
            _unstack(whole)
    if not root.alternatives:
        if root.size > 1:
            hold(root, "an index of it is selected")
        return list(others)
    return [_substituted(other, root.alternatives[index]) for other in others]


def _substituted(axis: Axis, table: list[tuple[Axis, Axis]]) -> Axis:
    root = axis.root()
    if root.kind == "product":
        return product(_substituted(factor, table) for factor in root.parts)
    return next((copy for known, copy in table if known.root() is root), axis)


def view_factors(axis: Axis) -> list[Axis]:
    """The factors that a view may group anew; those of a sliced product are still known."""
    root = axis.root()
    return root.stack or factors(root)


def settle(axis: Axis) -> None:
    """Hand what is known of an axis down to its parts, at the end of a trace."""
    root = axis.root()
    for part in (*root.parts, *root.stack):
        if root.why_held:
            hold(part, root.why_held)
        if root.bent:
            bend(part)
        settle(part)
