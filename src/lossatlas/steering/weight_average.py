"""Running averages of the weights of a model, and putting them in place of the weights."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from lossatlas.checks import check_callable
from lossatlas.errors import ArgumentError
from lossatlas.objective import Batch
from lossatlas.objective.names import check_initialized
from lossatlas.shards import is_sharded, reshard
from lossatlas.steering.shards import is_finite, local, unwrapped
from lossatlas.steering.statistics import (
    Forward,
    check_statistics,
    preserved_statistics,
    reestimate,
    tracking_layers,
)

_HALF = frozenset({torch.float16, torch.bfloat16})


# Weights that cost less to copy side by side than to look at one by one.
_FEW = 2**16


class WeightAverage:
    """Running averages of the weights of a model: copies of them, in float32 at least.

    Call `update()` after every `optimizer.step()`, or `follow(optimizer)` once. `swapped()`
    puts an average into the model for the length of a block, for evaluation and checkpoints.
    Weights that are not finite are left out with a warning. Sharded weights (FSDP2) are
    averaged shard by shard; make the average after sharding the model.

    Args:
        model: its trainable parameters are averaged, by reference.
        batches: what running statistics (of BatchNorm and its kin) are re-estimated on; see
            `swapped`. A list is tried at once. A model that has some and no batches gives a
            warning: `swapped` needs them.
        forward: forward(model, batch) for it. By default the model is called on a tensor, on
            the first entry of a tuple or list, or with the entries of a mapping.

    Attributes:
        model: without wrappers of torch.compile and DistributedDataParallel.
        params: the parameters, name -> tensor.
        count: updates taken in.
        skipped: updates left out because weights were not finite.

    Raises:
        ArgumentError: no module, one without trainable parameters, or batches that cannot be
            walked again or do not fit `forward`.

    Examples:
        >>> from lossatlas.steering import EMA
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = EMA(model, decay=0.5)
        >>> for value in (1.0, 2.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update()
        >>> average.count
        2
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batches: Iterable[Batch] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self._start(model, 1, batches, forward)

    def _start(
        self,
        model: nn.Module,
        members: int,
        batches: Iterable[Batch] | None,
        forward: Forward | None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(
                f"`model` must be a torch.nn.Module; got {type(model).__name__}: give the "
                "model itself, its weights are found by name."
            )
        check_callable("forward", forward, optional=True)
        self.model = unwrapped(model)
        check_initialized(self.model)
        self.batches, self.forward = batches, forward
        check_statistics(self.model, batches, forward)
        self.params: dict[str, Tensor] = {
            name: p
            for name, p in self.model.named_parameters()
            if p.requires_grad and p.is_floating_point()
        }
        if not self.params:
            raise ArgumentError(
                f"`model` must have trainable parameters; {type(model).__name__} has none."
            )
        self._frozen = {n: p for n, p in self.model.named_parameters() if n not in self.params}
        self._means = [[float_copy(p) for p in self.params.values()] for _ in range(members)]
        self._cache_list()
        self.count = self.skipped = 0
        self._chosen = 0
        self._inside = False

    @property
    def average(self) -> dict[str, Tensor]:
        """The average that `swapped` shows, name -> tensor."""
        return dict(zip(self.params, self._means[self._chosen], strict=True))

    @property
    def is_swapped(self) -> bool:
        """Whether the average is in the model at the moment."""
        return self._inside

    def shares(self, step: int) -> tuple[float, ...]:
        """What the newest weights weigh at an update, one number a member.

        Args:
            step: of the update, from 1.

        Returns:
            Shares in (0, 1].
        """
        raise NotImplementedError

    def update(self) -> None:
        """Take the present weights in.

        Raises:
            ArgumentError: the average is in the model at the moment, or the model's weights
                were replaced by others.
        """
        if not self._ready():
            return
        self.count += 1
        self._blend(zip(self._means, self.shares(self.count), strict=True))

    def follow(self, optimizer: torch.optim.Optimizer) -> Any:
        """Update after every step of an optimizer; steps that a GradScaler skips do not count.

        Args:
            optimizer: of the same weights.

        Returns:
            A handle; `.remove()` ends it.
        """
        return optimizer.register_step_post_hook(lambda *_: self.update())

    def _ready(self) -> bool:
        self._check_outside("update")
        if self._frozen:
            self._add_unfrozen()
        if self._means[0][0].device != self._list[0].device:
            self._means = [
                [m.to(p.device) for m, p in zip(means, self.params.values(), strict=True)]
                for means in self._means
            ]
        # A sum that overflows though its terms are finite is looked at again.
        if self._alike and math.isfinite(_sum(self._list, joined=self._small)):
            return True
        if is_finite(self._list, sharded=self._sharded, half=self._half):
            return True
        self.skipped += 1
        if self.skipped == 1:
            warnings.warn(
                "weights that are not finite are left out of the average, now and from now on; "
                "`skipped` counts them.",
                stacklevel=3,
            )
        return False

    def _cache_list(self) -> None:
        # What every update asks is asked once.
        self._list = list(self.params.values())
        self._sharded = any(map(is_sharded, self._list))
        self._half = any(p.dtype in _HALF for p in self._list)
        self._alike = not self._sharded and not self._half
        kinds = {(p.dtype, p.device) for p in self._list}
        numbers = sum(p.numel() for p in self._list)
        self._small = self._alike and len(kinds) == 1 and numbers <= _FEW

    def _blend(self, members: Iterable[tuple[list[Tensor], float]]) -> None:
        with torch.no_grad():
            for means, share in members:
                if self._alike:
                    torch._foreach_lerp_(means, self._list, share)
                    continue
                for mean, p in zip(means, self._list, strict=True):
                    ours = local(mean)
                    ours.lerp_(local(p).to(ours), share)

    def _add_unfrozen(self) -> None:
        # What was frozen until now was constant: its average starts at its present value.
        fresh = [n for n, p in self._frozen.items() if p.requires_grad]
        for name in fresh:
            self.params[name] = self._frozen.pop(name)
            for means in self._means:
                means.append(float_copy(self.params[name]))
        if fresh:
            self._cache_list()

    @contextmanager
    def swapped(self, batches: Iterable[Batch] | None = None) -> Iterator[None]:
        """The average in place of the weights; both come back bit for bit.

        The mode of the model is left as it is: call `model.eval()` before you evaluate.

        Args:
            batches: what the model is run on to re-estimate the statistics of its BatchNorm
                layers, in place for the length of the block; those given at construction by
                default. Of batches without a length the first 1,000. With
                `torch.distributed`, every process gives its own, and the statistics are
                shared.

        Yields:
            Nothing.

        Raises:
            ArgumentError: the average is in the model already; the model has BatchNorm layers,
                and there are no batches; or its weights were replaced by others.
        """
        with self._shown(self._chosen, batches):
            yield

    @contextmanager
    def _shown(self, member: int, batches: Iterable[Batch] | None) -> Iterator[None]:
        self._check_outside("swapped")
        # FSDP2 keeps what an evaluation has gathered: those are not the weights.
        reshard(self.model)
        self._check_weights()
        data = self.batches if batches is None else batches
        layers = tracking_layers(self.model)
        if layers and data is None:
            raise ArgumentError(
                f"`batches` must be given: {type(self.model).__name__} has BatchNorm layers, "
                "whose statistics are not those of the averaged weights; a few batches of "
                "training data are enough. Nothing is lost: call it again with them."
            )
        params, means = list(self.params.values()), self._means[member]
        with torch.no_grad():
            before = _exchange(params, means)
        reshard(self.model)
        self._inside = True
        try:
            with preserved_statistics(layers.values()):
                if layers and data is not None:
                    reestimate(self.model, data, self.forward)
                yield
        finally:
            with torch.no_grad():
                _give_back(params, means, before)
            reshard(self.model)
            self._inside = False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            "count", "skipped", and "average": name -> tensor.
        """
        self._check_outside("state_dict")
        return {"count": self.count, "skipped": self.skipped, "average": self._named(0)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: weights of other names or shapes.
        """
        self._check_outside("load_state_dict")
        self._add_unfrozen()
        self._load(0, state_dict["average"])
        self.count, self.skipped = state_dict["count"], state_dict["skipped"]

    def _named(self, member: int) -> dict[str, Tensor]:
        return {n: m.clone() for n, m in zip(self.params, self._means[member], strict=True)}

    def _load(self, member: int, saved: Mapping[str, Tensor]) -> None:
        means = dict(zip(self.params, self._means[member], strict=True))
        ours = {name: tuple(mean.shape) for name, mean in means.items()}
        theirs = {name: tuple(value.shape) for name, value in saved.items()}
        if ours != theirs:
            odd = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
            raise ArgumentError(
                f"`state_dict` must be of the same weights; '{odd[0]}' is "
                f"{theirs.get(odd[0], 'missing')}, here {ours.get(odd[0], 'missing')}."
            )
        for name, mean in means.items():
            mean.copy_(saved[name])

    def _check_outside(self, call: str) -> None:
        if self._inside:
            raise ArgumentError(
                f"`{call}` must be called outside `swapped()`: the average is in the model."
            )

    def _check_weights(self) -> None:
        present = dict(self.model.named_parameters())
        lost = [name for name, p in self.params.items() if present.get(name) is not p]
        if lost:
            raise ArgumentError(
                f"the model's weights were replaced since the average was made ('{lost[0]}'): "
                "make it after the model is sharded, converted or moved."
            )


@torch.no_grad()
def _sum(tensors: list[Tensor], *, joined: bool) -> float:
    if joined:
        return float(_flatten_dense_tensors(tensors).sum().item())  # type: ignore[no-untyped-call]
    sums = [t.sum() for t in tensors]
    return torch.stack([s.to(sums[0]) for s in sums]).sum().item()


def float_copy(tensor: Tensor) -> Tensor:
    """A copy to average in, in float32 at least."""
    plain = tensor.detach()
    return plain.float() if plain.dtype in _HALF else plain.clone()


def _exchange(params: list[Tensor], means: list[Tensor]) -> list[Tensor | None]:
    """Put averages into the weights, and the weights where the averages were."""
    before: list[Tensor | None] = []
    for whole, average in zip(params, means, strict=True):
        p, mean = local(whole), local(average)
        raw = p.detach().clone()
        p.copy_(mean)
        if raw.dtype == mean.dtype:
            mean.copy_(raw)
            before.append(None)
        else:
            before.append(raw)
    return before


def _give_back(params: list[Tensor], means: list[Tensor], before: list[Tensor | None]) -> None:
    """Undo `_exchange`, bit for bit."""
    for whole, average, kept in zip(params, means, before, strict=True):
        p, mean = local(whole), local(average)
        if kept is not None:
            p.copy_(kept)
            continue
        raw = mean.clone()
        mean.copy_(p.detach())
        p.copy_(raw)
