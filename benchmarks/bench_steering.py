"""What steering costs a training step: the controller, its rival, and penalties."""

import itertools
from collections.abc import Callable
from typing import Any

import harness
import torch
from harness import Row, Timing
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.objective import supervised
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.optimizers import TopoAdamW
from lossatlas.steering.penalties import SASPCrossEntropy, sasp_penalty
from lossatlas.steering.policies import GrowthPolicy
from lossatlas.steering.polynomial_average import PolynomialAverage
from lossatlas.steering.probe import sub_batch

# One probe falls into every block of 50 steps, as by default.
_STEPS = 10 if harness.QUICK else 50
_BATCH = 16 if harness.QUICK else 128
_PLAIN = "AdamW"


def rows() -> list[Row]:
    """CPU time on one thread, medians of interleaved rounds.

    Returns:
        One row a comparison.
    """
    return [*_controllers(), *_penalties()]


def _controllers() -> list[Row]:
    jobs = {
        _PLAIN: _steps(_adamw),
        "TopoAdamW": _steps(_drop_in),
        "LandscapeLR": _steps(_controller),
        "GrowthPolicy and PolynomialAverage": _steps(_climbing),
    }
    if harness.installed("topoadamw"):
        jobs["topoadamw 0.1.0"] = _steps(_original)
    times = harness.interleaved(jobs, rounds=3 if harness.QUICK else 5)
    what = f"training step, CNN 3-16-32 with BatchNorm, batch {_BATCH}, 1 probe in {_STEPS}"
    peer = "topoadamw 0.1.0"
    theirs = _share(times, peer)
    note = "" if theirs else "; topoadamw is not installed"
    return [
        Row(
            f"{what}: {name}",
            peer,
            _share(times, name),
            theirs,
            "AdamW steps",
            goal,
            f"least of each {_least(times, name):.2f}{note}",
        )
        for name, goal in (
            ("TopoAdamW", "<= 1.05 AdamW"),
            ("LandscapeLR", "<= 1.05 AdamW"),
            ("GrowthPolicy and PolynomialAverage", ""),
        )
    ]


def _penalties() -> list[Row]:
    found = []
    # Small steps need more rounds, large ones more seconds.
    for widths, goal, rounds in (
        ((784, 512, 512, 10), "<= 1.03 plain", 9),
        ((20, 64, 64, 10), "<= 1.15 plain", 21),
    ):
        jobs = {
            "plain": _mlp_steps(widths, _cross_entropy),
            "sasp": _mlp_steps(widths, _fused()),
            "sasp, every=8": _mlp_steps(widths, _fused(every=8)),
            "sasp, not fused": _mlp_steps(widths, _apart),
        }
        if harness.installed("toploss"):
            jobs["toploss 0.1.0"] = _mlp_steps(widths, _toploss())
        if harness.installed("pytorch_optimizer"):
            jobs["SAM"] = _mlp_steps(widths, _cross_entropy, sam=True)
        times = harness.interleaved(jobs, rounds=3 if harness.QUICK else rounds)
        net = "-".join(map(str, widths))
        shares = {name: _share(times, name, "plain") for name in jobs}
        found.append(
            Row(
                f"training step with SASP, MLP {net}, batch {_BATCH}",
                "toploss 0.1.0",
                shares["sasp"],
                shares.get("toploss 0.1.0"),
                "plain steps",
                goal,
                f"least of each {_least(times, 'sasp', 'plain'):.2f}; "
                f"every=8 {shares['sasp, every=8']:.2f}; "
                f"not fused {shares['sasp, not fused']:.2f}{_beside(shares)}",
            )
        )
    return found


def _beside(shares: dict[str, float | None]) -> str:
    sam = shares.get("SAM")
    return "; SAM not installed" if sam is None else f"; SAM of pytorch_optimizer {sam:.2f}"


def _share(times: dict[str, Timing], name: str, plain: str = _PLAIN) -> float | None:
    return times[name].median / times[plain].median if name in times else None


def _least(times: dict[str, Timing], name: str, plain: str = _PLAIN) -> float:
    return times[name].minimum / times[plain].minimum


# Controllers

Step = Callable[[Tensor, Tensor], Any]


def _steps(make: Callable[[nn.Module], Step]) -> Callable[[], None]:
    drawn = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = _cnn()
    step = make(model)
    x = torch.randn(_BATCH, 3, 32, 32, generator=drawn)
    y = torch.randint(0, 10, (_BATCH,), generator=drawn)

    def run() -> None:
        for _ in range(_STEPS):
            step(x, y)

    return run


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2048, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _backward(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


def _adamw(model: nn.Module) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(x: Tensor, y: Tensor) -> None:
        _backward(model, optimizer, x, y)
        optimizer.step()

    return step


def _drop_in(model: nn.Module) -> Step:
    optimizer = TopoAdamW(model.parameters(), model, lr=1e-4, warmup_steps=0, interval=_STEPS)

    def step(x: Tensor, y: Tensor) -> None:
        _backward(model, optimizer, x, y)
        optimizer.step(data=x, target=y, criterion=F.cross_entropy)

    return step


def _controller(model: nn.Module) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    controller = LandscapeLR(optimizer, interval=_STEPS, warmup=0)
    loss = supervised(F.cross_entropy)

    def step(x: Tensor, y: Tensor) -> None:
        _backward(model, optimizer, x, y)
        optimizer.step()
        controller.step(sub_batch(model, loss, (x, y)))

    return step


def _climbing(model: nn.Module) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    controller = LandscapeLR(optimizer, GrowthPolicy())
    average = PolynomialAverage(model, gamma=16)

    def step(x: Tensor, y: Tensor) -> None:
        loss = _backward(model, optimizer, x, y)
        optimizer.step()
        controller.step(loss=loss)
        average.update()

    return step


def _original(model: nn.Module) -> Step:
    from topoadamw import TopoAdamW as Original

    optimizer = Original(model.parameters(), model, lr=1e-4, warmup_steps=0, interval=_STEPS)

    def step(x: Tensor, y: Tensor) -> None:
        _backward(model, optimizer, x, y)
        optimizer.step(data=x, target=y, criterion=F.cross_entropy)

    return step


# Penalties

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _mlp_steps(widths: tuple[int, ...], loss: Loss, *, sam: bool = False) -> Callable[[], None]:
    drawn = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    body, head = nn.Sequential(*layers), nn.Linear(*widths[-2:])
    weights = [*body.parameters(), *head.parameters()]
    optimizer = _ascending(weights) if sam else _descending(weights)
    x = torch.randn(_BATCH, widths[0], generator=drawn)
    y = torch.randint(0, widths[-1], (_BATCH,), generator=drawn)

    def backward() -> None:
        features = body(x)
        loss(head(features), features, y).backward()

    def run() -> None:
        for _ in range(2 * _STEPS):
            optimizer.zero_grad()
            backward()
            if sam:
                optimizer.first_step(zero_grad=True)
                backward()
                optimizer.second_step()
            else:
                optimizer.step()

    return run


def _descending(weights: list[nn.Parameter]) -> Any:
    return torch.optim.SGD(weights, lr=1e-6, momentum=0.9)


def _ascending(weights: list[nn.Parameter]) -> Any:
    from pytorch_optimizer import SAM

    return SAM(weights, base_optimizer=torch.optim.SGD, lr=1e-6, momentum=0.9)


def _cross_entropy(logits: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets)


def _fused(every: int = 1) -> Loss:
    return SASPCrossEntropy(1e-2, every=every)


def _apart(logits: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets) + 1e-2 * sasp_penalty(logits, features, targets)


def _toploss() -> Loss:
    from toploss import SASPLoss

    penalty = SASPLoss(1e-2)
    return lambda logits, features, targets: (
        F.cross_entropy(logits, targets) + penalty(logits, features, targets)
    )


if __name__ == "__main__":
    for row in rows():
        print(row)
