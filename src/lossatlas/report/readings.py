"""What a survey says, in plain sentences, and no more than it can say."""

from lossatlas.report.sections.loss_map import read_center
from lossatlas.report.sections.topology import read_topology
from lossatlas.surveys import Survey


def headline(survey: Survey) -> str:
    """The survey in one sentence.

    Args:
        survey: the survey.

    Returns:
        How many basins there are and how sure that is.
    """
    return survey.tree.headline()


def reading(survey: Survey) -> list[str]:
    """Everything that can be said in words about a survey.

    Args:
        survey: the survey.

    Returns:
        Sentences, the most important first.
    """
    land = survey.landscape
    # The chief instruments speak at the head of a page, the others in their sections.
    chief = [found for found in survey.findings.values() if found.about.headline]
    return [
        *read_topology(survey),
        *read_center(survey),
        *land.loss_sentences(),
        *(sentence for found in chief for sentence in found.sentences()),
        *survey.unavailable,
        *land.sampling_sentences(),
    ]
