"""Instruments of a controller: measures what a policy needs, and nothing else."""

import json
import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, AtlasError
from lossatlas.result import Estimate
from lossatlas.shards import is_sharded
from lossatlas.steering.probe import Closure, ProbeGrid, read_probe
from lossatlas.steering.reading import Reading
from lossatlas.steering.shards import placements
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

    Attributes:
        wants_closure: whether a reading evaluates the loss.

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
        self.optimizer, self.needs, self.grid = optimizer, needs, grid
        self.model, self.seed = model, seed
        self.wants_closure = bool(needs & {"probe", "edge"})
        self._losses: list[Tensor | float] = []
        self._told: Tensor | float | None = None
        self._gradients: list[list[Tensor | None]] | None = None
        self._tracker = DistanceTracker(optimizer) if "distance" in needs else None
        self._untracked = ""
        self._valid: tuple[float, float] | None = None
        check_sharded(optimizer, needs, model)

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

    def validate(self, loss: Estimate | float) -> None:
        """Take the loss of validation examples in."""
        if isinstance(loss, Estimate):
            self._valid = loss.value, loss.stderr
        else:
            self._valid = float(loss), math.nan

    @property
    def opens(self) -> bool:
        """Whether a reading is wanted before the first update."""
        return self._tracker is not None

    def track(self, scales: list[float]) -> None:
        """Take the update that was just made in."""
        if self._tracker is None or self._untracked:
            return
        try:
            self._tracker.track(scales)
        except _FAILURES as error:
            # An update must not fail for being watched; decisions say what happened.
            self._untracked = f"steps are not followed any more: {error}"

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
        if self._untracked:
            raise ArgumentError(self._untracked)
        values: dict[str, Any] = _watched(losses)
        if self._valid is not None:
            values |= {"valid_loss": self._valid[0], "valid_error": self._valid[1]}
            self._valid = None
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
        gradients = None if self._gradients is None else _named(self._gradients)
        return {
            "losses": self._floats(),
            "valid": self._valid,
            "gradients": gradients,
            "tracker": tracker,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._losses, self._valid = list(state["losses"]), state["valid"]
        saved = state["gradients"]
        self._gradients = None if saved is None else _unnamed(self.optimizer, saved)
        if self._tracker is not None:
            self._tracker.load(state["tracker"])

    def _floats(self) -> list[float]:
        return [float(loss) for loss in self._losses]


def check_sharded(
    optimizer: torch.optim.Optimizer, needs: frozenset[str], model: nn.Module | None
) -> None:
    """Require what sharded weights (FSDP2) can be served with."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_sharded, weights)):
        return
    odd = [p for p in weights if any(getattr(place, "dim", 0) for place in placements(p))]
    if odd:
        raise ArgumentError(
            f"the weights are sharded along axis {placements(odd[0])}, and lengths of filters "
            "need whole rows: shard along axis 0, as FSDP2 does."
        )
    if "edge" in needs:
        raise ArgumentError(
            "the weights are sharded (FSDP2), which has no second derivatives, and EdgePolicy "
            "reads curvature: take GrowthPolicy or RegimePolicy."
        )
    if "probe" in needs and model is None:
        raise ArgumentError(
            "`model` must be given where weights are sharded (FSDP2): probes move shards, and "
            "what the model has gathered must be dropped; LandscapeLR(..., model=model)."
        )


Gradients = list[list[Tensor | None]]


def _named(gradients: Gradients) -> dict[str, Tensor]:
    return {
        f"{group}.{index}": value
        for group, several in enumerate(gradients)
        for index, value in enumerate(several)
        if value is not None
    }


def _unnamed(optimizer: torch.optim.Optimizer, kept: dict[str, Tensor]) -> Gradients:
    # A state may have been read on another device than that of the weights.
    return [
        [
            None
            if (saved := kept.get(f"{number}.{index}")) is None
            else saved.to(weight.device)
            for index, weight in enumerate(group["params"])
        ]
        for number, group in enumerate(optimizer.param_groups)
    ]


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
