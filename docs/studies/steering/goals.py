"""What the measurements say about the goals, and the paragraphs at the top."""

# ruff: noqa: E501 - rows of a table and the words of a page are one line each

from page_rates import AVERAGED, COSINE, TITLES
from reading import FREE, ahead, points

from lossatlas.recipes import verdict

OTHERS = (COSINE, "schedule-free", "Prodigy")


def goals(studies):
    """Goal against measurement, a row a problem, as Markdown."""
    heads = next(iter(studies.values()))["horizons"]
    rows = []
    for name, study in studies.items():
        for way in (FREE, AVERAGED):
            rows.append(
                _row(
                    f"{TITLES[name]}: *{way}* not behind cosine: lower end above -0.2",
                    study,
                    way,
                    COSINE,
                    _kept,
                )
            )
            rows.append(
                _row(
                    f"{TITLES[name]}: *{way}* ahead of schedule-free",
                    study,
                    way,
                    "schedule-free",
                    _first,
                )
            )
        rows += [
            _row(
                f"{TITLES[name]}: rates guessed, *{FREE}* above {other} by 3 points",
                study,
                FREE,
                other,
                _far,
                guess=True,
            )
            for other in OTHERS
        ]
    head = "| goal | " + " | ".join(f"{h} steps" for h in heads) + " |"
    return "\n".join([head, "|---" * (len(heads) + 1) + "|", *rows])


def _row(what, study, first, second, judge, *, guess=False):
    found = [
        ahead(study, first, second, at, guess=guess) for at in range(len(study["horizons"]))
    ]
    return f"| {what} | " + " | ".join(f"{judge(d)}: {points(d)}" for d in found) + " |"


def _kept(d):
    return "yes" if d.interval()[0] > -0.2 else "no"


def _first(d):
    return {"higher": "yes", "lower": "no", "indistinguishable": "indistinguishable"}[
        verdict(d)
    ]


def _far(d):
    return "yes" if d.interval()[0] >= 3 else "on average" if d.value >= 3 else "no"


def short(studies):
    """The conclusion, with its numbers."""
    kept = [ahead(s, AVERAGED, COSINE, at) for s, at in _settings(studies)]
    climbed = [ahead(s, FREE, COSINE, at) for s, at in _settings(studies)]
    beside = [ahead(s, FREE, AVERAGED, at) for s, at in _settings(studies)]
    guess = {
        other: [ahead(s, FREE, other, at, guess=True) for s, at in _settings(studies)]
        for other in (*OTHERS, "Prodigy + average")
    }
    count = len(kept)
    return f"""**In short.** The average does the work; the controller spares the guess; schedule-free at its best rate
is the one to beat. AdamW at a constant rate, read through `PolynomialAverage`, is {_span(kept)} points from cosine that was told
the horizon, with one training for all horizons: {_count(kept, _kept)} of {count} intervals stay above -0.2, none lies below zero.
`GrowthPolicy` adds nothing to it where the rate can be tuned ({_span(beside)} points; {_signs(beside)}),
and reaches the goal against cosine in {_count(climbed, _kept)} of {count} settings. Both fall behind a tuned schedule-free
in most settings. What the policy is worth shows where the rate is a guess: averaged over base rates from
1e-4 to 1e-1 it is {_span(guess[COSINE])} points above cosine and {_span(guess["schedule-free"])} above schedule-free.
Prodigy needs no rate either: the policy is {_span(guess["Prodigy"])} points above it, and {_span(guess["Prodigy + average"])} from it once it is read
through the same average ({_signs(guess["Prodigy + average"])}), so the goal of 3 points is missed there."""


def _settings(studies):
    return [(study, at) for study in studies.values() for at in range(len(study["horizons"]))]


def _span(found):
    means = [d.value for d in found]
    return f"{min(means):+.1f} to {max(means):+.1f}"


def _count(found, judge):
    return sum(judge(d) == "yes" for d in found)


def _signs(found):
    higher, lower = (sum(verdict(d) == v for d in found) for v in ("higher", "lower"))
    return f"certainly ahead in {higher} of {len(found)}, behind in {lower}"
