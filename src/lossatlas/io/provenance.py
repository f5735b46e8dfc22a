"""Provenance of a result: versions, seed, settings, fingerprints."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

_PACKAGES = ("lossatlas", "torch", "numpy", "scipy", "gudhi")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        package: version for package in _PACKAGES if (version := _version(package)) is not None
    }


@cache
def _version(package: str) -> str | None:
    # Reading the metadata of a package takes longer than a small map.
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


@dataclass(frozen=True)
class Provenance:
    """Everything needed to reproduce a result.

    Attributes:
        seed: the seed, or None if nothing was random or the settings contain several.
        settings: the arguments as plain values (strings, numbers, lists, mappings).
        model: fingerprint of the weights, a hexadecimal digest.
        data: fingerprint of the batches.
        versions: package name -> version.
    """

    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    versions: Mapping[str, str] = field(default_factory=_versions)

    def __post_init__(self) -> None:
        # As it will be read back: tuples become lists, so that a loaded record is equal.
        plain = json.loads(json.dumps(dict(self.settings), default=str))
        object.__setattr__(self, "settings", plain)

    def to_json(self) -> str:
        """The record as one line of JSON.

        Returns:
            JSON with sorted keys.
        """
        return json.dumps(asdict(self), sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of `to_json`.

        Args:
            text: output of `to_json`.

        Returns:
            An equal record.
        """
        return cls(**json.loads(text))


def run_identity(
    kind: str, settings: Mapping[str, Any], *, model: str = "", data: str = ""
) -> dict[str, Any]:
    """Identify a run: finished work is reused only by runs with equal identity.

    Args:
        kind: name of the computation, such as "map_plane".
        settings: everything that changes the numbers, as JSON values.
        model: fingerprint of the weights.
        data: fingerprint of the data.

    Returns:
        Settings, fingerprints, and the versions of the packages that compute.

    Examples:
        >>> first = run_identity("map_plane", {"points": 31}, model="f0")
        >>> first == run_identity("map_plane", {"points": 41}, model="f0")
        False
    """
    versions = {name: _version(name) for name in ("lossatlas", "torch", "numpy")}
    return {
        "kind": kind,
        **settings,
        "model fingerprint": model,
        "data fingerprint": data,
        **versions,
    }
