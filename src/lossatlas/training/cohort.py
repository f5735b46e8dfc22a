"""Networks trained together: stacked weights, and one pass per step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.rng import derive_seed
from lossatlas.training.criteria import Loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.members import Losses, is_dense, member_losses
from lossatlas.training.plan import Plan, copied
from lossatlas.training.rules import Rule, per_member
from lossatlas.training.seeding import reseed


@dataclass(frozen=True)
class CohortRun:
    """Result of training a cohort.

    Attributes:
        losses: float64, shape (updates, members), on the CPU.
        states: parameters and buffers at the end, shape (members, ...).
        kept: number of updates -> parameters and buffers then.
        diverged_at: int64, shape (members,), on the CPU; -1 for members that stayed finite.
    """

    losses: Tensor
    states: dict[str, Tensor]
    kept: dict[int, dict[str, Tensor]]
    diverged_at: Tensor

    @classmethod
    def join(cls, runs: Sequence["CohortRun"]) -> "CohortRun":
        """All members of several cohorts, in order."""
        if len(runs) == 1:
            return runs[0]
        return cls(
            torch.cat([run.losses for run in runs], 1),
            _joined([run.states for run in runs]),
            {step: _joined([run.kept[step] for run in runs]) for step in runs[0].kept},
            torch.cat([run.diverged_at for run in runs]),
        )


@dataclass(frozen=True)
class Cohort:
    """A cohort of members before training.

    Attributes:
        model: the architecture, in training mode.
        weights: trainable parameters, shape (members, ...).
        buffers: shape (members, ...).
        seeds: seed of each member's data order.
        rates: learning rates, shape (updates, members).
    """

    model: nn.Module
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]
    seeds: Sequence[int]
    rates: Tensor

    @classmethod
    def start(
        cls, model: nn.Module, initial: Sequence[Params], seeds: Sequence[int], rates: Tensor
    ) -> "Cohort":
        """Stack the members."""
        like = {name: p for name, p in model.named_parameters() if p.requires_grad}
        weights = {
            name: torch.stack([start[name].detach() for start in initial]).to(p)
            for name, p in like.items()
        }
        if is_dense(model):
            # Gradients of batched products come transposed; weights that lie alike add faster.
            weights = {
                n: w.mT.contiguous().mT if w.ndim == 3 else w for n, w in weights.items()
            }
        leaves = {name: value.requires_grad_() for name, value in weights.items()}
        buffers = {
            name: value.detach().expand(len(initial), *value.shape).clone()
            for name, value in model.named_buffers()
        }
        return cls(model, leaves, buffers, seeds, rates.to(next(iter(like.values()))))

    def run(self, plan: Plan, loss: Loss, rule: Rule, keeping: Sequence[int]) -> CohortRun:
        """Train all members."""
        shared = not isinstance(plan.data, Dataset) or len(set(self.seeds)) == 1
        losses_of = member_losses(self.model, loss, shared=shared)
        health = Health(len(self.seeds), self.rates.device)
        losses: list[Tensor] = []
        kept = {0: self._state()} if 0 in keeping else {}
        for step, batch in enumerate(self._batches(plan, shared=shared)):
            reseed(derive_seed("ensemble", step, *self.seeds), self.rates.device)
            losses.append(self._update(step, batch, losses_of, rule, health))
            if step + 1 in keeping:
                kept[step + 1] = self._state()
        health.record(len(losses), _finite_members(self.weights))
        return CohortRun(
            torch.stack(losses).double().cpu(), self._state(), kept, health.diverged_at.cpu()
        )

    def _batches(self, plan: Plan, *, shared: bool) -> Iterator[Batch]:
        steps = len(self.rates)
        if shared:
            return plan.walk(self.seeds[0], 0, steps)
        return plan.walk_each(self.seeds, steps)

    def _update(
        self, step: int, batch: Batch, losses_of: Losses, rule: Rule, health: "Health"
    ) -> Tensor:
        alive = health.alive
        # Only where a member has diverged is there anything to put back after the step.
        buffers = None if alive is None else copied(self.buffers)
        with torch.enable_grad():
            losses = losses_of(self.weights, self.buffers, batch)
            leaves = list(self.weights.values())
            # One member's loss does not depend on another's weights: the gradient of the sum
            # holds the gradient of each.
            gradients = torch.autograd.grad(
                losses.sum(), leaves, allow_unused=True, materialize_grads=True
            )
        with torch.no_grad():
            batch_losses = losses.detach()
            health.record(step, batch_losses.isfinite())
            weights = None if health.alive is None else copied(self.weights)
            rule.step(leaves, gradients, self.rates[step])
            _put_back(self.weights, weights, health.alive)
            _put_back(self.buffers, buffers, alive)
            return (
                batch_losses if alive is None else torch.where(alive, batch_losses, torch.nan)
            )

    def _state(self) -> dict[str, Tensor]:
        return copied(self.weights | self.buffers)


class Health:
    """Tracks which members are finite, and when others diverged.

    Args:
        members: number of members.
        device: device of their losses.
    """

    def __init__(self, members: int, device: torch.device) -> None:
        self.diverged_at = torch.full((members,), -1, device=device)
        self.alive: Tensor | None = None

    def record(self, step: int, finite: Tensor) -> None:
        """Record members that are not finite for the first time."""
        if bool(finite.all()):
            return
        self.diverged_at[(self.diverged_at < 0) & ~finite] = step
        self.alive = self.diverged_at < 0


def _put_back(
    now: dict[str, Tensor], before: dict[str, Tensor] | None, alive: Tensor | None
) -> None:
    if before is None or alive is None:
        return
    for name, value in now.items():
        value.copy_(torch.where(per_member(alive, value), value, before[name]))


def _finite_members(weights: Params) -> Tensor:
    each = [value.detach().flatten(1).isfinite().all(1) for value in weights.values()]
    return torch.stack(each).all(0)


def _joined(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}
