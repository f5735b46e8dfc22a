"""Batched evaluation of a small network: one large product instead of many small ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.landscape.engines.first_layer import FirstLayer, look_at_layers
from lossatlas.landscape.engines.task import Array, Engine, Task, bytes_of
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Measured, Moments

# What points side by side may occupy, so that they stay in the processor's cache.
_BLOCK_BYTES = 8 << 20
# Where all layers are evaluated at every point (a transformer), calls are what is saved: blocks
# may be larger, and pay as long as a layer does no more at a point than a call of it costs.
_LARGE_BLOCK_BYTES = 32 << 20
_LAYER_BYTES = 48 << 10
# Fewer points side by side are not worth their stacking.
_FEWEST = 4
_MOST_POINTS = 256
# Blocks of a chunk: what is done around a chunk costs as much as some points.
_BLOCKS = 16


class BatchedEngine(Engine):
    """Evaluate points of a small network under `vmap`, with one first layer for the whole map.

    Args:
        task: what to evaluate.
    """

    name = "batched"
    independent = False

    def __init__(self, task: Task) -> None:
        self.task = task
        objective, plane = task.objective, task.plane
        corners = task.corners()
        batch = objective.first_batch()
        with torch.no_grad(), objective.session():
            layers = look_at_layers(objective, batch)
        keep = isinstance(objective.batches, list | tuple)
        self._first = [
            FirstLayer(name, objective.model.get_submodule(name), corners, keep=keep)
            for name in layers.first
        ]
        skipped = {name for layer in self._first for name in layer.names}
        self._shapes = {n: v.shape for n, v in plane.origin.items() if n not in skipped}
        self._corners = torch.stack(
            [_flat(corner, self._shapes, plane.origin) for corner in corners]
        )
        each = layers.activations + bytes_of(self._corners[0])
        room = _BLOCK_BYTES if self._first else _LARGE_BLOCK_BYTES
        self.block = max(1, min(_MOST_POINTS, room // max(1, each)))
        self._layer = 0 if self._first else layers.activations // max(1, layers.calls)
        self.chunk = min(_BLOCKS * self.block, max(_MOST_POINTS, self.block))
        self.memory = (
            bytes_of(self._corners) + self.block * each + bytes_of(*plane.origin.values())
        )

    @property
    def drawback(self) -> str | None:
        """Why evaluating points one by one is no slower, or an empty string."""
        if self.block < _FEWEST:
            return f"{self.block} points of this network already fill the cache"
        if self._layer > _LAYER_BYTES:
            return (
                f"a layer outputs {self._layer:,} bytes per point, which outweighs the cost of "
                "its call"
            )
        return None

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        task, count = self.task, len(coordinates)
        moments = task.moments(count)
        steps = torch.as_tensor(coordinates).to(self._corners)
        weights = torch.cat([steps.new_ones(count, 1), steps], dim=1)
        blocks = [slice(k, min(k + self.block, count)) for k in range(0, count, self.block)]
        with torch.no_grad(), _composable_attention(), task.objective.session():
            for batch in task.objective.iter_batches():
                at = torch.func.vmap(self._at(batch))
                for block in blocks:
                    here = weights[block]
                    measured = at(here, _unflatten(here @ self._corners, self._shapes))
                    task.add(moments, measured, batch, block)
        return moments

    def _at(self, batch: Batch) -> Callable[..., tuple[Measured, ...]]:
        def one(weights: Tensor, params: dict[str, Tensor]) -> tuple[Measured, ...]:
            with ExitStack() as stack:
                for layer in self._first:
                    stack.enter_context(layer.at(weights))
                task = self.task
                return tuple(task.objective.swapped(params, lambda: task.measure(batch)))

        return one


@contextmanager
def _composable_attention() -> Iterator[None]:
    # Fused encoder layers and flash attention have no batching rule; their parts have.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _flat(corner: Params, shapes: dict[str, torch.Size], like: Params) -> Tensor:
    empty = next(iter(like.values())).new_empty(0)
    return torch.cat([empty, *(corner[name].reshape(-1) for name in shapes)])


def _unflatten(rows: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    sizes = [shape.numel() for shape in shapes.values()]
    pieces = torch.split(rows, sizes, dim=1) if sizes else ()
    return {
        name: piece.reshape(-1, *shape)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
