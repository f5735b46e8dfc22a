"""Format numbers and names for readers: rounded to their error, escaped in markup."""

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal

MOST = 60
MINUS = "\u2212"


def safe(name: object, most: int = MOST) -> str:
    """Escape an external name for use in a plotly figure."""
    return (
        html.escape(cut_off(name, most), quote=False)
        .replace("{", "&#123;")
        .replace("$", "&#36;")
    )


def cut_off(name: object, most: int = MOST) -> str:
    """Shorten an external name to one line of limited length."""
    text = plain(name)
    return text if len(text) <= most else text[: most - 1] + "…"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "±": r"$\pm$", MINUS: "$-$", "\N{MULTIPLICATION SIGN}": r"$\times$", "²": "$^2$",
    "∞": r"$\infty$",
    "†": r"$^\dagger$", "‡": r"$^\ddagger$", "λ": r"$\lambda$", "…": r"\dots{}",
}  # fmt: skip


def latex(text: object) -> str:
    """Escape an external name or number for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in plain(text))


def plain(name: object) -> str:
    """Remove control characters from an external name."""
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(name))


def number(value: float, digits: int = 4) -> str:
    """Format a number with the given number of significant digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if float(value).is_integer() and abs(value) < 1e7:
        text = f"{int(value):,}"
    elif 1e-5 <= abs(value) < 1e6:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.{max(digits - 2, 1)}e}"
    return text.replace("-", MINUS, 1) if text.startswith("-") else text


def rounded_down(value: float, digits: int = 4) -> str:
    """The same, rounded down (up to its own rounding, 1e-12 of it)."""
    if not math.isfinite(value) or value == 0:
        return number(value, digits)
    plain_form = 1e-5 <= abs(value) < 1e6
    kept = digits - 1 if plain_form else max(digits - 2, 1)
    place = math.floor(math.log10(abs(value))) - kept
    unit = Decimal(1).scaleb(min(place, 0) if plain_form else place)
    return number(float(Decimal(f"{value:.12g}").quantize(unit, ROUND_FLOOR)), digits)


def told_apart(value: float, edge: float, digits: int = 3) -> tuple[str, str]:
    """A number and a limit, rounded down, with enough digits to show which is larger."""
    if not math.isfinite(value + edge):
        return number(value, digits), rounded_down(edge, 3)
    for count in range(digits, 13):
        texts = number(value, count), rounded_down(edge, max(count, 3))
        first, second = (float(t.replace(",", "").replace(MINUS, "-")) for t in texts)
        if (first > second) == (value > edge) and (first < second) == (value < edge):
            return texts
    return repr(value), repr(edge)


def error(value: float) -> str:
    """Format a standard error with two significant digits."""
    return number(value, 2) if value else "0"


def with_error(value: float, stderr: float) -> str:
    """Format a number, rounded to its error, with the error."""
    if not (math.isfinite(value) and math.isfinite(stderr)) or stderr < 0:
        return number(value)
    # An error of zero is no news: what is exact, or alike everywhere, says so elsewhere.
    if stderr == 0:
        return number(value)
    decimals = 1 - math.floor(math.log10(stderr))
    if not 0 <= decimals <= 7 or abs(value) >= 1e6:
        return f"{number(value)} ± {error(stderr)}"
    text = f"{value:,.{decimals}f} ± {stderr:,.{decimals}f}"
    return text.replace("-", MINUS, 1) if text.startswith("-") else text


def with_ends(value: float, low: float, high: float) -> tuple[str, str]:
    """Format a number and "[low, high]", rounded to half the width."""
    # Ends many times apart have three significant digits: half their distance says nothing
    # about the lower one. In units of the last place that half the distance leaves.
    if 0 < low < high / 5 and low < 10 ** math.floor(math.log10((high - low) / 2)):
        shown, *ends = (number(each, 3) for each in (value, low, high))
    else:
        half = (high - low) / 2
        shown, *ends = (_rounded(each, half) for each in (value, low, high))
    if ends[0] == ends[1] and low != high:
        ends = [*distinct(low, high, 5)]
        shown = number(value, 5)
    return shown, f"[{', '.join(ends)}]"


def distinct(first: float, second: float, digits: int = 3) -> tuple[str, str]:
    """Format two numbers with enough digits to see that they differ."""
    for count in range(digits, 17):
        texts = number(first, count), number(second, count)
        if texts[0] != texts[1] or first == second:
            return texts
    return repr(first), repr(second)


def interval_text(low: float, high: float) -> str:
    """Format an interval as "[low, high]", with enough digits to show its width."""
    return with_ends(low, low, high)[1]


def _rounded(value: float, stderr: float) -> str:
    # What is not zero does not read as zero: the side on which it lies may be the finding.
    text = with_error(value, stderr).partition(" ± ")[0]
    return number(value, 1) if value and not re.search("[1-9]|NaN|∞", text) else text


_PARTED = re.compile(r"(?<=\d) (?=%)|(?<=\d) (?=± )|(?<=±) (?=\d)")


def unbroken(text: str) -> str:
    """Insert no-break spaces between numbers and their percent signs and errors."""
    return _PARTED.sub("\N{NO-BREAK SPACE}", text)


def share_text(share: float) -> str:
    """Format a share in percent with two decimals."""
    return f"{100 * share:.2f} %"


def percent(share: float) -> str:
    """Format a share in percent."""
    if 0 < abs(share) < 1e-3:
        return "under 0.1 %"
    value = 100 * share
    return f"{number(value, 2 if abs(value) < 10 else 3)} %"


def verdict(certain: bool, threshold: float) -> str:
    """Describe whether a bar or branch is certain."""
    if math.isnan(threshold):
        return "certainty unknown"
    return "certain" if certain else "within the error of the map"


def surely(noun: str, threshold: float) -> str:
    """Name for bars longer than the threshold."""
    return f"certain {noun}" if threshold > 0 else noun


def as_sentence(text: str) -> str:
    """Capitalize a remark and add a full stop."""
    ending = "" if text.endswith((".", "!", "?")) else "."
    return f"{text[0].upper()}{text[1:]}{ending}" if text else ""


def count(amount: int, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun."""
    return f"{amount:,} {singular if amount == 1 else plural or singular + 's'}"


def listed(names: Sequence[str]) -> str:
    """Join names, as in "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def slug(name: str) -> str:
    """Convert a name to a key: lowercase letters and digits, separated by underscores."""
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))


def axis_title(label: object) -> str:
    """Title of an axis of a map."""
    return f"{short(label, 40)} [direction lengths]"


def short(label: object, most: int = 24) -> str:
    """A label without its final remark in parentheses."""
    return cut_off(str(label).split(" (")[0] or label, most)


def loss_title(is_log: bool, quantity: str = "loss") -> str:
    """Title of an axis of losses."""
    return f"{quantity} (log above the lowest)" if is_log else quantity


def byte_size(amount: int) -> str:
    """Format an amount of memory in MiB or GiB; at least 1 MiB."""
    if amount < 2**30:
        return f"{max(amount / 2**20, 1):,.0f} MiB"
    return f"{amount / 2**30:,.1f} GiB"


def between(low: float, high: float) -> str:
    """Format a range of durations, as in "40 s to 3 min", or one if they read the same."""
    shortest, longest = duration(low), duration(high)
    return shortest if shortest == longest else f"{shortest} to {longest}"


def duration(seconds: float) -> str:
    """Format a duration, as in "40 s", "3 min" or "1.5 h"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
