"""Hugging Face: read instruments and explain spikes while a Trainer runs."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_kind
from lossatlas.errors import ArgumentError
from lossatlas.integrations.huggingface_base import (
    LossCallback,
    bare_optimizer,
    kept_file,
    written_folder,
)
from lossatlas.monitoring import Monitor, SpikeRecorder, SpikeReport
from lossatlas.ranks import world_size

__all__ = ["MonitorCallback", "SpikeMixin"]
_STATE = "monitor.json"


class MonitorCallback(LossCallback):
    """Reads the instruments of a `Monitor` after updates.

    Checkpoints store the readings (`monitor.json`), and `resume_from_checkpoint` restores them.
    Losses logged by the Trainer are added to the readings.

    Args:
        monitor: monitor of an objective of the model in training. If it has no optimizer, it
            gets that of the Trainer.

    Raises:
        ArgumentError: `monitor` is not a Monitor.

    Examples:
        monitor = la.Monitor(la.from_trainer(trainer, limit=4), to="run/monitor.nc")
        trainer.add_callback(MonitorCallback(monitor))
    """

    def __init__(self, monitor: Monitor) -> None:
        check_kind("monitor", monitor, Monitor, "pass la.Monitor(objective, ...)")
        self.monitor = monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Connect the optimizer, and restore readings from a checkpoint.

        Args:
            args: of the Trainer.
            state: of the Trainer.
            control: not used.
            **kwargs: includes `optimizer`.

        Raises:
            ArgumentError: the checkpoint of a resumed run has no readings.
        """
        optimizer = kwargs.get("optimizer")
        if self.monitor.optimizer is None and optimizer is not None:
            self.monitor.optimizer = bare_optimizer(optimizer)
        if not state.global_step or self.monitor.done >= state.global_step:
            return
        path = kept_file(args, state, _STATE, "readings", self)
        self.monitor.load_state_dict(json.loads(path.read_text()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the instruments that are due after an update.

        Args:
            args: not used.
            state: of the Trainer.
            control: not used.
            **kwargs: not used.
        """
        self.monitor.step(step=int(state.global_step))

    def take_loss(self, state: Any, loss: float) -> None:
        """Record the loss for the next readings.

        Args:
            state: not used.
            loss: mean loss since the last call.
        """
        self.monitor.observe(loss)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the readings next to the weights.

        Args:
            args: of the Trainer.
            state: of the Trainer.
            control: not used.
            **kwargs: not used.
        """
        folder = written_folder(args, state)
        if folder is not None:
            (folder / _STATE).write_text(json.dumps(self.monitor.state_dict()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the files.

        Args:
            args: not used.
            state: not used.
            control: not used.
            **kwargs: not used.
        """
        self.monitor.close()


class SpikeMixin:
    """Mix-in for `Trainer` that explains loss spikes; see `la.SpikeRecorder`.

    It is a mix-in because callbacks do not receive batches, and supports one process. The
    batches of an accumulated update are one step; replays clip gradients as the Trainer does.

    Args:
        *args: of the Trainer.
        spikes: options of `SpikeRecorder` by name: `keep`, `window`, `threshold`, `out`,
            `on_spike`.
        **kwargs: of the Trainer.

    Examples:
        class RecordedTrainer(SpikeMixin, Trainer): ...

        trainer = RecordedTrainer(model=model, args=args, spikes={"out": "spikes"})
    """

    args: Any
    model: nn.Module
    optimizer: Any
    accelerator: Any
    compute_loss: Any
    compute_loss_context_manager: Any
    _prepare_inputs: Any

    def __init__(
        self, *args: Any, spikes: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.spike_options = dict(spikes or {})
        self.spike_recorder: SpikeRecorder | None = None
        self._recorded: tuple[list[Any], list[Tensor]] = ([], [])
        super().__init__(*args, **kwargs)

    @property
    def spike_reports(self) -> list[SpikeReport]:
        """All reports so far."""
        return [] if self.spike_recorder is None else self.spike_recorder.reports

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A training step of the Trainer, with its batch and loss recorded.

        Args:
            model: the model in training.
            inputs: the batch.
            *args: as for the Trainer.
            **kwargs: as for the Trainer.

        Returns:
            The loss.
        """
        recorder = self.spike_recorder = self.spike_recorder or self._make_recorder()
        batches, losses = self._recorded
        if not batches:
            recorder.begin()
        batches.append(self._prepare_inputs(dict(inputs)))
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        losses.append(loss.detach())
        if self.accelerator.sync_gradients:
            self._recorded = ([], [])
            recorder.observe(torch.stack(losses).sum(), tuple(batches))
        return loss

    def _make_recorder(self) -> SpikeRecorder:
        if world_size() > 1:
            raise ArgumentError(
                f"spikes are explained on one process; there are {world_size()}: a replay "
                "needs the batches of all of them."
            )
        options: dict[str, Any] = {"max_norm": self.args.max_grad_norm or None}
        options |= self.spike_options
        return SpikeRecorder(
            self.model, bare_optimizer(self.optimizer), self._recorded_loss, **options
        )

    def _recorded_loss(self, model: nn.Module, batches: tuple[Any, ...]) -> Tensor:
        with self.compute_loss_context_manager():
            # compute_loss takes entries out of what it is given.
            parts = [self.compute_loss(model, dict(each)) for each in batches]
        return torch.stack([each.mean() for each in parts]).mean()
