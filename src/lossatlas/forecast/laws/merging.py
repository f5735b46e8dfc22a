"""Many small falls of the rate as few: exact near an observation, coarser with age.

A drop sum has one term for every observation and every earlier fall: too many. Its kernel
bends only near the observation, so falls are merged there over a few steps, and over spans
that double with their age elsewhere (weights, mean position and mean rate are kept, so the
error is of second order in span / age).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.sums import falls

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

FINE = 4  # steps merged next to an observation, at most
LONG = 4096  # every so many steps of a run allow one more of them
NEAR = 12  # spans kept on each level before the next one doubles them
# A warm-up passes through all rates in a few spans, and the kernel is a power of the rate.
NEAR_WARMUP = 192
TINY = 1e-6  # rates below this share of the peak count as this in powers of the rate


@dataclass(frozen=True, eq=False)
class Drops:
    """The merged falls before every observation, one entry a pair.

    Attributes:
        weight: (n, pairs) sparse: the fall of each pair in the row of its observation.
        log_rate: (pairs,) logarithm of the rate after the fall.
        since: (pairs,) sum of rates from the fall to the observation.
    """

    weight: csr_array
    log_rate: Floats
    since: Floats


def merged_drops(inputs: Inputs, with_warmup: bool = False) -> Drops:
    """Merge the falls of a schedule for the points of a run."""
    rates = np.asarray(inputs.rates)
    change = falls(inputs, with_warmup)[: inputs.step[-1]]
    total = np.concatenate([[0.0], np.cumsum(rates)])
    near = NEAR_WARMUP if with_warmup else NEAR
    parts = [
        _merge(np.where(sign * change > 0, change, 0.0), inputs.step, rates, total, near)
        for sign in (1, -1)
        if (sign * change > 0).any()
    ]
    n = inputs.step.size
    if not parts:
        return Drops(csr_array((n, 0)), np.empty(0), np.empty(0))
    row, fall, log_rate, since = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    indptr = np.searchsorted(row[order], np.arange(n + 1))
    weight = csr_array((fall[order], np.arange(order.size), indptr), shape=(n, order.size))
    return Drops(weight, log_rate[order], since[order])


def _merge(
    change: Floats, step: Indices, rates: Floats, total: Floats, near: int
) -> tuple[Indices, Floats, Floats, Floats]:
    edges, floor = _edges(step), TINY * rates.max()
    mass = _sums(change, edges)
    before = _sums(change * total[: change.size], edges)
    rate = _sums(change * rates[: change.size], edges)
    ends = np.searchsorted(edges, step)
    out: list[tuple[Indices, Indices, int]] = []
    level = 0
    rows = np.arange(step.size)
    while rows.size:
        # Keep `near` spans of this level, and one more where the next level must start even.
        start = np.maximum(ends - near, 0)
        start -= start % 2
        out.append((np.repeat(rows, ends - start), _ranges(start, ends), level))
        alive = start > 0
        rows, ends, level = rows[alive], start[alive] // 2, level + 1
    found = []
    for rows, cells, depth in out:
        m, b, r = (_halved(sums, depth)[cells] for sums in (mass, before, rate))
        keep = m != 0
        at, m, b, r = rows[keep], m[keep], b[keep], r[keep]
        since = total[step[at]] - b / m
        found.append((at, m, np.log(np.maximum(r / m, floor)), np.maximum(since, 0.0)))
    row, m, log_rate, since = (np.concatenate(part) for part in zip(*found, strict=True))
    return row, m, log_rate, since


# Cell borders: every observation, and every few steps.
def _edges(step: Indices) -> Indices:
    fine = int(np.clip(step[-1] // LONG, 1, FINE))
    return np.unique(np.concatenate([np.arange(0, step[-1], fine), step]))


def _sums(values: Floats, edges: Indices) -> Floats:
    return np.add.reduceat(values, edges[:-1])


def _halved(sums: Floats, depth: int) -> Floats:
    for _ in range(depth):
        if sums.size % 2:
            sums = np.append(sums, 0.0)
        sums = sums[0::2] + sums[1::2]
    return sums


# The concatenation of arange(a, b) for all pairs.
def _ranges(start: Indices, stop: Indices) -> Indices:
    count = stop - start
    offset = np.repeat(start - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
    return offset + np.arange(count.sum())
