import copy
import math
import pickle
from functools import partial
from io import BytesIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedulers

from lossatlas import io
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.rng import generator
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.log import DecisionLog
from lossatlas.steering.policies import (
    EdgePolicy,
    MoMoPolicy,
    NoisePolicy,
    PlateauCooldown,
    RegimePolicy,
)
from lossatlas.steering.reading import Decision

STEPS = 12


class Fixed:
    """Says what it is told to, in turn."""

    needs = frozenset()
    every = None
    before = False
    limits = (0.2, 1.0)
    warmup = 150

    def __init__(self, *factors, absolute=False):
        self.factors, self.absolute = factors, absolute

    def start(self):
        return {"turn": 0}

    def decide(self, state, reading):
        turn = state["turn"]
        factor = self.factors[turn % len(self.factors)]
        return {"turn": turn + 1}, Decision(factor, "fixed", self.absolute)


class Wavy(RegimePolicy):
    """Reads the ground and turns the reading into many different scales."""

    def decide(self, state, reading):
        factor = 0.7 + 0.5 * abs(math.sin(1000 * reading.variability))
        return dict(state) | {"last": reading.loss}, Decision(factor, "wavy")


def network(seed=0):
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )


def batch(step):
    drawn = generator("batch", step)
    return torch.randn(16, 6, generator=drawn), torch.randint(0, 3, (16,), generator=drawn)


OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}
SCHEDULES = {
    "none": lambda o: None,
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, STEPS),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.3, total_steps=STEPS + 5),
    "sequence": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.LinearLR(o, 0.1, total_iters=4), schedulers.ExponentialLR(o, 0.9)],
        [4],
    ),
}


def losses(model, x, y):
    return F.cross_entropy(model(x), y, reduction="none")


class Run:
    def __init__(self, optimizer="adamw", schedule="none", policy=None, bare=False, **settings):
        self.model = network()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.scheduler = SCHEDULES[schedule](self.optimizer)
        settings = {"interval": 2, "warmup": 2} | settings
        self.controller = None
        if not bare:
            self.controller = LandscapeLR(
                self.optimizer, policy, scheduler=self.scheduler, **settings
            )
        self.autocast = False

    def go(self, start, stop):
        for step in range(start, stop):
            torch.random.default_generator.manual_seed(step)
            x, y = batch(step)
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                loss = losses(self.model, x, y).mean()
            loss.backward()
            if self.controller is not None and self.controller.policy.before:
                self.controller.observe(loss)
            self.optimizer.step()
            if self.controller is not None:
                self.controller.step(lambda x=x, y=y: losses(self.model, x, y), loss=loss)
            elif self.scheduler is not None:
                self.scheduler.step()
        return self

    def state(self):
        return [*self.model.state_dict().values()], [
            g["lr"] for g in self.optimizer.param_groups
        ]

    def save(self):
        parts = (self.model, self.optimizer, self.controller)
        file = BytesIO()
        torch.save([part.state_dict() for part in parts], file)
        return file

    def load(self, file):
        file.seek(0)
        parts = (self.model, self.optimizer, self.controller)
        for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        return self


def assert_same(a, b):
    (first, rates), (second, others) = a.state(), b.state()
    assert rates == others
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("autocast", [False, True])
def test_at_scale_one_training_is_that_of_the_bare_optimizer(optimizer, schedule, autocast):
    ours = Run(optimizer, schedule, min_ratio=1.0, max_ratio=1.0)
    bare = Run(optimizer, schedule, bare=True)
    ours.autocast = bare.autocast = autocast
    assert_same(ours.go(0, STEPS), bare.go(0, STEPS))
    assert len(ours.controller.log) == 5


@pytest.mark.parametrize("policy", [RegimePolicy(), EdgePolicy(), NoisePolicy(every=3)])
def test_a_dry_run_only_watches(policy):
    watched = Run(policy=policy, dry_run=True, min_ratio=0.0)
    assert_same(watched.go(0, STEPS), Run(bare=True).go(0, STEPS))
    assert len(watched.controller.log) >= 3
    assert watched.controller.scales == [1.0]


def test_a_dry_run_logs_what_it_would_do():
    runs = [Run(policy=Fixed(0.5), dry_run=dry).go(0, 8) for dry in (True, False)]
    dry, wet = (run.controller.log for run in runs)
    assert dry.column("scale").tolist() == wet.column("scale").tolist() == [0.5, 0.25, 0.2]
    assert dry.column("lr").tolist() == [0.01] * 3


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s != "none"])
def test_rates_are_those_of_the_scheduler_times_the_scale(schedule):
    ours = Run(schedule=schedule, policy=Fixed(0.5, 1.2), warmup=0)
    bare = Run(schedule=schedule, bare=True)
    for step in range(STEPS):
        ours.go(step, step + 1)
        bare.go(step, step + 1)
        scale = ours.controller.scales[0]
        expected = bare.optimizer.param_groups[0]["lr"] * scale
        assert ours.optimizer.param_groups[0]["lr"] == expected
        assert ours.controller.get_last_lr() == [expected]
    assert scale < 1


def test_plateau_schedulers_and_schedulers_by_epoch():
    w = torch.ones(2, 2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0)
    plateau = schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    controller = LandscapeLR(optimizer, Fixed(0.5), interval=1, warmup=0, scheduler=plateau)
    w.grad = torch.zeros_like(w)
    for metric in (None, 1.0, 2.0):
        optimizer.step()
        controller.step(metrics=metric)
    assert optimizer.param_groups[0]["lr"] == 0.5 * 0.2
    optimizer = torch.optim.SGD([w], lr=1.0)
    inner = schedulers.ExponentialLR(optimizer, 0.1)
    controller = LandscapeLR(
        optimizer, Fixed(0.5, 1.0), interval=1, warmup=0, scheduler=inner, per_epoch=True
    )
    for _ in range(2):
        optimizer.step()
        controller.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    controller.step_scheduler()
    assert optimizer.param_groups[0]["lr"] == 0.5 * 0.1


def test_a_rate_that_somebody_else_writes_is_the_new_schedule():
    run = Run(policy=Fixed(0.5, 1.0), interval=2, warmup=1).go(0, 2)
    assert run.optimizer.param_groups[0]["lr"] == 0.005
    run.optimizer.param_groups[0]["lr"] = 0.1
    run.go(2, 3)
    assert run.optimizer.param_groups[0]["lr"] == 0.05


def test_rates_that_are_tensors_stay_tensors():
    w = torch.ones(2, 2, requires_grad=True)
    rate = torch.tensor(0.5)
    optimizer = torch.optim.SGD([w], lr=rate)
    controller = LandscapeLR(optimizer, Fixed(0.5), interval=1, warmup=0)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    controller.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_groups_have_their_own_bounds_and_may_come_later():
    weights = [torch.ones(2, 2, requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": [w]} for w in weights[:2]], lr=1.0)
    controller = LandscapeLR(
        optimizer, Fixed(0.5), interval=1, warmup=0, min_ratio=[0.4, 0.1], max_ratio=[1, 2]
    )
    for w in weights:
        w.grad = torch.zeros_like(w)
    optimizer.step()
    controller.step()
    optimizer.step()
    controller.step()
    assert controller.scales == [0.4, 0.25]
    optimizer.add_param_group({"params": [weights[2]], "lr": 8.0})
    for _ in range(2):
        optimizer.step()
        controller.step()
    assert controller.scales == [0.4, 0.1, 0.25]
    assert [g["lr"] for g in optimizer.param_groups] == [0.4, 0.1, 2.0]
    assert len(controller.log.records[-1].scales) == 3


def test_a_policy_may_scale_each_group():
    weights = [torch.ones(2, 2, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [w]} for w in weights], lr=1.0)
    controller = LandscapeLR(optimizer, Fixed((0.5, 0.9), absolute=True), interval=1, warmup=0)
    for w in weights:
        w.grad = torch.zeros_like(w)
    for _ in range(3):
        optimizer.step()
        controller.step()
    assert controller.scales == [0.5, 0.9]


def test_decisions_fall_after_the_warmup_at_every_interval():
    run = Run(policy=Fixed(1.0), interval=3, warmup=6).go(0, 13)
    assert run.controller.log.column("step").tolist() == [9, 12]
    default = LandscapeLR(run.optimizer)
    assert [s for s in range(1, 400) if default.due(ahead=s)] == [200, 250, 300, 350]


RESUMED = {
    "wavy": lambda: Run("adamw", "cosine", Wavy(), max_ratio=2.0),
    "noise": lambda: Run("sgd", "one cycle", NoisePolicy(every=3), min_ratio=0.0),
    "momo": lambda: Run("sgd", "cosine", MoMoPolicy(), warmup=0, min_ratio=0.0),
    "edge": lambda: Run("adamw", "none", EdgePolicy(), min_ratio=0.0, max_ratio=9.0),
}


@pytest.mark.parametrize("kind", RESUMED)
@settings(max_examples=6)
@given(st.integers(0, STEPS))
def test_a_resumed_run_goes_on_with_the_same_bits(kind, stop):
    whole = RESUMED[kind]().go(0, STEPS)
    parcel = RESUMED[kind]().go(0, stop).save()
    resumed = RESUMED[kind]().load(parcel).go(stop, STEPS)
    assert_same(whole, resumed)
    records = [run.controller.log.records for run in (whole, resumed)]
    assert str(records[0]) == str(records[1])


def test_the_order_of_loading_does_not_matter():
    parcel = RESUMED["wavy"]().go(0, 7)
    states = [part.state_dict() for part in (parcel.model, parcel.optimizer, parcel.controller)]
    resumed = RESUMED["wavy"]()
    for part, state in list(
        zip((resumed.model, resumed.optimizer, resumed.controller), states, strict=True)
    )[::-1]:
        part.load_state_dict(copy.deepcopy(state))
    assert_same(parcel.go(7, STEPS), resumed.go(7, STEPS))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("kind", ["wavy", "momo"])
def test_copies_go_on_by_themselves(way, kind):
    run = RESUMED[kind]().go(0, 5)
    twin = copy.deepcopy(run) if way == "deepcopy" else pickle.loads(pickle.dumps(run))
    assert twin.controller.optimizer is twin.optimizer
    assert_same(run.go(5, STEPS), RESUMED[kind]().go(0, STEPS))
    assert_same(twin.go(5, STEPS), run)


def test_a_dropped_controller_no_longer_steers():
    run = RESUMED["momo"]()
    run.controller = LandscapeLR(run.optimizer, Fixed(1.0), interval=1, warmup=0)
    run.go(0, 3)
    assert run.optimizer.param_groups[0]["lr"] == 0.1


def test_skipped_updates_are_no_steps():
    w = torch.ones(2, 2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0)
    inner = schedulers.ExponentialLR(optimizer, 0.5)
    controller = LandscapeLR(optimizer, Fixed(0.5), interval=1, warmup=0, scheduler=inner)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for value in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(w.sum() * value).backward()
        scaler.step(optimizer)
        scaler.update()
        controller.step()
    assert controller.last_epoch == 2
    assert controller.skipped == 1
    assert optimizer.param_groups[0]["lr"] == 0.25 * 0.25


def test_a_probe_that_fails_is_logged_and_training_goes_on():
    run = Run(interval=1, warmup=0)
    x, y = batch(0)
    for step in range(4):
        run.optimizer.step()
        if step == 2:
            with pytest.warns(UserWarning, match="training goes on: LossError"):
                run.controller.step(lambda: torch.zeros(2, 2))
        else:
            run.controller.step(lambda: losses(run.model, x, y))
    log = run.controller.log
    assert log.column("failed").tolist() == [False, False, True, False]
    assert log.records[2].reason.startswith("probe failed: LossError")
    assert len(log.replay(RegimePolicy())) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_brakes(bad):
    run = Run(interval=1, warmup=0)
    run.optimizer.step()
    run.controller.step(lambda: torch.tensor(bad))
    assert run.controller.scales == [0.8]


def test_a_loss_without_its_graph_is_logged_where_curvature_is_read():
    run = Run(policy=EdgePolicy(), interval=1, warmup=0)
    run.optimizer.step()
    with pytest.warns(UserWarning, match="training goes on: LossError.*with its graph"):
        run.controller.step(lambda: torch.tensor(1.0))
    assert run.controller.log.column("failed").tolist() == [True]


def test_it_is_a_scheduler_to_everybody():
    run = Run()
    assert isinstance(run.controller, schedulers.LRScheduler)
    assert run.controller.base_lrs == [0.01]
    assert run.controller.get_last_lr() == [0.01]
    run.go(0, 1)
    assert run.controller._step_count == 2
    assert run.controller.last_epoch == 1


def test_a_closure_may_be_set_once_for_loops_that_step_without_one():
    run = Run(interval=1, warmup=0)
    x, y = batch(0)
    run.controller.closure = lambda: losses(run.model, x, y)
    run.optimizer.step()
    run.controller.step()
    assert len(run.controller.log) == 1
    run.controller.closure = None
    run.optimizer.step()
    with pytest.raises(ArgumentError, match=r"at step 2, where RegimePolicy reads the loss"):
        run.controller.step()
    run.controller.step(strict=False)
    assert run.controller.last_epoch == 2


@pytest.mark.parametrize("named", [False, True])
def test_a_closure_makes_the_gradient_before_anything_is_decided(named):
    def go(within):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        controller = LandscapeLR(optimizer, MoMoPolicy(), warmup=0)
        for step in range(4):
            torch.random.default_generator.manual_seed(step)
            data, target = batch(step)

            def closure(data=data, target=target):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(data), target)
                loss.backward()
                controller.observe(loss)
                return loss

            if within and named:
                optimizer.step(closure=closure)
            elif within:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            controller.step()
        return model, controller

    (ours, steered), (plain, beside) = go(True), go(False)
    assert str(steered.log.records) == str(beside.log.records)
    assert len(steered.log) == 4
    for x, y in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(x, y)


def test_compiled_models_are_steered_as_others_are():
    def go(compiling):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        with torch.no_grad():
            for index, weight in enumerate(model.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=generator(index, "compiled")))
        called = torch.compile(model, backend="eager") if compiling else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        policy = RegimePolicy(hysteresis=1)
        controller = LandscapeLR(optimizer, policy, interval=1, warmup=0)
        for step in range(3):
            x = torch.randn(16, 6, generator=generator(step, "data"))
            y = torch.arange(16) % 3
            optimizer.zero_grad()
            F.cross_entropy(called(x), y).backward()
            optimizer.step()
            controller.step(lambda x=x, y=y: F.cross_entropy(called(x), y, reduction="none"))
        return model.state_dict(), controller.log

    (compiled, log), (plain, beside) = go(True), go(False)
    assert str(log.records) == str(beside.records)
    assert len(log) == 3
    assert not log.column("failed").any()
    for a, b in zip(compiled.values(), plain.values(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_may_be_told_before_the_update():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    controller = LandscapeLR(optimizer, PlateauCooldown(), interval=2, warmup=0)
    for value in (3.0, 1.0):
        weight.grad = torch.ones(2)
        controller.observe(torch.tensor(value))
        optimizer.step()
        controller.step()
    assert controller.log.records[0].reading.train_loss == 2.0


def test_logs_are_saved_and_replayed(tmp_path):
    run = Run(policy=RegimePolicy(hysteresis=1), interval=1, warmup=0).go(0, STEPS)
    log = run.controller.log
    loaded = io.load(io.save(log, tmp_path / "log.nc"))
    assert isinstance(loaded, DecisionLog)
    assert str(loaded.records) == str(log.records)
    assert loaded.provenance == log.provenance
    again = loaded.replay(RegimePolicy(hysteresis=1))
    assert [d.factor for d in again] == log.column("factor").tolist()
    assert [d.reason for d in again] == log.column("reason").tolist()
    assert len(list(loaded)) == STEPS
    empty = io.load(io.save(Run().controller.log, tmp_path / "empty.nc"))
    assert len(empty) == 0


@pytest.mark.parametrize("factor", [-1.0, math.nan])
def test_a_policy_that_gives_no_scale_is_named(factor):
    run = Run(policy=Fixed(factor), interval=1, warmup=0)
    run.optimizer.step()
    with pytest.raises(ArgumentError, match="a policy must give factors"):
        run.controller.step()


class Curious(Fixed):
    needs = frozenset({"prob"})


def test_bad_settings_are_named():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    for settings_, message in (
        ({"interval": 0}, "`interval`"),
        ({"warmup": -1}, "`warmup`"),
        ({"min_ratio": [0.1, 0.2]}, "one for each of 1 parameter groups"),
        ({"max_ratio": -1.0}, "`max_ratio` must be"),
        ({"min_ratio": 2.0}, "at most `max_ratio`"),
        ({"scheduler": schedulers.ConstantLR(other)}, "of the same optimizer"),
        ({"scheduler": "cosine"}, "of the same optimizer"),
    ):
        with pytest.raises(ArgumentError, match=message):
            LandscapeLR(optimizer, **settings_)
    with pytest.raises(ArgumentError, match=r"torch\.optim\.Optimizer"):
        LandscapeLR(model)
    with pytest.raises(UnknownNameError, match="did you mean 'probe'"):
        LandscapeLR(optimizer, Curious(1.0))
    controller = LandscapeLR(optimizer)
    with pytest.raises(ArgumentError, match="`closure` must be a function"):
        controller.step(3.0)
    state = controller.state_dict()
    with pytest.raises(ArgumentError, match="with EdgePolicy"):
        LandscapeLR(optimizer, EdgePolicy()).load_state_dict(state)
    scheduled = LandscapeLR(optimizer, scheduler=schedulers.ConstantLR(optimizer))
    with pytest.raises(ArgumentError, match="with a scheduler"):
        scheduled.load_state_dict(state)
    with pytest.raises(ArgumentError, match="of this version"):
        controller.load_state_dict({})
    optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)]})
    with pytest.raises(ArgumentError, match="1 parameter groups; the optimizer has 2"):
        LandscapeLR(optimizer).load_state_dict(state)
