"""The page of the study of planted spikes."""

from collections import Counter
from pathlib import Path

from planted import CAUSES, NETWORKS
from scipy.stats import beta

TEXT = """# Are the causes of spikes named?

`la.SpikeRecorder` keeps the last steps of a training, notices spikes and makes the steps again
with one thing changed at a time. Here six causes are planted in trainings of two small networks
(a perceptron and a pre-norm transformer on scikit-learn's digits), {seeds} seeds each; when the
cause comes and how strong it is are drawn by the seed. Rules and strengths were developed on
other seeds (0 to 13); those of this table were looked at once. Half of the trainings use AdamW
and half SGD with momentum, where the cause leaves a choice.

{table}

"Named right" counts all trainings, also those whose spike was not noticed; with the 95 %
interval of Clopper and Pearson. A spike that was noticed before its cause came counts as wrong.

## False alarms
{quiet}

## What was planted
| cause | how |
|---|---|
| bad batch | random inputs, 5 to 15 times as large as usual, in one batch |
| rate too high | from one step on the rate is 40 to 100 times as high |
{stale}
{overflow}
| wrong labels | 60 to 100 % of the labels of one batch are wrong |
| no warm-up | doubled initial weights and a rate that holds with a warm-up of 64 updates |

## What this does not say
Small networks, one data set, one cause at a time, and strengths that show in the loss. A spike
with two causes gets the more special one. A noisy loss hides small rises; those are missed.

Two seeds of each cause and network (24 trainings) were run again on a later state of the code:
every row is the same, to the last digit that is kept.
{confused}
Run again with `python docs/studies/spikes/run.py`.
"""

STALE = (
    "| stale second moments | parts of the images, dark for 200 to 300 steps, come on for "
    "good; second moments as after a long training |"
)
OVERFLOW = (
    "| number overflow | one batch with inputs 100,000 to a million times as large, "
    "products in float16 |"
)


def interval(hits: int, count: int) -> tuple[float, float]:
    """Of a share, 95 %."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return low, high


def is_right(row: dict) -> bool:
    """Whether the planted cause was named, and not before it came."""
    if not row["noticed"] or row["named"] != row["cause"]:
        return False
    return row["cause"] == "no warm-up" or row["step"] >= row["planted"]


def share(rows: list[dict]) -> str:
    """How many were named right, with the interval."""
    hits = sum(map(is_right, rows))
    low, high = interval(hits, len(rows))
    ends = f"[{100 * low:.0f}, {100 * high:.0f}]"
    return f"{hits} of {len(rows)}, {100 * hits / len(rows):.0f} % {ends}"


def table(rows: list[dict]) -> str:
    """A line a cause and network, and all together."""
    lines = ["| cause | network | noticed | named right |", "|---|---|---|---|"]
    for cause in CAUSES:
        for network in NETWORKS:
            some = [r for r in rows if r["cause"] == cause and r["network"] == network]
            seen = sum(r["noticed"] for r in some)
            lines.append(f"| {cause} | {network} | {seen} of {len(some)} | {share(some)} |")
    every = [r for r in rows if r["cause"] in CAUSES]
    seen = sum(r["noticed"] for r in every)
    lines.append(f"| all | both | {seen} of {len(every)} | {share(every)} |")
    return "\n".join(lines)


def quiet(rows: list[dict]) -> str:
    """Alarms in trainings without a planted cause."""
    calm = [r for r in rows if r["cause"] == "quiet"]
    alarms = sum(r["noticed"] for r in calm)
    high = interval(alarms, len(calm))[1]
    return (
        f"{alarms} of {len(calm)} quiet trainings of 320 updates raised an alarm (95 %: at "
        f"most {100 * high:.0f} %)."
    )


def confused(rows: list[dict]) -> str:
    """What was named in the place of a cause that was noticed."""
    wrong = Counter(
        (r["cause"], r["named"], "" if r["step"] >= r["planted"] else " before it came")
        for r in rows
        if r["cause"] in CAUSES and r["noticed"] and not is_right(r)
    )
    if not wrong:
        return ""
    said = "; ".join(
        f"{cause} called {named}{early}, {times}x"
        for (cause, named, early), times in wrong.most_common()
    )
    return f"\nNamed wrongly: {said}.\n"


def write(results: dict, out: Path) -> None:
    """Write README.md."""
    rows = results["rows"]
    seeds = len({r["seed"] for r in rows if r["cause"] in CAUSES})
    (out / "README.md").write_text(
        TEXT.format(
            seeds=seeds, table=table(rows), quiet=quiet(rows), confused=confused(rows),
            stale=STALE, overflow=OVERFLOW,
        )
    )  # fmt: skip
