"""Films of landscapes: one turned around, or several one after another."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_one_of, check_path, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.io import writing
from lossatlas.landscape.landscape import Landscape
from lossatlas.plots.relief import Relief
from lossatlas.plots.scale import scale_of
from lossatlas.report.frames import has_surface, same_grid
from lossatlas.surveys import Survey
from lossatlas.surveys.along import weights_at
from lossatlas.text import number

_KINDS = (".gif", ".mp4")
_TURN = 50.0
Image = NDArray[np.uint8]


def write_film(
    surveys: Survey | Sequence[Survey],
    path: str | Path,
    *,
    seconds: float = 6.0,
    rate: int = 12,
    width: int = 640,
) -> Path:
    """Write a film of surveys: a single one is turned around, several follow one another.

    Heights between the surveys of one grid go over into each other, which is for the eye: the
    step is shown and changes half-way. All have one scale.

    Args:
        surveys: surveys of planes, in the order of training.
        path: where; `.gif`, or `.mp4` where ffmpeg or imageio-ffmpeg is installed. A file that
            is there is replaced.
        seconds: how long it is.
        rate: pictures a second.
        width: of a picture, in pixels; its height is three quarters of that.

    Returns:
        The path.

    Raises:
        ArgumentError: no survey of a plane, another ending, no ffmpeg, or numbers that are not
            positive.
        FileError: the place cannot be written.

    Examples:
        >>> import torch, tempfile, lossatlas as la
        >>> from lossatlas.report import write_film
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(
        ...     torch.nn.Linear(2, 1), loss, [(torch.eye(2), torch.zeros(2, 1))]
        ... )
        >>> found = la.survey(objective, points=5, span=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_film(found, f"{folder}/turn.gif", seconds=0.5, rate=4, width=160).name
        'turn.gif'
    """
    target = check_path("path", path)
    check_one_of("path", target.suffix.lower(), _KINDS)
    for name, value in (("seconds", seconds), ("rate", rate), ("width", width)):
        check_positive(name, value)
    given = [surveys] if isinstance(surveys, Survey) else list(surveys)
    surveys = [survey for survey in given if has_surface(survey)]
    if not surveys:
        raise ArgumentError(
            "`surveys` must hold a survey of a plane; lines and boxes have no film."
        )
    count = max(2, round(seconds * rate))
    images = _images(surveys, count, int(width))
    save = _save_gif if target.suffix.lower() == ".gif" else _save_mp4
    with writing(target) as temporary:
        save(images, temporary, rate)
    return target


def _images(surveys: Sequence[Survey], count: int, width: int) -> Iterator[Image]:
    lands = [survey.landscape for survey in surveys]
    scale = scale_of(np.concatenate([land.values[land.finite] for land in lands]))
    relief = Relief(scale, width)
    for k in range(count):
        at = k / (count - 1) * (len(surveys) - 1)
        before, share = int(at), at - int(at)
        after = min(before + 1, len(surveys) - 1)
        shown = surveys[before if share < 0.5 else after]
        land = _between(lands[before], lands[after], share)
        turn = 360.0 * k / count if len(surveys) == 1 else _TURN * (k / (count - 1) - 0.5)
        yield relief.image(land, weights_at(shown), azimuth=-56.0 + turn, title=_title(shown))


def _between(first: Landscape, second: Landscape, share: float) -> Landscape:
    from dataclasses import replace

    if share == 0 or not same_grid(first, second):
        return first if share < 0.5 else second
    values = (1 - share) * first.values + share * second.values
    return replace(first if share < 0.5 else second, values=values)


def _title(survey: Survey) -> str:
    step = survey.provenance.settings.get("step")
    loss = f"loss {number(survey.loss.value, 3)}"
    return loss if step is None else f"step {number(float(step), 9)}, {loss}"


def _save_gif(images: Iterator[Image], path: Path, rate: int) -> None:
    from PIL import Image as Picture

    first, *rest = (Picture.fromarray(image).quantize(256) for image in images)
    options: Any = {"save_all": True, "append_images": rest, "loop": 0}
    first.save(path, format="GIF", duration=round(1000 / rate), optimize=True, **options)


def _ffmpeg() -> str | None:
    # Of the system, or the one that a package of Python brings.
    from shutil import which

    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        return which("ffmpeg")
    return which("ffmpeg") or str(get_ffmpeg_exe())


def _save_mp4(images: Iterator[Image], path: Path, rate: int) -> None:
    import subprocess
    from itertools import chain

    tool = _ffmpeg()
    if tool is None:
        raise ArgumentError(
            "`path`: an .mp4 needs ffmpeg, which is not installed; take .gif, or install "
            "ffmpeg or the package imageio-ffmpeg, which brings it."
        )
    first = next(images)
    high, wide = (side - side % 2 for side in first.shape[:2])
    command = [tool, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += [
        "-s",
        f"{wide}x{high}",
        "-r",
        str(rate),
        "-i",
        "-",
        "-an",
        "-pix_fmt",
        "yuv420p",
    ]
    data = b"".join(
        np.ascontiguousarray(i[:high, :wide]).tobytes() for i in chain([first], images)
    )
    done = subprocess.run(
        [*command, "-f", "mp4", str(path)], input=data, capture_output=True, check=False
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ArgumentError(f"`path`: ffmpeg failed ({reason[-1] if reason else 'no reason'}).")
