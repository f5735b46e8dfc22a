"""What self-checks cost: gradients of one batch before a spectrum, and a share of a survey.

`python benchmarks/bench_selfcheck.py` prints the table of docs/guide/checks.md.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import harness
import torch
from harness import Row
from torch import Tensor, nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature.selfcheck import ensure_curvature
from lossatlas.objective.reach import check_reach

_ROUNDS = 3 if harness.QUICK else 9
_BATCH = 64 if harness.QUICK else 256
_GOAL, _SHARE = 8.0, 3.0


@dataclass(frozen=True)
class Problem:
    """A network with its batches, which can be cut or not."""

    name: str
    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    whole: bool = False

    def objective(self, *, check: bool = True) -> la.Objective:
        size = len(self.batches[0][0])

        def uncut(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            if len(batch[0]) != size:
                raise ValueError("a part of a batch")
            return F.cross_entropy(model(batch[0]), batch[1])

        loss = uncut if self.whole else la.supervised(F.cross_entropy)
        return la.Objective(self.model, loss, self.batches, check=check)


class Convolutional(nn.Module):
    """Convolutions, batch norm, ReLU and pooling."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 16), (16, 32), (32, 32))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())
                for i, o in sizes
            )
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.layers(x.view(-1, 1, 16, 16)), 2).mean((2, 3)))


class Transformer(nn.Module):
    """Two layers of attention over 16 places."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(16, 64), nn.Linear(64, 10)
        layer = nn.TransformerEncoderLayer(
            64, 4, 128, activation="gelu", batch_first=True, dropout=0.0
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.lift(x.view(-1, 16, 16))).mean(1))


def subjects() -> Iterator[Problem]:
    """Networks of three kinds, on batches that can be cut and that cannot.

    Yields:
        Each.
    """
    makers: dict[str, Callable[[], nn.Module]] = {
        "MLP, tanh": lambda: nn.Sequential(nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 10)),
        "MLP, ReLU": lambda: nn.Sequential(
            nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "convolutional, ReLU": Convolutional,
        "transformer, GELU": Transformer,
    }
    for name, make in makers.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            batches = [
                (torch.randn(_BATCH, 256), torch.randint(0, 10, (_BATCH,))) for _ in range(4)
            ]
            model = make()
        yield Problem(name, model, batches)
        yield Problem(f"{name}, uncuttable", model, batches, whole=True)


def seconds(call: Callable[[], object]) -> float:
    """CPU time of one call.

    Args:
        call: what is timed.

    Returns:
        Seconds.
    """
    begin = time.process_time()
    call()
    return time.process_time() - begin


def cost(subject: Problem) -> tuple[float, float]:
    """The checks in gradients of one batch: at construction, and before a spectrum.

    Args:
        subject: which network.

    Returns:
        Medians over rounds.
    """
    alone = subject.objective(check=False).part(subject.batches[:1])
    reach, later = [], []
    alone.gradient()
    for _ in range(_ROUNDS):
        unit = statistics.median(seconds(alone.gradient) for _ in range(5))
        fresh = subject.objective()
        fresh.few = None
        reach.append(seconds(lambda of=fresh: check_reach(of)) / unit)
        fresh = subject.objective()
        later.append(seconds(lambda of=fresh: ensure_curvature(of, "hessian")) / unit)
    return statistics.median(reach), statistics.median(later)


def share(subject: Problem) -> float:
    """The share of a survey with curvature that the checks take, in percent.

    Args:
        subject: which network.

    Returns:
        Percent of its CPU time.
    """
    objective = subject.objective()
    objective.few = None
    checks = seconds(lambda: check_reach(objective))
    checks += seconds(lambda: ensure_curvature(objective, "hessian"))
    whole = seconds(lambda: la.survey(subject.objective(), curvature=True, points=21))
    return 100 * checks / whole


def rows() -> list[Row]:
    """One row a network.

    Returns:
        Gradients of one batch that the checks cost.
    """
    found = []
    for subject in subjects():
        reach, later = cost(subject)
        found.append(
            Row(
                f"self-checks of a {subject.name}",
                "",
                reach + later,
                None,
                "gradients of one batch",
                f"<= {_GOAL:g}",
                f"{reach:.1f} of them at construction",
            )
        )
    return found


def main() -> None:
    """Print the table."""
    sys.stdout.write(
        "| network | construction | before a spectrum | together | share of a survey |\n"
        "|---|---|---|---|---|\n"
    )
    for subject in subjects():
        reach, later = cost(subject)
        counts = f"{reach:.1f} | {later:.1f} | {reach + later:.1f}"
        part = "" if subject.whole else f"{share(subject):.1f} %"
        sys.stdout.write(f"| {subject.name} | {counts} | {part} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
