"""What trainings side by side say, in plain sentences."""

from lossatlas.studies.compare.statistics import Difference
from lossatlas.studies.compare.summary import Row
from lossatlas.studies.compare.trainings import Trainings
from lossatlas.text import count, with_error


def headline(found: Trainings, table: list[Row]) -> str:
    """The finding in one sentence.

    Args:
        found: the trainings.
        table: their rows.

    Returns:
        Who is certainly better than the first recipe, if anybody.
    """
    first = table[0].recipe
    if len(table) == 1:
        return f"{first}: test {found.measure} {shown(found, table[0])}."
    better, worse = (
        [row.recipe for row in table[1:] if row.verdict == word] for word in _words(found)
    )
    if not better and not worse:
        return f"No recipe is told apart from {first} by test {found.measure}."
    parts = [f"better than {first}: {', '.join(better)}"] if better else []
    parts += [f"worse: {', '.join(worse)}"] if worse else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def reading(found: Trainings, table: list[Row]) -> list[str]:
    """What can be said in words.

    Args:
        found: the trainings.
        table: their rows.

    Returns:
        Sentences, the most important first.
    """
    what = f"test {found.measure}"
    said = [_sentence(found, row) for row in table[1:]]
    said.insert(0, f"{table[0].recipe} reaches a {what} of {shown(found, table[0])}.")
    for row in table:
        if row.diverged:
            runs = count(row.diverged, "training")
            said.append(f"{row.recipe}: {runs} of {len(found.seeds)} did not stay finite.")
    return said


def _sentence(found: Trainings, row: Row) -> str:
    gap = row.difference
    start = f"{row.recipe} reaches {shown(found, row)} at a rate of {row.lr:g}"
    if gap is None:
        return f"{start}; nothing finite to compare."
    unit = " points" if found.measure == "accuracy" else ""
    middle = f"{signed(found, gap.mean)}{unit}"
    if gap.pairs == 1:
        return f"{start}: {middle}, but one seed has no interval."
    return f"{start}: {middle} {band(found, gap)} over {gap.pairs} seeds, {row.verdict}."


def shown(found: Trainings, row: Row) -> str:
    """The score of a recipe with its error."""
    if found.measure == "accuracy":
        return f"{with_error(100 * row.score, 100 * row.stderr)} %"
    return with_error(row.score, row.stderr)


def signed(found: Trainings, value: float) -> str:
    """A difference of scores with its sign."""
    return f"{100 * value:+.2f}" if found.measure == "accuracy" else f"{value:+.4g}"


def band(found: Trainings, gap: Difference | None) -> str:
    """The interval of a difference."""
    if gap is None or gap.pairs < 2:
        return ""
    return f"[{signed(found, gap.lower)}, {signed(found, gap.upper)}]"


def _words(found: Trainings) -> tuple[str, str]:
    return ("higher", "lower") if found.measure == "accuracy" else ("lower", "higher")


def notes_on(found: Trainings) -> tuple[str, ...]:
    """What a reader should know."""
    notes = []
    if len(found.recipes) > 2:
        notes.append(
            f"{len(found.recipes) - 1} intervals of 95 % stand side by side: with many recipes "
            "one may exclude zero by chance."
        )
    if len(found.rates) == 1:
        notes.append("One base rate for all: a recipe that likes another is not at its best.")
    if len(found.seeds) == 1:
        notes.append("One seed: nothing here says how another one would come out.")
    return tuple(notes)
