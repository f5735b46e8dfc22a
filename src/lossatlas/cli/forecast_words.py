"""Fits, forecasts and schedules as `--json` and as tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.cli.forecast_options import told
from lossatlas.forecast import Curve, Fit, Prediction, SchedulePlan
from lossatlas.forecast.identifiability import ParameterError
from lossatlas.forecast.result import said_once

LEVEL = 0.95  # of the intervals of parameters
Table = list[tuple[str, str, str]]


def fit_summary(fit: Fit, out: Path) -> dict[str, Any]:
    """What `--json` prints of a fit."""
    return {
        "law": fit.law.name,
        "settings": fit.law.settings(),
        "parameters": fit.parameters,
        "parameter_intervals": {
            row.name: {"low": low, "high": high, "level": LEVEL, "reason": row.reason}
            for row in fit.parameter_errors
            for low, high in [fit.parameter_intervals(LEVEL)[row.name]]
        },
        "objective": fit.objective,
        "r2": fit.r2,
        "mae": fit.mae,
        "error": {"left_out": fit.errors.scale, "doubled_horizon": fit.errors.doubling,
                  "groups": fit.errors.groups, "reason": fit.errors.reason},
        "curves": [asdict(row) for row in fit.scores],
        "left_out": [asdict(row) for row in fit.left_out],
        "alternatives": [asdict(row) for row in fit.alternatives],
        "warnings": list(fit.warnings),
        "fit": str(out / "fit.nc"),
        "report": str(out / "report.html"),
    }  # fmt: skip


def fit_table(fit: Fit, out: Path) -> Table:
    """What a person is shown of a fit."""
    errors = fit.errors
    unseen = errors.reason or f"{errors.groups} groups left out, one after the other"
    known = {row.name: _certainty(fit, row) for row in fit.parameter_errors}
    rows = [
        (name, f"{value:.6g}", known.get(name, "")) for name, value in fit.parameters.items()
    ]
    rows += [
        ("R2", f"{fit.r2:.5f}", f"on the {len(fit.scores)} fitted curves"),
        ("mean absolute error", f"{fit.mae:.5f}", "on the fitted curves"),
        ("error on unseen curves", f"{errors.scale:.3%}", unseen),
        ("error of a doubled horizon", f"{errors.doubling:.3%}", "fit to the first half"),
    ]
    rows += _warned(fit.warnings)
    return [*rows, ("report", str(out / "report.html"), "")]


def _certainty(fit: Fit, row: ParameterError) -> str:
    low, high = fit.parameter_intervals(LEVEL)[row.name]
    return row.reason or f"{LEVEL:.0%} interval {low:.4g} to {high:.4g}"


def _warned(warnings: Sequence[str]) -> Table:
    return [("warning", line, "") for line in said_once([*map(told, warnings)])]


def left_out_table(fit: Fit) -> Table:
    """The curves, each forecast by a fit to the others."""
    return [
        (row.name, f"{row.final:+.3%} at the end", f"{row.rms:.3%} along the curve")
        for row in fit.left_out
    ]


def laws_table(fit: Fit) -> Table:
    """The laws that were compared, best first."""
    return [(row.law, f"{row.error:.3%}", row.note) for row in fit.alternatives]


def prediction_summary(
    prediction: Prediction, truth: Curve | None
) -> tuple[dict[str, Any], Table]:
    """A forecast."""
    loss, lower, upper = prediction.final
    data = {
        "step": prediction.step.tolist(), "loss": prediction.loss.tolist(),
        "lower": prediction.lower.tolist(), "upper": prediction.upper.tolist(),
        "level": prediction.level, "horizon": prediction.horizon,
        "final": {"loss": loss, "lower": lower, "upper": upper}, "reason": prediction.reason,
        "warnings": list(prediction.warnings),
    }  # fmt: skip
    band = prediction.reason or f"{prediction.level:.0%} interval {lower:.4f} to {upper:.4f}"
    rows = [("final loss", f"{loss:.4f}", band)]
    if truth is not None:
        measured = float(truth.loss[-1])
        data["measured"] = measured
        off = f"the forecast is {np.log(loss / measured):+.2%} off"
        rows.append(("measured", f"{measured:.4f}", off))
    return data, rows + _warned(prediction.warnings)


def plan_summary(plan: SchedulePlan) -> dict[str, Any]:
    """What `--json` prints of a plan."""
    return {
        "free_loss": plan.free_loss,
        "cooldown": {"shape": plan.wsd_shape, "decay": plan.wsd_decay, "loss": plan.wsd_loss},
        "error": plan.error,
        "verdict": plan.verdict,
        "table": [asdict(row) for row in plan.table],
        "warnings": list(plan.warnings),
        "rates": plan.wsd.tolist(),
    }
