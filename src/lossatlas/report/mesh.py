"""The surface of a map as a mesh, for programs that draw in three dimensions."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_one_of, check_path
from lossatlas.errors import ArgumentError
from lossatlas.io import writing
from lossatlas.landscape.landscape import Landscape
from lossatlas.plots import style
from lossatlas.plots.scale import scale_of
from lossatlas.surveys import Survey

Floats = NDArray[np.float64]
_KINDS = (".glb", ".vtk")
_RISE = 0.62
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_FLOAT, _INDEX = 5126, 5125


def write_mesh(source: Landscape | Survey, path: str | Path) -> Path:
    """Write the surface of a map of a plane as GLB or VTK.

    A GLB (binary glTF 2.0) holds triangles in a box of about 2 x 2 x 0.62 with a color at each
    point, heights as on the page. A VTK file (legacy, binary structured grid) holds the
    coordinates of the map, the loss as height, and loss, standard error and metrics at each
    point. Points whose loss is not finite are left out of a GLB and are NaN in a VTK file.

    Args:
        source: a map of a plane, or a survey of one.
        path: where; the ending says which, `.glb` or `.vtk`. A file that is there is replaced.

    Returns:
        The path.

    Raises:
        ArgumentError: the map is no plane.
        FileError: the place cannot be written.
        UnknownNameError: another ending.

    Examples:
        >>> import numpy as np, tempfile
        >>> from lossatlas import Landscape
        >>> from lossatlas.report import write_mesh
        >>> x = np.linspace(-1, 1, 5)
        >>> bowl = Landscape(
        ...     values=x[:, None] ** 2 + x**2,
        ...     stderr=np.full((5, 5), 0.01),
        ...     axes=(x, x),
        ...     labels=("a", "b"),
        ...     computed=np.ones((5, 5), dtype=bool),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_mesh(bowl, f"{folder}/bowl.glb").stat().st_size > 1000
        True

    Source: Khronos, glTF 2.0 specification, sec. 4; VTK file formats, legacy.
    """
    target = check_path("path", path)
    check_one_of("path", target.suffix.lower(), _KINDS)
    land = source.landscape if isinstance(source, Survey) else source
    if land.values.ndim != 2 or not land.finite.any():
        raise ArgumentError(
            "`source` must be a map of a plane with a finite loss; got one of "
            f"{land.values.ndim} dimensions: lines and boxes have no surface."
        )
    data = _glb(land) if target.suffix.lower() == ".glb" else _vtk(land)
    with writing(target) as temporary:
        temporary.write_bytes(data)
    return target


def _heights(land: Landscape) -> Floats:
    scale = scale_of(land.values)
    bottom, top = scale.heights(2)
    finite = np.where(land.finite, land.values, np.nan)
    return np.asarray((scale.forward(finite) - bottom) / ((top - bottom) or 1.0))


def _triangles(heights: Floats) -> NDArray[np.uint32]:
    rows, columns = heights.shape
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[:-1, 1:], at[1:, 1:]
    faces = np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([c, b, d], -1).reshape(-1, 3)]
    )
    whole = np.isfinite(heights.ravel()[faces]).all(axis=1)
    return np.asarray(faces[whole], dtype="<u4")


def _glb(land: Landscape) -> bytes:
    heights = _heights(land)
    faces = _triangles(heights)
    flat = np.nan_to_num(heights)
    lengths = [float(axis[-1] - axis[0]) for axis in land.axes]
    x, y = (
        (2 * (axis - axis[0]) / length - 1) * length / max(lengths)
        for axis, length in zip(land.axes, lengths, strict=True)
    )
    across, along = np.meshgrid(x, y, indexing="ij")
    # The up axis of glTF is y, and its z points to the viewer.
    points = np.stack([across, _RISE * flat, -along], axis=-1).reshape(-1, 3)
    slopes = np.gradient(_RISE * flat, x, y)
    normals = np.stack([-slopes[0], np.ones_like(flat), slopes[1]], axis=-1).reshape(-1, 3)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _container(points, normals, _colors(flat.ravel()), faces)


def _colors(heights: Floats) -> Floats:
    stops = np.array([[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in style.RELIEF])
    at = np.linspace(0, 1, len(stops))
    mixed = np.stack([np.interp(heights, at, stops[:, k]) for k in range(3)], axis=-1)
    # Colors of glTF are linear, those of the house are sRGB.
    return np.where(mixed <= 0.04045, mixed / 12.92, ((mixed + 0.055) / 1.055) ** 2.4)


def _container(points: Floats, normals: Floats, colors: Floats, faces: Any) -> bytes:
    parts = [array.astype("<f4").tobytes() for array in (points, normals, colors)]
    parts.append(np.ascontiguousarray(faces).tobytes())
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(part), "target": target}
        for start, part, target in zip(starts, parts, (34962,) * 3 + (34963,), strict=False)
    ]
    vectors: dict[str, Any] = {"componentType": _FLOAT, "count": len(points), "type": "VEC3"}
    places = points.astype("<f4")
    bounds = {"min": places.min(0).tolist(), "max": places.max(0).tolist()}
    accessors = [vectors | {"bufferView": k} | (bounds if k == 0 else {}) for k in range(3)]
    scalars = {"componentType": _INDEX, "count": int(faces.size), "type": "SCALAR"}
    names = {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}
    look = {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0.0, "roughnessFactor": 0.6}
    scene = {
        "asset": {"version": "2.0", "generator": "lossatlas"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "loss"}],
        "meshes": [{"primitives": [{"attributes": names, "indices": 3, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": look, "doubleSided": True}],
        "accessors": [*accessors, scalars | {"bufferView": 3}],
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(parts)
    data += b"\0" * (-len(data) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data))
    chunk = struct.pack("<II", len(text), _JSON) + text
    return head + chunk + struct.pack("<II", len(data), _BINARY) + data


def _vtk(land: Landscape) -> bytes:
    rows, columns = land.values.shape
    x, y = np.meshgrid(*land.axes, indexing="ij")
    # The first axis runs fastest in a structured grid.
    points = np.stack([a.T.ravel() for a in (x, y, land.values)], axis=-1)
    title = f"loss landscape along {land.labels[0]} and {land.labels[1]}"
    plain = title.encode("ascii", "replace")[:250].replace(b"\n", b" ")
    head = b"# vtk DataFile Version 3.0\n" + plain + b"\nBINARY\nDATASET STRUCTURED_GRID\n"
    head += f"DIMENSIONS {rows} {columns} 1\nPOINTS {points.shape[0]} double\n".encode()
    fields = {"loss": land.values, "standard_error": land.stderr, **land.metrics}
    data = [head, points.astype(">f8").tobytes(), f"\nPOINT_DATA {points.shape[0]}\n".encode()]
    for k, (name, values) in enumerate(fields.items()):
        word = "".join(c if c.isascii() and c.isalnum() else "_" for c in name) or f"field_{k}"
        data.append(f"SCALARS {word[:60]} double 1\nLOOKUP_TABLE default\n".encode())
        data += [np.asarray(values, np.float64).T.astype(">f8").tobytes(), b"\n"]
    return b"".join(data)
