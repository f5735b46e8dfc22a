"""Replay training steps on a copy of the model and its optimizer."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossatlas.errors import ModelError
from lossatlas.guard import TorchRandomState, preserved_rng, set_torch_random_state
from lossatlas.objective.batches import map_tensors

Batch = Any
Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A recorded update.

    Attributes:
        step: number of the update.
        batch: its batch; referenced, not copied.
        loss: mean loss of the batch before the update.
        norms: gradient norm of every parameter, in the order of the model.
        rates: learning rate of every optimizer group.
        rng: random states of torch before the forward pass, if known.
    """

    step: int
    batch: Batch
    loss: float
    norms: Tensor
    rates: tuple[float, ...]
    rng: TorchRandomState

    @property
    def gradient_norm(self) -> float:
        """Norm of the whole gradient."""
        return float(torch.linalg.vector_norm(self.norms))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State of a training run before an update.

    Attributes:
        step: number of the next update.
        model: state dict.
        optimizer: state dict.
    """

    step: int
    model: dict[str, Any] = field(repr=False)
    optimizer: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, step: int, model: nn.Module, optimizer: Optimizer) -> "Snapshot":
        """Copy both states."""
        state = {n: v.detach().clone() for n, v in model.state_dict().items()}
        return cls(step, state, copy.deepcopy(optimizer.state_dict()))

    @property
    def memory(self) -> int:
        """Bytes of both states."""
        inner = self.optimizer["state"].values()
        held = [*self.model.values(), *(v for s in inner for v in s.values())]
        return sum(v.numel() * v.element_size() for v in held if isinstance(v, Tensor))


class Replay:
    """A copy of a training run that continues from a snapshot; the run itself is unchanged.

    Args:
        model: of the training.
        optimizer: of the training.
        loss: (model, batch) -> a number or one number per example.
        max_norm: gradient clipping norm; None for no clipping.

    Raises:
        ModelError: the model or the optimizer cannot be copied.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss: Loss, max_norm: float | None = None
    ) -> None:
        try:
            self.model, self.optimizer = copy.deepcopy((model, optimizer))
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise ModelError(
                f"the model or the optimizer cannot be copied ({error}), so steps cannot be "
                "replayed."
            ) from error
        self.loss, self.max_norm = loss, max_norm

    def load(self, snapshot: Snapshot) -> None:
        """Restore a snapshot."""
        self.model.load_state_dict(snapshot.model)
        self.optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))

    def gradient(self, entry: RecordedStep) -> float:
        """Compute the loss of a step's batch and its gradient in the copy."""
        self.optimizer.zero_grad(set_to_none=True)
        with preserved_rng(), torch.enable_grad():
            set_torch_random_state(entry.rng)
            loss = self.loss(self.model, entry.batch).mean()
            torch.autograd.backward(loss)
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        return float(loss.detach())

    def apply(self, entry: RecordedStep, *, scale: float = 1.0, clip: bool = False) -> None:
        """Update the copy with its current gradient, if that is finite."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not all(bool(grad.isfinite().all()) for grad in grads):
            return
        if clip:
            scale /= max(1.0, self.second_moment_ratio())
        for group, rate in zip(self.optimizer.param_groups, entry.rates, strict=True):
            group["lr"] = rate * scale
        self.optimizer.step()

    def run(
        self,
        entries: Sequence[RecordedStep],
        *,
        skip: Iterable[int] = (),
        other: Mapping[int, Batch] | None = None,
        scales: Sequence[float] | None = None,
        clip: bool = False,
        references: Sequence[Batch] = (),
    ) -> list[float]:
        """Replay updates, optionally skipping some, with other batches or rates.

        Args:
            entries: the recorded updates.
            skip: numbers of updates to skip.
            other: number of an update -> replacement batch.
            scales: factors of the rates, one per update.
            clip: whether to limit updates by second moments.
            references: batches on which the weights are evaluated.

        Returns:
            The mean loss of the reference batches before each update and after the last.
        """
        left_out, exchanged = set(skip), other or {}
        losses = [self.mean_loss(references)]
        for at, entry in enumerate(entries):
            if entry.step not in left_out:
                scale = 1.0 if scales is None else scales[at]
                self.gradient(replace(entry, batch=exchanged.get(entry.step, entry.batch)))
                self.apply(entry, scale=scale, clip=clip)
            losses.append(self.mean_loss(references))
        return losses

    def losses(self, batches: Sequence[Batch]) -> list[float]:
        """Loss of each batch at the weights of the copy."""
        with preserved_rng(), torch.no_grad():
            return [float(self.loss(self.model, batch).mean()) for batch in batches]

    def mean_loss(self, batches: Sequence[Batch]) -> float:
        """Mean loss of some batches at the weights of the copy."""
        loss = self.losses(batches)
        return math.fsum(loss) / len(loss) if loss else math.nan

    def second_moment_ratio(self) -> float:
        """Root of the mean of g^2 / v over all weights, v the second moment of Adam before it.

        Returns:
            About 1 if gradients are like earlier ones; NaN for other optimizers.
        """
        total, count = 0.0, 0
        for group in self.optimizer.param_groups:
            beta = group.get("betas", (0.0, math.nan))[1]
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                if parameter.grad is None or "exp_avg_sq" not in state:
                    continue
                steps = float(state["step"])
                if steps < 1:
                    continue
                v = state["exp_avg_sq"].double() / (1 - beta**steps) + group["eps"] ** 2
                total += float((parameter.grad.double().square() / v).sum())
                count += v.numel()
        return math.sqrt(total / count) if count else math.nan

    def in_double(self, entry: RecordedStep) -> bool:
        """Whether loss and gradient of a step are finite in double precision.

        Returns:
            False also if the loss cannot be computed in double precision.
        """
        self.model.double()
        batch = map_tensors(lambda v: v.double() if v.is_floating_point() else v, entry.batch)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with preserved_rng(), torch.enable_grad():
                set_torch_random_state(entry.rng)
                loss = self.loss(self.model, batch).mean()
                torch.autograd.backward(loss)
        except RuntimeError:
            return False
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return math.isfinite(float(loss.detach())) and all(
            bool(g.isfinite().all()) for g in grads
        )
