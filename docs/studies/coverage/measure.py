"""Draw data many times over, evaluate an objective on each, and count covered truths."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la

UNITS = (2, 3, 4, 8, 16, 30, 100)
TOKENS = 12
Z95 = 1.96


class Shift(nn.Module):
    """Returns its input plus a parameter that is 0: what comes in is what is measured."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        return x + self.shift


def _each(model, batch):
    return model(batch)


def _mean(model, batch):
    return model(batch).mean()


def normal(rng, n):
    """One number an example, normal."""
    return _each, [torch.from_numpy(rng.normal(1, 1, n))]


def exponential(rng, n):
    """One number an example, exponential (skewness 2)."""
    return _each, [torch.from_numpy(rng.exponential(1, n))]


def heavy(rng, n):
    """One number an example, log-normal with sigma 1.5 (skewness 33)."""
    return _each, [torch.from_numpy(rng.lognormal(0, 1.5, n))]


def batches(rng, n):
    """Means of n batches of 4 to 64 examples."""
    return _mean, [torch.from_numpy(rng.normal(1, 1, k)) for k in rng.integers(4, 65, n)]


def last_batch(rng, n):
    """Means of n batches of 32 examples, the last of 3."""
    return _mean, [torch.from_numpy(rng.normal(1, 1, k)) for k in [32] * (n - 1) + [3]]


def _classes(weights):
    criterion = la.supervised(nn.CrossEntropyLoss(weight=torch.tensor(weights).double()))

    def draw(rng, n):
        labels = rng.integers(0, 3, n)
        logits = rng.normal(0, 1, (n, 3))
        logits[labels == 1] += [0, 1, 0]
        return criterion, [(torch.from_numpy(logits), torch.from_numpy(labels))]

    return draw


def _sequences(rng, n, *, common, informative):
    # Logits of two classes for TOKENS tokens, as many of which count as a sequence is long.
    lengths = rng.integers(1, TOKENS + 1, n)
    own = rng.normal(0, 1, n) * common - informative * lengths / TOKENS
    logits = np.zeros((n, 2, TOKENS))
    logits[:, 1] = own[:, None] + rng.normal(0, 1, (n, TOKENS))
    labels = rng.integers(0, 2, (n, TOKENS))
    labels[np.arange(TOKENS) >= lengths[:, None]] = -100
    return torch.from_numpy(logits), torch.from_numpy(labels)


_TOKENS = la.supervised(F.cross_entropy)


def masked(rng, n):
    """Sequences of 1 to 12 tokens that count, tokens independent."""
    return _TOKENS, [_sequences(rng, n, common=0.0, informative=0.0)]


def skewed(rng, n):
    """The same, tokens of one sequence alike; a few sequences have most of the loss."""
    return _TOKENS, [_sequences(rng, n, common=2.0, informative=0.0)]


def _pairs(model, batch):
    return la.Weighted(model(batch[0]), batch[1])


def _clusters(rng, n, informative):
    # Normal losses of tokens that share half of their variance with their sequence.
    lengths = rng.integers(1, TOKENS + 1, n)
    own = 1 + rng.normal(0, 1, n) + informative * lengths / TOKENS
    sums = own * lengths + rng.normal(0, 1, n) * np.sqrt(lengths)
    return torch.from_numpy(sums), torch.from_numpy(lengths)


def clustered(rng, n):
    """Sequences of 1 to 12 tokens with normal losses, half of their variance in common."""
    return _pairs, [_clusters(rng, n, 0.0)]


def informative(rng, n):
    """The same, and long sequences have higher losses than short ones."""
    return _pairs, [_clusters(rng, n, 3.0)]


def tokens_apart(rng, n):
    """Such sequences with every token taken for an example of its own."""
    lengths = rng.integers(1, TOKENS + 1, n)
    own = np.repeat(1 + rng.normal(0, 1, n), lengths)
    return _each, [torch.from_numpy(own + rng.normal(0, 1, len(own)))]


CASES = {
    "normal": normal,
    "exponential": exponential,
    "heavy tail": heavy,
    "unequal batches": batches,
    "short last batch": last_batch,
    "class weights 1, 2, .5": _classes((1.0, 2.0, 0.5)),
    "class weights 1, 5, .2": _classes((1.0, 5.0, 0.2)),
    "masked tokens": masked,
    "clustered tokens": clustered,
    "informative length": informative,
    "skewed clusters": skewed,
    "tokens as examples (wrong)": tokens_apart,
}
# Shown for what they are: skewed losses and dependent units that are taken for independent.
HONEST = ("exponential", "heavy tail", "skewed clusters", "tokens as examples (wrong)")


def truth(draw):
    """The value of the objective on very many examples."""
    rng = np.random.default_rng(2**32)
    parts = [evaluate(draw, rng, 20_000) for _ in range(40)]
    return float(np.mean([part.value for part in parts]))


def evaluate(draw, rng, n):
    """One sample of n units through an objective."""
    loss, data = draw(rng, n)
    return la.Objective(Shift(), loss, data, check=False).evaluate()


def cover(draw, n, replicates, expected, seed=0):
    """How often intervals hold the truth, and how many samples had none.

    Returns:
        Shares for Student's t with the effective number of units and for 1.96 standard errors,
        the mean effective number, and the share of samples without an error.
    """
    rng = np.random.default_rng([seed, n])
    held, normal_held, effective, unknown = 0, 0, 0.0, 0
    for _ in range(replicates):
        found = evaluate(draw, rng, n)
        low, high = found.interval()
        if np.isnan(low):
            unknown += 1
            continue
        held += low <= expected <= high
        normal_held += abs(found.value - expected) <= Z95 * found.stderr
        effective += found.effective
    known = replicates - unknown
    return {
        "coverage": held / known,
        "normal": normal_held / known,
        "effective": effective / known,
        "unknown": unknown / replicates,
    }


def rows(replicates):
    """Every case with every number of units."""
    found = []
    for name, draw in CASES.items():
        expected = 1.0 if name in {"normal", "exponential"} | _MEANS else truth(draw)
        expected = float(np.exp(1.5**2 / 2)) if name == "heavy tail" else expected
        found += [
            {"case": name, "units": n, **cover(draw, n, replicates, expected)} for n in UNITS
        ]
    return found


_MEANS = {"unequal batches", "short last batch"}
