"""Large models: weights of a point exist one tensor at a time, while an operation reads them.

Other engines hold several copies of the model. Here the model keeps its own weights, and every
torch function that is given a parameter gets origin + a u + b v in its place, made for that one
call. Random directions are drawn block by block, so the extra memory stays near the largest
tensor of the model, whatever path the code takes to it (tied heads, fused attention, RNNs).
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lossatlas.errors import ModelError
from lossatlas.landscape.directions import RandomDirection
from lossatlas.landscape.engines.task import Array, Engine, Task, bytes_of
from lossatlas.landscape.plane import Plane
from lossatlas.linalg.params import Params
from lossatlas.objective import Moments

# Reading these of a parameter needs no numbers.
_METADATA = frozenset({"size", "dim", "numel", "stride", "is_floating_point", "is_complex"})
_CONTENT = frozenset({"data", "T", "mT", "H", "mH", "real"})


class StreamingEngine(Engine):
    """Points of a model too large to copy.

    Args:
        task: what to evaluate; the plane's origin must be the model's own weights.

    Raises:
        ModelError: the model holds compiled TorchScript, whose weights cannot be replaced, or
            the plane starts elsewhere than at its present weights.
    """

    name = "streaming"
    chunk = 1

    def __init__(self, task: Task) -> None:
        self.task = task
        scripted = [n for n, m in task.objective.model.named_modules() if _scripted(m)]
        if scripted:
            raise ModelError(
                f"'{scripted[0]}' is compiled TorchScript, which streaming cannot look into; "
                'use engine="plain" or the uncompiled module.'
            )
        own = dict(task.objective.model.named_parameters())
        here = task.objective.params
        for name, value in task.plane.origin.items():
            if value is not here[name] and not torch.equal(value, here[name]):
                raise ModelError(
                    "streaming maps around the model's own weights, but the plane starts "
                    f"elsewhere ('{name}' differs); load those weights or take another engine."
                )
        self._names = {id(own[name]): name for name in task.plane.origin}
        self.memory = memory(task)

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        task, moments = self.task, self.task.moments(len(coordinates))

        def run(index: int) -> None:
            task.objective.prepare()
            for batch in task.objective.iter_batches():
                task.add(moments, task.measure(batch), batch, index)

        with torch.no_grad(), task.objective.session():
            for index, point in enumerate(coordinates):
                moving = _Moved(task.plane, self._names, [float(c) for c in point])
                moving.unused = frozenset(task.objective.unused)
                with moving:
                    task.objective.swapped({}, partial(run, index))
                moving.check_complete()
        return moments

    def weights(self, corner: Array) -> Params:
        """The weights of a point, all at once."""
        plane, coordinates = self.task.plane, [float(c) for c in corner]
        return {name: moved(plane, name, coordinates) for name in plane.origin}


def memory(task: Task) -> int:
    """Bytes that streaming needs beyond the model and the data."""
    blocks = 4 * (8 << 20)
    return blocks + max(bytes_of(value) for value in task.plane.origin.values())


class _Moved(TorchFunctionMode):
    """Every torch function that gets a parameter gets the moved one."""

    def __init__(
        self, plane: Plane, names: Mapping[int, str], coordinates: list[float]
    ) -> None:
        super().__init__()
        self._plane, self._names, self._coordinates = plane, names, coordinates
        self._seen: set[str] = set()
        self.unused: frozenset[str] = frozenset()

    def check_complete(self) -> None:
        """Require that every parameter passed through here."""
        unseen = [n for n in self._names.values() if n not in self._seen | self.unused]
        if unseen:
            raise ModelError(
                f"streaming never saw '{unseen[0]}': it is unused, or only compiled code reads "
                'it; use engine="plain", or leave it out with params=.'
            )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if _reads_numbers(func):
            args, kwargs = self._replaced(args), self._replaced(kwargs or {})
        return func(*args, **(kwargs or {}))

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            name = self._names.get(id(value))
            self._seen.update([name] if name else [])
            return value if name is None else moved(self._plane, name, self._coordinates)
        if type(value) in {list, tuple}:
            return type(value)(self._replaced(item) for item in value)
        if type(value) is dict:
            return {key: self._replaced(item) for key, item in value.items()}
        return value


def moved(plane: Plane, name: str, coordinates: list[float]) -> Tensor:
    """One tensor of a point of a plane, made block by block where directions are drawn."""
    origin = plane.origin[name].detach()
    if not any(coordinates):
        return origin
    point = origin.clone(memory_format=torch.contiguous_format)
    for step, direction in zip(coordinates, plane.directions, strict=True):
        if step == 0:
            continue
        if isinstance(direction, RandomDirection):
            rows = point if point.ndim > 1 else point.view(1, -1)
            for where, block in direction.blocks(name):
                rows[where].add_(block, alpha=step)
        else:
            point.add_(direction[name], alpha=step)
    return point


def _reads_numbers(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        owner = getattr(func, "__self__", None)
        return getattr(owner, "__name__", "") in _CONTENT
    return name not in _METADATA


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)
