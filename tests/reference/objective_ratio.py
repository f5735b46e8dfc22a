"""The error of a ratio of sums, by its definition, one example after another."""

import math


def ratio(sums, weights):
    """Value and standard error of sum(s) / sum(w), the example as the unit."""
    counted = [(s, w) for s, w in zip(sums, weights, strict=True) if w > 0]
    n, total = len(counted), sum(w for _, w in counted)
    value = sum(s for s, _ in counted) / total
    residuals = [(s - value * w) / (total / n) for s, w in counted]
    # What a residual keeps of the variance of its example, if means of examples vary alike:
    # (1 - h_i)^2 of its own, h_j^2 of the others, each weighted as the residuals are.
    shares = [w / total for _, w in counted]
    kept = [
        w * w * ((1 - h) ** 2 + sum(g * g for g in shares) - h * h)
        for (_, w), h in zip(counted, shares, strict=True)
    ]
    share = sum(kept) / sum(w * w for _, w in counted)
    variance = sum(e * e for e in residuals) / (n * share)
    return value, math.sqrt(variance / n)
