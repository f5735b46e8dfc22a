"""Pictures to tensors: PNG and JPEG through pillow, with a common size and a normalization."""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError, DataError, FileError
from lossatlas.training.files import reason

Picture = np.ndarray[Any, np.dtype[np.uint8]]
# What pillow raises on damaged files, beside its own OSError subclasses.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError)

# Name -> (mean, standard deviation) of red, green and blue on the scale 0..1.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "centered": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def decode(
    pictures: Iterable[tuple[str, bytes]],
    *,
    size: int | None = None,
    channels: int | None = None,
) -> Tensor:
    """Decode images of equal size."""
    if size is not None:
        check_at_least("size", size, 1)
    if channels not in {None, 1, 3}:
        raise ArgumentError(f"`channels` must be 1 (gray) or 3 (color); got {channels!r}.")
    arrays: list[Picture] = []
    for name, content in pictures:
        array = _decode(name, content, size, channels)
        if arrays and array.shape[:2] != arrays[0].shape[:2]:
            (h, w), (h0, w0) = array.shape[:2], arrays[0].shape[:2]
            raise DataError(
                f"{name} has {w}x{h} pixels but the first picture {w0}x{h0}; "
                "give `size`, as in '#size=32', to resize them."
            )
        arrays.append(array)
    if not arrays:
        raise DataError("there are no pictures to decode; check the data set.")
    depth = max(array.shape[2] for array in arrays)
    stacked = np.stack([np.broadcast_to(array, (*array.shape[:2], depth)) for array in arrays])
    return torch.from_numpy(stacked).movedim(3, 1).contiguous()


def read_picture(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"'{path}' cannot be read ({error.strerror}); check it.") from None


def normalized(
    pictures: Tensor, normalization: str | Sequence[Sequence[float]], *, white: float = 255
) -> Tensor:
    """Scale 0..white to 0..1, subtract a mean and divide by a standard deviation."""
    scaled = pictures.to(torch.float32) / white
    mean, deviation = _mean_and_deviation(scaled, normalization)
    if len(mean) != scaled.shape[1] or len(deviation) != len(mean) or not bool(deviation.all()):
        raise ArgumentError(
            f"`normalize` must give a mean and a deviation above 0 for each of "
            f"{scaled.shape[1]} channels; got {normalization!r}."
        )
    return scaled.sub_(mean[:, None, None]).div_(deviation[:, None, None])


def _mean_and_deviation(
    scaled: Tensor, normalization: str | Sequence[Sequence[float]]
) -> tuple[Tensor, Tensor]:
    if normalization == "standardized":
        values = scaled.movedim(1, 0).flatten(1)
        # A flat channel carries nothing; its deviation is only rounding.
        flat = values.amin(1) == values.amax(1)
        return values.mean(1), torch.where(flat, 1.0, values.std(1, correction=0))
    if isinstance(normalization, str):
        check_one_of("normalize", normalization, [*NORMALIZATIONS, "standardized"])
        pair = torch.tensor(NORMALIZATIONS[normalization])
        mean, deviation = pair.mean(1, keepdim=True) if scaled.shape[1] == 1 else pair
        return mean, deviation
    try:
        pair = torch.tensor([list(part) for part in normalization], dtype=torch.float32)
        mean, deviation = pair
    except (TypeError, ValueError):
        raise ArgumentError(
            f"`normalize` must be a name or (means, deviations); got {normalization!r}."
        ) from None
    return mean, deviation


def _decode(name: str, content: bytes, size: int | None, channels: int | None) -> Picture:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            image.load()
            gray = channels == 1 or (channels is None and _is_gray(image.mode))
            picture = _eight_bits(image).convert("L" if gray else "RGB")
            if size is not None and picture.size != (size, size):
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name} is not a complete PNG or JPEG picture ({reason(error)}); "
            "remove or replace it."
        ) from None
    array = np.asarray(picture, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array


def _is_gray(mode: str) -> bool:
    return mode in {"1", "L", "LA"} or mode.startswith("I")


def _eight_bits(image: Any) -> Any:
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    # Pillow clips sixteen-bit grays to 255 instead of scaling them.
    return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
