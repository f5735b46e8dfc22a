"""What `lossatlas survey A B` prints: a JSON object, or a table."""

import math
from pathlib import Path
from typing import Any

from lossatlas.report.readings_comparison import View, headline
from lossatlas.surveys import Comparison
from lossatlas.text import with_error


def comparison_summary(found: Comparison, page: Path) -> dict[str, Any]:
    """What `--json` prints."""
    view = View(found)
    settings, line = found.provenance.settings, found.line
    place = None if view.top is None else float(line.axes[0][view.top])
    return {
        "title": settings.get("title"),
        "verdict": headline(view),
        "barrier": found.barrier,
        "barrier_stderr": found.barrier_stderr,
        "barrier_at": place,
        "barrier_bound": view.line_bound or None,
        "bottleneck": found.bottleneck,
        "bottleneck_bound": view.depth_bound or None,
        "wasserstein": found.wasserstein,
        "matched": len(found.pairs),
        "gone": len(found.gone),
        "new": len(found.new),
        "pairs": found.pairs.tolist(),
        "first": _side(view, 0),
        "second": _side(view, 1),
        "grid": {
            "points": list(found.first.values.shape),
            "ranges": [[float(axis[0]), float(axis[-1])] for axis in found.first.axes],
            "line_points": int(line.values.size),
        },
        "mode": settings.get("mode"),
        "notes": list(dict.fromkeys((*line.notes, *found.first.notes, *found.second.notes))),
        "evaluations": sum(land.evaluations for land in (*view.lands, line)),
        "seconds": found.seconds,
        "report": str(page),
    }


def _side(view: View, k: int) -> dict[str, Any]:
    line, land, tree = view.found.line, view.lands[k], view.trees[k]
    end = (0, -1)[k]
    return {
        "file": view.found.provenance.settings.get(("first", "second")[k]),
        "loss": float(line.values[end]),
        "loss_stderr": float(line.stderr[end]),
        "metrics": {
            name: {"value": float(values[end]), "stderr": float(line.metric_stderr[name][end])}
            for name, values in line.metrics.items()
        },
        "minima": len(tree),
        "range": land.range,
        "threshold": None if tree.why_unknown else tree.threshold,
        "why_unknown": tree.why_unknown or None,
        "interpolation_error": land.interpolation_error,
        "non_finite": int((~land.finite).sum()),
    }


def comparison_table(found: Comparison, page: Path) -> list[tuple[str, str, str]]:
    """What a person is shown."""
    view = View(found)
    settings = found.provenance.settings
    rows = [("barrier", *_pair(found.barrier, found.barrier_stderr))]
    rows.append(("", "", headline(view)))
    for name, key, k in (("A", "first", 0), ("B", "second", -1)):
        losses = float(found.line.values[k]), float(found.line.stderr[k])
        rows.append((f"loss at {name}", *_pair(*losses)))
        rows[-1] = (*rows[-1][:2], f"{rows[-1][2]}, {settings.get(key, '')}".rstrip(", "))
        for metric, values in found.line.metrics.items():
            numbers = float(values[k]), float(found.line.metric_stderr[metric][k])
            rows.append((f"{metric} at {name}", *_pair(*numbers)))
    for name, land, tree in zip(view.names, view.lands, view.trees, strict=True):
        remark = f"range {land.range:.4g}, {land.evaluations} of {land.values.size} computed"
        rows.append((f"minima around {name}", str(len(tree)), remark))
    bound = view.depth_bound
    within = f"± {bound:.2g} (95 % for each map)" if bound > 0 else "no error known"
    rows += [
        (
            "basins in both",
            str(len(found.pairs)),
            f"{len(found.gone)} gone, {len(found.new)} new",
        ),
        ("bottleneck", f"{found.bottleneck:.4g}", within),
        ("wasserstein", f"{found.wasserstein:.4g}", "order 1, a sum over all basins"),
        ("report", str(page), f"{found.seconds:.1f} s"),
    ]
    return rows


def _pair(value: float, stderr: float) -> tuple[str, str]:
    shown, _, error = with_error(value, stderr).partition(" ± ")
    known = math.isfinite(value) and math.isfinite(stderr)
    return shown, f"± {error}" if known else "no error known"
