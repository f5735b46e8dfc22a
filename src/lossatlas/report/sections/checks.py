"""What was checked before anything was measured."""

from lossatlas.report.contents import Section
from lossatlas.result import Table
from lossatlas.surveys import Survey


def checks_section(survey: Survey) -> Section | None:
    """Whether derivatives are those of the loss, and how closely.

    Args:
        survey: the survey.

    Returns:
        The section; None for surveys of before there were checks.
    """
    rows = tuple(_row(text) for text in survey.checked)
    if not rows:
        return None
    return Section(
        key="checks",
        title="What was checked",
        lead="Gradients against differences of values, curvature against those of gradients.",
        tables=(Table("Checks", ("check", "result", "what was compared"), rows),),
    )


def _row(text: str) -> tuple[str, str, str]:
    result, _, sentence = text.partition("; ")
    name, colon, verdict = result.partition(": ")
    return (name, verdict, sentence) if colon else ("", text, "")
