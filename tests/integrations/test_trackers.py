"""One log(values, step) for every tracker."""

import json
from types import SimpleNamespace

import pytest
import torch

from lossatlas.errors import ArgumentError, FileError
from lossatlas.integrations.trackers import Reporter, as_tracker
from lossatlas.steering import LandscapeLR, RegimePolicy


def steered(steps, failing=False):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    controller = LandscapeLR(optimizer, RegimePolicy(), interval=1, warmup=0)
    for _ in range(steps):
        weight.grad = torch.ones(2, 2)
        optimizer.step()
        controller.step(lambda: weight.square().sum())
    return controller


class Recorder:
    """Stands for any of them."""

    def __init__(self):
        self.seen = []

    def add_scalar(self, name, value, step):
        self.seen.append((name, value, step))


def test_every_tracker_gets_every_decision_once(tmp_path):
    controller = steered(2)
    board, wandb, mlflow = Recorder(), [], []
    things = [
        board,
        SimpleNamespace(log=lambda values, step: wandb.append((values, step))),
        SimpleNamespace(log_metrics=lambda values, step: mlflow.append((values, step))),
        tmp_path / "log.jsonl",
    ]
    for thing in things:
        reporter = Reporter(thing)
        assert (reporter.report(controller), reporter.report(controller)) == (2, 0)
    assert wandb == mlflow
    assert [step for _, step in wandb] == [1, 2]
    values = wandb[0][0]
    assert values["steering/scale"] == controller.log.records[0].scales[0]
    assert values["steering/loss"] == controller.log.records[0].reading.loss
    assert "steering/edge" not in values
    assert ("steering/rate", values["steering/rate"], 1) in board.seen
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, **values} for values, step in wandb]


def test_what_takes_no_numbers_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="got int"):
        as_tracker(3)
    with pytest.raises(FileError, match="cannot be written"):
        as_tracker(tmp_path).log({}, 1)
    tracker = as_tracker(tmp_path / "x")
    assert as_tracker(tracker) is tracker
