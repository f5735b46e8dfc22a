"""Lightning: callbacks that read instruments and explain spikes while a training runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_callable, check_kind
from lossatlas.errors import ArgumentError
from lossatlas.integrations.lightning_base import LossCallback, muted
from lossatlas.monitoring import Monitor, SpikeRecorder, SpikeReport
from lossatlas.monitoring.monitor import tracked
from lossatlas.objective import Batch
from lossatlas.ranks import world_size

__all__ = ["MonitorCallback", "SpikeCallback"]


class MonitorCallback(LossCallback):
    """Reads the instruments of a `Monitor` after updates; the state goes into checkpoints.

    Args:
        monitor: of an objective of the module that is trained. Where it has no optimizer, it is
            given that of the module.
        log: also `pl_module.log_dict` of what was read. Default True.

    Raises:
        ArgumentError: no monitor.

    Examples:
        monitor = la.Monitor(la.from_lightning(module, data), to="run/monitor.nc")
        trainer = Trainer(callbacks=[MonitorCallback(monitor)])
    """

    def __init__(self, monitor: Monitor, *, log: bool = True) -> None:
        super().__init__()
        check_kind("monitor", monitor, Monitor, "pass la.Monitor(objective, ...)")
        self.monitor, self.log = monitor, log

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the optimizer.

        Args:
            trainer: the Lightning trainer.
            pl_module: not used.
        """
        if self.monitor.optimizer is None and len(trainer.optimizers) == 1:
            self.monitor.optimizer = trainer.optimizers[0]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read what is due after an update.

        Args:
            trainer: the Lightning trainer.
            pl_module: logs what was read.
            outputs: not used.
            batch: not used.
            batch_idx: not used.
        """
        step = int(trainer.global_step)
        if step <= self.monitor.done:
            return
        readings = self.monitor.step(self.taken_loss(), step=step)
        if self.log and readings:
            pl_module.log_dict(tracked(readings))

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
        """The readings, for checkpoints.

        Returns:
            "monitor".
        """
        return {"monitor": self.monitor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the readings of a checkpoint.

        Args:
            state_dict: what `state_dict` gave.
        """
        if "monitor" in state_dict:
            self.monitor.load_state_dict(state_dict["monitor"])


class SpikeCallback(LossCallback):
    """Explains spikes of the loss; see `la.SpikeRecorder`.

    For modules with one optimizer, on one process. The batches of an accumulated update are one
    step. Gradients that the trainer clips by their norm are clipped in replays.

    Attributes:
        recorder: the `SpikeRecorder`; None before training.

    Args:
        loss: loss(module, batch), one number or one an example. By default the module's
            `training_step` with its logging muted; it must do without `self.trainer` on a copy
            of the module. With one number an example, reports name examples.
        **options: of `SpikeRecorder`: `keep`, `window`, `threshold`, `out`, `on_spike`.

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
        """Begin to record.

        Args:
            trainer: the Lightning trainer.
            pl_module: what is trained.

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
        """Note the batch, and the random state before its forward pass.

        Args:
            trainer: not used.
            pl_module: not used.
            batch: on the device of the module.
            batch_idx: for `training_step`.
        """
        if self.recorder is not None and not self._batches:
            self.recorder.begin()
        self._batches.append((batch, batch_idx))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Look whether the loss of this update is a spike.

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
