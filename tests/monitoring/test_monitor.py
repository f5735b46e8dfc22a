"""A monitor reads within its share, leaves no trace, and loses nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, FileError, UnknownNameError
from lossatlas.monitoring import Monitor, MonitorLog, monitor
from lossatlas.monitoring.clock import Clock as ClockOfMonitor
from lossatlas.monitoring.clock import Costs
from lossatlas.result import Estimate
from lossatlas.rng import generator

loss = la.supervised(F.cross_entropy)


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3)
        )


def batch(step):
    drawn = generator("monitor", step)
    return torch.randn(16, 5, generator=drawn), torch.randint(0, 3, (16,), generator=drawn)


class Training:
    """A training with dropout and BatchNorm, watched or not."""

    def __init__(self):
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)

    def monitor(self, *names, **options):
        objective = la.Objective(self.model, loss, [batch("a"), batch("b")])
        return Monitor(objective, names or ("loss",), optimizer=self.optimizer, **options)

    def go(self, steps, watch=None, start=0):
        for step in range(start, steps):
            self.optimizer.zero_grad()
            value = loss(self.model, batch(step)).mean()
            value.backward()
            self.optimizer.step()
            if watch is not None:
                watch.step(value)
        return self


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(monitor.time, "perf_counter", lambda: self.now)


def costing(clock, costs, watch, monkeypatch):
    """Let each instrument of a monitor take some seconds."""
    read = type(watch)._read_one

    def slow(self, name, taken):
        clock.now += costs[name]
        return read(self, name, taken)

    monkeypatch.setattr(type(watch), "_read_one", slow)


def test_watching_changes_no_bit_of_the_training():
    torch.manual_seed(3)
    alone = Training().go(24)
    after = torch.rand(1)
    torch.manual_seed(3)
    watched = Training()
    watch = watched.monitor("loss", "gradient", "stability", every=6, share=None)
    watched.go(24, watch)
    assert torch.equal(torch.rand(1), after)
    assert not watch.log.missing
    assert len(watch.log) == 4
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name])
    for ours, theirs in zip(alone.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
        first, second = alone.optimizer.state[ours], watched.optimizer.state[theirs]
        assert all(torch.equal(first[k], second[k]) for k in first)
    assert watched.model.training


def test_readings_are_those_of_the_objective_at_these_weights():
    training = Training()
    watch = training.monitor("loss", every=8, share=None)
    training.go(8, watch)
    told = watch.objective.evaluate()
    steps, values, errors = watch.log.series("loss")
    assert (steps.tolist(), values[0], errors[0]) == ([8], told.value, told.stderr)
    assert watch.log.series("training loss")[2][0] > 0


def test_training_losses_are_averaged_between_readings():
    watch = Training().monitor("loss", every=4, share=None)
    losses = [1.0, 2.0, 4.0, 5.0]
    for value in losses:
        found = watch.step(torch.tensor(value))
    mean = found["training loss"]
    assert mean.value == pytest.approx(3)
    assert mean.stderr == pytest.approx(np.std(losses, ddof=1) / 2)


def test_the_share_of_the_time_holds_and_intervals_grow(monkeypatch):
    clock, training = Clock(monkeypatch), Training()
    watch = training.monitor("loss", "gradient", every=10, share=0.02)
    costing(clock, {"loss": 0.2, "gradient": 3.0}, watch, monkeypatch)
    for _ in range(3000):
        clock.now += 0.5
        watch.step()
    log = watch.log
    assert log.training_seconds == pytest.approx(1500, abs=1)
    assert 0.01 < log.overhead <= 0.02
    often, seldom = (len(log.series(name)[0]) for name in ("loss", "gradient norm"))
    assert often == pytest.approx(15 / 0.2, rel=0.1)
    assert seldom == pytest.approx(15 / 3, abs=1)
    assert log.skipped == {"loss": 300 - often, "gradient": 300 - seldom}
    assert "Readings skipped to save time" in " ".join(log.sentences())


def test_an_expensive_first_reading_is_made_up_for(monkeypatch):
    clock, training = Clock(monkeypatch), Training()
    watch = training.monitor("loss", every=1, share=0.1)
    costing(clock, {"loss": 5.0}, watch, monkeypatch)
    for _ in range(200):
        clock.now += 1.0
        watch.step()
    steps = watch.log.series("loss")[0]
    assert steps.tolist() == [1, 101, 151]

    assert "the share allows; without another one" not in " ".join(watch.log.sentences())


def overhead_along(watch, clock, updates, seconds=1.0):
    """Time of readings over the share of the training's, at its highest after any update."""
    highest = 0.0
    for _ in range(updates):
        clock.now += seconds
        watch.step()
        timed = watch._clock
        if timed.training:
            highest = max(highest, timed.monitoring / (watch.share * timed.training))
    return highest


@pytest.mark.parametrize("case", range(12))
def test_the_share_holds_after_every_update_where_costs_are_as_expected(case, monkeypatch):
    clock, drawn = Clock(monkeypatch), np.random.default_rng([19, case])
    watch = Training().monitor("loss", "gradient", every=int(drawn.integers(1, 9)), share=0.05)
    evaluation = float(drawn.uniform(0.01, 1))
    watch.objective.walk_seconds = evaluation, watch.objective.device
    # Costs may be up to twice what instruments say.
    off = drawn.uniform(0.5, 2, 2)
    costs = {"loss": evaluation * off[0], "gradient": 30 * evaluation * off[1]}
    assert watch.expected == pytest.approx({"loss": evaluation, "gradient": 30 * evaluation})
    costing(clock, costs, watch, monkeypatch)
    assert overhead_along(watch, clock, 3000) <= 1
    assert len(watch.log.series("loss")[0]) > 1


def test_a_first_reading_waits_until_it_fits_and_the_log_says_until_when(monkeypatch):
    clock = Clock(monkeypatch)
    watch = Training().monitor("loss", "gradient", every=10, share=0.02)
    watch.objective.walk_seconds = 0.1, watch.objective.device
    costing(clock, {"loss": 0.1, "gradient": 3.0}, watch, monkeypatch)
    assert overhead_along(watch, clock, 15) == 0
    # Two losses must fit into 1 % of the time: after 20 s, and 6 s of gradients after 600 s.
    text = " ".join(watch.log.sentences())
    assert "No readings yet." in text
    assert "loss (0.1 s, from about update 30), gradient (3 s, from about update 610)" in text
    assert "which is 0.09 s after 10 updates" in text
    assert overhead_along(watch, clock, 700) <= 1
    assert watch.log.series("loss")[0][0] == 30
    assert watch.log.series("gradient norm")[0][0] == 610
    assert "gradient 3 s (next at about update 910)" in " ".join(watch.log.sentences())
    assert not watch.log.expected


def test_a_reading_that_is_asked_for_is_made_up_for(monkeypatch):
    clock = Clock(monkeypatch)
    watch = Training().monitor("loss", every=10, share=0.1)
    costing(clock, {"loss": 4.0}, watch, monkeypatch)
    for _ in range(5):
        clock.now += 1
        watch.step()
    assert watch.read()
    assert watch.log.overhead == pytest.approx(1)
    assert "within it from about update 50" in " ".join(watch.log.sentences())
    overhead_along(watch, clock, 200)
    assert watch.log.series("loss")[0].tolist() == [5, 90, 130, 170]


def test_a_training_without_a_reading_says_so_at_its_end(monkeypatch, tmp_path):
    clock, path = Clock(monkeypatch), tmp_path / "run" / "m.nc"
    watch = Training().monitor("loss", every=5, to=path)
    watch.objective.walk_seconds = 1.0, watch.objective.device
    said = r"No readings yet.*share=None"
    with pytest.warns(UserWarning, match=said) as caught, watch:
        overhead_along(watch, clock, 20, seconds=0.001)
    assert caught[0].filename == __file__
    log = la.load(path)
    assert log == watch.log
    assert len(log) == 0
    assert "No readings yet" in la.write_atlas(path, tmp_path / "a.html").read_text()


def test_what_a_reading_is_expected_to_take(monkeypatch, tmp_path):
    clock, training = Clock(monkeypatch), Training()
    watch = training.monitor("loss", "gradient", to=tmp_path / "m.nc")
    device = watch.objective.device
    watch.objective.walk_seconds = 0.2, device
    assert watch.expected == pytest.approx({"loss": 0.2 + 0.05, "gradient": 6 + 0.05})
    # What was measured on another device says nothing: an update a batch, and two batches.
    watch.objective.walk_seconds = 0.2, torch.device("meta")
    overhead_along(watch, clock, 50, seconds=0.5)
    assert watch.expected["loss"] == pytest.approx(2 * 0.5 + 0.05)
    costing(clock, {"loss": 0.3, "gradient": 1.0}, watch, monkeypatch)
    watch.read()
    assert watch.expected == pytest.approx({"loss": 0.3, "gradient": 9})
    assert training.monitor()._costs._evaluations == {"loss": 1}


def test_an_instrument_that_states_no_cost_is_expected_to_be_expensive():
    objective = Training().monitor().objective
    quiet = replace(monitor.chosen(["gradient"])[0], cost="")
    objective.walk_seconds = 0.5, objective.device
    assert Costs(objective, {"quiet": quiet}).first(ClockOfMonitor()) == {"quiet": 300}


def test_the_time_of_a_walk_is_that_of_the_objective_itself():
    objective = Training().monitor().objective
    seconds, device = objective.walk_seconds
    assert (seconds > 0, device) == (True, torch.device("cpu"))
    assert objective.part([batch(0)]).walk_seconds is None


def test_a_resumed_training_reads_the_same():
    whole = Training()
    watch = whole.monitor("loss", "gradient", every=5, share=None)
    torch.manual_seed(1)
    whole.go(20, watch)
    torch.manual_seed(1)
    part = Training()
    first = part.monitor("loss", "gradient", every=5, share=None)
    part.go(13, first)
    second = part.monitor("loss", "gradient", every=5, share=None)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    part.go(20, second, start=13)
    ours, theirs = second.log, watch.log
    assert ours.names == theirs.names
    assert ours.steps.tolist() == theirs.steps.tolist() == [5, 10, 15, 20]
    for name in ("values", "errors"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.turns == theirs.turns


@pytest.mark.parametrize("before", ["context", "reading", "nothing"])
def test_a_resumed_training_goes_on_at_its_turns_and_at_its_pace(before, monkeypatch, tmp_path):
    clock, path = Clock(monkeypatch), tmp_path / "m.nc"
    first = Training().monitor("loss", every=5, share=0.1, to=path)
    costing(clock, {"loss": 2.0}, first, monkeypatch)
    overhead_along(first, clock, 201)
    first.close()
    again = Training().monitor("loss", every=5, share=0.1, to=path, resume=True)
    if before == "context":
        again.__enter__()
    elif before == "reading":
        again.read()
    for step in range(202, 207):
        clock.now += 1
        again.step(step=step)
    assert again._turns - first._turns == 1
    assert again.log.due["loss"] == pytest.approx(first.log.due["loss"], abs=25)


def test_a_log_takes_the_place_of_a_log_and_of_no_other_file(tmp_path):
    path, training = tmp_path / "monitor.nc", Training()
    path.write_bytes(b"my own file")
    with pytest.raises(FileError, match=r"monitor.nc' would be overwritten"):
        training.monitor("loss", to=path)
    assert path.read_bytes() == b"my own file"
    path.unlink()
    training.go(3, training.monitor("loss", every=3, share=None, to=path))
    again = training.monitor("loss", every=2, share=None, to=path)
    training.go(5, again, start=3)
    assert la.load(path).steps.tolist() == [2]


def test_every_reading_is_in_the_file_at_once(tmp_path):
    path, training = tmp_path / "run" / "monitor.nc", Training()
    watch = training.monitor("loss", every=3, share=None, to=[path, tmp_path / "m.jsonl"])
    for step in (3, 6):
        training.go(step, watch, start=step - 3)
        kept = la.load(path)
        assert kept.steps.tolist() == list(range(3, step + 1, 3))
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["monitor/loss"] == kept.values[0, 0]
    assert lines[0]["monitor/loss_error"] == kept.errors[0, 0]
    # Killed at update 7, resumed at update 5: what comes after it is read again.
    again = training.monitor("loss", every=3, share=None, to=path, resume=True)
    assert again.log.steps.tolist() == [3, 6]
    again.step(step=5)
    again.step()
    assert again.log.steps.tolist() == [3, 6]
    again.step(step=9)
    assert la.load(path).steps.tolist() == [3, 6, 9]
    assert (
        "monitor" in la.write_atlas(tmp_path / "run", tmp_path / "a.html").read_text().lower()
    )


def test_what_is_reported_reads_well(tmp_path):
    names, flags = ("loss", "sharpness"), (False, True)
    log = MonitorLog(
        np.array([10, 20]), names, names, ("", "1"), np.array([[2.0, 5.0], [1.0, math.nan]]),
        np.array([[0.1, 0.5], [0.1, math.nan]]), flags, ("", ""), share=0.02,
        training_seconds=100.0, monitoring_seconds=1.5, turns=2, skipped={"sharpness": 1},
        missing={"stability": "the optimizer has no moments yet."},
    )  # fmt: skip
    assert log.sentences() == (
        "Loss fell from 2 at update 10 to 1 at 20.",
        "2 readings at updates 10 to 20: 1.5 s beside 2 min of training, 1.5 %; at most 2 % is "
        "allowed.",
        "Readings skipped to save time: sharpness at 1 of 2 turns.",
        "Stability could not be measured: the optimizer has no moments yet.",
    )
    # What was read is the headline, not what reading cost.
    assert log.headline() == "Loss fell from 2 at update 10 to 1 at 20."
    assert replace(log, names=("a", "b"), minor=("a", "b")).headline().startswith("2 readings")
    assert log.estimates()[1] == Estimate(5.0, bound=0.5, name="sharpness", unit="1")
    assert [figure.name for figure in log.figures()] == ["loss", "sharpness"]
    area = log._chart("loss").layers[0]
    assert area.y.max() == pytest.approx(2 + 1.96 * 0.1)


def test_instruments_that_fail_leave_a_reason_and_the_training_goes_on():
    training = Training()
    watch = training.monitor("loss", "residual_gain", every=2, share=None)
    training.go(4, watch)
    assert "residual" in watch.log.missing["residual_gain"]
    assert len(watch.log.series("loss")[0]) == 2


def test_a_loss_that_is_no_number_is_said():
    training = Training()
    watch = training.monitor("loss", every=1, share=None)
    with torch.no_grad():
        training.model[0].weight.fill_(math.nan)
    watch.step()
    assert watch.log.missing == {"loss": "loss is not a number"}
    assert "Loss could not be measured" in " ".join(watch.log.sentences())


def test_a_place_that_cannot_be_written_warns_once(tmp_path):
    (tmp_path / "no").write_text("")
    training = Training()
    watch = training.monitor("loss", every=2, share=None, to=tmp_path / "no" / "m.nc")
    with pytest.warns(UserWarning, match="could not be sent") as caught:
        training.go(6, watch)
    watch.close()
    assert [each.filename for each in caught] == [__file__]
    assert len(watch.log) == 3


@pytest.mark.filterwarnings("error")
def test_an_error_of_the_training_is_the_one_that_is_seen(monkeypatch):
    clock = Clock(monkeypatch)
    watch = Training().monitor("loss", every=5)
    watch.objective.walk_seconds = 1.0, watch.objective.device
    overhead_along(watch, clock, 20, seconds=0.001)
    with pytest.raises(KeyError, match="of the training"), watch:
        raise KeyError("of the training")


def test_one_reading_has_one_update():
    watch = Training().monitor("loss")
    watch.step()
    watch.read()
    assert watch.log.headline().startswith("1 reading at update 1:")


def test_a_context_writes_at_its_end(tmp_path):
    training, path = Training(), tmp_path / "m.nc"
    with training.monitor("loss", every=2, share=None, to=path) as watch:
        training.go(3, watch)
    assert la.load(path) == watch.log


@pytest.mark.parametrize(
    ("options", "said"),
    [({"every": 0}, "every"), ({"share": 2}, "share"), ({"share": -1}, "share"),
     ({"to": 3}, "tracker"), ({"instruments": ()}, "instruments"), ({"lr": 0}, "lr"),
     ({"objective": 3}, "objective"), ({"optimizer": 3}, "optimizer")],
)  # fmt: skip
def test_what_no_monitor_can_do_is_named(options, said):
    usual = {"objective": la.Objective(network(), loss, [batch(0)])}
    with pytest.raises(ArgumentError, match=said):
        Monitor(**usual | options)


def test_an_unknown_instrument_is_named():
    with pytest.raises(UnknownNameError, match="gradient"):
        Training().monitor("gradiant")


def test_steps_go_forward():
    watch = Training().monitor()
    watch.step(step=5)
    with pytest.raises(ArgumentError, match="from 5"):
        watch.step(step=4)


def test_the_edge_of_stability_stands_beside_the_product_in_units_of_the_training(tmp_path):
    # A bias before BatchNorm: the batch takes it away, and Adam divides by its rounding.
    drawn = generator("monitor", "digits")
    x, y = torch.randn(128, 3, 8, 8, generator=drawn), torch.arange(128) % 3
    x[y == 1] += 1.0
    x[y == 2] -= 1.0
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    objective = la.Objective(model, loss, batches)
    place = tmp_path / "log.nc"
    watch = Monitor(objective, "stability", every=20, share=None, optimizer=optimizer, to=place)
    for step in range(60):
        optimizer.zero_grad()
        value = loss(model, batches[step % 4])
        value.backward()
        optimizer.step()
        watch.step(value)
    _, products, _ = watch.log.series("learning rate x largest eigenvalue")
    _, shares, _ = watch.log.series("share of the edge of stability")
    np.testing.assert_allclose(shares, products / 38)
    assert (shares < 1).all()
    # By running statistics the same weights seem to be thousands of times beyond the edge.
    model[1].eval()
    running = la.curvature.edge_of_stability(objective, optimizer)
    assert running.by_running_statistics
    assert running.ratio > 100 * shares[-1]
    said = " ".join(watch.log.sentences())
    assert "the edge of stability is at 38 for Adam; with batch statistics" in said
    assert "Share of the edge of stability" in said
    assert la.load(place).meanings == watch.log.meanings
    assert "at 38 for Adam" in watch.log.estimates()[0].meaning
    state = watch.state_dict()
    again = Monitor(objective, "stability", optimizer=optimizer)
    again.load_state_dict(state)
    assert again.log.meanings == watch.log.meanings
