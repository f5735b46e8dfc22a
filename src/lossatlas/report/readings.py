"""What a survey says, in plain sentences, and no more than it can say."""

import math
from collections.abc import Mapping

from lossatlas.curvature import InstrumentResult
from lossatlas.intervals import t_quantile
from lossatlas.report.contents import Card
from lossatlas.report.sections.instruments import answer_of
from lossatlas.report.sections.loss_map import arrival_question, read_center, trust_question
from lossatlas.report.sections.topology import basins_question, read_topology
from lossatlas.surveys import Survey
from lossatlas.text import number, percent, with_error

# Beside the picture: more than these do not fit on one screen.
_MAX_QUESTIONS = 5


def headline(survey: Survey) -> str:
    """The survey in one sentence.

    Args:
        survey: the survey.

    Returns:
        How many basins there are and how sure that is.
    """
    return survey.tree.headline()


def alerts(survey: Survey) -> tuple[str, ...]:
    """What a reader must know before anything else.

    Args:
        survey: the survey.

    Returns:
        That the weights are untrained, or no better than guessing; none where they are neither
        or it is not known.
    """
    sentences = []
    settings = survey.provenance.settings
    if settings.get("untrained"):
        sentences.append(
            "These weights are untrained: what follows describes an initialization."
        )
    guess = settings.get("chance")
    accuracy = survey.metrics.get("accuracy")
    if isinstance(guess, Mapping) and accuracy is not None:
        share, classes = float(guess["share"]), int(guess["classes"])
        allowed = float(t_quantile(0.95, max(accuracy.samples, 2))) * accuracy.stderr
        if accuracy.value <= share + allowed:
            shown = with_error(accuracy.value, accuracy.stderr)
            sentences.append(
                f"These weights are at chance: accuracy {shown}, where always naming the "
                f"largest of {classes} classes gives {percent(share)}."
            )
    return (*sentences, *_guessing(survey))


# Random weights cost a little more or less than equal probabilities, by more than the error.
_NEAR_CHANCE = 0.02


def _guessing(survey: Survey) -> tuple[str, ...]:
    classes, loss = survey.provenance.settings.get("classes"), survey.loss
    if not isinstance(classes, int) or classes < 2 or not math.isfinite(loss.value):
        return ()
    chance = math.log(classes)
    allowed = _NEAR_CHANCE * chance
    if math.isfinite(loss.stderr):
        allowed += float(t_quantile(0.95, max(loss.samples, 2))) * loss.stderr
    if loss.value < chance - allowed:
        return ()
    return (
        f"These weights are at chance: loss {with_error(loss.value, loss.stderr)}, where equal "
        f"probabilities for {classes:,} classes give {number(chance, 4)}.",
    )


def questions(survey: Survey) -> tuple[Card, ...]:
    """The few questions that stand beside the picture, each with its answer.

    Args:
        survey: the survey.

    Returns:
        Basins, arrival, what chief instruments found, trust.
    """
    results = [result for result in survey.findings.values() if result.results]
    # The chief instruments speak at the head of a page, the others where there is room.
    ordered = sorted(results, key=lambda result: not result.about.headline)
    cards = [_card(result) for result in ordered[: _MAX_QUESTIONS - 3]]
    return basins_question(survey), arrival_question(survey), *cards, trust_question(survey)


def _card(result: InstrumentResult) -> Card:
    value, mark = answer_of(result)
    question = result.about.question or result.about.title
    return Card(question, value, mark=mark, sentences=result.sentences())


def reading(survey: Survey) -> list[str]:
    """Everything that can be said in words about a survey.

    Args:
        survey: the survey.

    Returns:
        Sentences, the most important first.
    """
    land = survey.landscape
    chief_ones = [result for result in survey.findings.values() if result.about.headline]
    return [
        *read_topology(survey),
        *read_center(survey),
        *land.loss_sentences(),
        *(sentence for result in chief_ones for sentence in result.sentences()),
        *survey.unavailable,
        *land.sampling_sentences(),
    ]
