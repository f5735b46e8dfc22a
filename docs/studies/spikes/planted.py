"""Trainings with one planted cause of a spike, and quiet ones, on two networks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.monitoring import SpikeRecorder, SpikeReport
from lossatlas.rng import generator
from lossatlas.training import Dataset, load_dataset

CAUSES = (
    "bad batch",
    "rate too high",
    "stale second moments",
    "number overflow",
    "wrong labels",
    "no warm-up",
)
NETWORKS = ("mlp", "transformer")
STEPS, BATCH = 320, 32
# Columns of the images that are dark until the planted step, where moments are to be stale.
DARK = slice(2, 6)


class Rows(nn.Module):
    """A transformer with pre-norm layers that reads the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(8, 32)
        self.place = nn.Parameter(0.02 * torch.randn(8, 32))
        block = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(32, 4, 64, **block) for _ in range(2))
        )
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images of 8 x 8.

        Args:
            images: shape (batch, 1, 8, 8).

        Returns:
            Shape (batch, 10).
        """
        hidden = self.blocks(self.input(images.squeeze(1)) + self.place)
        return self.head(hidden.mean(1))


def make_model(network: str, seed: int) -> nn.Module:
    """One of the two networks, with weights of a seed."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        if network == "transformer":
            return Rows()
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
            nn.Linear(32, 10),
        )  # fmt: skip


def plain_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy of every example."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def half_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The same with products in half precision."""
    with torch.autocast("cpu", dtype=torch.float16):
        return F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")


@dataclass(frozen=True)
class Plan:
    """What is planted, drawn from a seed: when, and how strong.

    Attributes:
        cause: one of `CAUSES`, or "quiet".
        network: one of `NETWORKS`.
        seed: of weights, batches and the plan.
    """

    cause: str
    network: str
    seed: int

    def drawn(self, low: float, high: float, *name: str) -> float:
        """A number between two, log-uniform, of this seed and name."""
        share = torch.rand((), generator=generator(self.seed, self.cause, *name)).item()
        return low * (high / low) ** share

    @property
    def at(self) -> int:
        """The step at which the cause is planted."""
        return int(self.drawn(200, 300, "when"))

    @property
    def optimizer(self) -> str:
        """SGD with momentum for half of the seeds; Adam where its moments are the cause."""
        if self.cause == "stale second moments":
            return "adamw"
        if self.cause == "no warm-up":
            return "adamw" if self.network == "mlp" else "sgd"
        return ("adamw", "sgd")[self.seed % 2]

    @property
    def beta2(self) -> float:
        """Decay of Adam's second moments."""
        stale = self.cause == "stale second moments" and self.network == "transformer"
        return 0.9999 if stale else 0.999

    @property
    def rate(self) -> float:
        """The learning rate of the training."""
        if self.cause == "no warm-up":
            # These hold with a warm-up of 64 updates.
            low, high = (0.18, 0.3) if self.network == "mlp" else (0.04, 0.06)
        elif self.cause == "stale second moments":
            low, high = (1.5e-2, 2.5e-2) if self.network == "mlp" else (4e-3, 8e-3)
        elif self.optimizer == "sgd":
            low, high = (0.03, 0.06) if self.network == "mlp" else (0.03, 0.05)
        else:
            low, high = 1e-3, 4e-3
        return self.drawn(low, high, "rate")


def make_optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """The optimizer of a plan."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=plan.rate, momentum=0.9)
    betas = (0.9, plan.beta2)
    return torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=betas)


def spoiled(plan: Plan, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The batch of a step with what is planted in it."""
    draw = generator(plan.seed, "spoil", step)
    if plan.cause == "stale second moments":
        low = 2.0 if plan.network == "mlp" else 4.0
        inputs[..., DARK] *= 0.0 if step < plan.at else plan.drawn(low, 2 * low, "strength")
    if step != plan.at:
        return inputs, targets
    if plan.cause == "bad batch":
        inputs = torch.randn(inputs.shape, generator=draw) * plan.drawn(5, 15, "strength")
    elif plan.cause == "number overflow":
        inputs = inputs * plan.drawn(1e5, 1e6, "strength")
    elif plan.cause == "wrong labels":
        moved = torch.rand(targets.shape, generator=draw) < plan.drawn(0.6, 1.0, "strength")
        shifted = (targets + 1 + torch.randint(9, targets.shape, generator=draw)) % 10
        targets = torch.where(moved, shifted, targets)
    return inputs, targets


def forget(optimizer: torch.optim.Optimizer, beta2: float) -> None:
    """Let Adam's moments be those of a long training: their bias is forgotten."""
    for state in optimizer.state.values():
        state["exp_avg_sq"] /= 1 - beta2 ** float(state["step"])
        state["step"] += 100_000


def darken(model: nn.Module) -> None:
    """Take away the weights of columns that are dark."""
    with torch.no_grad():
        if isinstance(model, Rows):
            model.input.weight[:, DARK] = 0
        else:
            model[1].weight.view(32, 8, 8)[:, :, DARK] = 0


def enlarge(model: nn.Module) -> None:
    """Double the initial weights: at first the loss is too sharp for the rate."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0 if weight.ndim > 1 else 1.0)


def run(plan: Plan, data: Dataset | None = None) -> SpikeReport | None:
    """A training with what is planted, up to its first report.

    Args:
        plan: what is planted.
        data: images of digits; loaded by default.

    Returns:
        The report, or None where no spike was noticed.
    """
    data = data or load_dataset("digits")
    model = make_model(plan.network, plan.seed)
    optimizer = make_optimizer(model, plan)
    loss = half_loss if plan.cause == "number overflow" else plain_loss
    stale = plan.cause == "stale second moments"
    if stale:
        darken(model)
    elif plan.cause == "no warm-up":
        enlarge(model)
    recorder = SpikeRecorder(model, optimizer, loss)
    draw = generator(plan.seed, "order")
    for step in range(STEPS):
        rows = torch.randint(len(data), (BATCH,), generator=draw)
        batch = spoiled(plan, step, data.inputs[rows].clone(), data.targets[rows].clone())
        if plan.cause == "rate too high" and step == plan.at:
            for group in optimizer.param_groups:
                group["lr"] *= plan.drawn(40, 100, "strength")
        if stale and step == 30:
            forget(optimizer, plan.beta2)
        optimizer.zero_grad()
        value = loss(model, batch).mean()
        value.backward()
        report = recorder.observe(value, batch)
        if report is not None or not math.isfinite(float(value.detach())):
            return report
        optimizer.step()
    return None
