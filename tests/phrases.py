"""Phrases that mislead a reader, wherever they stand."""

import re

from lossatlas.text import MINUS

SIGN = f"[{MINUS}+-]?"
NUMBER = rf"{SIGN}[\d.,]*\d(?:e{SIGN}\d+)?"
INDISTINGUISHABLE = "a dialect for indistinguishable"
FAULTS = {
    "an interval with two equal ends": rf"\[({NUMBER}),? (?:to )?\1\]",
    "a change that does not show": rf"\bfrom ({NUMBER}) to \1(?![\d.,]*\d)",
    "a double full stop": r"(?<![./])\.\.(?![./])",
    "an error of zero": r"± 0(?![\d.])",
    "nothing ruled out": r"more than 0(?![\d.])",
    "a share that may break before its sign": r"\d %",
    "a chord": r"\bchord",
    "an error of an error": r"itself an? (?:error|bound)",
    "errors that nobody can picture": r"few large losses|errors of its own|errors go together",
    "a basin in both of two maps": r"\b(?:is|are) in both",
    "rounding without an error": r"to rounding(?! error)",
    "a time between itself and itself": rf"between ({NUMBER} \w+) and \1",
    "variance nobody can picture": r"variance[^.]* that is not noise",
    "curves that fix a parameter": r"curves? (?:do|does) not fix|moves with \w+, which",
    "a change that is none": r"moved within its error",
    INDISTINGUISHABLE: r"\b(?:told|tells?) (?:apart|from error|from the)",
    "a dip": r"\bdips?\b",
    "a probe nobody knows": r"passes over the probe(?! examples)",
}
# What a terminal may show and a page may not.
BREAKABLE = "a share that may break before its sign"


def faults_of(text, *, is_page=False):
    """What is wrong with a text, each fault with an excerpt."""
    found = []
    for name, pattern in FAULTS.items():
        if name == BREAKABLE and not is_page:
            continue
        found += [
            (name, text[max(m.start() - 60, 0) : m.end() + 30])
            for m in re.finditer(pattern, text)
        ]
    return found
