"""What `lossatlas survey A B` prints: a JSON object, or a table."""

import math
from pathlib import Path
from typing import Any

from lossatlas.surveys import Comparison
from lossatlas.text import with_error


def comparison_summary(found: Comparison, page: Path) -> dict[str, Any]:
    """What `--json` prints."""
    settings, line = found.provenance.settings, found.line
    place = None if found.top is None else float(line.axes[0][found.top])
    return {
        "title": settings.get("title"),
        "verdict": found.headline(),
        "barrier": found.barrier.value,
        "barrier_stderr": found.barrier.stderr,
        "barrier_at": place,
        "barrier_bound": found.line_bound or None,
        "bottleneck": found.bottleneck,
        "bottleneck_bound": found.depth_bound or None,
        "wasserstein": found.wasserstein,
        "matched": len(found.matching.pairs),
        "gone": len(found.matching.gone),
        "new": len(found.matching.new),
        "pairs": found.matching.pairs.tolist(),
        "first": _side(found, 0),
        "second": _side(found, 1),
        "grid": {
            "points": list(found.first.values.shape),
            "ranges": [[float(axis[0]), float(axis[-1])] for axis in found.first.axes],
            "line_points": int(line.values.size),
        },
        "mode": settings.get("mode"),
        "notes": list(dict.fromkeys((*line.notes, *found.first.notes, *found.second.notes))),
        "evaluations": sum(land.evaluations for land in (*found.lands, line)),
        "seconds": found.seconds,
        "report": str(page),
    }


def _side(found: Comparison, k: int) -> dict[str, Any]:
    line, land, tree = found.line, found.lands[k], found.trees[k]
    end = (0, -1)[k]
    return {
        "file": found.provenance.settings.get(("first", "second")[k]),
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
    settings = found.provenance.settings
    rows = [("barrier", *_pair(found.barrier.value, found.barrier.stderr))]
    rows.append(("", "", found.headline()))
    for name, key, k in (("A", "first", 0), ("B", "second", -1)):
        losses = float(found.line.values[k]), float(found.line.stderr[k])
        rows.append((f"loss at {name}", *_pair(*losses)))
        rows[-1] = (*rows[-1][:2], f"{rows[-1][2]}, {settings.get(key, '')}".rstrip(", "))
        for metric, values in found.line.metrics.items():
            numbers = float(values[k]), float(found.line.metric_stderr[metric][k])
            rows.append((f"{metric} at {name}", *_pair(*numbers)))
    for name, land, tree in zip(found.names, found.lands, found.trees, strict=True):
        remark = f"range {land.range:.4g}, {land.evaluations} of {land.values.size} computed"
        rows.append((f"minima around {name}", str(len(tree)), remark))
    bound = found.depth_bound
    within = f"± {bound:.2g} (95 % for each map)" if bound > 0 else "no error known"
    rows += [
        (
            "basins in both",
            str(len(found.matching.pairs)),
            f"{len(found.matching.gone)} gone, {len(found.matching.new)} new",
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
