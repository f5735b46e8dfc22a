"""Instruments of a controller: measures what a policy needs, and nothing else."""

import json
import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.shards import is_sharded
from lossatlas.steering.probe import Closure, ProbeGrid, read_probe
from lossatlas.steering.reading import Reading
from lossatlas.steering.signals import (
    DistanceTracker,
    gradient_noise,
    is_adam,
    kept_gradients,
    model_signals,
    momentum_of,
    read_edge,
)

# What a closure or a measurement may raise in mid-training without ending it.
_FAILURES = (AtlasError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError)
NEEDS = ("probe", "edge", "noise", "model", "distance")


class Instruments:
    """Measures for one optimizer.

    Args:
        optimizer: whose weights, rates and moments are read.
        needs: of `NEEDS`.
        grid: where the probe looks.
        model: what closures run, or None.
        seed: of random vectors.

    Raises:
        UnknownNameError: a need that nothing serves.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        needs: frozenset[str],
        grid: ProbeGrid,
        model: nn.Module | None,
        seed: int,
    ) -> None:
        for need in needs:
            check_one_of("needs", need, NEEDS)
        _check_shards(optimizer, needs)
        self.optimizer, self.needs, self.grid = optimizer, needs, grid
        self.model, self.seed = model, seed
        self._losses: list[Tensor | float] = []
        self._told: Tensor | float | None = None
        self._gradients: list[list[Tensor | None]] | None = None
        self._tracker = DistanceTracker(optimizer) if "distance" in needs else None

    @property
    def wants_closure(self) -> bool:
        """Whether a reading evaluates the loss."""
        return bool(self.needs & {"probe", "edge"})

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        device: torch.device = self.optimizer.param_groups[0]["params"][0].device
        return device

    def watch(self, loss: Tensor | float) -> None:
        """Take the loss of a training batch in; no synchronization with a device."""
        self._losses.append(loss.detach() if isinstance(loss, Tensor) else float(loss))

    def tell(self, loss: Tensor | float, *, now: bool) -> None:
        """Take the loss of the batch in whose update has not been made yet."""
        if now:
            self.watch(loss)
        else:
            self._told = loss.detach() if isinstance(loss, Tensor) else float(loss)

    def settle(self, loss: Tensor | float | None) -> None:
        """Take the loss of the update in that was just made."""
        last, self._told = self._told if loss is None else loss, None
        if last is not None:
            self.watch(last)

    @property
    def opens(self) -> bool:
        """Whether a reading is wanted before the first update."""
        return self._tracker is not None

    def track(self, scales: list[float]) -> None:
        """Take the update that was just made in."""
        if self._tracker is not None:
            self._tracker.track(scales)

    def prepare(self) -> None:
        """Keep the gradients of this update, where the next step compares with them."""
        if "noise" in self.needs:
            self._gradients = kept_gradients(self.optimizer)

    def check_observed(self) -> None:
        """Require that the loss of this batch was told."""
        if not self._losses:
            raise ArgumentError(
                "the policy decides before the update and needs the loss of the batch: call "
                "controller.observe(loss) before optimizer.step()."
            )

    def attempt(
        self, step: int, closure: Closure | None, scale: tuple[float, ...]
    ) -> Reading | str:
        """As `read`, but a failure is told, and all processes have rank 0's reading."""
        try:
            reading: Reading | str = self.read(step, closure, scale)
        except _FAILURES as error:
            reading = f"{type(error).__name__}: {error}"
        return agreed(reading, self.device)

    def read(self, step: int, closure: Closure | None, scale: tuple[float, ...]) -> Reading:
        """Measure what is needed at the present weights."""
        losses = self._floats()
        self._losses = []
        values: dict[str, Any] = _watched(losses)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        if "probe" in self.needs and closure is not None:
            values |= read_probe(closure, weights, self.grid, model=self.model).values
        if "edge" in self.needs and closure is not None:
            edge, error = read_edge(closure, self.optimizer, seed=self.seed)
            values |= {"edge": edge, "edge_error": error}
        if "noise" in self.needs and self._gradients is not None:
            values["noise"] = gradient_noise(self.optimizer, self._gradients)
            self._gradients = None
        if "model" in self.needs:
            values["model"] = model_signals(self.optimizer, losses[-1])
        if self._tracker is not None:
            values |= _distances(self._tracker, step)
        values["momentum"] = momentum_of(self.optimizer)
        values["normalized"] = is_adam(self.optimizer)
        return Reading(step=step, scale=scale, **values)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        tracker = None if self._tracker is None else self._tracker.state()
        return {"losses": self._floats(), "gradients": self._gradients, "tracker": tracker}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._losses, self._gradients = list(state["losses"]), state["gradients"]
        if self._tracker is not None:
            self._tracker.load(state["tracker"])

    def _floats(self) -> list[float]:
        return [float(loss) for loss in self._losses]


def _check_shards(optimizer: torch.optim.Optimizer, needs: frozenset[str]) -> None:
    # Whether what is needed can be had of weights that are spread over processes.
    missing = sorted(needs & {"edge", "noise", "model"})
    weights = (w for group in optimizer.param_groups for w in group["params"])
    if missing and any(map(is_sharded, weights)):
        raise ArgumentError(
            f"the policy needs '{missing[0]}', which cannot be measured of weights that are "
            "sharded; take RegimePolicy or GrowthPolicy."
        )


def _distances(tracker: DistanceTracker, step: int) -> dict[str, float]:
    if step == 0:
        tracker.begin()
        size, length = tracker.opening()
        return {"size": size, "step_length": length}
    distance, length = tracker.read()
    return {"distance": distance, "step_length": length}


def _watched(losses: list[float]) -> dict[str, Any]:
    count = len(losses)
    if not count:
        return {}
    mean = math.fsum(losses) / count if all(map(math.isfinite, losses)) else math.nan
    spread = math.fsum((x - mean) ** 2 for x in losses)
    error = math.sqrt(spread / (count - 1) / count) if count > 1 else math.nan
    return {"train_loss": mean, "train_error": error, "train_count": count}


def agreed(reading: Reading | str, device: torch.device) -> Reading | str:
    """Rank 0's reading, on every rank."""
    spread = torch.distributed
    if not (spread.is_available() and spread.is_initialized() and spread.get_world_size() > 1):
        return reading
    plain = reading if isinstance(reading, str) else asdict(reading)
    text = torch.tensor(list(json.dumps(plain).encode()), dtype=torch.uint8, device=device)
    length = torch.tensor([len(text)], device=device)
    spread.broadcast(length, 0)
    parcel = text if spread.get_rank() == 0 else text.new_zeros(int(length))
    spread.broadcast(parcel, 0)
    shared = json.loads(bytes(parcel.tolist()).decode())
    return shared if isinstance(shared, str) else Reading.from_dict(shared)
