"""What a survey says, in plain sentences, and no more than it can say."""

from lossatlas.curvature import InstrumentResult
from lossatlas.report.contents import Card
from lossatlas.report.sections.instruments import answer_with_statistics
from lossatlas.report.sections.loss_map import arrival_question, read_center, trust_question
from lossatlas.report.sections.topology import basins_question, read_topology
from lossatlas.surveys import Survey

# Beside the picture: more than these do not fit on one screen.
_MAX_QUESTIONS = 5


def headline(survey: Survey) -> str:
    """The survey in one sentence.

    Args:
        survey: the survey.

    Returns:
        How many basins there are and how sure that is.
    """
    return survey.headline()


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
    cards = [_card(survey, result) for result in ordered[: _MAX_QUESTIONS - 3]]
    return basins_question(survey), arrival_question(survey), *cards, trust_question(survey)


def _card(survey: Survey, result: InstrumentResult) -> Card:
    value, mark = answer_with_statistics(survey, result)
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
