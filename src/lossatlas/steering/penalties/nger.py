"""NGER: weights of several tasks by what each can still gain and how fast it moves."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_tensors
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share, check_weight

Numbers = Tensor | Sequence[Tensor | float]


def nger_weights(
    task_losses: Numbers,
    running_min: Numbers,
    ntk_proxies: Numbers,
    gamma: float = 1.0,
    eps: float = 1e-6,
) -> Tensor:
    """Shares in proportion to (excess + eps) / (kappa + eps)^gamma.

    Args:
        task_losses: shape (tasks,), or a list of scalars; so are the others.
        running_min: the level that each loss is held against, shape (tasks,).
        ntk_proxies: kappa, the squared length of each task's gradient in the shared
            parameters, shape (tasks,), >= 0.
        gamma: 0 ignores kappa. Default 1.
        eps: keeps both factors above zero. Default 1e-6.

    Returns:
        Shape (tasks,), sums to 1, without gradient.

    Raises:
        ArgumentError: shapes that differ, or negative `gamma` or `eps`.

    Source: Topological Loss Engineering, doi:10.5281/zenodo.20497841.

    Examples:
        >>> losses, lowest = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])
        >>> nger_weights(losses, lowest, torch.tensor([1.0, 3.0])).round(decimals=2)
        tensor([0.7500, 0.2500])
    """
    check_weight("gamma", gamma)
    check_weight("eps", eps)
    task_losses = _stacked(task_losses)
    running_min, ntk_proxies = (
        _stacked(values).to(task_losses.device) for values in (running_min, ntk_proxies)
    )
    shapes = {tuple(t.shape) for t in (task_losses, running_min, ntk_proxies)}
    if len(shapes) != 1 or task_losses.ndim != 1:
        raise ArgumentError(
            "`task_losses`, `running_min` and `ntk_proxies` must have one shape (tasks,); got "
            f"{tuple(task_losses.shape)}, {tuple(running_min.shape)}, "
            f"{tuple(ntk_proxies.shape)}."
        )
    with torch.no_grad():
        excess = (task_losses - running_min).clamp_min(0)
        return torch.softmax((excess + eps).log() - gamma * (ntk_proxies + eps).log(), 0)


def _stacked(values: Numbers) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.stack([torch.as_tensor(v, dtype=torch.get_default_dtype()) for v in values])


def nger_loss(task_losses: Numbers, weights: Tensor) -> Tensor:
    """The weighted sum of the losses.

    Args:
        task_losses: shape (tasks,), or a list of scalars, with gradient.
        weights: shape (tasks,).

    Returns:
        A scalar.

    Raises:
        ArgumentError: shapes that differ.

    Examples:
        >>> nger_loss(torch.tensor([2.0, 1.0]), torch.tensor([0.75, 0.25])).item()
        1.75
    """
    task_losses = _stacked(task_losses)
    if task_losses.shape != weights.shape:
        raise ArgumentError(
            f"`weights` must have the shape of `task_losses`, {tuple(task_losses.shape)}; got "
            f"{tuple(weights.shape)}."
        )
    return (weights.detach() * task_losses).sum()


def ntk_proxies(task_losses: Tensor, shared: Iterable[Tensor]) -> Tensor:
    """Kappa: the squared length of each task's gradient in the shared parameters.

    One further backward pass a task; the last shared layer alone is usually enough, and cheap.

    Args:
        task_losses: shape (tasks,), with its graph, which is kept.
        shared: parameters; those that a task does not reach add nothing.

    Returns:
        Shape (tasks,), without gradient.

    Raises:
        ArgumentError: no parameters, or losses without a graph.

    Examples:
        >>> w = torch.ones(2, requires_grad=True)
        >>> ntk_proxies(torch.stack([w.sum(), 3 * w.sum()]), [w])
        tensor([ 2., 18.])
    """
    moved = [p for p in check_tensors("shared", shared) if p.requires_grad]
    if not moved or not task_losses.requires_grad:
        raise ArgumentError(
            "`task_losses` must have their graph and `shared` a tensor that requires a "
            f"gradient; got {len(moved)} such tensors."
        )
    proxies = []
    for loss in task_losses:
        grads = torch.autograd.grad(loss, moved, retain_graph=True, allow_unused=True)
        proxies.append(
            sum((g.square().sum() for g in grads if g is not None), loss.new_zeros(()))
        )
    return torch.stack(proxies).detach()


class NGERWeighter(nn.Module):
    """Weights of tasks over a training.

    What a task can still gain is `(now - lowest) + (before - now)`: how far its smoothed loss
    is above the lowest that it has reached, plus how much it has come down lately. A task
    that improves steadily keeps its weight (against a running minimum alone its excess is
    zero at every new minimum), and one whose loss is high because it is noise does not gain
    by it, since smoothing takes the noise out.

    Args:
        num_tasks: how many, at least 1.
        gamma: as in `nger_weights`. Default 1.
        window: steps over which losses are smoothed and improvement is seen. Default 200.
        eps: as in `nger_weights`. Default 1e-6.
        floor: the least weight of a task, as a share of 1 / tasks. Default 0.1.
        total: what the weights sum to; None is 1. `num_tasks` keeps the scale of a plain sum.

    Raises:
        ArgumentError: numbers out of range.

    Examples:
        >>> weighter = NGERWeighter(2)
        >>> weighter(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([0.5000, 0.5000])
    """

    fast: Tensor
    slow: Tensor
    lowest: Tensor
    count: Tensor
    last_weights: Tensor

    def __init__(
        self,
        num_tasks: int,
        gamma: float = 1.0,
        window: int = 200,
        eps: float = 1e-6,
        *,
        floor: float = 0.1,
        total: float | None = None,
    ) -> None:
        super().__init__()
        check_at_least("num_tasks", num_tasks, 1)
        check_at_least("window", window, 1)
        self.gamma, self.eps = check_weight("gamma", gamma), check_weight("eps", eps)
        self.floor, self.window = check_share("floor", floor), window
        self.total = 1.0 if total is None else check_weight("total", total)
        for name in ("fast", "slow"):
            self.register_buffer(name, torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("lowest", torch.full((num_tasks,), torch.inf).double())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        even = torch.full((num_tasks,), self.total / num_tasks, dtype=torch.float64)
        self.register_buffer("last_weights", even)

    def forward(
        self,
        losses: Tensor,
        kappas: Tensor | None = None,
        *,
        shared: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Take the losses of a step in and give the weights for it.

        Args:
            losses: shape (tasks,); with their graph where `shared` is given.
            kappas: shape (tasks,); None with `shared` computes them, None without ignores them.
            shared: the shared parameters that kappa is computed from.

        Returns:
            Shape (tasks,) in the type of `losses`, without gradient.

        Raises:
            ArgumentError: another number of tasks, or a loss that is not finite.
        """
        if losses.shape != self.fast.shape or not bool(losses.isfinite().all()):
            raise ArgumentError(
                f"`losses` must be {len(self.fast)} finite numbers; got {losses.tolist()}."
            )
        if kappas is None:
            kappas = torch.ones_like(losses) if shared is None else ntk_proxies(losses, shared)
        with torch.no_grad():
            self._observe(losses.detach().to(self.fast))
            level = self.lowest - (self.slow - self.fast).clamp_min(0)
            shares = nger_weights(
                self.fast, level, kappas.detach().to(self.fast), self.gamma, self.eps
            )
            shares = self.floor / len(shares) + (1 - self.floor) * shares
            self.last_weights.copy_(self.total * shares)
            return self.last_weights.to(losses)

    def _observe(self, losses: Tensor) -> None:
        self.count += 1
        # Means until the window is full: no start value to forget.
        for average, length in ((self.fast, self.window // 4), (self.slow, self.window)):
            rate = 1 / min(int(self.count), max(length, 1))
            average.add_(losses - average, alpha=rate)
        # A mean of few losses is still noise, and its minimum would be remembered for good.
        settled = int(self.count) >= max(self.window // 4, 1)
        torch.minimum(self.lowest if settled else self.fast, self.fast, out=self.lowest)
