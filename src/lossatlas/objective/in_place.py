"""Weights written into the model's own memory, for models in which others cannot be put.

Sharded models gather their weights from the pieces that each process holds, compiled and
foreign modules read memory of their own, hooks bring weights in at every call. A point is then
written where these weights lie, the model runs as it is, and the bits come back afterwards.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lossatlas.errors import LossError, ModelError
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective.user_code import wrap_errors
from lossatlas.ranks import Ranks
from lossatlas.shards import (
    fsdp_modules,
    groups_of,
    is_sharded,
    meshes_of,
    own_piece,
    piece_of,
    reshard,
    rows_of_piece,
    whole,
)

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# Known by their modules, so that no package has to be imported for a look.
_FOREIGN = ("keras.", "keras_core.")


def needs_in_place(model: nn.Module) -> bool:
    """Whether other weights cannot be put into a model, as far as its kind tells."""
    return (
        is_collective(model)
        or any(offloaded(module) for module in model.modules())
        or any(_is_foreign(module) for module in model.modules())
    )


def is_collective(model: nn.Module) -> bool:
    """Whether a pass of the model sends data between processes, so that all must run it."""
    return bool(fsdp_modules(model)) or any(map(is_sharded, model.parameters()))


def execution_device(model: nn.Module) -> torch.device:
    """Where a model runs whose weights are brought in by hooks."""
    each = (hook for module in model.modules() for hook in _hooks_of(module))
    devices = (getattr(hook, "execution_device", None) for hook in each)
    device = next((device for device in devices if device is not None), "cpu")
    return torch.device(device) if not isinstance(device, torch.device) else device


def _is_foreign(module: nn.Module) -> bool:
    return any(f"{kind.__module__}.".startswith(_FOREIGN) for kind in type(module).__mro__)


def offloaded(module: nn.Module) -> Mapping[str, Tensor] | None:
    """Where accelerate keeps the weights of a module between calls; None without its hook."""
    hooks = _hooks_of(module)
    held = (h.weights_map for h in hooks if getattr(h, "offload", False))
    return next((weights for weights in held if weights), None)


def _hooks_of(module: nn.Module) -> Iterable[Any]:
    hook = getattr(module, "_hf_hook", None)
    hooks: Iterable[Any] = getattr(hook, "hooks", (hook,))
    return hooks


@dataclass(frozen=True)
class Slot:
    """Where the numbers of one parameter lie.

    Attributes:
        parameter: as the model lists it.
        kept: the memory it is brought in from at every call, where a hook does that.
    """

    parameter: nn.Parameter
    kept: Tensor | None = None

    @property
    def memory(self) -> Tensor:
        """What this process holds of it; writing there moves the model."""
        return own_piece(self.parameter) if self.kept is None else self.kept

    @property
    def whole(self) -> Tensor:
        """A copy of all of it; processes that hold pieces must all ask."""
        if self.kept is None and is_sharded(self.parameter):
            return whole(self.parameter.detach())
        return self.memory.detach().clone()

    def is_memory(self, value: Tensor) -> bool:
        """Whether a tensor is the parameter itself, or a view of it."""
        if is_sharded(value) or self.memory.numel() == 0:
            return value is self.parameter
        return value.data_ptr() == self.memory.data_ptr()

    @property
    def rows(self) -> range | None:
        """Which rows of the whole this process holds; None where pieces are no rows."""
        if self.kept is not None or not is_sharded(self.parameter) or self.parameter.ndim < 2:
            return None
        return rows_of_piece(self.parameter)

    def piece(self, value: Tensor) -> Tensor:
        """The part of a whole tensor that belongs into `memory`."""
        return value.detach() if self.kept is not None else piece_of(value, self.parameter)


class WeightsInPlace(Mapping[str, Tensor]):
    """The parameters of a model, gathered when asked for, and moved where they lie.

    Args:
        model: any module.
        names: what moves.

    Raises:
        ModelError: weights are on the meta device, or on a disk.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        # Before its weights are gathered: later a module lists others for a while.
        reshard(model)
        self.model, self._fsdp = model, fsdp_modules(model)
        self._every = list(model.parameters())
        self._meshes = dict.fromkeys(meshes_of(model))
        every, kept = dict(model.named_parameters()), _kept_by_hooks(model)
        self.slots = {name: Slot(every[name], kept.get(name)) for name in names}
        for name, slot in self.slots.items():
            if slot.memory.is_meta:
                raise ModelError(
                    f"'{name}' is on the meta device, which holds no numbers; load weights "
                    "first."
                )

    def __getitem__(self, name: str) -> Tensor:
        return self.slots[name].whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def shapes(self) -> dict[str, Tensor]:
        """Name -> tensor without numbers, of the shape and type of the whole parameter."""
        return {
            name: torch.empty(slot.parameter.shape, dtype=slot.parameter.dtype, device="meta")
            for name, slot in self.slots.items()
        }

    @property
    def bytes(self) -> int:
        """Memory of the pieces on this process."""
        return sum(s.memory.numel() * s.memory.element_size() for s in self.slots.values())

    @contextmanager
    def kept(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Tensor]]:
        """Keep copies of the pieces on this process and put them back, whatever happens."""
        copies: dict[str, Tensor] = {}
        # Twice: an interrupt that comes between two statements ends the first attempt only.
        try:
            try:
                for name in self.slots if names is None else names:
                    copies[name] = self.slots[name].memory.clone()
                yield dict(copies)
            finally:
                self._restore(copies)
        finally:
            self._restore(copies)

    @contextmanager
    def moved_to(self, params: Params) -> Iterator[None]:
        """Hold a point for the length of a block."""
        # A point often is the present weights in part.
        moved = {n: v for n, v in params.items() if not self.slots[n].is_memory(v)}
        with self.kept(moved):
            if moved:
                self.write({n: self.slots[n].piece(value) for n, value in moved.items()})
            yield

    def write(self, pieces: Params) -> None:
        """Write into the pieces on this process; only within `kept`."""
        self.settle()
        with torch.no_grad():
            for name, value in pieces.items():
                self.slots[name].memory.copy_(value)

    def settle(self) -> None:
        """Let the next pass read what is written, and not what it gathered or cast before."""
        reshard(self.model)
        torch.clear_autocast_cache()

    def check_group(self) -> None:
        """Refuse a pass whose processes are no longer joined."""
        groups_of(self._meshes)

    @property
    def sums(self) -> bool:
        """Whether a backward pass sums gradients over the processes by itself."""
        return bool(self._fsdp)

    def _restore(self, copies: dict[str, Tensor]) -> None:
        interrupted: KeyboardInterrupt | None = None
        while copies:
            try:
                self.write(copies)
                copies.clear()
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def gradients(self, loss: Tensor, ranks: Ranks | None) -> dict[str, Tensor | None]:
        """Gradients of a loss, by the module's own backward pass.

        Args:
            loss: a number with its graph.
            ranks: the processes over which a sharded module averages its gradients.

        Returns:
            name -> the whole gradient, summed over the processes that share the module; None
            where there is none.
        """
        if not self._fsdp:
            own = [slot.parameter for slot in self.slots.values()]
            parts = torch.autograd.grad(loss, own, allow_unused=True)
            return {
                name: None if part is None else whole(part)
                for name, part in zip(self.slots, parts, strict=True)
            }
        count = 1 if ranks is None else ranks.size
        with _grads_put_away(self._every):
            torch.autograd.backward(loss)
            result = {
                name: None if (part := slot.parameter.grad) is None else whole(part)
                for name, slot in self.slots.items()
            }
        split = {name for name, slot in self.slots.items() if is_sharded(slot.parameter)}
        for name in split:
            part = result[name]
            result[name] = None if part is None else part * count
        if ranks is not None and len(split) < len(result):
            self._sum(result, result.keys() - split, ranks)
        return result

    def _sum(self, gradients: dict[str, Tensor | None], names: Set[str], ranks: Ranks) -> None:
        # Parameters that every process holds whole beside those that are sharded: the module
        # leaves their gradients as they are on each. Some processes may have none.
        present = [name for name in self.slots if name in names and gradients[name] is not None]
        reached = set().union(*ranks.gather(present))
        parts = {name: gradients[name] for name in self.slots if name in reached}
        sums = {
            name: torch.zeros_like(self.slots[name].parameter) if part is None else part
            for name, part in parts.items()
        }
        # Together: each call of its own would first wait for all processes once more.
        ranks.add(*sums.values())
        gradients.update(sums)

    def check_gradients(self) -> None:
        """Refuse weights that are gone after a pass, and those that get no gradient."""
        for name, slot in self.slots.items():
            if slot.kept is not None:
                raise LossError(
                    f"'{name}' is offloaded: its hook takes the weights away after a pass, so "
                    "there is no gradient; map only, or load the model whole."
                )
            if self._fsdp and not slot.parameter.requires_grad:
                raise LossError(
                    f"'{name}' requires no gradient, and a sharded module gives none; call "
                    "requires_grad_(True) before fully_shard, or leave it out with params=."
                )


@contextmanager
def _grads_put_away(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    # A backward pass writes into `.grad`, which is the user's.
    before = [(value, value.grad) for value in parameters]
    try:
        for value, _ in before:
            value.grad = None
        yield
    finally:
        for value, grad in before:
            value.grad = grad


def _kept_by_hooks(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        held = offloaded(module)
        if held is None:
            continue
        for key, _ in module.named_parameters():
            try:
                value = held[key]
            except KeyError:
                continue
            name = qualified_name(path, key)
            if not isinstance(value, Tensor) or _on_disk(held):
                raise ModelError(
                    f"'{name}' is offloaded to a disk, where it is read anew at every call; "
                    "load the model with its weights in memory (cpu_offload without a folder)."
                )
            tensors[name] = value
    return tensors


def _on_disk(held: Any) -> bool:
    while hasattr(held, "dataset"):
        held = held.dataset
    return getattr(held, "save_folder", None) is not None


@contextmanager
def buffers_in_place(
    modules: Iterable[nn.Module], params: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let buffers hold what a point brings, and put back all that a pass changes of them."""
    named: dict[int, tuple[str, Tensor]] = {}
    for index, module in enumerate(modules):
        for name, value in module.named_buffers():
            named.setdefault(id(value), (name if index == 0 else "", value))
    before = [(value, value.detach().clone()) for _, value in named.values()]
    try:
        with torch.no_grad():
            for name, value in named.values():
                if name in params:
                    value.copy_(params[name].detach())
        yield
    finally:
        with torch.no_grad():
            for value, copy in before:
                value.data.copy_(copy)


def gradient_in_place(objective: "Objective", params: Params | None) -> dict[str, Tensor]:
    """The gradient of the value by the module's own backward pass, whole on every process."""
    placed, local, ranks = objective.placed, objective.local, objective.ranks
    assert placed is not None
    placed.check_gradients()
    kinds = placed.shapes
    total = {
        name: torch.zeros(like.shape, dtype=_wide(like.dtype), device=objective.device)
        for name, like in kinds.items()
    }

    def run() -> tuple[float, bool]:
        with torch.enable_grad():
            return local.with_params(params, partial(_walk, local, total))

    parts = [run()] if ranks is None else ranks.share(run, at=params)
    if ranks is not None and not placed.sums:
        ranks.add(*total.values())
    weight, reached = sum(w for w, _ in parts), any(r for _, r in parts)
    if not reached and not set(total) <= set(objective.unused):
        raise LossError(
            "`loss` does not lead back to the parameters, so it has no gradient; return the "
            "tensor itself, neither detached nor turned into a number."
        )
    return {name: (value / weight).to(kinds[name].dtype) for name, value in total.items()}


def _walk(objective: "Objective", total: dict[str, Tensor]) -> tuple[float, bool]:
    weight, reached = 0.0, False
    for batch in objective.iter_batches():
        parts, share = batch_gradient(objective, batch)
        weight += share
        for name, part in parts.items():
            if part is not None:
                reached = True
                total[name].add_(part.to(total[name].device))
    return weight, reached


def batch_gradient(
    objective: "Objective", batch: Any
) -> tuple[dict[str, Tensor | None], float]:
    """The gradient of the sum over one batch at the weights held, and its weight."""
    placed, ranks = objective.placed, objective.collective_ranks
    assert placed is not None
    total = objective.total(batch)
    share = 0.0 if objective.idling else 1.0
    # Backward passes stay within the range of any dtype: sums are divided by what is typical.
    typical = total.scale if ranks is None else max(ranks.gather(total.scale))
    if not total.sum.requires_grad:
        return dict.fromkeys(placed.slots), share * total.weight
    with wrap_errors("the gradient of `loss`", "look at its backward pass."):
        parts = placed.gradients(total.sum * (share / typical), ranks)
    scaled = {n: None if part is None else part * typical for n, part in parts.items()}
    return scaled, share * total.weight


def _wide(dtype: torch.dtype) -> torch.dtype:
    # Sums over batches overflow half precision.
    return torch.promote_types(dtype, torch.float32)


def reached_in_place(objective: "Objective", batch: Any) -> set[str]:
    """The names of parameters that get a gradient from one batch."""
    assert objective.placed is not None
    objective.placed.check_gradients()
    with torch.enable_grad(), objective.session():
        parts, _ = objective.swapped({}, lambda: batch_gradient(objective, batch))
    return {name for name, part in parts.items() if part is not None}
