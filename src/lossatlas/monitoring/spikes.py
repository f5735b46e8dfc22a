"""Loss spikes: detected during training, replayed on a copy, and explained."""

import math
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lossatlas.checks import check_at_least, check_callable, check_kind, check_positive
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.guard import torch_random_state
from lossatlas.monitoring.replay import Batch, Loss, RecordedStep, Snapshot
from lossatlas.monitoring.spike_report import SpikeReport, explain
from lossatlas.objective.names import check_initialized
from lossatlas.robust import neighbor_noise
from lossatlas.tracebacks import reason_of

# Losses without which a spike is seen only where the loss is this many times the first one.
_FEWEST, _EARLY = 12, 2.0
# Losses before those that are averaged, without which nothing is known of the noise.
_BEFORE = 8
# Higher than the level by at least this share: a quiet curve has no spikes of a percent.
_VISIBLE = 0.2
# Losses before that tell where the run is.
_LEVEL = 10
# So many last losses are averaged: a rise that stays is seen in noise that hides a single one.
_RUNS = (1, 2, 4, 8, 12)
# Roots of losses are skewed: on their scale a spike has to be so many times further off.
_SKEWED = 1.25


class SpikeRecorder:
    """Records the last steps of a training run, detects loss spikes, and explains them.

    Call `observe(loss, batch)` after `loss.backward()` and before `optimizer.step()`. A spike
    is a loss more than `threshold` robust standard deviations (and 20 %) above the previous
    ones, or a non-finite loss. The last steps are then replayed on a copy of the model and
    optimizer, unchanged and with one change at a time: without the batch, with limited updates,
    with warmup, at a quarter of the rate, in double precision. The change that removes the
    spike identifies its cause. The training itself is bitwise unchanged.

    Memory: two states of model and optimizer and at most 2 x `keep` batches (`memory`); another
    two states while a spike is explained.

    Args:
        model: the model in training.
        optimizer: a torch optimizer; schedulers may change its learning rates.
        loss: (model, batch) -> a number or one number per example: the training loss, without
            the scale of a GradScaler.
        keep: number of updates between two stored states. Default 16.
        window: number of losses used to estimate the noise. Default 50.
        threshold: threshold in robust standard deviations. Default 8.
        max_norm: gradient clipping norm of the training; None for no clipping.
        out: folder to which each report is saved (`spike-000123.nc`, replacing an existing
            one); None for none.
        on_spike: function called with every report.

    Attributes:
        reports: one report per explained spike.
        step: number of observed updates.

    Raises:
        ArgumentError: a number is out of range, or an argument has the wrong type.

    Examples:
        >>> import torch, lossatlas as la
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> loss = lambda model, batch: (model(batch) - 1).square().mean()
        >>> recorder = la.SpikeRecorder(model, optimizer, loss)
        >>> for step in range(40):
        ...     batch = torch.randn(8, 2) * (1000 if step == 30 else 1)
        ...     optimizer.zero_grad()
        ...     value = loss(model, batch)
        ...     value.backward()
        ...     report = recorder.observe(value, batch)
        ...     optimizer.step()
        >>> recorder.reports[0].step, recorder.reports[0].cause
        (30, 'bad batch')
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        *,
        keep: int = 16,
        window: int = 50,
        threshold: float = 8.0,
        max_norm: float | None = None,
        out: str | Path | None = None,
        on_spike: Callable[[SpikeReport], Any] | None = None,
    ) -> None:
        check_kind("model", model, nn.Module, "pass the module that is trained")
        check_initialized(model)
        check_kind("optimizer", optimizer, Optimizer, "pass an optimizer of torch")
        check_callable("loss", loss)
        check_callable("on_spike", on_spike, optional=True)
        check_at_least("keep", keep, 2)
        check_at_least("window", window, _FEWEST)
        check_positive("threshold", threshold)
        if max_norm is not None:
            check_positive("max_norm", max_norm)
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.keep, self.window, self.threshold = keep, window, threshold
        self.max_norm, self.on_spike = max_norm, on_spike
        self.out = None if out is None else Path(out)
        self.reports: list[SpikeReport] = []
        self.step = 0
        self._entries: deque[RecordedStep] = deque(maxlen=2 * keep)
        self._snapshots: deque[Snapshot] = deque(maxlen=2)
        self._losses: deque[float] = deque(maxlen=window + 1)
        self._first = math.nan
        self._quiet_until = 0
        self._rng = torch_random_state()

    @property
    def memory(self) -> int:
        """Bytes of the stored states; batches are not counted."""
        return sum(each.memory for each in self._snapshots)

    def begin(self) -> None:
        """Record the random state; call it before a forward pass with randomness (dropout).

        Without it the state after the last `observe` is used, which is that of the forward pass
        unless something else draws random numbers in between (such as shuffling for a new
        epoch).
        """
        self._rng = torch_random_state()

    def observe(self, loss: Tensor | float, batch: Batch) -> SpikeReport | None:
        """Record an update, and explain it if its loss is a spike.

        Args:
            loss: unscaled loss of the batch at the current weights: a number, or one per
                example.
            batch: the batch; referenced without a copy, so do not modify it.

        Returns:
            The report if there is a spike, otherwise None.

        Raises:
            ArgumentError: no parameter has a gradient.
        """
        value = float(loss.detach().mean()) if isinstance(loss, Tensor) else float(loss)
        if self.step % self.keep == 0:
            self._snapshots.append(Snapshot.of(self.step, self.model, self.optimizer))
        entry = RecordedStep(
            self.step, batch, value, self._norms(),
            tuple(float(g["lr"]) for g in self.optimizer.param_groups), self._rng,
        )  # fmt: skip
        self._entries.append(entry)
        self._losses.append(value)
        self._first = value if math.isnan(self._first) else self._first
        deviations = self._deviations(entry)
        self.step += 1
        report = None
        if deviations is not None and entry.step >= self._quiet_until:
            # What follows a spike belongs to it.
            self._quiet_until = entry.step + self.keep
            report = self._explain(entry, deviations)
        self._rng = torch_random_state()
        return report

    def _norms(self) -> Tensor:
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not grads:
            raise ArgumentError(
                "observe() must be called after loss.backward() and before optimizer.step(); "
                "no parameter has a gradient."
            )
        norms = {id(g): n for g, n in zip(grads, torch._foreach_norm(grads), strict=True)}
        zero = torch.zeros((), device=grads[0].device)
        gradient_norms = [norms.get(id(p.grad), zero).float() for p in self.model.parameters()]
        return torch.stack([each.to(zero.device) for each in gradient_norms])

    # How far the loss stands out, in robust standard deviations; None where it does not.
    def _deviations(self, entry: RecordedStep) -> float | None:
        if not math.isfinite(entry.loss) or not math.isfinite(entry.gradient_norm):
            return math.inf
        losses = np.array(self._losses)
        if len(losses) < _FEWEST:
            return math.inf if entry.loss > _EARLY * max(self._first, 0.0) > 0 else None
        return standing_out(losses, self.threshold)

    def _explain(self, entry: RecordedStep, deviations: float) -> SpikeReport | None:
        try:
            report = explain(
                self.model, self.optimizer, self.loss, self._snapshots[0],
                [e for e in self._entries if e.step >= self._snapshots[0].step],
                deviations=deviations, max_norm=self.max_norm,
            )  # fmt: skip
        except (AtlasError, MemoryError, RuntimeError) as error:
            # No report is worth a training.
            why = str(error) if isinstance(error, AtlasError) else reason_of(error)
            report = SpikeReport.unexplained(entry.step, entry.loss, deviations, why)
        self.reports.append(report)
        if self.out is not None:
            self._save(report, self.out / f"spike-{entry.step:06d}.nc")
        if self.on_spike is not None:
            self.on_spike(report)
        return report

    def _save(self, report: SpikeReport, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            report.save(path)
        except OSError as error:
            # Neither is a file.
            warnings.warn(
                f"'{path}' could not be written ({reason_of(error)}); training continues, and "
                "`reports` has the report.",
                stacklevel=4,
            )


def standing_out(losses: NDArray[np.float64], threshold: float) -> float | None:
    """Robust standard deviations by which the last losses exceed the previous ones.

    The mean of the last 1, 2, 4, 8 and 12 is compared with the median of the ten before, on the
    scales of the logarithm and of the root of the loss; the scatter is that of neighbors.

    Args:
        losses: the last losses, newest last.
        threshold: threshold in robust standard deviations.

    Returns:
        The deviations; None below `threshold`.
    """
    usable = [count for count in _RUNS if len(losses) - count >= _BEFORE]
    heights = [_height(losses, count, threshold) for count in usable]
    highest = max(heights, default=0.0)
    return highest if highest > threshold else None


def _height(losses: NDArray[np.float64], count: int, threshold: float) -> float:
    before, last = losses[:-count], losses[-count:]
    level = float(np.median(before[-_LEVEL:]))
    if not last.min() - level > _VISIBLE * abs(level):
        return 0.0
    if before.min() <= 0 or last.min() <= 0:
        return (float(last.mean()) - level) / _noise(before) * math.sqrt(count)
    logs = (float(np.log(last).mean()) - math.log(level)) / _noise(np.log(before))
    # Losses near zero scatter widely on the scale of logarithms, and hide what is high.
    roots = (float(np.sqrt(last).mean()) - math.sqrt(level)) / _noise(np.sqrt(before))
    return max(logs, roots / _SKEWED) * math.sqrt(count)


def _noise(values: NDArray[np.float64]) -> float:
    # Of all losses, or of the last ones where a run has become noisier.
    scatter = max(neighbor_noise(values), neighbor_noise(values[-_LEVEL - 1 :]))
    return max(float(scatter), 1e-4 * float(np.abs(values).max()), 1e-300)
