"""One survey as the landscape at the head of its page."""

from lossatlas.report.contents import Scene
from lossatlas.report.frames import (
    COLORS,
    frame_of,
    grid_of,
    pack_json,
    packed_arrays,
    path_of,
    place_of,
)
from lossatlas.surveys import Survey


def scene_of(survey: Survey) -> Scene:
    """What the page needs to draw a survey of a plane."""
    chunk, fields = packed_arrays(survey.landscape)
    path = path_of(survey.landscape)
    frame = frame_of(survey, 0.0, {}) | {"fields": fields, "grid": 0}
    frame["path"] = None if path is None else 0
    frame["place"] = place_of(path, frame["where"])
    data = {
        "frames": [frame],
        "grids": [grid_of(survey.landscape)],
        "paths": [] if path is None else [path],
        "colors": {name: list(stops) for name, stops in COLORS.items()},
    }
    return Scene(pack_json(data), chunk)
