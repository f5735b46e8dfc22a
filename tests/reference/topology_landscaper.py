"""What Landscaper 1.3.1 averages, step by step: the leaves of a contour tree cut short.

Its join tree and its split tree both come from the 2d-neighbor grid. Two such trees are not
those of one simply connected domain, so pruning leaves, first all upper and then all lower
ones, may come to a halt before the tree is written; what is left is dropped without a word.
"""

import itertools

import numpy as np

from lossatlas.topology.basins import value_order


def landscaper_smad(field):
    """Its number, and what its contour tree leaves out.

    Args:
        field: distinct values, any number of dimensions.

    Returns:
        The mean gap (NaN where it averages nothing), the (minimum, node) pairs it averages
        over, and how many nodes it never wrote.
    """
    flat = field.ravel()
    joins, splits = _merges(flat, field.shape), _merges(-flat, field.shape)
    kept = joins[1] | splits[1]
    trees = [_links(parent, kept) for parent, _ in (splits, joins)]
    arcs = _prune(*trees) + _prune(*trees[::-1])
    degree = np.bincount(np.ravel(arcs).astype(int), minlength=flat.size)
    minima = {v for v in joins[1] if all(flat[u] > flat[v] for u in _near(v, field.shape))}
    pairs = [
        (low, high)
        for arc in arcs
        for low, high in (arc, arc[::-1])
        if low in minima and degree[high] > 1
    ]
    gaps = [abs(flat[high] - flat[low]) for low, high in pairs]
    return float(np.mean(gaps)) if gaps else np.nan, sorted(pairs), max(map(len, trees)) - 1


def _near(v, shape):
    spot = np.unravel_index(v, shape)
    for axis, step in itertools.product(range(len(shape)), (-1, 1)):
        there = [x + step * (axis == k) for k, x in enumerate(spot)]
        if 0 <= there[axis] < shape[axis]:
            yield int(np.ravel_multi_index(there, shape))


def _merges(values, shape):
    # Every point -> the next one of its component, and the points that are not on the way.
    parent, above, seen = {}, {}, set()
    for v in value_order(values).tolist():
        above[v], heads = v, {_head(u, above) for u in _near(v, shape) if u in seen}
        seen.add(v)
        for head in heads:
            parent[head] = above[head] = v
    below = np.bincount(list(parent.values()), minlength=values.size)
    return parent, {v for v in seen if below[v] != 1 or v not in parent}


def _head(u, above):
    while above[u] != u:
        u = above[u]
    return u


def _links(parent, kept):
    # Node -> the node above it in the tree of the kept points; the root has none.
    links = {}
    for v in kept:
        up = parent.get(v)
        while up is not None and up not in kept:
            up = parent.get(up)
        links[v] = up
    return links


def _prune(tree, other):
    arcs = []
    while len(tree) > 1:
        inner = set(tree.values())
        below = list(other.values())
        leaves = [v for v in tree if v not in inner and v in other and below.count(v) < 2]
        if not leaves:
            break
        leaf = min(leaves)
        arcs.append((leaf, tree.pop(leaf)))
        up = other.pop(leaf)
        # The leaf lies on the way of the other tree, and its neighbors there are glued.
        other |= {v: up for v, target in other.items() if target == leaf}
    return arcs
