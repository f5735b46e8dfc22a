"""Surveys as a page draws them: small arrays, and what is known about each."""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style
from lossatlas.plots.grid import MOST_MINIMA, landmarks, most_persistent, spread_errors
from lossatlas.plots.scale import Scale, scale_of
from lossatlas.result import Estimate
from lossatlas.surveys import Survey
from lossatlas.surveys.along import weights_at
from lossatlas.text import cut_off, number, plain, unbroken, verdict, with_error
from lossatlas.topology import MergeTree
from lossatlas.topology.basin_matching import match_basins
from lossatlas.topology.field import Connectivity

Floats = NDArray[np.float64]
Plain = dict[str, Any]
# Losses keep 16 bits of their mantissa, 1.5e-5 of their value: far below what a page can show.
_KEPT_BITS = np.uint32(0xFFFFFF80)
_MAX_STEP = 65534
_RISE_ALONE = 0.1
COLORS = {
    "loss": style.RELIEF,
    "error": style.EMBER,
    "metric": style.METRIC,
}


def has_surface(survey: Survey) -> bool:
    """Whether a survey maps a plane, evenly, with a finite loss somewhere."""
    land = survey.landscape
    if land.values.ndim != 2 or min(land.values.shape) < 2 or not land.finite.any():
        return False
    gaps = [np.diff(axis) for axis in land.axes]
    return all(bool(np.allclose(gap, gap[0], rtol=1e-6)) for gap in gaps)


def pack(data: bytes) -> str:
    """Bytes as text that the page inflates."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def pack_json(data: Any) -> str:
    """Plain values as text that the page inflates; NaN and infinity are null."""
    # Numbers in texts stay on one line with their errors and percent signs, as in HTML.
    return pack(json.dumps(_shown(data), separators=(",", ":"), allow_nan=False).encode())


def packed_arrays(land: Landscape) -> tuple[str, list[Plain]]:
    """The arrays of a map: losses, errors, metrics, and which points were computed.

    Returns:
        The text, and what each array is: name, kind ("float" or "steps"), range.
    """
    fields: list[Plain] = [{"name": "loss", "kind": "float"}]
    parts = [_shuffled(_rounded(land.values))]
    for name, values in {"error": spread_errors(land), **land.metrics}.items():
        data, low, high = _stepped(np.asarray(values, dtype=np.float64))
        parts.append(data)
        fields.append({"name": cut_off(name, 40), "kind": "steps", "low": low, "high": high})
    bits = np.packbits(land.computed.ravel()).tobytes()
    return pack(b"".join((*parts, bits))), fields


def _rounded(values: Floats) -> NDArray[np.uint32]:
    bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    half = np.uint32(0x40)
    return np.where(np.isfinite(values), (bits + half) & _KEPT_BITS, bits).astype("<u4")


def _stepped(values: Floats) -> tuple[bytes, float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    share = np.zeros(values.shape) if high <= low else (values - low) / (high - low)
    steps = np.where(np.isfinite(values), np.round(_MAX_STEP * share), _MAX_STEP + 1)
    return _shuffled(steps.astype("<u2")), low, high


def _shuffled(array: NDArray[Any]) -> bytes:
    # Bytes of one weight side by side: they are alike and compress well.
    return array.reshape(-1).view(np.uint8).reshape(array.size, -1).T.tobytes()


def scale_data(scale: Scale) -> Plain:
    """A scale as the page reads it."""
    ticks, _ = scale.ticks()
    soft = scale.soft if scale.is_log else None
    return {"low": scale.low, "high": scale.high, "soft": soft, "ticks": ticks.tolist()}


def common_scale(lands: Sequence[Landscape]) -> Scale:
    """One scale for several maps."""
    return scale_of(np.concatenate([land.values[land.finite] for land in lands]))


def frame_of(survey: Survey, step: float, tracks: Mapping[int, int]) -> Plain:
    """What a page knows of a survey besides its arrays.

    Args:
        survey: a survey of a plane.
        step: where in the training it is.
        tracks: minimum -> the number that its basin has in all frames.

    Returns:
        Plain values.
    """
    land = survey.landscape
    where = weights_at(survey)
    low, high = (number(float(f(land.values[land.finite])), 3) for f in (np.min, np.max))
    return {
        "step": step,
        "title": plain(survey.title),
        "where": where.tolist(),
        "bars": bars(survey, tracks),
        "scale": scale_data(scale_of(land.values)),
        "loss": with_error(survey.loss.value, survey.loss.error),
        "metrics": {
            cut_off(name, 24): with_error(each.value, each.error)
            for name, each in survey.metrics.items()
        },
        "headline": survey.headline(),
        "counts": survey.tree.counts.legend,
        "alt": f"Lowest loss {low}, highest {high}. {survey.headline()}",
        "threshold": survey.tree.threshold,
    }


def grid_of(land: Landscape) -> Plain:
    """The axes of a map."""
    return {
        "x": np.round(land.axes[0], 12).tolist(),
        "y": np.round(land.axes[1], 12).tolist(),
        "labels": [plain(label) for label in land.labels],
    }


def path_of(land: Landscape) -> Plain | None:
    """The path of training, or other landmarks, of a map; None where there are none."""
    marks = [mark for mark in landmarks(land) if not mark.is_center]
    if not marks:
        return None
    mark = next((mark for mark in marks if mark.is_path), marks[0])
    points = np.round(mark.points, 9).tolist()
    return {"points": points, "is_path": mark.is_path, "texts": list(map(_lines, mark.texts()))}


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


def place_of(path: Plain | None, where: list[float]) -> int:
    """Which point of the path the weights are; -1 where they are none of it."""
    points = [] if path is None else path["points"]
    gaps = [abs(p[0] - where[0]) + abs(p[1] - where[1]) for p in points]
    near = min(gaps, default=1.0)
    return len(gaps) - 1 - gaps[::-1].index(near) if near < 1e-6 else -1


def bars(survey: Survey, tracks: Mapping[int, int]) -> list[Plain]:
    """The longest bars of a map's barcode of basins, each with its minimum and its level."""
    land, tree = survey.landscape, survey.tree
    chosen = most_persistent(tree, MOST_MINIMA)
    deaths = np.full(len(tree), np.inf)
    deaths[tree.ended] = tree.saddle_values
    rows = []
    for k in chosen.tolist():
        at = int(tree.minima[k])
        i, j = np.unravel_index(at, land.values.shape)
        value, error = float(land.values.flat[at]), float(land.stderr.flat[at])
        level = float(deaths[k])
        rows.append(
            {
                "track": tracks.get(k, k),
                "at": at,
                "point": [float(land.axes[0][i]), float(land.axes[1][j])],
                "birth": value,
                "death": level if math.isfinite(level) else None,
                "level": level if math.isfinite(level) else _open_level(tree, k, deaths),
                "certain": bool(tree.certain[k]),
                "edge": bool(tree.on_edge[k] and not tree.counted[k]),
                "loss": with_error(value, error),
                "lasts": number(level - value, 3) if math.isfinite(level) else "never ends",
                "verdict": verdict(bool(tree.certain[k]), tree.threshold),
            }
        )
    return rows


def _open_level(tree: MergeTree, minimum: int, deaths: Floats) -> float:
    # The deepest basin never ends: it is outlined up to the saddle where the longest other one
    # joins it, or up to a tenth of the range.
    joins = [
        (float(deaths[a] - tree.minima_values[a]), float(deaths[a]))
        for a, b in zip(tree.ended.tolist(), tree.into.tolist(), strict=True)
        if b == minimum
    ]
    if joins:
        return max(joins)[1]
    return float(tree.minima_values[minimum] + _RISE_ALONE * (tree.high - tree.low))


def basin_tracks(surveys: Sequence[Survey]) -> list[dict[int, int]]:
    """A number for each basin that it keeps from frame to frame.

    Basins of neighboring frames on one grid are matched (`topology.match_basins`); a basin
    without a partner gets a new number, as do all where the grid changes.

    Args:
        surveys: in order.

    Returns:
        For each survey, minimum -> number.
    """
    numbered: list[dict[int, int]] = []
    fresh = 0
    for k, survey in enumerate(surveys):
        tracks: dict[int, int] = {}
        if k and same_grid(surveys[k - 1].landscape, survey.landscape):
            before = surveys[k - 1]
            connectivity = cast(Connectivity, survey.tree.connectivity)
            pairs = match_basins(
                before.landscape, survey.landscape, connectivity=connectivity
            ).pairs
            tracks = {int(j): numbered[-1][int(i)] for i, j in pairs if int(i) in numbered[-1]}
        for minimum in range(len(survey.tree)):
            if minimum not in tracks:
                tracks[minimum] = fresh
                fresh += 1
        numbered.append(tracks)
    return numbered


def same_grid(first: Landscape, second: Landscape) -> bool:
    """Whether two maps have the same axes."""
    return first.values.shape == second.values.shape and all(
        np.allclose(a, b) for a, b in zip(first.axes, second.axes, strict=True)
    )


def number_rows(survey: Survey) -> dict[str, tuple[Estimate, list[float]]]:
    """Estimates of a survey by name: at the weights, then of instruments, then of the map."""
    estimates = survey.estimates()
    measured = {e.name for result in survey.findings.values() for e in result.estimates()}
    chief = len(survey.at_weights)
    order = sorted(estimates[chief:], key=lambda e: e.name not in measured)
    return {
        plain(each.name): (each, [each.value, *_error(each)])
        for each in (*estimates[:chief], *order)
        if not each.is_minor and each.name
    }


# The error, or both ends of an interval that is no error on either side.
def _error(estimate: Estimate) -> list[float]:
    if estimate.ends is not None:
        return list(estimate.ends)
    return [estimate.error]


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shown(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(entry) for entry in value]
    if isinstance(value, str):
        return unbroken(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
