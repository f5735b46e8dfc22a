"""What is known of an initialization without looking at the loss: its recipe and its size."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.linalg.params import Params
from lossatlas.studies.inits.candidate import Candidate

Array = NDArray[np.float64]


def recipe_numbers(candidates: Sequence[Candidate]) -> dict[str, Array]:
    """The recipe as numbers: scheme, scale, scale squared, and their products."""
    schemes = np.array([candidate.scheme for candidate in candidates])
    scale = np.array([candidate.scale for candidate in candidates], dtype=np.float64)
    columns = {"scale": scale, "scale squared": scale**2}
    for scheme in sorted(set(schemes.tolist())):
        inside = (schemes == scheme).astype(np.float64)
        columns |= {
            f"scheme {scheme}": inside,
            f"scheme {scheme} x scale": inside * scale,
            f"scheme {scheme} x scale squared": inside * scale**2,
        }
    return columns


def size_numbers(initial: Params) -> dict[str, Array]:
    """Sizes of the weights."""
    squares = {name: (w.double().flatten(1) ** 2).sum(1) for name, w in initial.items()}
    total = torch.stack(list(squares.values())).sum(0).sqrt()
    sizes = {"norm": total.cpu().numpy()}
    for name, value in initial.items():
        if value.ndim > 2:
            floor = torch.finfo(torch.float32).tiny
            sizes[f"norm of {name}"] = squares[name].clamp_min(floor).log().cpu().numpy() / 2
    return sizes
