"""Draw data many times over, evaluate an objective on each, and count covered truths."""

from dataclasses import replace

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


def uniform(rng, n):
    """One number an example, uniform."""
    return _each, [torch.from_numpy(rng.uniform(0, 2, n))]


def laplace(rng, n):
    """One number an example, two exponential tails."""
    return _each, [torch.from_numpy(rng.laplace(1, 1, n))]


def entropies(rng, n):
    """One number an example, cross-entropies of logits with deviation 2."""
    return _each, [torch.from_numpy(np.logaddexp(0, rng.normal(-1, 2, n)))]


def accuracies(rng, n):
    """One number an example, 1 with probability .8 and 0 otherwise."""
    return _each, [torch.from_numpy((rng.random(n) < 0.8).astype(float))]


def exponential(rng, n):
    """One number an example, exponential (skewness 2)."""
    return _each, [torch.from_numpy(rng.exponential(1, n))]


def heavy(rng, n):
    """One number an example, log-normal with sigma 1.5 (skewness 33)."""
    return _each, [torch.from_numpy(rng.lognormal(0, 1.5, n))]


def batches(rng, n):
    """Means of n batches of 4 to 64 examples."""
    return _mean, [torch.from_numpy(rng.normal(1, 1, k)) for k in rng.integers(4, 65, n)]


def skewed_batches(rng, n):
    """Means of n batches of 4 to 64 exponential losses."""
    return _mean, [torch.from_numpy(rng.exponential(1, k)) for k in rng.integers(4, 65, n)]


def last_batch(rng, n):
    """Means of n batches of 32 examples, the last of 3."""
    return _mean, [torch.from_numpy(rng.normal(1, 1, k)) for k in [32] * (n - 1) + [3]]


def _classes(weights, spread=1.0):
    criterion = la.supervised(nn.CrossEntropyLoss(weight=torch.tensor(weights).double()))

    def draw(rng, n):
        labels = rng.integers(0, 3, n)
        logits = rng.normal(0, spread, (n, 3))
        logits[labels == 1] += [0, 1, 0]
        return criterion, [(torch.from_numpy(logits), torch.from_numpy(labels))]

    return draw


def _sequences(rng, n, *, common=0.0, informative=0.0, rare=0.0):
    # Logits of two classes for TOKENS tokens, as many of which count as a sequence is long.
    lengths = rng.integers(1, TOKENS + 1, n)
    own = rng.normal(0, 1, n) * common - informative * lengths / TOKENS
    own += rng.exponential(1, n) * rare
    logits = np.zeros((n, 2, TOKENS))
    logits[:, 1] = own[:, None] + rng.normal(0, 1, (n, TOKENS))
    labels = rng.integers(0, 2, (n, TOKENS))
    labels[np.arange(TOKENS) >= lengths[:, None]] = -100
    return torch.from_numpy(logits), torch.from_numpy(labels)


_TOKENS = la.supervised(F.cross_entropy)


def masked(rng, n):
    """Sequences of 1 to 12 tokens that count, tokens independent."""
    return _TOKENS, [_sequences(rng, n)]


def skewed(rng, n):
    """The same, tokens of one sequence alike; a few sequences have most of the loss."""
    return _TOKENS, [_sequences(rng, n, common=2.0)]


def skewed_informative(rng, n):
    """The same, and long sequences have other losses than short ones."""
    return _TOKENS, [_sequences(rng, n, common=1.0, informative=3.0)]


def skewed_masked(rng, n):
    """Sequences of 1 to 12 tokens, in a few of which half of the losses are large."""
    return _TOKENS, [_sequences(rng, n, rare=3.0)]


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


def gamma_clusters(rng, n):
    """Sequences of 1 to 12 tokens, gamma losses whose level is gamma too."""
    lengths = rng.integers(1, TOKENS + 1, n)
    sums = rng.gamma(2.0 * lengths) / 2 * rng.gamma(2.0, 1, n)
    return _pairs, [(torch.from_numpy(sums), torch.from_numpy(lengths))]


def documents(rng, n):
    """Documents of 20 tokens or so, a few far longer; gamma losses, log-normal levels."""
    lengths = np.ceil(rng.lognormal(3, 0.6, n))
    sums = 3 * rng.gamma(0.7 * lengths) * rng.lognormal(0, 0.5, n)
    return _pairs, [(torch.from_numpy(sums), torch.from_numpy(lengths))]


def tokens_apart(rng, n):
    """Such sequences with every token taken for an example of its own."""
    lengths = rng.integers(1, TOKENS + 1, n)
    own = np.repeat(1 + rng.normal(0, 1, n), lengths)
    return _each, [torch.from_numpy(own + rng.normal(0, 1, len(own)))]


SYMMETRIC = {
    "normal": normal,
    "uniform": uniform,
    "two exponential tails": laplace,
    "unequal batches": batches,
    "short last batch": last_batch,
    "class weights 1, 2, .5": _classes((1.0, 2.0, 0.5)),
    "class weights 1, 5, .2": _classes((1.0, 5.0, 0.2)),
    "masked tokens": masked,
    "clustered tokens": clustered,
    "informative length": informative,
}
SKEWED = {
    "exponential": exponential,
    "heavy tail": heavy,
    "cross-entropies": entropies,
    "accuracy of 80 %": accuracies,
    "skewed batches": skewed_batches,
    "skewed class weights 1, 2, .5": _classes((1.0, 2.0, 0.5), 3.0),
    "skewed masked tokens": skewed_masked,
    "skewed clusters": skewed,
    "skewed informative length": skewed_informative,
    "gamma clusters": gamma_clusters,
    "documents": documents,
}
# Shown for what it is: dependent units that are taken for independent.
WRONG = {"tokens as examples (wrong)": tokens_apart}
CASES = SYMMETRIC | SKEWED | WRONG
# No rule of the interval was chosen on these.
HELD_OUT = (
    "accuracy of 80 %",
    "skewed batches",
    "skewed class weights 1, 2, .5",
    "skewed masked tokens",
    "skewed informative length",
    "gamma clusters",
    "documents",
)
_MEANS = {
    **dict.fromkeys(("normal", "uniform", "two exponential tails", "exponential"), 1.0),
    **dict.fromkeys(("unequal batches", "short last batch", "skewed batches"), 1.0),
    "heavy tail": float(np.exp(1.5**2 / 2)),
    "accuracy of 80 %": 0.8,
}


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
    """How often intervals cover the truth, and how many samples had none.

    Returns:
        Shares for intervals as they are, without their skewness, and of 1.96 standard errors;
        shares of intervals that are too high and too low; the median ratio of widths with
        and without skewness; the mean effective number; the share of samples without an error.
    """
    rng = np.random.default_rng([seed, n])
    found = [evaluate(draw, rng, n) for _ in range(replicates)]
    known = [one for one in found if np.isfinite(one.interval()[0])]
    low, high = np.transpose([one.interval() for one in known])
    flat = np.transpose([replace(one, skewness=0.0).interval() for one in known])
    spread = flat[1] > flat[0]
    errors = np.array([one.value - expected for one in known])
    return {
        "coverage": float(np.mean((low <= expected) & (expected <= high))),
        "symmetric": float(np.mean((flat[0] <= expected) & (expected <= flat[1]))),
        "normal": float(np.mean(np.abs(errors) <= Z95 * np.array([o.stderr for o in known]))),
        "high": float(np.mean(low > expected)),
        "low": float(np.mean(high < expected)),
        "width": float(np.median((high - low)[spread] / (flat[1] - flat[0])[spread])),
        "effective": float(np.mean([one.effective for one in known])),
        "unknown": 1 - len(known) / replicates,
    }


def rows(replicates):
    """Every case with every number of units."""
    found = []
    for name, draw in CASES.items():
        expected = _MEANS[name] if name in _MEANS else truth(draw)
        found += [
            {"case": name, "units": n, **cover(draw, n, replicates, expected)} for n in UNITS
        ]
    return found
