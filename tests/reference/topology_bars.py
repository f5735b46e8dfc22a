"""Slow, obvious topology: one sweep with union-find, and matrix reduction cell by cell."""

from itertools import product

import numpy as np


def neighbors(shape, point, connectivity):
    for offset in product((-1, 0, 1), repeat=len(shape)):
        if not any(offset) or (connectivity == "axis" and sum(map(abs, offset)) > 1):
            continue
        other = tuple(p + o for p, o in zip(point, offset, strict=True))
        if all(0 <= o < n for o, n in zip(other, shape, strict=True)):
            yield other


def sweep(values, connectivity):
    """Merges of the rising water: (minimum that ends, saddle, minimum that goes on)."""
    points = [p for p in np.ndindex(values.shape) if np.isfinite(values[p])]
    points.sort(key=lambda p: (values[p], np.ravel_multi_index(p, values.shape)))
    age = {p: i for i, p in enumerate(points)}
    root, merges = {}, []

    def find(p):
        while root[p] != p:
            p = root[p]
        return p

    for point in points:
        root[point] = point
        near = {find(q) for q in neighbors(values.shape, point, connectivity) if q in root}
        elder, *younger = sorted(near | {point}, key=age.get)
        for other in younger:
            if other != point:
                merges.append((other, point, elder))
            root[other] = elder
    return merges, [p for p in points if root[p] == p]


def sweep_bars(values, connectivity):
    merges, roots = sweep(values, connectivity)
    bars = [(values[m], values[s]) for m, s, _ in merges if values[s] > values[m]]
    return sorted(bars + [(values[r], np.inf) for r in roots])


def minimax(values, connectivity, start, goal):
    """Least level at which two points lie in one component: try every level."""
    for level in np.unique(values[np.isfinite(values)]):
        if values[start] > level or values[goal] > level:
            continue
        seen, todo = {start}, [start]
        while todo:
            for q in neighbors(values.shape, todo.pop(), connectivity):
                if q not in seen and values[q] <= level:
                    seen.add(q)
                    todo.append(q)
        if goal in seen:
            return level
    return np.inf


def cells(values, connectivity):
    """Cubical complex: cell (odd coordinates span an interval) -> (filtration value)."""
    full, values = {}, np.where(np.isfinite(values), values, np.inf)
    size = [2 * n + 1 if connectivity == "full" else 2 * n - 1 for n in values.shape]
    inside = 1 if connectivity == "full" else 0
    for cell in np.ndindex(*size):
        ranges = [
            [c // 2] if c % 2 == inside else [c // 2 - inside, c // 2 + 1 - inside]
            for c in cell
        ]
        around = [
            values[p]
            for p in product(*ranges)
            if all(0 <= x < n for x, n in zip(p, values.shape, strict=True))
        ]
        full[cell] = min(around) if connectivity == "full" else max(around)
    return {c: v for c, v in full.items() if np.isfinite(v)}


def degree(cell):
    return sum(c % 2 for c in cell)


def faces(cell):
    for axis, c in enumerate(cell):
        if c % 2:
            for step in (-1, 1):
                yield (*cell[:axis], c + step, *cell[axis + 1 :])


def reduced_bars(filtration, boundary, dimension, top):
    """Standard column reduction over Z/2: degree -> sorted bars of length > 0."""
    order = sorted(filtration, key=lambda c: (filtration[c], dimension(c), c))
    index = {c: i for i, c in enumerate(order)}
    columns, paired, bars = {}, {}, {k: [] for k in range(top + 1)}
    for j, cell in enumerate(order):
        column = {index[f] for f in boundary(cell)}
        while column and max(column) in paired:
            column ^= columns[paired[max(column)]]
        if column:
            columns[j], paired[max(column)] = column, j
    deaths = set(paired.values())
    for i, cell in enumerate(order):
        if i in deaths or dimension(cell) > top:
            continue
        end = filtration[order[paired[i]]] if i in paired else np.inf
        if end > filtration[cell]:
            bars[dimension(cell)].append((filtration[cell], end))
    return {k: sorted(v) for k, v in bars.items()}


def cubical_bars(values, connectivity):
    return reduced_bars(cells(values, connectivity), faces, degree, values.ndim - 1)


def graph_merges(values, edges, heights):
    """Kruskal with the elder rule: sorted (birth, death), essential deaths infinite."""
    age = {v: (values[v], v) for v in range(len(values)) if np.isfinite(values[v])}
    root, bars = {v: v for v in age}, []

    def find(v):
        while root[v] != v:
            v = root[v]
        return v

    for height, (u, v) in sorted(zip(heights, map(tuple, edges), strict=True)):
        if u not in root or v not in root:
            continue
        elder, younger = sorted((find(u), find(v)), key=age.get)
        if elder != younger:
            root[younger] = elder
            bars.append((values[younger], height))
    bars = [bar for bar in bars if bar[1] > bar[0]]
    return sorted(bars + [(values[v], np.inf) for v in root if root[v] == v])


def image_pairs(upper, lower, connectivity):
    """Image persistence of upper -> lower by one reduction: (birth cell, death cell) by degree.

    Columns in the order of `lower`, rows in the order of `upper`. Distinct values only.
    """
    rows_of, columns_of = cells(upper, connectivity), cells(lower, connectivity)

    def ordered(levels):
        order = sorted(levels, key=lambda c: (levels[c], degree(c), c))
        return order, {c: i for i, c in enumerate(order)}

    rows, row = ordered(rows_of)
    columns, _ = ordered(columns_of)
    reduced, owner, pairs = {}, {}, []
    for cell in columns:
        column = {row[f] for f in faces(cell)}
        while column and max(column) in owner:
            column ^= reduced[owner[max(column)]]
        if column:
            reduced[cell], owner[max(column)] = column, cell
            birth = rows[max(column)]
            if rows_of[birth] < columns_of[cell]:
                pairs.append((degree(birth), birth, cell))
    return pairs


def betti_matching(first, second, connectivity):
    """Matched finite bars: degree -> sorted ((birth, death), (birth, death))."""
    common = np.minimum(first, second)
    level = {
        name: cells(f, connectivity)
        for name, f in zip("fgc", (first, second, common), strict=True)
    }
    ends = []
    for name, field in (("f", first), ("g", second)):
        own = {birth: death for _, birth, death in image_pairs(field, field, connectivity)}
        # An image bar shares its birth cell with the field, its death cell with the common one.
        ends.append(
            {
                (k, death): (level[name][birth], level[name][own[birth]])
                for k, birth, death in image_pairs(field, common, connectivity)
                if birth in own
            }
        )
    keys = ends[0].keys() & ends[1].keys()
    return {
        k: sorted((ends[0][key], ends[1][key]) for key in keys if key[0] == k) for k in (0, 1)
    }


def periodic_bars(values, connectivity, periodic):
    """Bars of a grid some of whose axes are circles, by reduction cell by cell."""
    inside = 1 if connectivity == "full" else 0
    sizes = []
    for n, circle in zip(values.shape, periodic, strict=True):
        sizes.append(2 * n if circle else 2 * n + (1 if inside else -1))
    values = np.where(np.isfinite(values), values, np.inf)
    levels = {}
    for cell in np.ndindex(*sizes):
        ranges = []
        for c, n, circle in zip(cell, values.shape, periodic, strict=True):
            near = [c // 2] if c % 2 == inside else [c // 2 - inside, c // 2 + 1 - inside]
            ranges.append([x % n if circle else x for x in near])
        around = [
            values[p]
            for p in product(*ranges)
            if all(0 <= x < n for x, n in zip(p, values.shape, strict=True))
        ]
        levels[cell] = min(around) if connectivity == "full" else max(around)
    levels = {c: v for c, v in levels.items() if np.isfinite(v)}

    def wrapped_faces(cell):
        for face in faces(cell):
            yield tuple(
                c % size if circle else c
                for c, size, circle in zip(face, sizes, periodic, strict=True)
            )

    return reduced_bars(levels, wrapped_faces, degree, values.ndim)
