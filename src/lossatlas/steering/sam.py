"""SAM: the gradient at the worst point of a small ball, for any optimizer."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_positive, is_number
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.guard import PreservedModules
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import batch_size, split
from lossatlas.steering.penalties.terms import check_weight
from lossatlas.steering.penalties.tram import ascended
from lossatlas.steering.updates import check_optimizer, weights_of

# The radii of the balls of `worst_sharpness`: plain, and in units of the weights' own size.
RADII = {False: 0.05, True: 0.5}
RANK = "rank"
# Halvings of the bracket on the radius, after at most so many doublings.
_HALVINGS, _DOUBLINGS = 12, 40


class SAM:
    """Sharpness-aware minimization: descend by the gradient taken a step uphill.

    An update is two forward and backward passes: g at w, then the gradient at w + rho g / |g|,
    with which the optimizer moves w. The weights come back bit for bit in between. Both passes
    see the same random numbers (dropout), and buffers such as the running statistics of
    BatchNorm layers are those of the first. With rho = 0 a training is the bare one, bit for
    bit. There is no state: save that of the optimizer.

    Args:
        optimizer: any; schedulers and controllers work on it as before.
        rho: radius of the ball. By default that of `worst_sharpness`: 0.05, or 0.5 where
            adaptive; `sam_radius` gives one for a model and its data.
        adaptive: measure the ball in units of |w| + eta (ASAM). Default False.
        m: how many examples share a move (m-sharpness): None takes the whole batch, with
            DistributedDataParallel that of all processes; "rank" moves every process by its own
            gradient; a number splits the batch given to `step` into pieces of that size.
        model: what the closure runs; needed for m="rank" (the DistributedDataParallel itself),
            and for a model compiled in place.
        eta: keeps zero weights moving where adaptive. Default 0.01.

    Raises:
        ArgumentError: numbers out of range, or m="rank" without a DistributedDataParallel.

    Source: Foret et al., ICLR 2021, arXiv:2010.01412; adaptive: Kwon et al., ICML 2021,
        arXiv:2102.11600; m: Andriushchenko and Flammarion, ICML 2022, arXiv:2206.06232.

    Examples:
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> sam = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
        >>> def closure():
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> round(sam.step(closure).item(), 3), round(w.item(), 3)
        (1.0, 0.7)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rho: float | None = None,
        *,
        adaptive: bool = False,
        m: int | str | None = None,
        model: nn.Module | None = None,
        eta: float = 0.01,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer, self.adaptive, self.model = optimizer, bool(adaptive), model
        self.rho = check_weight("rho", RADII[self.adaptive] if rho is None else rho)
        self.eta = check_weight("eta", eta)
        self.m = m
        if m == RANK:
            if not hasattr(model, "no_sync"):
                raise ArgumentError(
                    '`model` must be the DistributedDataParallel where m="rank"; got '
                    f"{type(model).__name__}."
                )
        elif m is not None:
            if not is_number(m):
                raise ArgumentError(f'`m` must be None, "rank" or a number; got {m!r}.')
            check_at_least("m", m, 1)

    def step(
        self, closure: Callable[..., Any], batch: Batch | None = None, *, scaler: Any = None
    ) -> Any:
        """One update.

        Args:
            closure: computes the mean loss of the batch, calls `backward()` on it (scaled,
                where there is a scaler) and returns it; several micro-batches may be
                accumulated within. Called without arguments, or with a batch where one is
                given. Old gradients are cleared before each call.
            batch: needed where `m` is a number; any structure.
            scaler: a `torch.amp.GradScaler`, whose `step` and `update` are called; an update
                that it skips moves nothing.

        Returns:
            What the closure gave at the weights themselves; the mean over pieces where `m` is a
            number.

        Raises:
            ArgumentError: no batch where `m` is a number, or no gradients.
        """
        if self.m is None or self.m == RANK:
            loss = self._uphill(closure if batch is None else lambda: closure(batch))
        else:
            loss = self._in_pieces(closure, batch, int(self.m))
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        return loss

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Uphill for the length of a block, for loops that are written out.

        After `loss.backward()`, the block computes loss and gradient again; the old gradients
        are cleared on entry. Then call `optimizer.step()`. Dropout draws anew here.

        Yields:
            Nothing.

        Raises:
            ArgumentError: no gradients.
        """
        weights = weights_of(self.optimizer)
        with ascended(weights, self.rho, adaptive=self.adaptive, eta=self.eta):
            self.optimizer.zero_grad(set_to_none=True)
            with PreservedModules(self.model).watched():
                yield

    def _uphill(self, closure: Callable[[], Any]) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        before = _random_states()
        with torch.enable_grad(), self._unreduced():
            loss = closure()
        after = _random_states()
        with self.perturbed(), torch.enable_grad():
            _set_random_states(before)
            closure()
        _set_random_states(after)
        return loss.detach() if isinstance(loss, Tensor) else loss

    def _unreduced(self) -> AbstractContextManager[None]:
        if self.m != RANK or self.model is None:
            return nullcontext()
        context: AbstractContextManager[None] = self.model.no_sync()  # type: ignore[operator]
        return context

    def _in_pieces(self, closure: Callable[..., Any], batch: Batch | None, size: int) -> Any:
        if batch is None:
            raise ArgumentError(
                f"`batch` must be given where m={size}: sam.step(closure, batch), and "
                "closure(piece) is called on pieces of it."
            )
        total, loss, examples = dict[Tensor, Tensor](), 0.0, batch_size(batch)
        for piece in split(batch, size):
            share = batch_size(piece) / examples
            value = self._uphill(lambda piece=piece: closure(piece))  # type: ignore[misc]
            loss = loss + share * value
            for weight in weights_of(self.optimizer):
                if weight.grad is None:
                    continue
                part = weight.grad.detach() * share
                total[weight] = total[weight] + part if weight in total else part
        for weight, gradient in total.items():
            weight.grad = gradient
        return loss


def sam_radius(
    objective: Objective,
    *,
    share: float = 0.1,
    adaptive: bool = False,
    eta: float = 0.01,
    params: Params | None = None,
) -> float:
    """The radius at which one step uphill raises the loss by a share of itself.

    Args:
        objective: model, loss and batches; what a batch's ball shows is rougher than the mean.
        share: rise over the loss. Default 0.1.
        adaptive: measure the ball in units of |w| + eta. Default False.
        eta: as in `SAM`. Default 0.01.
        params: where; the present weights by default.

    Returns:
        rho, so that L(w + e) = (1 + share) L(w) for the move e along the gradient with
        |e| = rho, or |e / (|w| + eta)| = rho; within 0.1 %.

    Raises:
        ArgumentError: a share not above zero, or a loss that the move does not raise so far.
        NonFiniteError: loss or gradient are not finite, or the loss is not above zero.

    Source: ours; the ball is that of `worst_sharpness`.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> batches = [torch.ones(4, 1)]
        >>> objective = Objective(model, lambda m, x: m(x).square().mean(), batches)
        >>> round(sam_radius(objective, share=0.21), 3)
        0.1
    """
    check_positive("share", share)
    here = objective.params if params is None else params
    loss, gradient = objective.value(here), objective.gradient(here)
    scales = {n: (p.abs() + eta if adaptive else torch.ones_like(p)) for n, p in here.items()}
    pushed = {name: scales[name] * g for name, g in gradient.items()}
    length = float(
        torch.stack([v.double().square().sum() for v in pushed.values()]).sum().sqrt()
    )
    if not (0 < loss < float("inf") and 0 < length < float("inf")):
        raise NonFiniteError(
            f"a radius relative to the loss needs a finite loss above zero and a gradient; got "
            f"a loss of {loss:g} and a gradient of length {length:g}."
        )

    def reaches(rho: float) -> bool:
        moved = {n: p + (rho / length) * scales[n] * pushed[n] for n, p in here.items()}
        value = objective.value(moved)
        return not value < (1 + share) * loss

    low, high = 0.0, share * loss / length
    for _ in range(_DOUBLINGS):
        if reaches(high):
            break
        low, high = high, 2 * high
    else:
        raise ArgumentError(
            f"no step along the gradient raises the loss by {share:g} of itself; take a "
            "smaller `share`."
        )
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _random_states() -> tuple[Tensor, list[Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), cuda


def _set_random_states(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
