"""What a pass stores while it reads a parameter, to decide whether others may run meanwhile."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from lossatlas.objective import Objective
from lossatlas.objective.batches import tensors
from lossatlas.objective.state import Attributes


class Watch(TorchFunctionMode):
    """Watches one pass of a model, at every torch function that is given a parameter.

    Args:
        objective: whose pass runs.
        names: id of a parameter -> its name.

    Attributes:
        clean: whether modules and loss held nothing there that they had not held before, so
            that passes which take turns cannot disturb one another.
        most: bytes of results that were alive there, at most.
    """

    def __init__(self, objective: Objective, names: Mapping[int, str]) -> None:
        super().__init__()
        self._objective, self._names = objective, names
        self.clean, self.most = True, 0
        self._live: list[weakref.ref[Tensor]] = []

    def begin(self) -> "Watch":
        """Remember what is held before the pass."""
        objective = self._objective
        holders = {str(place): holder for place, holder in enumerate(objective.holders())}
        self._attributes = Attributes(holders)
        self._buffers = self._seen_buffers()
        lasting = [*objective.model.parameters(), *objective.model.buffers()]
        self._lasting = {value.data_ptr() for value in lasting if _has_storage(value)}
        return self

    def _seen_buffers(self) -> list[tuple[int, int]]:
        roots = (self._objective.model, *self._objective.loss_modules)
        every = (b for root in roots for m in root.modules() for b in m._buffers.values())
        return [(id(b), 0 if b.is_inference() else b._version) for b in every if b is not None]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = [*args, *(kwargs or {}).values()]
        if any(id(value) in self._names for value in tensors(given)):
            self._note()
        result = func(*args, **(kwargs or {}))
        self._live += [weakref.ref(value) for value in tensors(result)]
        return result

    def _note(self) -> None:
        held = [value for each in self._live if (value := each()) is not None]
        self._live = [weakref.ref(value) for value in held]
        sizes = {
            value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
            for value in held
            if _has_storage(value) and value.data_ptr() not in self._lasting
        }
        self.most = max(self.most, sum(sizes.values()))
        self.clean = (
            self.clean
            and self._seen_buffers() == self._buffers
            and not self._attributes.changed()
        )


def _has_storage(value: Tensor) -> bool:
    try:
        return value.untyped_storage().nbytes() > 0
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
