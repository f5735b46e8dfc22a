"""Numbers and pictures of the page, out of what `measure.py` left.

    python docs/studies/inits/page.py

writes `results.json` and the pictures beside this file, and prints the tables as Markdown.
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from problems import PROBLEMS
from surrogates import SETTINGS as SURROGATES

from lossatlas import io
from lossatlas.inits.figures import draw
from lossatlas.inits.quality import Quality
from lossatlas.inits.surrogates import LANDSCAPE, VIEWS, Surrogates
from lossatlas.plots import canvas
from lossatlas.plots.inits import choice_chart, scores_chart

HERE = Path(__file__).parent
SHOWN = (
    "scheme + scale",
    "norm",
    "initial loss",
    "gradient norm",
    "gradient quotient",
    "SNIP",
    "GraSP",
    "SynFlow",
    "NASWOT",
    "jacov",
    "simple",
    "loss after 1 step",
    "loss after 5 steps",
    "loss after 20 steps",
    "simple + early",
    "statistics",
    "curvature",
    "topology",
    "topology, losses shuffled",
    "scheme + scale + topology",
    "statistics + topology",
    "simple + topology",
    "everything",
    "everything + early",
)


def main(folder: Path) -> None:
    """Read, draw, print.

    Args:
        folder: where the parts are.
    """
    found = {}
    for name, problem in PROBLEMS.items():
        settings = problem(folder)
        quality: Quality = io.load(settings.out / "quality.nc")
        words = {"estimates", "sentences", "notes"}
        found[name] = {k: v for k, v in quality.summary().items() if k not in words}
        found[name]["gains"] = {
            split: {
                model: list(map(float, quality.gain(split, model, "scheme + scale")))
                for model in quality.models
            }
            for split in quality.splits
        }
        found[name]["features"] = significant(quality)
        write(name, quality)
        pictures(name, quality)
    if (SURROGATES.out / "surrogate.nc").is_file():
        found["surrogates"] = surrogates(io.load(SURROGATES.out / "surrogate.nc"))
    for path in draw(PROBLEMS["mnist"](folder)):
        if path.stem in {"landscapes", "persistence", "predicted"}:
            (HERE / path.name).write_bytes(path.read_bytes())
    (HERE / "results.json").write_text(json.dumps(rounded(found), indent=1) + "\n")


def significant(quality: Quality) -> dict[str, list[tuple[str, float, float]]]:
    """Single features that stay after Holm's correction.

    Args:
        quality: the scores.

    Returns:
        Split -> (feature, Spearman, corrected p), the strongest first.
    """
    kept = {}
    for place, split in enumerate(quality.splits):
        rho, p = quality.feature_rho[place], quality.feature_p[place]
        order = [int(k) for k in np.argsort(-np.abs(rho)) if p[k] < 0.05]
        kept[split] = [(quality.features[k], float(rho[k]), float(p[k])) for k in order]
    return kept


def write(name: str, quality: Quality) -> None:
    """Print the tables of one problem.

    Args:
        name: of the problem.
        quality: its scores.
    """
    out = sys.stdout
    out.write(f"\n### {name}, {quality.budget} epochs\n")
    out.write("| predicted from | passes | " + " | ".join(quality.splits) + " |\n")
    out.write("|---|---|" + "---|" * len(quality.splits) + "\n")
    for set_name in SHOWN:
        for regressor in ("ridge", "boosted", "network"):
            model = f"{set_name} / {regressor}"
            if model in quality.models:
                cost = quality.cost[quality.models.index(model)]
                cells = [interval(quality.score(s, model)) for s in quality.splits]
                word = set_name if regressor == "ridge" else f"{set_name}, {regressor}"
                out.write(f"| {word} | {cost:,.0f} | " + " | ".join(cells) + " |\n")
    for split in quality.splits:
        best = significant(quality)[split]
        out.write(
            f"- {split}: {len(best)} of {len(quality.features)} single features; {best[:4]}\n"
        )
    rows = zip(quality.choices, quality.selection, strict=True)
    out.write("| choice | cost | regret |\n|---|---|---|\n")
    for choice, (cost, *regret) in sorted(rows, key=lambda row: row[1][0]):
        out.write(f"| {choice} | {cost:,.0f} | {interval(regret, 4)} |\n")


def interval(numbers: object, digits: int = 2) -> str:
    """A number with its interval.

    Args:
        numbers: (value, lower, upper).
        digits: after the point.

    Returns:
        As in ".74 [.67, .79]".
    """
    value, low, high = (f"{x:.{digits}f}" for x in numbers)
    if value == "nan":
        return ""
    return f"{value} [{low}, {high}]"


def pictures(name: str, quality: Quality) -> None:
    """Scores of the three splits side by side, and cost against regret.

    Args:
        name: of the problem.
        quality: its scores.
    """
    rows = [quality.models.index(f"{s} / ridge") for s in SHOWN]
    with plt.rc_context(canvas.RC):
        figure, axes = plt.subplots(1, 3, figsize=(15, 6), layout="constrained")
        for place, (ax, split) in enumerate(zip(axes, quality.splits, strict=True)):
            chart = scores_chart(
                SHOWN,
                quality.scores[place, rows, 0],
                title=f"{name}: {split}",
                label="Spearman out of fold, 95 % interval",
                ceiling=float(quality.ceilings[place, 0] ** 0.5),
                strong=[s for s in SHOWN if "topology" in s],
            )
            canvas.draw(chart, ax)
        figure.savefig(HERE / f"{name}-scores.png", dpi=110)
        keep = ("mean / ridge", *(f"{s} / ridge" for s in SHOWN))
        shown = [
            k
            for k, choice in enumerate(quality.choices)
            if choice in keep or choice.startswith(("halving", "train"))
        ]
        names = [quality.choices[k].removesuffix(" / ridge") for k in shown]
        numbers = quality.selection[shown]
        strong = ("mean", "scheme + scale", "topology", "scheme + scale + topology")
        ax = canvas.draw(choice_chart(names, numbers, group=quality.group, strong=strong))
        ax.figure.savefig(HERE / f"{name}-choosing.png", dpi=130)
        plt.close("all")


def surrogates(result: Surrogates) -> dict[str, object]:
    """Print how well the loss is predicted and at what cost, and draw it.

    Args:
        result: of stage 2.

    Returns:
        The numbers.
    """
    out, rows = sys.stdout, {}
    out.write("\n### predictors of the loss\n")
    out.write("| predictor | " + " | ".join(VIEWS) + " | CPU s, fit | CPU s, landscape |\n")
    out.write("|---|" + "---|" * (len(VIEWS) + 2) + "\n")
    for place, kind in enumerate(result.kinds):
        views = {view: list(map(float, result.spearman(kind, view))) for view in VIEWS}
        fit, cost = float(result.seconds[place, 1]), result.cost(kind, *LANDSCAPE)
        cells = [interval(views[view]) for view in VIEWS]
        out.write(f"| {kind} | {' | '.join(cells)} | {fit:.3g} | {cost:.3g} |\n")
        rows[kind] = {"spearman": views, "cpu_seconds": list(map(float, result.seconds[place]))}
        rows[kind] |= {"landscape": cost, "error": result.error(kind)}
    true = result.true_seconds * LANDSCAPE[0] / 1000
    out.write(f"| true losses | | | | 0 | {true:.3g} |\n")
    ax = result.plot("scores")
    ax.figure.savefig(HERE / "surrogates.png", dpi=130)
    plt.close("all")
    return {"kinds": rows, "true landscape": true, "asked": LANDSCAPE}


def rounded(value: object) -> object:
    """Numbers to four digits, throughout.

    Args:
        value: plain values.

    Returns:
        The same, shorter.
    """
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "parts")
