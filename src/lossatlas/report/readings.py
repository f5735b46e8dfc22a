"""What a survey says, in plain sentences, and no more than it can say."""

from lossatlas.report.readings_curvature import read_curvature, read_stability
from lossatlas.report.readings_instruments import read_sharpness, read_unavailable
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
    instruments = (read_curvature, read_stability, read_sharpness, read_unavailable)
    return [
        *read_topology(survey),
        *read_center(survey),
        *land.loss_sentences(),
        *(sentence for read in instruments for sentence in read(survey)),
        *land.sampling_sentences(),
    ]
