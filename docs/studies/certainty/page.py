"""The page of the study."""

from measure import WAYS
from noise import BEYOND, COUNTS, KINDS, RARE

_HEAD = """# How often is a basin called certain that is not there?

Written by `python docs/studies/certainty/run.py`; every number is in `results.json`.

**In short.** Over {kinds} kinds of noise, 2 to 256 examples and four surfaces whose basins are
known, the largest share of maps with a falsely certain basin or ridge in any row is {threshold}
by the threshold of a diagram, {place} place by place (`certain_basins`), {replicates} and
{both} with replicates. At most 5 % was asked ({maps} maps a row: a true 5 % shows as up to 9 %
in one of the rows by chance). Two limits: the rules were chosen with results on these kinds in
sight, so no kind is held out, and these results precede one last change (whether units agree is
told in float64). Holes a thousand times as deep as the noise are shown apart below: they are
certified falsely where a map drew none.

## What was asked

A map is the mean over n examples of a known surface (flat, a bowl, a tilted plane, two wells)
plus one field of noise an example, on 15 x 15 points. A map is counted where more basins are
called certain than the surface has, or any ridge is; each row takes the surface where this is
most frequent. Power is the share of maps of the two wells on which both are certain; the pass
between them is three deep, and most kinds of noise have a standard deviation of about one.

The rules under test ([decision](../../decisions/009-certainty.md)):

- the threshold is twice the largest standard error times the quantile of Student's t with n - 1
  degrees of freedom, corrected over all points after Sidak;
- it is unknown, and nothing is certain, where the examples do not differ by more than rounding;
- place by place each point has its own standard error, unless one example carries more than 0.3
  of the variance at some point: then the largest standard error holds for all;
- replicates share a Student factor whose degrees of freedom are at most one over the largest
  share that one example carries on average over the points; they need four examples.
"""

_BEYOND = """
## What no rule can see

Holes in {rare:.0%} of the examples, at four fixed places, a thousand times as deep as the
noise. A map of n examples holds none at all with probability 0.97^n (0.69 at 12, 0.14 at 64,
0.0004 at 256). Such a map shows four hills of 7.5 noise deviations, and its examples agree
about them. Nothing that was drawn tells that these are not there: certainty is about the spread
that the examples show. The only remedy is more examples: with 100 of them a share of 3 % is
missed in 5 % of the draws.
"""


def text(rows):
    """The page in Markdown."""
    main = [row for row in rows if row["kind"] in KINDS]
    worst = [_share(max(_false(row, way) or 0 for row in main)) for way in WAYS]
    names = dict(zip(("threshold", "place", "replicates", "both"), worst, strict=True))
    head = _HEAD.format(kinds=len(KINDS), maps=rows[0]["maps"], **names)
    tables = [_table(way, main) for way in WAYS]
    beyond = [row for row in rows if row["kind"] in BEYOND]
    rest = [_table(way, beyond, depth=3) for way in WAYS]
    return head + "".join(tables) + _BEYOND.format(rare=RARE) + "".join(rest)


def _table(way, rows, depth=2):
    marks = "#" * depth
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    cells = {(row["kind"], row["examples"]): row for row in rows}
    lines = [
        f"\n{marks} {way.capitalize()}: false share / power, by the number of examples\n",
        "| noise | " + " | ".join(map(str, COUNTS)) + " |",
        "|---" * (len(COUNTS) + 1) + "|",
    ]
    for kind in kinds:
        line = [_cell(cells[kind, count], way) for count in COUNTS]
        lines.append(f"| {kind} | " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def _cell(row, way):
    false = _false(row, way)
    return "-" if false is None else f"{_share(false)} / {_share(row['power'][way])}"


def _false(row, way):
    return max(row["false"][way].values()) if way in row["false"] else None


def _share(value):
    return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"
