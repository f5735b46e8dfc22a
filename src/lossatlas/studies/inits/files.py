"""The files of a study: where they are, which command makes them, whether they go together."""

from pathlib import Path
from typing import Any

from lossatlas import store
from lossatlas.errors import FileError
from lossatlas.studies.inits.settings import InitsSettings

# Stage -> its file, and the sections of the settings that it depends on.
FILES = {
    "generate": "pairs.nc",
    "fit-surrogate": "surrogate.nc",
    "label": "labels.nc",
    "features": "features.nc",
    "fit-quality": "quality.nc",
}
SECTIONS = {
    "generate": ("generate",),
    "fit-surrogate": ("generate", "surrogate"),
    "label": ("label",),
    "features": ("label", "quality"),
    "fit-quality": ("label", "quality"),
}
_MAKER = {"features": "fit-quality"}


def path_of(settings: InitsSettings, stage: str) -> Path:
    """Where a stage writes."""
    return settings.out / FILES[stage]


def ledger_of(settings: InitsSettings, stage: str) -> Path:
    """Where a stage keeps what is done until its file is written."""
    return settings.out / f"{stage}.resume"


def provenance(settings: InitsSettings, stage: str, data: str) -> store.Provenance:
    """What a file says about where it comes from."""
    return store.Provenance(settings.seed, settings.identity(*SECTIONS[stage]), data=data)


def load_stage(settings: InitsSettings, stage: str, data: str | None = None) -> Any:
    """What a stage wrote, if it belongs to these settings and examples."""
    path = path_of(settings, stage)
    maker = _MAKER.get(stage, stage)
    if not path.is_file():
        raise FileError(
            f"'{path}' does not exist; make it first: lossatlas inits {maker} "
            f"--out {settings.out} with the same settings."
        )
    result = store.load(path)
    found = dict(result.provenance.settings)
    different = differing(found, settings.identity(*SECTIONS[stage]))
    if different:
        raise FileError(
            f"'{path}' is of other settings ({different}); repeat those, name another "
            f"--out, or remove it and make it again: lossatlas inits {maker}."
        )
    if data is not None and result.provenance.data != data:
        raise FileError(
            f"'{path}' was made from other examples than '{settings.data}' holds now; name "
            f"another --out, or remove it and make it again: lossatlas inits {maker}."
        )
    return result


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which settings differ, for a message."""
    flat, other = _flat(found), _flat(store.Provenance(settings=wanted).settings)
    names = [n for n in sorted(flat | other) if flat.get(n) != other.get(n)]
    shown = [f"{n} is {flat.get(n)!r} there, {other.get(n)!r} here" for n in names[:3]]
    return "; ".join([*shown, *(["..."] if len(names) > 3 else [])])


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in dict(values).items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return flat
