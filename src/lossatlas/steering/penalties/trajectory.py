"""SAF and MESA: sharpness-aware training for free, by staying near past predictions."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes
from lossatlas.steering.penalties.terms import check_share, check_weight


def trajectory_penalty(logits: Tensor, teacher: Tensor, temperature: float = 5.0) -> Tensor:
    """KL divergence of softened predictions from softened past ones, times temperature^2.

    Args:
        logits: shape (..., classes), with gradient.
        teacher: past logits of the same examples, the same shape.
        temperature: divides both. Default 5.

    Returns:
        A scalar: the mean over predictions.

    Raises:
        ArgumentError: other shapes, or a temperature not above zero.

    Source: Du et al., NeurIPS 2022, arXiv:2205.14083; the factor temperature^2 as in the
        authors' code.

    Examples:
        >>> logits = torch.zeros(4, 2)
        >>> trajectory_penalty(logits, logits).item()
        0.0
    """
    check_positive("temperature", temperature)
    if logits.shape != teacher.shape or logits.ndim < 2:
        raise ArgumentError(
            "`teacher` must be shaped like `logits`, (..., classes); got "
            f"{tuple(teacher.shape)} and {tuple(logits.shape)}."
        )
    temperature = float(temperature)
    now, then = (_softened(t, temperature) for t in (logits, teacher.detach()))
    return (
        temperature**2 * F.kl_div(now, then, reduction="none", log_target=True).sum(-1).mean()
    )


class SAFLoss(nn.Module):
    """SAF: near the predictions of some epochs ago, which costs memory but no computing.

    Args:
        examples: how many the data set has; every batch tells which they are.
        classes: outputs of the model.
        weight: of the penalty, >= 0. Default 0.3.
        temperature: as in `trajectory_penalty`. Default 5.
        lag: how many epochs ago, at least 1. Default 3.
        start: the first epoch that is penalized, at least `lag`. Default 5.

    Raises:
        ArgumentError: numbers out of range.

    Examples:
        >>> saf = SAFLoss(examples=2, classes=3, lag=1, start=1)
        >>> indices = torch.arange(2)
        >>> _ = saf(torch.zeros(2, 3), indices)
        >>> saf.next_epoch()
        >>> bool(saf(torch.eye(2, 3), indices) > 0)
        True
    """

    history: Tensor
    epoch: Tensor
    written: Tensor

    def __init__(
        self,
        examples: int,
        classes: int,
        weight: float = 0.3,
        *,
        temperature: float = 5.0,
        lag: int = 3,
        start: int = 5,
    ) -> None:
        super().__init__()
        check_at_least("examples", examples, 1)
        check_at_least("classes", classes, 2)
        check_at_least("lag", lag, 1)
        check_at_least("start", start, lag)
        self.weight, self.temperature = check_weight("weight", weight), temperature
        self.lag, self.start = lag, start
        self.register_buffer("history", torch.zeros(lag, examples, classes))
        self.register_buffer("written", torch.full((lag, examples), -1, dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Tensor, indices: Tensor) -> Tensor:
        """Remember the logits of a batch and give the weighted penalty.

        Args:
            logits: shape (batch, classes), with gradient.
            indices: which examples these are, int64, shape (batch,).

        Returns:
            A scalar; 0 before `start` and for examples that were not seen `lag` epochs ago.

        Raises:
            ArgumentError: shapes or indices that do not fit.
        """
        self._check(logits, indices)
        epoch = int(self.epoch)
        slot = epoch % self.lag
        # An example that was not seen `lag` epochs ago has an older entry here, or one of this
        # very epoch where it comes twice; neither is its teacher.
        past = self.history[slot, indices]
        seen = self.written[slot, indices] == epoch - self.lag
        self.history[slot, indices] = logits.detach().to(self.history)
        self.written[slot, indices] = epoch
        if epoch < self.start or not bool(seen.any()):
            return logits.sum() * 0.0
        penalty = trajectory_penalty(logits[seen], past[seen], self.temperature)
        return self.weight * penalty * seen.float().mean()

    def next_epoch(self) -> None:
        """Say that a walk over the data has ended."""
        self.epoch += 1

    def _check(self, logits: Tensor, indices: Tensor) -> None:
        fits = logits.ndim == 2 and logits.shape[1] == self.history.shape[2]
        if not fits or indices.shape != logits.shape[:1] or indices.is_floating_point():
            raise ArgumentError(
                f"`logits` must be (batch, {self.history.shape[2]}) and `indices` whole "
                f"numbers (batch,); got {tuple(logits.shape)} and {tuple(indices.shape)}."
            )
        last = self.history.shape[1] - 1
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) <= last:
            raise ArgumentError(
                f"`indices` must be in 0..{last}, the examples of the data set."
            )


class MESALoss(nn.Module):
    """MESA: near the predictions of a slow average of the weights.

    Args:
        model: the student; the teacher starts as its copy.
        weight: of the penalty, >= 0. Default 0.8.
        temperature: as in `trajectory_penalty`. Default 5.
        decay: of the average, in [0, 1). Default 0.9998.

    Raises:
        ArgumentError: numbers out of range.

    Examples:
        >>> model = nn.Linear(3, 2)
        >>> mesa = MESALoss(model, decay=0.9)
        >>> x = torch.ones(4, 3)
        >>> mesa(model(x), x).item()
        0.0
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float = 0.8,
        *,
        temperature: float = 5.0,
        decay: float = 0.9998,
    ) -> None:
        super().__init__()
        self.weight, self.decay = check_weight("weight", weight), check_share("decay", decay)
        self.temperature = temperature
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def forward(self, logits: Tensor, *inputs: Tensor) -> Tensor:
        """The weighted penalty; the teacher runs in eval mode, without a graph.

        Args:
            logits: the student's, with gradient.
            *inputs: what the student was called with.

        Returns:
            A scalar.
        """
        with torch.no_grad(), preserved_modes(self.teacher):
            self.teacher.eval()
            target = self.teacher(*inputs)
        return self.weight * trajectory_penalty(logits, target, self.temperature)

    def update(self, model: nn.Module) -> None:
        """Move the teacher towards the student; its buffers are copied.

        Args:
            model: the student, after its step.
        """
        with torch.no_grad():
            pairs = zip(self.teacher.parameters(), model.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast.to(slow), 1 - self.decay)
            buffers = zip(self.teacher.buffers(), model.buffers(), strict=True)
            for kept, fresh in buffers:
                kept.copy_(fresh)


def _softened(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide / temperature).log_softmax(-1)
