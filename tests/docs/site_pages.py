"""Pages of the site: their blocks of Python, their commands, and why some cannot run here."""

import importlib.util
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)
_FILE = re.compile(r"# ([\w-]+\.py)\b")

# Pages whose examples go on from those of the front page, and say so.
FIRST = "docs/index.md"
GO_ON = {
    f"docs/guide/{name}.md"
    for name in (
        "atlas",
        "instruments",
        "large-models",
        "long-runs",
        "maps",
        "report",
        "survey",
        "topology",
    )
}
# (page, how the block starts) -> why it does not run in tests.
NOT_RUN = {
    ("docs/guide/large-models.md", "# on a card"): "needs a GPU",
    ("docs/guide/large-models.md", "objective = la.Objective(torch.compile"): (
        "compiles for a minute; tests/objective does that without a compiler"
    ),
    ("docs/guide/large-models.md", "# on a cluster"): "needs Ray with 16 GPUs",
    ("docs/guide/long-runs.md", 'land = la.map_plane(objective, plane, executor="joblib")'): (
        "starts a process a core; tests/executor does that"
    ),
}
_STUDY = "docs/studies/forecast/cooldown.md"


# Where notebooks run, tutorials are run as notebooks: test_notebooks.py.
HAS_KERNEL = all(importlib.util.find_spec(name) for name in ("nbconvert", "ipykernel"))
# Pages that are run, and asked for more, by a test of their own.
ELSEWHERE = {"docs/guide/weights.md": "test_weights_guide.py"}
# Pages whose commands run after their code, in the same folder.
RUN_COMMANDS = {
    f"docs/tutorials/{name}.md"
    for name in ("forecast", "initializations", "learning-rate", "merge")
}
# Page -> files that it says it writes.
WRITES = {
    "README.md": {"report.html", "map.png", "land.nc", "best.pt"},
    "docs/guide/atlas.md": {"atlas.html"},
    "docs/guide/report.md": {"map.pdf", "surface.glb"},
    "docs/guide/survey.md": {"survey.nc", "report.html"},
    "docs/guide/maps.md": {"map.png", "map.html", "map.pdf"},
    "docs/tutorials/forecast.md": {"wandb.csv", "forecast", "power"},
    "docs/tutorials/initializations.md": {"inits", "mine"},
    "docs/tutorials/learning-rate.md": {"survey"},
    "docs/tutorials/merge.md": {
        "average.safetensors",
        "fitting.safetensors",
        "compared",
        "connection",
        "merged.safetensors",
        "merged.html",
    },
    "docs/tutorials/watch.md": {"steering.jsonl"},
}


def pages():
    """Every page; the code of the gallery has a test of its own."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return [name for name in names if name != "docs/gallery/index.md"]


def text_of(page):
    return (ROOT / page).read_text("utf-8")


def blocks_of(page):
    return _BLOCK.findall(text_of(page))


def why_not(page, block):
    """Why a block cannot run in tests; empty where it can."""
    if page == _STUDY:
        return "needs the logs of the study's three runs"
    reasons = (why for (where, first), why in NOT_RUN.items()
               if where == page and block.startswith(first))  # fmt: skip
    return next(reasons, "")


def file_of(block):
    """The file that the first line of a block names; None where it names none."""
    found = _FILE.match(block)
    return found and found[1]


def is_script(block):
    """Whether a block is a program of its own, which shares no names with its page."""
    return "start it with" in block.split("\n")[0]


def commands_of(page):
    """The commands `lossatlas ...` of a page as arguments, from blocks and from text."""
    return [_expanded(shlex.split(_command(line), comments=True)) for line in lines_of(page)]


def lines_of(page):
    """The commands of a page as they are written, without the name of the program."""
    text = re.sub(r"\\\n\s*", "", text_of(page))
    lines = re.findall(r"^    (?:\.venv/bin/)?lossatlas (.+)$", text, re.M)
    inline = re.findall(r"`lossatlas ([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    # "fit | compare" and "..." stand for more than one command.
    plain = [line for line in inline if not re.search(r"\.\.\.|\\?\||…", line)]
    return lines + plain


def _expanded(words):
    # As a shell does with a pattern that three files match.
    return [word.replace("*", str(k)) for word in words for k in range(3 if "*" in word else 1)]


def _command(line):
    return re.split(r" (?:>|&&) ", line)[0]
