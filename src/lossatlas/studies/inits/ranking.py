"""The ranking of candidates, and how far to trust it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.studies.inits.candidate import Candidate

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates from the most to the least promising, and how far to trust that.

    Attributes:
        candidates: recipes, the most promising first.
        short: loss after the short training, the mean of the data orders; NaN where one
            diverged, which puts a candidate last.
        noise: standard error of `short` over the data orders.
        expected: loss expected after the long training.
        lower: lower end of its 95 % prediction interval (one training in one data order).
        upper: upper end.
        epochs: of the short and of the long training.
        checked: ranks of the candidates that were trained to the end.
        truth: their losses, shape (checked,).
        agreement: Spearman of short and long losses over all candidates: median and 95 %
            interval over the long losses that the checked ones allow.
        regret: loss above that of the best candidate when the first is taken: mean and 95 %
            interval, likewise.
        chance: the same when one is drawn blindly.
        halving: rank of the candidate that successive halving takes at no greater cost, and
            its loss after the long training.
        first: loss of the first candidate after the long training.
        cost: forward passes over the probe that the ranking took, the check with it.
        title: what was ranked.
    """

    candidates: tuple[Candidate, ...]
    short: Array
    noise: Array
    expected: Array
    lower: Array
    upper: Array
    epochs: tuple[int, int]
    checked: Ints
    truth: Array
    agreement: tuple[float, float, float]
    regret: tuple[float, float, float]
    chance: float
    halving: tuple[int, float]
    first: float
    cost: float
    title: str

    @property
    def trust(self) -> str:
        """In words: whether the interval of the agreement leaves zero."""
        _, lower, _ = self.agreement
        if lower > 0.5:
            return "the order can be trusted"
        if lower > 0:
            return "the order is better than chance; take several of the first"
        return "the order is not told apart from chance: any candidate is as good a choice"

    def summary(self) -> dict[str, Any]:
        """The ranking as plain values."""
        ranked = [
            {
                "scheme": c.scheme,
                "scale": c.scale,
                "seed": c.seed,
                "short_loss": _plain(self.short[k]),
                "expected_loss": _plain(self.expected[k]),
                "interval": [_plain(self.lower[k]), _plain(self.upper[k])],
            }
            for k, c in enumerate(self.candidates)
        ]
        return {
            "ranking": ranked,
            "epochs": list(self.epochs),
            "agreement": [_plain(value) for value in self.agreement],
            "expected_regret": [_plain(value) for value in self.regret],
            "regret_of_chance": _plain(self.chance),
            "halving": {"rank": self.halving[0] + 1, "loss": _plain(self.halving[1])},
            "first_loss": _plain(self.first),
            "cost": self.cost,
            "trust": self.trust,
        }

    def table(self) -> list[tuple[str, str, str]]:
        """The ranking as rows."""
        short, long = self.epochs
        rows = [
            (
                f"{k + 1}. {c.scheme} x {c.scale:.3g}, seed {c.seed}",
                f"{self.expected[k]:.4g}",
                f"[{self.lower[k]:.4g}, {self.upper[k]:.4g}] expected after {long} epochs",
            )
            for k, c in enumerate(self.candidates[:10])
        ]
        value, low, high = self.agreement
        mean, least, most = self.regret
        remark = f"[{low:.2f}, {high:.2f}], {len(self.checked)} trained to the end"
        return [
            *rows,
            (f"rank correlation, {short} and {long} epochs", f"{value:.2f}", remark),
            (
                "regret of taking the first",
                f"{mean:.3g}",
                f"[{least:.3g}, {most:.3g}] expected",
            ),
            ("regret of taking any", f"{self.chance:.3g}", "expected"),
            (f"loss of the first, {long} epochs", f"{self.first:.4g}", "measured"),
            (
                "successive halving takes",
                f"number {self.halving[0] + 1}",
                f"{self.halving[1]:.4g} after {long} epochs, at no greater cost",
            ),
            ("cost", f"{self.cost:.4g}", "forward passes over the probe"),
            ("trust", self.trust, ""),
        ]


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
