"""What passes through a model allocate, counted from shapes: nothing is computed."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossatlas.guard import preserved_rng
from lossatlas.objective.batches import batch_size, cut, map_tensors
from lossatlas.objective.gathered import is_compiled, without_sharding
from lossatlas.objective.in_place import offloaded
from lossatlas.objective.kernel_memory import fused_attention, workspace
from lossatlas.objective.lines import FEW
from lossatlas.objective.recurrent_memory import recurrent_layers
from lossatlas.objective.swap import swapped_in
from lossatlas.objective.weighted import total_of
from lossatlas.tracebacks import reason_of

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective


def _no_workspace(*_: Any) -> int:
    return 0


class AllocationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that operations make, for as long as something holds them.

    Args:
        workspace: `(operation, arguments, result)` -> bytes that a kernel takes and gives back
            within the operation; not counted by default.

    Attributes:
        held: bytes of what is alive now.
        peak: the most that was alive at once.
    """

    def __init__(self, workspace: Callable[..., int] = _no_workspace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._workspace = workspace
        self.held = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note what it made."""
        given = {_key(value) for value in _tensors((args, kwargs))}
        output = func(*args, **(kwargs or {}))
        for value in _tensors(output):
            key = _key(value)
            if key not in given and key not in self._alive:
                self._note(key, value.untyped_storage())
        self.peak = max(self.peak, self.held + self._workspace(func, args, output))
        return output

    def _note(self, key: int, storage: Any) -> None:
        size = storage.nbytes()

        def gone(_: Any) -> None:
            if self._alive.pop(key, None) is not None:
                self.held -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.held += size
        self.peak = max(self.peak, self.held)


def _key(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def _tensors(nested: Any) -> list[Tensor]:
    return [value for value in tree_leaves(nested) if isinstance(value, Tensor)]


@dataclass(frozen=True)
class PassMemory:
    """The most that passes hold beyond weights and data, in bytes.

    Attributes:
        value: of a loss without gradients.
        gradient: of a loss with its gradient.
        product: of a product with the Hessian, its graph included; all of it until the end
            where it is kept for the next product.
        along: of a gradient that is differentiated in what it is of, as for products of
            single gradients with a vector.
        look: of a product on the few examples that the self-checks run on.
        unknown: why they are not known; empty where they are. They count as 0 then.
    """

    value: int = 0
    gradient: int = 0
    product: int = 0
    along: int = 0
    look: int = 0
    unknown: str = ""


def pass_memory(
    objective: "Objective", examples: int | None = None, *, keeps_graph: bool = False
) -> PassMemory:
    """What passes over the first batch of an objective hold, from shapes alone.

    The model runs on tensors without numbers (torch's "meta" device).

    Args:
        objective: model, loss, batches.
        examples: of a batch of so many; of the whole batch by default.
        keeps_graph: whether products keep the graph of a batch.

    Returns:
        Bytes; 0 with a reason where the model or its loss reads numbers, or is compiled. Of
        sharded models as one process would hold them.
    """
    model = objective.model
    own = is_compiled(model) or any(offloaded(module) for module in model.modules())
    if objective.placed is not None and own:
        return PassMemory(unknown="compiled or offloaded modules run on their own weights")
    shape = objective.local
    try:
        with preserved_rng(), shape.session():
            first = shape.first_batch()
            batch = _hollow(first if examples is None else _few(first, examples))
            return PassMemory(
                value=_peak(shape, batch, _value),
                gradient=_peak(shape, batch, _gradient),
                product=_peak(shape, batch, partial(_product, keep=keeps_graph)),
                along=_peak(shape, batch, _along),
                look=_peak(shape, _hollow(_few(first, FEW)), _product),
            )
    # Whatever a model does that tensors without numbers do not support.
    except Exception as error:
        return PassMemory(unknown=reason_of(error))


def _few(batch: Any, most: int) -> Any:
    return cut(batch, 0, most) if batch_size(batch) > most else batch


def _hollow(nested: Any) -> Any:
    return map_tensors(lambda value: torch.empty_like(value, device="meta"), nested)


def _peak(
    objective: "Objective", batch: Any, run: Callable[[Tensor, list[Tensor]], None]
) -> int:
    needs = run is not _value
    every = dict(objective.model.named_parameters()) | dict(objective.model.named_buffers())
    hollow: Mapping[str, Tensor] = {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta").requires_grad_(
            needs and name in objective.names
        )
        for name, value in every.items()
    }
    here = objective.device.type == "cpu"
    kernels = workspace if here else _no_workspace
    # What is differentiated twice takes no fused kernel.
    once = run in {_value, _gradient}
    attention = fused_attention() if once else nullcontext()
    recurrent = recurrent_layers(twice=not once) if here else nullcontext()
    with (
        attention,
        recurrent,
        torch.device("meta"),
        torch.set_grad_enabled(needs),
        without_sharding(objective.model),
        swapped_in(objective.model, hollow, objective.loss_modules),
        AllocationCounter(kernels) as counter,
    ):
        loss = total_of(objective.loss(objective.model, batch), 1.0).mean
        run(loss, [hollow[name] for name in objective.names])
        peak: int = counter.peak
    return peak


def _value(loss: Tensor, leaves: list[Tensor]) -> None:
    pass


def _gradient(loss: Tensor, leaves: list[Tensor]) -> None:
    torch.autograd.grad(loss, leaves, allow_unused=True)


def _product(loss: Tensor, leaves: list[Tensor], keep: bool = False) -> None:
    slopes = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    live = [part for part in slopes if part is not None and part.requires_grad]
    # Views of a vector that is counted elsewhere.
    vectors = [part.detach() for part in live]
    torch.autograd.grad(live, leaves, vectors, retain_graph=keep, allow_unused=True)


def _along(loss: Tensor, leaves: list[Tensor]) -> None:
    dummy = torch.zeros_like(loss, requires_grad=True)
    slopes = torch.autograd.grad(loss, leaves, dummy, create_graph=True, allow_unused=True)
    live = [part for part in slopes if part is not None and part.requires_grad]
    torch.autograd.grad(live, dummy, [part.detach() for part in live], allow_unused=True)


def bytes_of(values: Iterable[Tensor], *, widest: int = 0) -> int:
    """Bytes of tensors, or of copies of them with at least so many bytes a number."""
    return sum(value.numel() * max(value.element_size(), widest) for value in values)
