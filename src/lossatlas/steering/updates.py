"""What can be changed of an optimizer's updates from outside: masked, or taken elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.polynomial_average import PolynomialAverage
from lossatlas.steering.shards import local

# The least share of a tensor that counts as moved: a mask that is all but empty scales no more.
_LEAST = 1e-3


class CautiousUpdates:
    """Leave out the coordinates of an update that go against the present gradient.

    Of an update d with gradient g, a coordinate stays where d g < 0, and what stays of a tensor
    is divided by its share, so that the update keeps its size. Works with any optimizer, at the
    cost of one copy of the weights. Decoupled weight decay is part of the update.

    Args:
        optimizer: any; groups may be added later.

    Raises:
        ArgumentError: no optimizer.

    Source: Liang et al., Cautious Optimizers, 2024, arXiv:2411.16085.

    Examples:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = torch.optim.SGD([w], lr=1.0, momentum=1.0)
        >>> cautious = CautiousUpdates(optimizer)
        >>> for g in ([1.0, -3.0], [1.0, 1.0]):
        ...     w.grad = torch.tensor(g)
        ...     optimizer.step()
        >>> w.detach()
        tensor([-4.,  4.])
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        check_optimizer(optimizer)
        self._before: list[tuple[Tensor, Tensor]] = []
        self._handles = (
            optimizer.register_step_pre_hook(self._keep),
            optimizer.register_step_post_hook(self._mask),
        )
        # Whoever looks at the update, or moves the weights after it, finds the masked one.
        run_first(optimizer._optimizer_step_post_hooks, self._handles[1])

    def remove(self) -> None:
        """Leave updates as they are from now on."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._before = [(p, local(p.detach()).clone()) for p in weights_of(optimizer)]

    @torch.no_grad()
    def _mask(self, *_: Any) -> None:
        for weight, before in self._before:
            if weight.grad is None:
                continue
            present = local(weight.detach())
            step = present - before
            mask = (step * local(weight.grad) < 0).to(step.dtype)
            present.copy_(before + step * mask / mask.mean().clamp_min(_LEAST))
        self._before = []


class InterpolatedGradients:
    """Take gradients between the weights and their average, as schedule-free training does.

    The model holds y = (1 - beta) z + beta x while its gradient is taken; the optimizer moves
    z, and x is the average of the z. An optimizer with momentum has two of them then: give Adam
    betas of (0, 0.95) or so, SGD no momentum.

    Args:
        optimizer: moves z; make it first.
        average: of the same weights. It is updated here, do not update it elsewhere. Evaluate
            in `average.swapped()`.
        beta: share of the average in y, in [0, 1). Default 0.9.
        gamma: which member of the average is x. Default the middle one.

    Raises:
        ArgumentError: a share out of range, a gamma that the average does not have, or weights
            that are not averaged.

    Source: Defazio et al., The Road Less Scheduled, 2024, arXiv:2405.15682: their weights of
        the average, with power r, are those of `PolynomialAverage(gamma=r)`.

    Examples:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> average = PolynomialAverage(model, gamma=0)
        >>> interpolated = InterpolatedGradients(optimizer, average, beta=0.5)
        >>> for _ in range(2):
        ...     model.weight.grad = torch.ones(1, 1)
        ...     optimizer.step()
        >>> round(average.average["weight"].item(), 3), round(model.weight.item(), 3)
        (-0.5, -0.75)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        average: PolynomialAverage,
        beta: float = 0.9,
        gamma: float | None = None,
    ) -> None:
        check_optimizer(optimizer)
        self.beta = check_share("beta", beta)
        self._gamma = average.gamma if gamma is None else gamma
        average.at(self._gamma)
        names = {id(p): name for name, p in average.params.items()}
        missing = [p for p in weights_of(optimizer) if id(p) not in names]
        if missing:
            raise ArgumentError(
                f"`average` must hold the weights that the optimizer moves; {len(missing)} of "
                "them are not in it: make both from one model."
            )
        self._average = average
        moved = {id(p) for p in weights_of(optimizer)}
        self._own = {
            n: local(p.detach()).clone() for n, p in average.params.items() if id(p) in moved
        }
        # Shards of FSDP2 and views of a larger memory stay where they are.
        self._whole = all(_is_whole(p) for p in self._weights())
        # Whether the weights hold the memory of z at the moment.
        self._exchanged = False
        self._handles = (
            optimizer.register_step_pre_hook(self._to_own),
            optimizer.register_step_post_hook(self._to_between),
        )
        # Whoever notes where an update starts must find z.
        run_first(optimizer._optimizer_step_pre_hooks, self._handles[0])

    def remove(self) -> None:
        """Leave gradients where the weights are from now on."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the states of model, optimizer and average.

        Returns:
            name -> z.
        """
        self._settle()
        return {name: value.clone() for name, value in self._own.items()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: weights of other names.
        """
        if state_dict.keys() != self._own.keys():
            raise ArgumentError("`state_dict` must be of the same weights; names differ.")
        self._settle()
        for name, value in self._own.items():
            value.copy_(state_dict[name])

    @torch.no_grad()
    def _to_own(self, *_: Any) -> None:
        self._settle()
        weights = self._weights()
        if self._whole and _are_alike(weights, self._own.values()):
            self._exchange(weights)
        else:
            copy_each(weights, list(self._own.values()))

    @torch.no_grad()
    def _to_between(self, *_: Any) -> None:
        self._average.update()
        weights, means = self._weights(), self._average.at(self._gamma)
        there = [local(means[name]) for name in self._own]
        if self._exchanged:
            # The kept memory is that of y: y is written there, and the two change places again.
            for y, z, x in zip(self._own.values(), weights, there, strict=True):
                torch.lerp(z.detach(), x.to(z.dtype), self.beta, out=y)
            self._exchange(weights)
            return
        copy_each(list(self._own.values()), weights)
        here = [local(weight.detach()) for weight in weights]
        there = [x.to(z) for x, z in zip(there, here, strict=True)]
        torch._foreach_lerp_(here, there, self.beta)

    def _settle(self) -> None:
        # After an update that failed half-way, the weights are y again.
        if self._exchanged:
            self._exchange(self._weights())

    def _weights(self) -> list[Tensor]:
        return [self._average.params[name] for name in self._own]

    def _exchange(self, weights: list[Tensor]) -> None:
        # Weights and kept values change places without a copy. Between two updates the weights
        # have always the same memory, which gradients, graphs and trackers may rely on.
        for name, weight in zip(self._own, weights, strict=True):
            kept = self._own[name]
            self._own[name], weight.data = weight.data, kept
        self._exchanged = not self._exchanged


def _is_whole(weight: Tensor) -> bool:
    plain = type(weight) is Parameter
    return plain and weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()


def _are_alike(weights: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    # A model may have been moved or converted since.
    return all(
        w.dtype == o.dtype and w.device == o.device
        for w, o in zip(weights, others, strict=True)
    )


def run_first(hooks: Any, handle: RemovableHandle) -> None:
    """Let a hook of an optimizer run before all others."""
    hooks.move_to_end(handle.id, last=False)


def copy_each(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors into others, this process' shards of them."""
    torch._foreach_copy_([local(t) for t in targets], [local(s.detach()) for s in sources])


def check_optimizer(optimizer: Any) -> None:
    """Require an optimizer of torch."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(
            f"`optimizer` must be a torch.optim.Optimizer; got {type(optimizer).__name__}."
        )


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All weights of an optimizer, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]
