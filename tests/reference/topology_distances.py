"""Distances of small barcodes by trying every partial matching."""

from itertools import combinations, permutations

import numpy as np


def matchings(n, m):
    for size in range(min(n, m) + 1):
        for rows in combinations(range(n), size):
            for columns in permutations(range(m), size):
                yield list(zip(rows, columns, strict=True))


def best(a, b, order, ground):
    def diagonal(bar):
        middle = (bar[0] + bar[1]) / 2
        return np.linalg.norm([bar[0] - middle, bar[1] - middle], ground)

    found = np.inf
    for pairs in matchings(len(a), len(b)):
        steps = [np.linalg.norm(np.subtract(a[i], b[j]), ground) for i, j in pairs]
        steps += [diagonal(a[i]) for i in range(len(a)) if i not in {p[0] for p in pairs}]
        steps += [diagonal(b[j]) for j in range(len(b)) if j not in {p[1] for p in pairs}]
        found = min(found, np.linalg.norm(steps, order) if steps else 0.0)
    return found


def sliced(a, b, directions):
    """One line at a time, as the definition says."""
    total = 0.0
    for k in range(directions):
        angle = -np.pi / 2 + np.pi * k / directions
        line = np.array([np.cos(angle), np.sin(angle)])
        foot = lambda bar: np.full(2, sum(bar) / 2)  # noqa: E731
        u = sorted([*(p @ line for p in a), *(foot(p) @ line for p in b)])
        v = sorted([*(p @ line for p in b), *(foot(p) @ line for p in a)])
        total += sum(abs(x - y) for x, y in zip(u, v, strict=True))
    return total / directions
