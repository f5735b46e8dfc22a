"""What networks must hold before they are measured or mixed."""

from collections.abc import Sequence

import torch

from lossatlas.checks import check_list
from lossatlas.errors import ArgumentError, NonFiniteError, StructureError
from lossatlas.io import Checkpoint
from lossatlas.linalg.params import Params
from lossatlas.objective.point import State
from lossatlas.weights.places import ROOM


def check_finite(argument: str, params: Params) -> None:
    """Refuse a checkpoint with an entry that is not finite, by name."""
    for name, value in params.items():
        parts = torch.split(value.detach().reshape(-1), ROOM)
        if value.is_floating_point() and not all(bool(p.isfinite().all()) for p in parts):
            raise NonFiniteError(
                f"`{argument}` holds '{name}' with entries that are not finite; take a "
                "checkpoint from before the training diverged."
            )


def check_whole_numbers(states: Sequence[State], otherwise: str = "") -> None:
    """Refuse buffers of whole numbers that differ between networks: there are none between."""
    points = [state.buffers for state in states]
    for name, value in points[0].items():
        if not value.is_floating_point() and any(
            not torch.equal(value, point[name]) for point in points
        ):
            raise StructureError(
                f"'{name}' holds whole numbers and differs between the networks, so there is "
                f"no average of it; give all of them the same{otherwise}."
            )


def checkpoint_names(checkpoints: Sequence[Params], names: Sequence[str] | None) -> list[str]:
    """What checkpoints are called: as given, by their files, or by number; no two alike."""
    if names is not None:
        check_list("names", names, "texts")
        if len(names) != len(checkpoints):
            raise ArgumentError(
                f"`names` must be one a checkpoint; got {len(names)} for {len(checkpoints)}."
            )
    labels: list[str] = []
    for position, point in enumerate(checkpoints, 1):
        own = point.path.name if isinstance(point, Checkpoint) else f"checkpoint {position}"
        name = own if names is None else str(names[position - 1])
        while name in labels:
            name = f"{name} ({position})"
        labels.append(name)
    return labels
