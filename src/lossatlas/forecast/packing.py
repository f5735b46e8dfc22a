"""A fit as labeled arrays, and back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossatlas.checks import check_one_of
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.law import Law
from lossatlas.forecast.laws import LAWS

Floats = NDArray[np.float64]


def law_record(law: Law) -> dict[str, Any]:
    """A law as plain values."""
    return {"law": law.name, "settings": law.settings()}


def law_from_record(record: Mapping[str, Any]) -> Law:
    """The inverse of `law_record`."""
    known = {kind.__name__: kind for kind in LAWS.values()}
    check_one_of("law", record["law"], known)
    return known[record["law"]](**record["settings"])


def pack(
    parameters: Sequence[str], values: Floats, facts: Mapping[str, Any], curves: Sequence[Curve]
) -> dict[str, xr.Dataset]:
    """Groups for the store."""
    head = xr.Dataset(
        {"values": ("parameter", values)},
        {"parameter": list(parameters)},
        {"facts": json.dumps(facts)},
    )
    return {"fit": head} | {f"curve{i}": _packed(curve) for i, curve in enumerate(curves)}


def unpack(
    tree: Mapping[str, xr.Dataset],
) -> tuple[Floats, dict[str, Any], tuple[Curve, ...]]:
    """The inverse of `pack`."""
    head = tree["fit"]
    curves = tuple(_unpacked(tree[f"curve{i}"]) for i in range(len(tree) - 1))
    return head["values"].to_numpy(), json.loads(head.attrs["facts"]), curves


def _packed(curve: Curve) -> xr.Dataset:
    columns = {"step": curve.step, "loss": curve.loss, "size": curve.size,
               "tokens": curve.tokens, "source": curve.source}  # fmt: skip
    found = {key: ("point", value) for key, value in columns.items() if value is not None}
    rates = {} if curve.rates is None else {"rates": ("update", curve.rates)}
    names = {"group": curve.group, "name": curve.name, "notes": list(curve.notes)}
    return xr.Dataset({**found, **rates}, attrs={"names": json.dumps(names)})


def _unpacked(data: xr.Dataset) -> Curve:
    names = json.loads(data.attrs["names"])
    arrays: dict[str, Any] = {str(k): value.to_numpy() for k, value in data.data_vars.items()}
    arrays["lr"] = arrays.pop("rates", None)
    curve = Curve(**arrays, group=names["group"], name=names["name"])
    return curve.noted(names["notes"])
