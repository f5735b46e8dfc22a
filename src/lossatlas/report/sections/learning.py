"""Learning and features: interference, plasticity, spikes, ranks, collapse, likeness."""

from dataclasses import replace

from lossatlas.report.contents import Section
from lossatlas.report.readings_instruments import (
    read_collapse,
    read_interference,
    read_plasticity,
    read_representations,
    read_similarity,
    read_spikes,
)
from lossatlas.report.sections.findings import numbers, table
from lossatlas.result import Reference
from lossatlas.surveys import Survey

_LEARNING = {
    "interference": Reference(
        "zero-sum learning",
        "A. Mircea et al. Training Dynamics Underlying Language Model Scaling Laws. ACL 2025.",
        "https://arxiv.org/abs/2506.05447",
    ),
    "plasticity": Reference(
        "plasticity on probe tasks",
        "C. Lyle et al. Understanding Plasticity in Neural Networks. ICML 2023.",
        "https://arxiv.org/abs/2303.01486",
    ),
    "spikes": Reference(
        "spike risk of pre-norm blocks",
        "S. Takase et al. Spike No More: Stabilizing the Pre-training of Large Language "
        "Models. COLM 2025.",
        "https://arxiv.org/abs/2312.16903",
    ),
}
_FEATURES = {
    "representations": Reference(
        "RankMe",
        "Q. Garrido, R. Balestriero, L. Najman, Y. LeCun. RankMe. ICML 2023.",
        "https://arxiv.org/abs/2210.02885",
    ),
    "collapse": Reference(
        "neural collapse",
        "V. Papyan, X. Y. Han, D. L. Donoho. Prevalence of neural collapse during the terminal "
        "phase of deep learning training. PNAS 2020.",
        "https://arxiv.org/abs/2008.08186",
    ),
    "similarity": Reference(
        "centered kernel alignment",
        "S. Kornblith, M. Norouzi, H. Lee, G. Hinton. Similarity of Neural Network "
        "Representations Revisited. ICML 2019.",
        "https://arxiv.org/abs/1905.00414",
    ),
}


def learning_section(survey: Survey) -> Section | None:
    """What learning does here and can still do.

    Args:
        survey: the survey.

    Returns:
        The section; None where nothing of it was measured.
    """
    sentences = (*read_interference(survey), *read_plasticity(survey), *read_spikes(survey))
    lead = "Whether examples pull together, what can still be learned, what could blow up."
    head = Section("learning", "Learning", lead, sentences)
    return _filled(head, survey, _LEARNING)


def features_section(survey: Survey) -> Section | None:
    """What the features of the last layer are like.

    Args:
        survey: the survey.

    Returns:
        The section; None where nothing of it was measured.
    """
    readers = (read_representations, read_collapse, read_similarity)
    sentences = tuple(sentence for reader in readers for sentence in reader(survey))
    lead = "The inputs of the last linear layer, for every example."
    head = Section("features", "Features", lead, sentences)
    return _filled(head, survey, _FEATURES)


def _filled(head: Section, survey: Survey, references: dict[str, Reference]) -> Section | None:
    rows, found = numbers(survey, *references), survey.findings
    if not rows:
        return None
    return replace(
        head,
        tables=table(survey, head.title, *references),
        numbers=rows,
        references=tuple(r for k, r in references.items() if k in found and found[k].results),
    )
