"""What was requested and could not be measured, each with the reason."""

from lossatlas.report.contents import Section
from lossatlas.result import Table
from lossatlas.surveys import Survey
from lossatlas.text import cut_off


def unavailable_section(survey: Survey) -> Section | None:
    """Instruments, or parts of them, that could not serve.

    Args:
        survey: the survey.

    Returns:
        The section; None where all could.
    """
    rows = tuple(
        (
            result.about.title,
            _parts(reason, result.missing, result.results),
            cut_off(reason, 300),
        )
        for result in survey.findings.values()
        for reason in dict.fromkeys(result.missing.values())
    )
    if not rows:
        return None
    return Section(
        key="unavailable",
        title="What could not be measured",
        sentences=survey.unavailable,
        lead="Instruments that were requested and cannot serve this model, loss or data.",
        tables=(Table("Reasons", ("instrument", "part", "why"), rows),),
    )


def _parts(reason: str, missing: object, results: object) -> str:
    assert isinstance(missing, dict)
    lost = [name.replace("_", " ") for name, why in missing.items() if why == reason]
    return ", ".join(lost) if results or len(lost) < len(missing) else "all of it"
