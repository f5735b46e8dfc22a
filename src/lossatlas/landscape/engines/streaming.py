"""Large models: a point's weights exist one tensor at a time, while an operation reads them.

Other engines store several copies of the model. Here the model keeps its weights, and every
torch function called with a parameter receives origin + a u + b v instead, computed for that
call. Random directions are drawn block by block, so the extra memory is close to the largest
tensor of the model, however the code accesses it (tied heads, fused attention, RNNs).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lossatlas.errors import ModelError
from lossatlas.landscape.engines.drawing import MovedTensors
from lossatlas.landscape.engines.lanes import in_step
from lossatlas.landscape.engines.task import Array, Engine, Task, columns
from lossatlas.landscape.engines.waiting import Watch
from lossatlas.linalg.params import Params
from lossatlas.memory import free_memory
from lossatlas.objective import Batch, Measured, Moments

# Reading these of a parameter needs no numbers.
_METADATA = frozenset({"size", "dim", "numel", "stride", "is_floating_point", "is_complex"})
_CONTENT = frozenset({"data", "T", "mT", "H", "mH", "real"})
# Passes side by side at most: so many share what is drawn.
_MOST_LANES = 32
# This part of the free memory may be taken; half of it for passes that wait, where they do.
_SHARE = 2
# Where it is not known how much is free.
_UNKNOWN = 1 << 30


class StreamingEngine(Engine):
    """Evaluate points of a model too large to copy.

    Several passes (of some points, over some batches) go through the model in step: each waits
    where an operation reads a parameter, its directions are drawn once for all that wait, and
    each pass gets its own moved tensor in turn. Where passes would disturb one another (the
    model keeps something while it runs), they run one after another; so they do where the free
    memory holds all directions and the weights of a point.

    Args:
        task: what to evaluate; the plane's origin must be the model's own weights.

    Raises:
        ModelError: the model holds compiled TorchScript, whose weights cannot be replaced, or
            the plane starts elsewhere than at its present weights.
    """

    name = "streaming"
    chunk = 8

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
                    f"elsewhere ('{name}' differs); load those weights or use another engine."
                )
        self._names = {id(own[name]): name for name in task.plane.origin}
        self._budget = (free_memory(task.objective.device) or _UNKNOWN) // _SHARE
        self._moved = MovedTensors(task.plane, self._budget)
        if task.objective.volatile.tensors:
            # The pass writes into weights.
            self._moved.keeps_all = False
        # Not known yet: 0.
        self._lanes = 1 if self._moved.keeps_all or not _may_share(task) else 0
        self.memory = self._moved.memory

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        if not self._lanes:
            self.look()
        if self._lanes == 1:
            return self._one_by_one(coordinates)
        moments = self.task.moments(len(coordinates))
        points = [tuple(map(float, point)) for point in coordinates]
        seen: list[set[str]] = [set() for _ in points]
        side = min(self._lanes, len(points))
        with torch.no_grad(), self.task.objective.session():
            walk = self.task.objective.iter_batches()
            while batches := list(islice(walk, max(1, self._lanes // side))):
                for start in range(0, len(points), side):
                    group = range(start, min(start + side, len(points)))
                    self._side_by_side(moments, points, group, batches, seen)
        for each in seen:
            self._check_complete(each)
        return moments

    def _side_by_side(
        self,
        moments: Moments,
        points: Sequence[tuple[float, ...]],
        group: range,
        batches: Sequence[Batch],
        seen: Sequence[set[str]],
    ) -> None:
        task = self.task
        pairs = [(index, batch) for index in group for batch in batches]

        def serve(name: str, numbers: Sequence[int]) -> Iterator[Tensor]:
            return self._moved.at(name, [points[pairs[number][0]] for number in numbers])

        passes = [partial(self._pass, batch, seen[index]) for index, batch in pairs]
        measured = task.objective.swapped({}, partial(in_step, passes, serve))
        for (index, batch), values in zip(pairs, measured, strict=True):
            task.add(moments, values, batch, index)

    def _pass(
        self, batch: Batch, seen: set[str], ask: Callable[[str], Tensor]
    ) -> list[Measured]:
        with torch.no_grad(), Replaced(self._names, self._asked(ask), seen):
            return self.task.measure(batch)

    def _asked(self, ask: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        # What does not move waits for nobody.
        moved = self._moved
        return lambda name: moved.still[name] if name in moved.still else ask(name)

    def _one_by_one(self, coordinates: Array) -> Moments:
        task, moments = self.task, self.task.moments(len(coordinates))

        def run(index: int) -> None:
            task.objective.prepare()
            for batch in task.objective.iter_batches():
                task.add(moments, task.measure(batch), batch, index)

        with torch.no_grad(), task.objective.session():
            for index, point in enumerate(coordinates.tolist()):
                seen: set[str] = set()
                with Replaced(self._names, partial(self._moved.one, tuple(point)), seen):
                    task.objective.swapped({}, partial(run, index))
                self._check_complete(seen)
        return moments

    def look(self) -> Array:
        """The quantities at the origin; on the way, how many passes may walk side by side."""
        task = self.task
        watch = None if self._lanes == 1 else Watch(task.objective, self._names)

        def walk() -> Moments:
            moments = task.moments(1)

            def run() -> None:
                task.objective.prepare()
                for number, batch in enumerate(task.objective.iter_batches()):
                    with nullcontext() if watch is None or number else watch.begin():
                        measured = task.measure(batch)
                    task.add(moments, measured, batch, 0)

            with torch.no_grad(), task.objective.session():
                task.objective.swapped({}, run)
            return moments

        values = columns(task.joined(walk))
        if watch is not None:
            fit = self._budget // 2 // max(1, watch.most)
            self._lanes = max(1, min(_MOST_LANES, fit)) if watch.clean else 1
            self.memory = self._moved.memory + self._lanes * watch.most
        return values

    def go_alone(self) -> bool:
        """Run one pass after another from here on; whether that changes anything."""
        before, self._lanes = self._lanes, 1
        return before != 1

    def weights(self, corner: Array) -> Params:
        """The weights of a point, all at once."""
        point = tuple(map(float, corner))
        return {name: self._moved.one(point, name) for name in self.task.plane.origin}

    def _check_complete(self, seen: set[str]) -> None:
        unused = set(self.task.objective.unused)
        unseen = [n for n in self._names.values() if n not in seen and n not in unused]
        if unseen:
            raise ModelError(
                f"streaming never saw '{unseen[0]}': it is unused, or only compiled code reads "
                'it; use engine="plain", or leave it out with params=.'
            )


def _may_share(task: Task) -> bool:
    # Whether passes may take turns, as far as can be seen without one.
    objective = task.objective
    return not (
        task.metrics
        or task.ranks is not None
        or objective.needs_gradients
        or objective.volatile.matters
        or objective.volatile.batches
        or objective.volatile.tensors
        or objective.mode == "recalibrated"
        or any(_compiled(module) for module in objective.model.modules())
        or _thread_has_modes(objective.device.type)
    )


def _thread_has_modes(device: str) -> bool:
    # What a user switched on around the call belongs to this thread.
    held = torch._C
    return bool(
        held._len_torch_function_stack()
        or held._len_torch_dispatch_stack()
        or torch.is_autocast_enabled(device)
        or torch.is_inference_mode_enabled()
    )


class Replaced(TorchFunctionMode):
    """Every torch function that gets a parameter gets another tensor in its place.

    Args:
        names: id of a parameter -> its name.
        give: name -> the tensor to give.
        seen: the names of all that were replaced are put in here.
    """

    def __init__(
        self, names: Mapping[int, str], give: Callable[[str], Tensor], seen: set[str]
    ) -> None:
        super().__init__()
        self._names, self._give, self._seen = names, give, seen

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if reads_numbers(func):
            args, kwargs = self._replaced(args), self._replaced(kwargs or {})
        return func(*args, **(kwargs or {}))

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            name = self._names.get(id(value))
            if name is None:
                return value
            self._seen.add(name)
            return self._give(name)
        if type(value) in {list, tuple}:
            return type(value)(self._replaced(item) for item in value)
        if type(value) is dict:
            return {key: self._replaced(item) for key, item in value.items()}
        return value


def reads_numbers(func: Callable[..., Any]) -> bool:
    """Whether a torch function reads what a parameter holds, and not only its shape."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        owner = getattr(func, "__self__", None)
        return getattr(owner, "__name__", "") in _CONTENT
    return name not in _METADATA


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _compiled(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or type(module).__name__ == "OptimizedModule"
