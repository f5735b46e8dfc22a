"""The elder rule: which minimum ends at which saddle."""

from dataclasses import dataclass

import numpy as np

from lossatlas.topology.field import Ints


@dataclass(frozen=True, eq=False)
class Pairing:
    """Merges of components, in order.

    Attributes:
        edge: index of the edge of each merge, ascending.
        ended: the node whose component ends at the merge, the younger of the two elders.
        into: the elder of the component that continues.
    """

    edge: Ints
    ended: Ints
    into: Ints


def elder_rule(count: int, first: Ints, second: Ints) -> Pairing:
    """Pair every node that is not the eldest of its component with the edge that ends it."""
    killer = np.full(count, -1, dtype=np.int64)
    attached = np.arange(count)
    edge, u, v = np.arange(first.size), first, second
    while edge.size:
        lowest, other = _lowest_edges(count, u, v)
        ends = np.flatnonzero((lowest >= 0) & (other < np.arange(count)))
        killer[ends] = edge[lowest[ends]]
        attached[ends] = other[ends]
        root = _roots(attached)
        u, v = root[u], root[v]
        alive = u != v
        edge, u, v = edge[alive], u[alive], v[alive]
        if 16 * ends.size < np.count_nonzero(lowest >= 0):
            _sweep(edge, u, v, killer, attached)
            break
    ended = np.flatnonzero(killer >= 0)
    ended = ended[np.argsort(killer[ended], kind="stable")]
    return Pairing(killer[ended], ended, _survivors(ended, killer, attached))


def _lowest_edges(count: int, u: Ints, v: Ints) -> tuple[Ints, Ints]:
    # Position of the first edge at each node (-1: none), and the node at its other end.
    lowest = np.full(count, -1, dtype=np.int64)
    # With repeated indices the last assignment wins, so the edges are written in reverse.
    ends = np.stack([u, v], axis=1)[::-1]
    position = np.arange(u.size)[::-1]
    lowest[ends.ravel()] = np.repeat(position, 2)
    return lowest, u[lowest] + v[lowest] - np.arange(count)


def _roots(parent: Ints) -> Ints:
    while not np.array_equal(parent, jumped := parent[parent]):
        parent = jumped
    return parent


def _sweep(edge: Ints, first: Ints, second: Ints, killer: Ints, attached: Ints) -> None:
    # Processes the remaining edges one by one; modifies `killer` and `attached`.
    parent = list(range(killer.size))
    for number, u, v in zip(edge.tolist(), first.tolist(), second.tolist(), strict=True):
        ends = []
        for node in (u, v):
            root = node
            while parent[root] != root:
                parent[root] = root = parent[parent[root]]
            ends.append(root)
        elder, younger = sorted(ends)
        if elder != younger:
            parent[younger] = elder
            killer[younger] = number
            attached[younger] = elder


def _survivors(ended: Ints, killer: Ints, attached: Ints) -> Ints:
    # The elder, at the time of each merge, of the component that continues.
    into = attached[ended]
    while True:
        gone = (killer[into] >= 0) & (killer[into] < killer[ended])
        if not gone.any():
            return into
        into = np.where(gone, attached[into], into)
