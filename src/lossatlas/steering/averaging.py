"""Averages of the weights over a training: a cooled-down model without a cooldown."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_number
from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes, preserved_rng
from lossatlas.objective import Batch
from lossatlas.objective.modes import norm_layers, recalibrate
from lossatlas.steering.penalties.terms import check_share


class WeightAverage:
    """A running average of some weights: one copy of them, in float32 at least.

    Call `update()` after every `optimizer.step()`. `swapped(model)` puts the average into the
    model for the length of a block, for evaluation and checkpoints.

    Args:
        params: the weights, by reference.

    Attributes:
        count: updates taken in.

    Raises:
        ArgumentError: no weights, or a module instead of its parameters.

    Examples:
        >>> w = torch.zeros(1)
        >>> average = EMA([w], decay=0.5)
        >>> for value in (1.0, 2.0):
        ...     _ = w.fill_(value)
        ...     average.update()
        >>> average.count
        2
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        if isinstance(params, nn.Module):
            raise ArgumentError("`params` must be weights; got a module: pass .parameters().")
        self.params = list(params)
        if not self.params or not all(isinstance(p, Tensor) for p in self.params):
            kinds = ", ".join(sorted({type(p).__name__ for p in self.params})) or "nothing"
            raise ArgumentError(f"`params` must hold tensors, at least one; got {kinds}.")
        self.average = [_wide(p.detach()).clone() for p in self.params]
        self.count = 0
        self._inside = False

    def weight(self, step: int) -> float:
        """What the newest weights weigh in the average."""
        raise NotImplementedError

    def update(self) -> None:
        """Take the present weights in.

        Raises:
            ArgumentError: the average is in the model at the moment.
        """
        self._check_outside("update")
        self.count += 1
        share = self.weight(self.count)
        with torch.no_grad():
            if all(a.dtype == p.dtype for a, p in zip(self.average, self.params, strict=True)):
                torch._foreach_lerp_(self.average, [p.detach() for p in self.params], share)
                return
            for mean, p in zip(self.average, self.params, strict=True):
                mean.lerp_(p.detach().to(mean), share)

    @contextmanager
    def swapped(
        self, model: nn.Module | None = None, batches: Iterable[Batch] | None = None
    ) -> Iterator[None]:
        """The average in place of the weights; both come back bit for bit.

        Args:
            model: whose BatchNorm statistics are re-estimated on the averaged weights, in
                place for the length of the block.
            batches: what it is run on for that: inputs, or tuples that start with them. With
                `torch.distributed`, every process gives its own, and the statistics are shared.

        Yields:
            Nothing.

        Raises:
            ArgumentError: the average is in the model already; or the model has BatchNorm
                layers, and there are no batches.
        """
        self._check_outside("swapped")
        layers = (
            [] if model is None else [n for n in norm_layers(model) if n.track_running_stats]
        )
        if layers and batches is None:
            raise ArgumentError(
                f"`batches` must be given: {type(model).__name__} has BatchNorm layers, whose "
                "statistics are not those of the averaged weights."
            )
        kept = [(b, b.detach().clone()) for layer in layers for b in layer.buffers()]
        with torch.no_grad():
            before = exchange(self.params, self.average)
        self._inside = True
        try:
            if model is not None and layers and batches is not None:
                reestimate(model, batches)
            yield
        finally:
            with torch.no_grad():
                give_back(self.params, self.average, before)
                for buffer, value in kept:
                    buffer.copy_(value)
            self._inside = False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            The count and the average.
        """
        self._check_outside("state_dict")
        return {"count": self.count, "average": [mean.clone() for mean in self.average]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: weights of other shapes.
        """
        self._check_outside("load_state_dict")
        ours = [tuple(mean.shape) for mean in self.average]
        theirs = [tuple(mean.shape) for mean in state_dict["average"]]
        if ours != theirs:
            raise ArgumentError(f"`state_dict` must be of weights {ours}; got {theirs}.")
        for mean, value in zip(self.average, state_dict["average"], strict=True):
            mean.copy_(value)
        self.count = state_dict["count"]

    def _check_outside(self, call: str) -> None:
        if self._inside:
            raise ArgumentError(
                f"`{call}` must be called outside `swapped()`: the average is in the model."
            )


class PolynomialAverage(WeightAverage):
    """The power-law average: the newest weights weigh (gamma + 1) / (t + gamma).

    Its window grows with time: it spans about the last 1 / gamma of the training, whatever
    that is, so one run can be read at every horizon.

    Args:
        params: the weights, by reference.
        gamma: 0 is the plain mean of all; the larger, the shorter the window. Default 16.

    Raises:
        ArgumentError: a negative gamma, or no weights.

    Source: Sandler et al., 2023, arXiv:2301.02312; polynomial-decay averaging of Shamir and
        Zhang, ICML 2013.

    Examples:
        >>> import torch
        >>> w = torch.zeros(1)
        >>> average = PolynomialAverage([w], gamma=0)
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = w.fill_(value)
        ...     average.update()
        >>> average.average[0]
        tensor([3.])
    """

    def __init__(self, params: Iterable[Tensor], gamma: float = 16.0) -> None:
        check_number("gamma", gamma, 0)
        super().__init__(params)
        self.gamma = float(gamma)

    def weight(self, step: int) -> float:
        """(gamma + 1) / (step + gamma)."""
        return (self.gamma + 1) / (step + self.gamma)


class EMA(WeightAverage):
    """The exponential average, bias-corrected: it starts at the first weights.

    Args:
        params: the weights, by reference.
        decay: weight of the past, in [0, 1). Default 0.999.

    Raises:
        ArgumentError: a decay out of range, or no weights.

    Examples:
        >>> w = torch.zeros(1)
        >>> average = EMA([w], decay=0.5)
        >>> for value in (1.0, 4.0):
        ...     _ = w.fill_(value)
        ...     average.update()
        >>> average.average[0]
        tensor([3.])
    """

    def __init__(self, params: Iterable[Tensor], decay: float = 0.999) -> None:
        super().__init__(params)
        self.decay = check_share("decay", decay)

    def weight(self, step: int) -> float:
        """(1 - decay) / (1 - decay^step): the corrected weight."""
        return (1 - self.decay) / (1 - self.decay**step)


class LAWA(WeightAverage):
    """The mean of the latest weights, taken every so often: as many copies as it spans.

    Args:
        params: the weights, by reference.
        window: how many. Default 6.
        every: updates between them. Default 100.

    Raises:
        ArgumentError: numbers below 1, or no weights.

    Source: Kaddour, 2022, arXiv:2209.14981.

    Examples:
        >>> w = torch.zeros(1)
        >>> average = LAWA([w], window=2, every=1)
        >>> for value in (1.0, 2.0, 4.0):
        ...     _ = w.fill_(value)
        ...     average.update()
        >>> average.average[0]
        tensor([3.])
    """

    def __init__(self, params: Iterable[Tensor], window: int = 6, every: int = 100) -> None:
        check_at_least("window", window, 1)
        check_at_least("every", every, 1)
        super().__init__(params)
        self.window, self.every = window, every
        self._latest: list[list[Tensor]] = []

    def update(self) -> None:
        """Take the present weights in, where it is time; the first ones at once."""
        self._check_outside("update")
        self.count += 1
        if self._latest and self.count % self.every:
            return
        fresh = [_wide(p.detach()).clone() for p in self.params]
        self._latest = [*self._latest, fresh][-self.window :]
        for index, mean in enumerate(self.average):
            mean.copy_(torch.stack([kept[index] for kept in self._latest]).mean(0))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            The count, the average and the latest weights.
        """
        latest = [[w.clone() for w in kept] for kept in self._latest]
        return super().state_dict() | {"latest": latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.
        """
        super().load_state_dict(state_dict)
        self._latest = [[w.clone() for w in kept] for kept in state_dict["latest"]]


def _wide(tensor: Tensor) -> Tensor:
    half = tensor.dtype in {torch.float16, torch.bfloat16}
    return tensor.float() if half else tensor


def exchange(params: list[Tensor], average: list[Tensor]) -> list[Tensor | None]:
    """Put averages into the weights, and the weights where the averages were."""
    before: list[Tensor | None] = []
    for p, mean in zip(params, average, strict=True):
        raw = p.detach().clone()
        p.copy_(mean)
        if raw.dtype == mean.dtype:
            mean.copy_(raw)
            before.append(None)
        else:
            before.append(raw)
    return before


def give_back(params: list[Tensor], average: list[Tensor], before: list[Tensor | None]) -> None:
    """Undo `exchange`, bit for bit."""
    for p, mean, kept in zip(params, average, before, strict=True):
        if kept is not None:
            p.copy_(kept)
            continue
        raw = mean.clone()
        mean.copy_(p.detach())
        p.copy_(raw)


def reestimate(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Estimate the running statistics of norm layers anew, in place."""
    device = next(model.parameters()).device

    def one_pass() -> None:
        for batch in batches:
            inputs = batch[0] if isinstance(batch, list | tuple) else batch
            model(inputs.to(device))

    with torch.no_grad(), preserved_rng(), preserved_modes(model):
        model.eval()
        recalibrate(model, one_pass)
        _share_statistics(model)


def _share_statistics(model: nn.Module) -> None:
    spread = torch.distributed
    if not (spread.is_available() and spread.is_initialized() and spread.get_world_size() > 1):
        return
    for layer in norm_layers(model):
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            continue
        # The spread of the processes' means is part of the common variance.
        both = torch.stack([mean, variance + mean.square()])
        spread.all_reduce(both)
        both /= spread.get_world_size()
        mean.copy_(both[0])
        variance.copy_(both[1] - both[0].square())
