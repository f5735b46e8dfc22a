"""One recipe beside the first: scores, differences, cost, and sentences on them."""

from dataclasses import dataclass
from typing import Any

from lossatlas.recipes.differences import effect_size, verdict
from lossatlas.result import Estimate
from lossatlas.text import number, with_error

_ONE_SEED = "one seed says nothing"


@dataclass(frozen=True)
class RecipeSummary:
    """One recipe at its best rate. Scores are of the test examples.

    Attributes:
        recipe: its name.
        measure: what is compared: "accuracy" or "loss".
        lr: the rate that the validation examples chose.
        score: of what is compared, mean over the seeds; where there is one seed, the error is
            over the examples.
        loss: likewise of the test loss.
        difference: of the score to the first recipe, seed by seed; None for the first one and
            where no pair is finite.
        loss_difference: likewise of the test loss.
        untuned: difference of the score averaged over all rates; None for one rate.
        overhead: CPU time over that of the first recipe: (ratio, lower, upper).
        steering: share of its CPU time that the controller took; NaN inside of a step.
        diverged: seeds whose training did not stay finite.
        decisions: of the controller, first seed.
        final_rate: of the last update, mean over the seeds.
    """

    recipe: str
    measure: str
    lr: float
    score: Estimate
    loss: Estimate
    difference: Estimate | None
    loss_difference: Estimate | None
    untuned: Estimate | None
    overhead: tuple[float, float, float]
    steering: float
    diverged: int
    decisions: int
    final_rate: float

    @property
    def verdict(self) -> str:
        """What the difference says; empty where there is none."""
        if self.difference is None:
            return ""
        if self.difference.samples == 1:
            return _ONE_SEED
        return verdict(self.difference)

    @property
    def score_text(self) -> str:
        """The score with its error; accuracies in per cent."""
        factor, unit = (100, " %") if self.measure == "accuracy" else (1, "")
        if self.score.stderr == 0 and self.score.samples > 1:
            # Few seeds may agree by chance; that makes no score exact.
            return f"{number(self.score.value * factor)}{unit} for every seed"
        return f"{with_error(factor * self.score.value, factor * self.score.stderr)}{unit}"

    def signed(self, value: float, digits: int = 2) -> str:
        """A difference of scores with its sign; of accuracies in points.

        Args:
            value: the difference.
            digits: after the point; of losses two more, significant.

        Returns:
            Text, as in "+1.20".
        """
        if self.measure == "accuracy":
            return f"{100 * value:+.{digits}f}"
        return f"{value:+.{digits + 2}g}"

    def interval_text(self, difference: Estimate | None) -> str:
        """The 95 % interval of a difference; empty where there is none.

        Args:
            difference: of scores.

        Returns:
            Text, as in "[+0.10, +2.30]".
        """
        if difference is None or difference.samples < 2:
            return ""
        low, high = difference.interval()
        if not low < high:
            return ""
        # Digits enough to tell the ends apart.
        for digits in range(2, 12):
            lower, upper = self.signed(low, digits), self.signed(high, digits)
            if lower != upper:
                break
        return f"[{lower}, {upper}]"

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values.

        Returns:
            name -> number, text, list or mapping.
        """
        differences = ("difference", "loss_difference", "untuned")
        return {
            **vars(self),
            "score": self.score.value,
            "stderr": self.score.stderr,
            "loss": self.loss.value,
            "loss_stderr": self.loss.stderr,
            **{name: _plain_difference(getattr(self, name)) for name in differences},
            "overhead": list(self.overhead),
            "verdict": self.verdict,
        }


def score_sentence(row: RecipeSummary) -> str:
    """The score of a recipe, and its difference to the first one."""
    start = f"{row.recipe} reaches {row.score_text} at a rate of {row.lr:g}"
    if row.difference is None:
        return f"{start}; nothing finite to compare."
    shown = _difference_text(row, row.difference)
    if row.difference.samples == 1:
        return f"{start}: {shown}, but one seed has no interval."
    return f"{start}: {shown} over {row.difference.samples} seeds, {row.verdict}."


def untuned_sentence(row: RecipeSummary, difference: Estimate) -> str:
    """The difference of a recipe to the first one, averaged over all rates."""
    shown = _difference_text(row, difference)
    judged = verdict(difference) if difference.samples > 1 else _ONE_SEED
    return f"Averaged over all rates, that is without tuning, {row.recipe}: {shown}, {judged}."


def _difference_text(row: RecipeSummary, difference: Estimate) -> str:
    unit = " points" if row.measure == "accuracy" else ""
    parts = (f"{row.signed(difference.value)}{unit}", row.interval_text(difference))
    return " ".join(filter(None, parts))


def _plain_difference(difference: Estimate | None) -> dict[str, float] | None:
    if difference is None:
        return None
    lower, upper = difference.interval()
    return {
        "mean": difference.value,
        "lower": lower,
        "upper": upper,
        "effect": effect_size(difference),
        "pairs": difference.samples,
    }
