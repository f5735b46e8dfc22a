"""How far the band of suggested rates must reach: split conformal prediction over tasks.

The score of a suggestion is by how much the best rate lies outside the band, in factors of 2,
below zero where it lies inside (Romano et al., 2019, arXiv:1905.03222). The two optimizers of a
task share its data, so tasks are the units: their distributions of scores are pooled (Dunn et
al., 2022, arXiv:1809.07441), and the quantile is that of 90 % (n + 1) / n for n tasks.
"""

import math

LEVEL = 0.9
# Batches of one pass, for the problems whose results were there before suggestions told.
BATCHES = {
    "digits, mlp(32), 64": 17, "digits, mlp(64,64,64), 16": 68, "digits, mlp(128), 256": 5,
    "digits, cnn, 64": 17, "MNIST, mlp(64), 128": 19, "Shakespeare, chargpt, 16": 113,
    "digits, mlp(16), 8": 135, "noisy digits, mlp(64), 32": 34,
    "digits, autoencoder mlp(16), 32": 34, "MNIST, mlp(64,64), 32": 75,
    "diabetes, mlp(32), 32": 9, "breast cancer, mlp(16), 16": 22, "Friedman, mlp(64), 64": 19,
    "CIFAR-10, mlp(128), 64": 38, "digits, cnn, 16": 68, "MNIST, cnn, 64": 38,
}  # fmt: skip
HORIZON, PASSES = 600, 16.0

Scores = dict[str, list[float]]


def reaches(task: str) -> float:
    """What the low end is divided by for many passes over the data, as in `suggest_lr`."""
    return math.sqrt(max(HORIZON / BATCHES[task] / PASSES, 1.0))


def scores(results: dict) -> Scores:
    """Task -> by how much the best rate lies outside each band, in factors of 2."""
    found: Scores = {}
    for name, each in results.items():
        task = name.rpartition(" / ")[0]
        if task in BATCHES:
            reach = reaches(task)
            own = [
                _outside(each["best"], s["low"] / reach, s["high"]) for s in each["suggested"]
            ]
            found.setdefault(task, []).extend(own)
    return found


def _outside(best: float, low: float, high: float) -> float:
    return math.log2(max(low / best, best / high))


def margin(found: Scores) -> float:
    """The factor that both ends are widened by."""
    weighted = sorted((s, 1 / len(own)) for own in found.values() for s in own)
    needed, seen = LEVEL * (len(found) + 1), 0.0
    for score, weight in weighted:
        seen += weight
        if seen >= needed - 1e-9:
            return max(2.0**score, 1.0)
    return math.inf


def coverage(found: Scores, *, leave_out: bool) -> float:
    """Share of bands that hold the best, a task calibrated without itself where it is asked."""
    hits = []
    for task, own in found.items():
        others = {t: s for t, s in found.items() if t != task} if leave_out else found
        widening = math.log2(margin(others))
        hits += [score <= widening for score in own]
    return sum(hits) / len(hits)
