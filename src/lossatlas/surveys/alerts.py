"""What a reader of a survey must know first: untrained weights, or no better than guessing."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lossatlas.intervals import t_quantile
from lossatlas.objective.chance import ChanceLevel
from lossatlas.result import Estimate
from lossatlas.text import percent, with_error

if TYPE_CHECKING:
    from lossatlas.surveys.results import Survey


def alerts(survey: "Survey") -> tuple[str, ...]:
    """What a reader must know before anything else.

    Args:
        survey: the survey.

    Returns:
        That the weights are untrained, or no better than guessing; none where they are neither
        or it is not known.
    """
    untrained = "These weights are untrained: what follows describes an initialization."
    said = (untrained,) if survey.provenance.settings.get("untrained") else ()
    return (*said, *_at_chance(survey))


# With rare classes the best accuracy may be that of always naming the common one, while loss
# and balanced accuracy show what was learned: one measure above guessing is enough.
def _at_chance(survey: "Survey") -> tuple[str, ...]:
    findings = [_by_accuracy(survey), _by_balanced_accuracy(survey), _by_loss(survey)]
    known = [found for found in findings if found is not None]
    return () if "" in known else tuple(known[:1])


# Each of the three: what says that the weights guess, "" where they do not, None if not known.
def _by_accuracy(survey: "Survey") -> str | None:
    guess = survey.provenance.settings.get("chance")
    accuracy = survey.metrics.get("accuracy")
    if not isinstance(guess, Mapping) or accuracy is None:
        return None
    share, classes = float(guess["share"]), int(guess["classes"])
    if _is_above(accuracy, share):
        return ""
    text = with_error(accuracy.value, accuracy.stderr)
    return (
        f"These weights are at chance: accuracy {text}, where always naming the largest of "
        f"{classes} classes gives {percent(share)}."
    )


def _by_balanced_accuracy(survey: "Survey") -> str | None:
    guess = survey.provenance.settings.get("chance")
    balanced = survey.metrics.get("balanced accuracy", survey.metrics.get("balanced_accuracy"))
    if not isinstance(guess, Mapping) or balanced is None:
        return None
    share, text = 1 / int(guess["classes"]), with_error(balanced.value, balanced.stderr)
    if _is_above(balanced, share):
        return ""
    return (
        f"These weights are at chance: balanced accuracy {text}, where guessing gives "
        f"{percent(share)}."
    )


def _is_above(measured: Estimate, chance: float) -> bool:
    allowed = float(t_quantile(0.95, max(measured.samples, 2))) * measured.error
    return measured.value > chance + (allowed if math.isfinite(allowed) else 0.0)


def _by_loss(survey: "Survey") -> str | None:
    settings, loss = survey.provenance.settings, survey.loss
    constant, is_guessed = settings.get("constant_loss"), "constant_is_guessed" in settings
    classes = settings.get("classes")
    if constant is None and isinstance(classes, int) and classes > 1:
        constant, is_guessed = math.log(classes), True
    if not isinstance(constant, float) or not math.isfinite(loss.value):
        return None
    level = ChanceLevel(loss.value, loss.stderr, loss.samples, constant, is_guessed=is_guessed)
    return f"{level.sentence}." if level.is_at_chance else ""
