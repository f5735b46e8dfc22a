"""Lightning: callbacks that read instruments and explain spikes during training."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_callable, check_kind, check_text
from lossatlas.errors import ArgumentError
from lossatlas.integrations.lightning_base import LossCallback, muted
from lossatlas.monitoring import Monitor, SpikeRecorder, SpikeReport
from lossatlas.monitoring.monitor import tracked
from lossatlas.objective import Batch
from lossatlas.ranks import world_size

__all__ = ["MonitorCallback", "SpikeCallback"]


class MonitorCallback(LossCallback):
    """Reads the instruments of a `Monitor` after updates; checkpoints store its state.

    Args:
        monitor: monitor of an objective of the module in training. If it has no optimizer, it
            gets that of the module.
        log: whether to call `pl_module.log_dict` with the readings. Default True.
        name: put before the logged names, and into the checkpoint's key; needed where a trainer
            has several, such as "train" and "valid". Default none.

    Raises:
        ArgumentError: `monitor` is not a Monitor, or `name` is not a text.

    Examples:
        monitor = la.Monitor(la.from_lightning(module, data), to="run/monitor.nc")
        trainer = Trainer(callbacks=[MonitorCallback(monitor)])
    """

    def __init__(self, monitor: Monitor, *, log: bool = True, name: str = "") -> None:
        super().__init__()
        check_kind("monitor", monitor, Monitor, "pass la.Monitor(objective, ...)")
        check_text("name", name)
        self.monitor, self.log, self.name = monitor, log, name

    @property
    def state_key(self) -> str:
        """The key of the state in checkpoints; Lightning wants one per callback."""
        key: str = super().state_key
        return f"{key}.{self.name}" if self.name else key

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Connect the optimizer.

        Args:
            trainer: the Lightning trainer.
            pl_module: not used.
        """
        if self.monitor.optimizer is None and len(trainer.optimizers) == 1:
            self.monitor.optimizer = trainer.optimizers[0]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the instruments that are due after an update.

        Args:
            trainer: the Lightning trainer.
            pl_module: module that logs the readings.
            outputs: not used.
            batch: not used.
            batch_idx: not used.
        """
        step = int(trainer.global_step)
        if step <= self.monitor.done:
            return
        readings = self.monitor.step(self.taken_loss(), step=step)
        if self.log and readings:
            prefix = f"{self.name}/" if self.name else ""
            pl_module.log_dict({f"{prefix}{k}": v for k, v in tracked(readings).items()})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the files.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        self.monitor.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the files.

        Args:
            trainer: not used.
            pl_module: not used.
            exception: not used.
        """
        self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        """State of the readings, for checkpoints.

        Returns:
            "monitor".
        """
        return {"monitor": self.monitor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the readings of a checkpoint.

        Args:
            state_dict: output of `state_dict`.
        """
        if "monitor" in state_dict:
            self.monitor.load_state_dict(state_dict["monitor"])


class SpikeCallback(LossCallback):
    """Explains loss spikes; see `la.SpikeRecorder`.

    For modules with one optimizer, on one process. The batches of an accumulated update are one
    step. Replays clip gradients by norm as the trainer does.

    Attributes:
        recorder: the `SpikeRecorder`; None before training.

    Args:
        loss: loss(module, batch), one number or one per example. By default `training_step` of
            the module with muted logging, which must not use `self.trainer` because it runs on
            a copy. With one number per example, reports name examples.
        **options: options of `SpikeRecorder`: `keep`, `window`, `threshold`, `out`, `on_spike`.

    Examples:
        trainer = Trainer(callbacks=[SpikeCallback(out="spikes")])
    """

    def __init__(
        self, loss: Callable[[Any, Batch], Tensor] | None = None, **options: Any
    ) -> None:
        super().__init__()
        check_callable("loss", loss, optional=True)
        self.loss, self.options = loss, options
        self.recorder: SpikeRecorder | None = None
        self._batches: list[tuple[Batch, int]] = []
        self._trainer: Any = None

    @property
    def reports(self) -> list[SpikeReport]:
        """All reports so far."""
        return [] if self.recorder is None else self.recorder.reports

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start recording.

        Args:
            trainer: the Lightning trainer.
            pl_module: the module in training.

        Raises:
            ArgumentError: not exactly one optimizer, or several processes.
        """
        if len(trainer.optimizers) != 1 or world_size() > 1:
            raise ArgumentError(
                "spikes are explained for a module with one optimizer on one process; there "
                f"are {len(trainer.optimizers)} optimizers and {world_size()} processes: use "
                "la.SpikeRecorder in your own loop."
            )
        options = dict(self.options)
        if trainer.gradient_clip_val and trainer.gradient_clip_algorithm in {None, "norm"}:
            options.setdefault("max_norm", float(trainer.gradient_clip_val))
        self._trainer = trainer
        self.recorder = SpikeRecorder(
            pl_module, trainer.optimizers[0], self._loss_of, **options
        )

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch, and the random state before its forward pass.

        Args:
            trainer: not used.
            pl_module: not used.
            batch: the batch, on the device of the module.
            batch_idx: for `training_step`.
        """
        if self.recorder is not None and not self._batches:
            self.recorder.begin()
        self._batches.append((batch, batch_idx))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Check whether the loss of this update is a spike.

        Args:
            trainer: not used.
            pl_module: not used.
            optimizer: not used.
        """
        batches, loss = tuple(self._batches), self.taken_loss()
        self._batches = []
        if self.recorder is not None and loss is not None:
            self.recorder.observe(loss, batches)

    def _loss_of(self, module: nn.Module, batches: tuple[tuple[Batch, int], ...]) -> Tensor:
        with self._trainer.precision_plugin.forward_context():
            parts = [self._one_loss(module, *each) for each in batches]
        return parts[0] if len(parts) == 1 else torch.stack([p.mean() for p in parts]).mean()

    def _one_loss(self, module: Any, batch: Batch, index: int) -> Tensor:
        if self.loss is not None:
            return self.loss(module, batch)
        with muted(module):
            output = module.training_step(batch, index)
        loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
        return loss
