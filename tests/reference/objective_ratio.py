"""The error of a ratio of sums, by its definition, one example after another."""

import math


def ratio(sums, weights):
    """Value and standard error of sum(s) / sum(w), the example as the unit."""
    counted = [(s, w) for s, w in zip(sums, weights, strict=True) if w > 0]
    n, total = len(counted), sum(w for _, w in counted)
    value = sum(s for s, _ in counted) / total
    residuals = [(s - value * w) / (total / n) for s, w in counted]
    variance = sum(e * e for e in residuals) / (n - 1)
    return value, math.sqrt(variance / n)
