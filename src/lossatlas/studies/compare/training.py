"""One training of a recipe with all that it leaves: scores, losses, rates, decisions, cost."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.objective import Batch, Objective, supervised
from lossatlas.steering.averaging import PolynomialAverage
from lossatlas.steering.log import DecisionRecord
from lossatlas.studies.compare.problem import Problem
from lossatlas.studies.compare.recipe import parse_recipe
from lossatlas.studies.compare.session import Session
from lossatlas.studies.compare.trial import averaged_weights
from lossatlas.training import StepInfo, build_model, train
from lossatlas.training.criteria import CRITERIA
from lossatlas.training.dataset import Dataset

Array = NDArray[np.float64]
Weights = dict[str, Tensor]
# What is read at the end: the weights as they are, and their power-law average.
WEIGHTS = ("raw", "average")
SCORES = ("valid loss", "valid accuracy", "test loss", "test accuracy")


@dataclass(frozen=True)
class Training:
    """What one training gave.

    Attributes:
        recipe: its name.
        lr: base rate.
        seed: of weights, order and dropout.
        losses: of each batch before its update.
        rates: of the first group at each update.
        scores: of each of `WEIGHTS`, name of `SCORES` -> (value, standard error over the
            examples); NaN where there is none. A training that diverged has the accuracy of
            chance and an infinite loss.
        seconds: CPU seconds of training, measuring at the end left out.
        steering: how many of them the controller took.
        diverged_at: the update at which loss or weights were no longer finite, or None.
        decisions: of the controller.
    """

    recipe: str
    lr: float
    seed: int
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    scores: Mapping[str, Mapping[str, tuple[float, float]]]
    seconds: float
    steering: float
    diverged_at: int | None
    decisions: tuple[DecisionRecord, ...]

    def to_array(self) -> Array:
        """The training as one row of numbers, for ledgers and processes.

        Returns:
            float64, shape (1, n).
        """
        plain = asdict(self) | {"decisions": [record.to_dict() for record in self.decisions]}
        text = json.dumps(plain)
        # Eight characters of plain text are the bits of one finite number.
        padded = text + " " * (-len(text) % 8)
        return np.frombuffer(padded.encode("ascii"), dtype=np.float64)[None].copy()

    @classmethod
    def from_array(cls, row: Array) -> "Training":
        """The inverse of `to_array`.

        Args:
            row: what it gave.

        Returns:
            An equal training.
        """
        plain = json.loads(np.ascontiguousarray(row).tobytes().decode("ascii"))
        scores = {
            weights: {name: tuple(pair) for name, pair in table.items()}
            for weights, table in plain["scores"].items()
        }
        made = {
            "losses": tuple(plain["losses"]),
            "rates": tuple(plain["rates"]),
            "scores": scores,
            "decisions": tuple(
                DecisionRecord.from_dict(record) for record in plain["decisions"]
            ),
        }
        return cls(**(plain | made))


def run_training(
    problem: Problem,
    recipe: str,
    lr: float,
    seed: int,
    steps: int,
    *,
    device: str = "cpu",
    keep: dict[str, Weights] | None = None,
) -> Training:
    """Train once and measure what came of it.

    Args:
        problem: data and model.
        recipe: as for `parse_recipe`.
        lr: base rate.
        seed: of weights, order and dropout.
        steps: updates.
        device: where. Default "cpu".
        keep: filled with the state of the model for each of `WEIGHTS`.

    Returns:
        The training.
    """
    torch.set_num_threads(1)
    parsed = parse_recipe(recipe)
    model = build_model(problem.model, problem.train, seed=seed).to(device)
    average = PolynomialAverage(model.parameters())
    session = Session(problem, parsed, model, steps, {"average": average})
    ended: dict[str, Any] = {}

    def after(tick: StepInfo) -> None:
        session.after(tick)
        if tick.step == steps:
            with session.paused():
                ended.update(_scores(session, tick.optimizer, keep))

    run = train(
        model,
        problem.train,
        session.loss,
        steps=steps,
        optimizer=lambda weights: session.start(weights, lr),
        batch_size=problem.batch_size,
        seed=seed,
        callback=after,
    )
    return Training(
        recipe,
        lr,
        seed,
        tuple(run.losses.tolist()),
        tuple(run.rates.tolist()),
        _lost(problem) if run.diverged_at is not None or not ended else ended,
        session.spent if ended else session.seconds,
        session.steering,
        run.diverged_at,
        () if session.log is None else tuple(session.log.log),
    )


def _scores(
    session: Session, optimizer: Any, keep: dict[str, Weights] | None
) -> dict[str, dict[str, tuple[float, float]]]:
    problem, found = session.problem, {}
    for weights in WEIGHTS:
        with averaged_weights(session, session.averages.get(weights), optimizer):
            valid, test = (
                measured(session.model, data, problem) for data in (problem.valid, problem.test)
            )
            if keep is not None:
                state = session.model.state_dict()
                keep[weights] = {name: value.detach().clone() for name, value in state.items()}
        found[weights] = {
            f"{part} {name}": pair
            for part, table in (("valid", valid), ("test", test))
            for name, pair in table.items()
        }
    return found


def measured(
    model: nn.Module, data: Dataset, problem: Problem
) -> dict[str, tuple[float, float]]:
    """Loss and accuracy in eval mode, with their standard errors over the examples."""
    criterion = problem.criterion or F.cross_entropy
    objective = Objective(model, supervised(criterion), data.batches(500), check=False)
    metrics = {} if data.task == "regression" else {"accuracy": _right}
    found = {"accuracy": (math.nan, math.nan)}
    for name, number in objective.evaluate_all(metrics).items():
        found[name] = (number.value, number.stderr)
    return found


def _right(model: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return 1 - CRITERIA["error"](model(inputs), targets)


def _lost(problem: Problem) -> dict[str, dict[str, tuple[float, float]]]:
    chance = math.nan if problem.train.task == "regression" else 1 / problem.train.outputs
    row = {"loss": (math.inf, math.nan), "accuracy": (chance, math.nan)}
    table = {f"{part} {name}": pair for part in ("valid", "test") for name, pair in row.items()}
    return dict.fromkeys(WEIGHTS, table)
