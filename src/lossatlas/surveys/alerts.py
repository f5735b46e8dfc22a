"""What a reader of a survey must know first: untrained weights, or no better than guessing."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lossatlas.intervals import t_quantile
from lossatlas.objective.chance import ChanceLevel
from lossatlas.text import number, percent, with_error

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
    return (*said, *(_by_accuracy(survey) or _by_loss(survey)))


def _by_accuracy(survey: "Survey") -> tuple[str, ...]:
    guess = survey.provenance.settings.get("chance")
    accuracy = survey.metrics.get("accuracy")
    if not isinstance(guess, Mapping) or accuracy is None:
        return ()
    share, classes = float(guess["share"]), int(guess["classes"])
    allowed = float(t_quantile(0.95, max(accuracy.samples, 2))) * accuracy.stderr
    if accuracy.value > share + allowed:
        return ()
    text = with_error(accuracy.value, accuracy.stderr)
    return (
        f"These weights are at chance: accuracy {text}, where always naming the largest of "
        f"{classes} classes gives {percent(share)}.",
    )


def _by_loss(survey: "Survey") -> tuple[str, ...]:
    settings, loss = survey.provenance.settings, survey.loss
    classes, constant = settings.get("classes"), settings.get("constant_loss")
    by_classes = isinstance(classes, int) and classes > 1
    if isinstance(classes, int) and by_classes:
        constant = math.log(classes)
    if not isinstance(constant, float):
        return ()
    level = ChanceLevel(loss.value, loss.stderr, loss.samples, constant, is_guessed=by_classes)
    if not math.isfinite(loss.value) or not level.is_at_chance:
        return ()
    if not by_classes:
        return (f"{level.sentence}.",)
    return (
        f"These weights are at chance: loss {with_error(loss.value, loss.stderr)}, where equal "
        f"probabilities for {classes:,} classes give {number(constant, 4)}.",
    )
