"""The training of a predictor: as published, resumable in the middle, bit for bit."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.guard import preserved_modes
from lossatlas.objective import Batch
from lossatlas.store import writing
from lossatlas.studies.inits.settings import SurrogateSettings
from lossatlas.studies.inits.surrogates.rows import Rows
from lossatlas.training.dataset import Dataset
from lossatlas.training.training import StepInfo, train

Array = NDArray[np.float64]
_WARMUP, _CLIP, _DECAY, _SHRINK = 10, 1.0, 1e-4, 1e-3
# Seconds between two checkpoints of a training.
EVERY = 20.0


@dataclass
class _Progress:
    step: int = 0
    best: float = math.inf
    stale: int = 0
    history: list[list[float]] = field(default_factory=list)


def fit_network(
    module: nn.Module,
    rows: Rows,
    targets: Tensor,
    parts: tuple[Tensor, Tensor],
    plan: SurrogateSettings,
    *,
    lr: float,
    seed: int,
    resume: Path,
) -> Array:
    """Train a predictor in place and leave it at its best epoch on the validation rows."""
    fitting, checking = parts
    data = Dataset(fitting[:, None], targets[fitting, None], "pairs", "regression")
    keeper = _Keeper(module, resume)
    per_epoch = -(-len(data) // plan.batch_size)
    seen: list[float] = []

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        indices, wanted = batch
        predicted = network(rows(indices[:, 0]))
        error: Tensor = F.mse_loss(predicted, wanted[:, 0]) + _SHRINK * predicted.abs().mean()
        return error

    def after(tick: StepInfo) -> bool:
        seen.append(tick.loss)
        if tick.step % per_epoch:
            return False
        error = _error(module, rows, targets, checking)
        rate = float(tick.optimizer.param_groups[0]["lr"])
        keeper.note(tick, [float(np.mean(seen)), error, rate])
        seen.clear()
        return keeper.progress.stale >= plan.patience

    if keeper.progress.stale < plan.patience:
        train(
            module,
            data,
            loss,
            steps=plan.epochs * per_epoch,
            optimizer=lambda weights: keeper.optimizer(weights, lr),
            batch_size=plan.batch_size,
            seed=seed,
            schedule=lambda step, steps: _share(step // per_epoch, steps // per_epoch),
            callback=after,
            start=keeper.progress.step,
        )
    keeper.finish()
    return np.array(keeper.progress.history, dtype=np.float64)


def _share(epoch: int, epochs: int) -> float:
    if epoch < _WARMUP:
        return (epoch + 1) / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (epoch - _WARMUP) / max(1, epochs - _WARMUP)))


def predict(module: nn.Module, chunks: Iterator[Tensor]) -> Tensor:
    """Predictions in eval mode."""
    with torch.no_grad(), preserved_modes(module):
        module.eval()
        return torch.cat([module(chunk) for chunk in chunks])


def _error(module: nn.Module, rows: Rows, targets: Tensor, indices: Tensor) -> float:
    found = predict(module, (rows(part) for part in torch.split(indices, 512)))
    return float((found - targets[indices]).abs().mean())


class _Keeper:
    """The state of a training on disk, and its best weights so far."""

    def __init__(self, module: nn.Module, path: Path) -> None:
        self.module, self.path = module, path
        self.progress = _Progress()
        self.best: dict[str, Tensor] = {}
        self._made: torch.optim.AdamW | None = None
        self._state: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        if path.is_file():
            self._read()

    def optimizer(self, weights: list[Tensor], lr: float) -> torch.optim.AdamW:
        made = torch.optim.AdamW(weights, lr=lr, weight_decay=_DECAY)
        if self._state:
            state = {i: self._moments(i) for i in range(len(weights))}
            made.load_state_dict(
                {"state": state, "param_groups": made.state_dict()["param_groups"]}
            )

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(weights, _CLIP)

        made.register_step_pre_hook(clip)
        self._made = made
        return made

    def note(self, tick: StepInfo, row: list[float]) -> None:
        progress = self.progress
        progress.step = tick.step
        progress.history.append(row)
        progress.stale += 1
        if row[1] < progress.best:
            progress.best, progress.stale = row[1], 0
            self.best = {n: v.detach().clone() for n, v in self.module.state_dict().items()}
        if time.monotonic() - self._saved >= EVERY:
            self._write()
            self._saved = time.monotonic()

    def finish(self) -> None:
        if self.best:
            self.module.load_state_dict(self.best)
        self.path.unlink(missing_ok=True)

    def _moments(self, index: int) -> dict[str, Tensor]:
        names = ("step", "exp_avg", "exp_avg_sq")
        return {name: self._state[f"moment.{index}.{name}"] for name in names}

    def _write(self) -> None:
        assert self._made is not None
        tensors = {f"now.{n}": v for n, v in self.module.state_dict().items()}
        tensors |= {f"best.{n}": v for n, v in self.best.items()}
        moments: dict[int, dict[str, Tensor]] = self._made.state_dict()["state"]
        tensors |= {
            f"moment.{i}.{n}": v for i, each in moments.items() for n, v in each.items()
        }
        progress = self.progress
        numbers = [progress.step, progress.best, progress.stale]
        tensors["progress"] = torch.tensor(numbers, dtype=torch.float64)
        tensors["history"] = torch.tensor(progress.history, dtype=torch.float64)
        with writing(self.path) as temporary:
            save_file({n: v.contiguous().clone() for n, v in tensors.items()}, temporary)

    def _read(self) -> None:
        with safe_open(self.path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        now = {n[4:]: v for n, v in found.items() if n.startswith("now.")}
        self.module.load_state_dict(now)
        self.best = {n[5:]: v for n, v in found.items() if n.startswith("best.")}
        self._state = {n: v for n, v in found.items() if n.startswith("moment.")}
        step, best, stale = found["progress"].tolist()
        self.progress = _Progress(int(step), best, int(stale), found["history"].tolist())
