"""All seeds and rates of one recipe in one training: weights of shape (members, numbers).

What moves the weights is written out here for many members at once; `run.py check` compares
each recipe with `run_recipe`, which trains one network with the classes of the library.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.cooldown import cooldown_factor
from lossatlas.guard import preserved_rng
from lossatlas.objective.modes import norm_layers
from lossatlas.recipes import TrainingSetup, parse_recipe
from lossatlas.recipes.recipe import Recipe
from lossatlas.rng import derive_seed
from lossatlas.steering import GrowthPolicy, Reading
from lossatlas.steering.scale_controller import ScaleController
from lossatlas.training import build_model
from lossatlas.training.criteria import CRITERIA, as_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.members import member_losses
from lossatlas.training.plan import Plan
from lossatlas.training.seeding import reseed

# Averages that are kept: gamma of each.
BANK = (0.0, 4.0, 16.0, 64.0)
BETA, BRAKE = 0.9, 25
# Examples whose statistics BatchNorm layers get, as in `run_recipe`.
REESTIMATED, PIECE = 1000, 250
Scores = dict[str, Tensor]


class Network:
    """The architecture of a setup, with the weights of all members in one tensor.

    Args:
        setup: data and model.
        seeds: of the members' starts.
    """

    def __init__(self, setup: TrainingSetup, seeds: Sequence[int]) -> None:
        self.setup = setup
        starts = {
            s: build_model(setup.model, setup.train, seed=s) for s in dict.fromkeys(seeds)
        }
        self.model = next(iter(starts.values()))
        named = {s: dict(m.named_parameters()) for s, m in starts.items()}
        self.shapes = {n: p.shape for n, p in self.model.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        flat = {
            s: torch.cat([p.detach().flatten() for p in w.values()]) for s, w in named.items()
        }
        self.start = torch.stack([flat[s] for s in seeds])
        self.buffers = {
            n: b.detach().expand(len(seeds), *b.shape).clone()
            for n, b in self.model.named_buffers()
        }
        self.norms = [n for n in norm_layers(self.model) if n.track_running_stats]
        self._losses = member_losses(self.model, as_loss(None, setup.train.task), shared=False)

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """The weights of all members by name."""
        parts = torch.split(weights, self.sizes, 1)
        return {
            n: p.view(len(weights), *s)
            for (n, s), p in zip(self.shapes.items(), parts, strict=True)
        }

    def losses(self, weights: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of each member on its batch."""
        return self._losses(self.named(weights), self.buffers, batch)

    def measure(self, weights: Tensor, data: Dataset, buffers: dict[str, Tensor]) -> Tensor:
        """Mean loss and accuracy of each member, shape (members, 2)."""
        whole = data.task != "regression"
        loss = CRITERIA["cross_entropy" if whole else "mse"]

        def one(
            named: dict[str, Tensor], kept: dict[str, Tensor], x: Tensor, y: Tensor
        ) -> Tensor:
            output = torch.func.functional_call(self.model, named | kept, (x,))
            right = (
                1 - CRITERIA["error"](output, y) if whole else torch.full((len(x),), math.nan)
            )
            return torch.stack([loss(output, y), right]).sum(1)

        every = torch.func.vmap(one, in_dims=(0, 0, None, None))
        was, total = self.model.training, torch.zeros(len(weights), 2, dtype=torch.float64)
        self.model.eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for x, y in data.batches(200):
                total += every(self.named(weights), buffers, x, y)
        self.model.train(was)
        return total / len(data)

    def reestimated(self, weights: Tensor) -> dict[str, Tensor]:
        """Statistics of norm layers at other weights: means over pieces of training data."""
        if not self.norms:
            return self.buffers
        fresh = {
            n: torch.ones_like(b) if n.endswith("var") else torch.zeros_like(b)
            for n, b in self.buffers.items()
        }
        forward = torch.func.vmap(
            lambda named, kept, x: torch.func.functional_call(self.model, named | kept, (x,)),
            in_dims=(0, 0, None),
        )
        momenta = [layer.momentum for layer in self.norms]
        data = self.setup.train.take(min(len(self.setup.train), REESTIMATED))
        with torch.no_grad():
            for count, (x, _) in enumerate(data.batches(PIECE), start=1):
                for layer in self.norms:
                    layer.momentum = 1 / count
                forward(self.named(weights), fresh, x)
        for layer, momentum in zip(self.norms, momenta, strict=True):
            layer.momentum = momentum
        return fresh


@dataclass
class Adam:
    """AdamW, as in torch."""

    decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    count: int = 0
    mean: Any = 0.0
    square: Any = 0.0

    def step(self, weights: Tensor, grad: Tensor, lr: Tensor) -> Tensor:
        """The new weights."""
        self.count += 1
        first, second = self.betas
        self.mean = grad if not first else self.mean * first + grad * (1 - first)
        self.square = self.square * second + grad.square() * (1 - second)
        root = (self.square / (1 - second**self.count)).sqrt_().add_(1e-8)
        moved = torch.addcdiv(weights * (1 - lr * self.decay), -lr * self.mean, root)
        if first:
            step = -lr / (1 - first**self.count)
            moved = weights * (1 - lr * self.decay) + step * self.mean / root
        return moved


@dataclass
class ScheduleFree:
    """ScheduleFreeAdamW of pytorch_optimizer: the weights are where gradients are taken."""

    decay: float
    warmup: int
    betas: tuple[float, float] = (0.9, 0.999)
    count: int = 0
    z: Any = None
    square: Any = 0.0
    total: float = 0.0

    def step(self, weights: Tensor, grad: Tensor, lr: Tensor) -> Tensor:
        """The new weights."""
        self.z = weights.clone() if self.z is None else self.z
        self.count += 1
        first, second = self.betas
        share = min(self.count / self.warmup, 1.0)
        self.total += share**2
        mix, rate = share**2 / self.total, lr * share
        self.square = self.square * second + grad.square() * (1 - second)
        root = (self.square / (1 - second**self.count) + 1e-15).sqrt_().add_(1e-8)
        step = grad / root + self.decay * weights
        moved = torch.lerp(weights, self.z, mix) + rate * (first * (1 - mix) - 1) * step
        self.z = self.z - rate * step
        return moved

    def average(self, weights: Tensor) -> Tensor:
        """What is evaluated."""
        return torch.lerp(weights, self.z, 1 - 1 / self.betas[0])


@dataclass
class Prodigy:
    """Prodigy of pytorch_optimizer: its own rate for each member."""

    decay: float
    d: Any = None
    largest: Any = None
    start: Any = None
    s: Any = 0.0
    mean: Any = 0.0
    square: Any = 0.0
    numerator: Any = 0.0

    def step(self, weights: Tensor, grad: Tensor, lr: Tensor) -> Tensor:
        """The new weights."""
        if self.start is None:
            self.start = weights.clone()
            self.d = self.largest = torch.full_like(lr, 1e-6)
        d, d0, keep = self.d, 1e-6, math.sqrt(0.999)
        rate = d * lr
        inner = (grad * (self.start - weights)).sum(1, keepdim=True)
        self.numerator = self.numerator * keep + d / d0 * rate * inner
        self.mean = self.mean * 0.9 + d * 0.1 * grad
        self.square = self.square * 0.999 + d * d * 0.001 * grad.square()
        self.s = self.s * keep + d / d0 * rate * grad
        found = self.numerator / self.s.abs().sum(1, keepdim=True)
        d = torch.where(d == d0, torch.maximum(d, found), d)
        self.largest = torch.maximum(self.largest, found)
        self.d = self.largest
        return weights * (1 - rate * self.decay) - rate * self.mean / (
            self.square.sqrt() + self.d * 1e-8
        )


class Growth:
    """A `GrowthPolicy` for each member, with the distances that it goes by.

    Args:
        network: whose weights are followed.
        rates: base rate of each member, shape (members, 1).
        momentum: of the optimizer.
    """

    def __init__(self, network: Network, rates: Tensor, momentum: float) -> None:
        self.policy, self.momentum = GrowthPolicy(), momentum
        members = len(rates)
        self.controllers = [
            ScaleController(self.policy, 0.0, math.inf, 1, dry_run=False)
            for _ in range(members)
        ]
        places, shares, begin = [], [], 0
        for size in network.sizes:
            spacing = max(size // 512, 1) | 1
            part = torch.arange(0, size, spacing)
            places.append(begin + part)
            shares.append(torch.full((len(part),), size / len(part)))
            begin += size
        self.places, self.shares = torch.cat(places), torch.cat(shares)
        self.scales = torch.ones_like(rates)
        self.far, self.squares = torch.zeros(members), torch.zeros(members, dtype=torch.float64)
        self.losses: list[Tensor] = []
        self.valid: Tensor | None = None
        self._open(network.start, rates)

    def _open(self, weights: Tensor, rates: Tensor) -> None:
        self.begin = self.last = weights[:, self.places].float()
        sizes = weights.double().square().sum(1).sqrt().tolist()
        lengths = (rates[:, 0].double() * math.sqrt(weights.shape[1])).tolist()
        for own, size, length in zip(self.controllers, sizes, lengths, strict=True):
            own.update(
                Reading(
                    0, size=size, step_length=length, momentum=self.momentum, normalized=True
                ),
                [1.0],
            )
        self._set()

    def track(self, weights: Tensor) -> None:
        """Take the update that was just made in."""
        present = weights[:, self.places].float()
        steps = ((present - self.last).square() * self.shares).sum(1)
        far = ((present - self.begin).square() * self.shares).sum(1)
        self.far = torch.maximum(self.far, far)
        self.squares += (steps / self.scales[:, 0] ** 2).double()
        self.last = present

    def step(self, count: int, losses: Tensor, valid: Tensor | None) -> None:
        """Decide where it is time."""
        self.losses.append(losses.double())
        self.valid = self.valid if valid is None else valid
        if count % self.policy.every:
            return
        seen = torch.stack(self.losses)
        means, errors = seen.mean(0).tolist(), (seen.std(0) / math.sqrt(len(seen))).tolist()
        far, walks = self.far.double().sqrt().tolist(), self.squares.sqrt().tolist()
        for index, own in enumerate(self.controllers):
            if not math.isfinite(means[index]) or not math.isfinite(far[index]):
                continue
            extra = {} if self.valid is None else {"valid_loss": float(self.valid[index])}
            own.update(
                Reading(
                    count,
                    scale=tuple(own.proposed),
                    distance=far[index],
                    step_length=walks[index],
                    momentum=self.momentum,
                    normalized=True,
                    train_loss=means[index],
                    train_error=errors[index],
                    train_count=len(seen),
                    **extra,
                ),
                [1.0],
            )
        self.losses, self.valid = [], None
        self._set()

    def _set(self) -> None:
        self.scales = torch.tensor([[c.scales[0]] for c in self.controllers]).to(self.scales)


@dataclass
class Training:
    """One recipe for all members.

    Attributes:
        setup: data and model.
        recipe: as for `parse_recipe`.
        rates: base rate of each member.
        seeds: of each member.
    """

    setup: TrainingSetup
    recipe: str
    rates: Sequence[float]
    seeds: Sequence[int]
    network: Network = field(init=False)
    averages: dict[float, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.parsed: Recipe = parse_recipe(self.recipe)
        self.network = Network(self.setup, self.seeds)
        self.weights = self.network.start.clone()
        self.lr = torch.tensor(self.rates).to(self.weights)[:, None]
        self.averages = {g: self.weights.clone() for g in BANK}
        self.own = self.weights
        interpolated = self.parsed.has("interpolated")
        self.towards = self.parsed.setting("interpolated", 16.0) if interpolated else None
        momentum = 0.0 if interpolated else 0.9
        decay = self.setup.decay
        self.rule: Any = Adam(decay, (momentum, 0.999))
        if self.parsed.optimizer == "schedulefree":
            self.rule = ScheduleFree(decay, self.setup.warmup)
        elif self.parsed.optimizer == "prodigy":
            self.rule = Prodigy(decay)
        grows = self.parsed.controller == "growth"
        self.growth = Growth(self.network, self.lr, momentum) if grows else None
        self.alive = torch.ones(len(self.seeds), dtype=torch.bool)

    def run(self, horizons: Sequence[int], *, test: bool = True) -> dict[int, Scores]:
        """Train, and measure at each horizon: weights -> shape (members, valid/test, 2)."""
        found, total = {}, horizons[-1]
        self.network.model.train()
        with preserved_rng():
            for step, batch in enumerate(self._batches(total)):
                self._update(step, total, batch)
                if step + 1 in horizons:
                    found[step + 1] = self._read(test=test)
        return found

    def _batches(self, total: int) -> Iterator[tuple[Tensor, Tensor]]:
        plan = Plan(self.setup.train, self.setup.batch_size)
        unique = list(dict.fromkeys(self.seeds))
        place = torch.tensor([unique.index(s) for s in self.seeds])
        for step, (inputs, targets) in enumerate(plan.walk_each(unique, total)):
            changed = inputs
            if self.setup.augment is not None:
                rows = []
                for seed, row in zip(unique, inputs, strict=True):
                    reseed(derive_seed(seed, "step", step))
                    rows.append(self.setup.augment(row))
                changed = torch.stack(rows)
            yield changed[place], targets[place]

    def _update(self, step: int, total: int, batch: tuple[Tensor, Tensor]) -> None:
        leaf = self.weights.detach().requires_grad_()
        losses = self.network.losses(leaf, batch)
        (grad,) = torch.autograd.grad(losses.sum(), [leaf])
        losses = losses.detach()
        self.alive &= losses.isfinite()
        with torch.no_grad():
            lr = self.lr * (
                self._share(step, total) if self.growth is None else self.growth.scales
            )
            before = self.own if self.towards is not None else self.weights
            after = self.rule.step(before, grad, lr)
            if self.parsed.has("cautious"):
                after = self._masked(before, after, grad)
            if self.growth is not None:
                self.growth.track(after)
            valid = self._validation(step + 1) if self.parsed.has("brake") else None
            if self.growth is not None:
                self.growth.step(step + 1, losses, valid)
            for gamma, mean in self.averages.items():
                mean.lerp_(after, (gamma + 1) / (step + 1 + gamma))
            self.own = self.weights = after
            if self.towards is not None:
                self.weights = torch.lerp(after, self.averages[self.towards], BETA)

    def _masked(self, before: Tensor, after: Tensor, grad: Tensor) -> Tensor:
        step = after - before
        mask = (step * grad < 0).to(step)
        parts = torch.split(mask, self.network.sizes, 1)
        shares = [p.mean(1, keepdim=True).clamp_min(1e-3).expand_as(p) for p in parts]
        return before + step * mask / torch.cat(shares, 1)

    def _share(self, step: int, total: int) -> float:
        if self.parsed.optimizer in {"schedulefree", "prodigy"}:
            return 1.0
        warmup, schedule = self.setup.warmup, self.parsed.needs_horizon
        if step < warmup:
            return (step + 1) / warmup
        if schedule in {"cosine", "linear"}:
            return cooldown_factor(schedule, (step - warmup) / max(total - warmup, 1))
        if schedule == "wsd":
            cooled = round(0.2 * total)
            return cooldown_factor("sqrt", (step - (total - cooled)) / cooled)
        return 1.0

    def _validation(self, count: int) -> Tensor | None:
        if count % BRAKE:
            return None
        mean = self.averages[16.0]
        data = self.setup.valid.take(min(len(self.setup.valid), 500))
        return self.network.measure(mean, data, self.network.reestimated(mean))[:, 0]

    def _read(self, *, test: bool) -> Scores:
        if self.parsed.optimizer == "schedulefree":
            read = {"raw": self.rule.average(self.weights)}
        elif self.parsed.needs_horizon:
            read = {"raw": self.weights}
        else:
            # The mean of all is of use only where gradients are taken towards it.
            read = {
                f"{g:g}": mean
                for g, mean in self.averages.items()
                if g or self.towards is not None
            }
        found = {}
        for name, weights in read.items():
            plain = name == "raw" and self.parsed.optimizer != "schedulefree"
            buffers = self.network.buffers if plain else self.network.reestimated(weights)
            parts = [self.setup.valid, *([self.setup.test] if test else [])]
            measured = [self.network.measure(weights, data, buffers) for data in parts]
            found[name] = torch.stack(measured, 1)
            lost = ~(self.alive & weights.isfinite().all(1))
            chance = math.nan if self.setup.train.task == "regression" else None
            outputs = self.setup.train.outputs
            found[name][lost] = torch.tensor(
                [math.inf, 1 / outputs if chance is None else chance], dtype=torch.float64
            )
        return found
