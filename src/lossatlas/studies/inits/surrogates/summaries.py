"""Simple statistics of each layer's parameters: the strong, trivial way to read a network."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.studies.inits.surrogates.rows import pieces

Array = NDArray[np.float64]
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def layer_statistics(rows: Tensor, shapes: Sequence[torch.Size]) -> Array:
    """Mean, deviation and quantiles of every tensor, and the logarithms of their lengths."""
    shares = torch.tensor(_SHARES)
    columns = []
    for part in pieces(rows, shapes):
        flat = part.reshape(len(rows), -1)
        middle, spread = flat.mean(1), flat.std(1, correction=0)
        length = flat.norm(dim=1).clamp(min=1e-30).log()
        columns += [middle, spread, length, *torch.quantile(flat, shares, dim=1)]
    return torch.stack(columns, dim=1).double().numpy()
