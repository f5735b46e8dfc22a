import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, DataError, ModelError, UnknownNameError
from lossatlas.objective import supervised
from lossatlas.training import Dataset, build_model, load_dataset, train
from reference.training_twin import train_alone


def data(n=22):
    g = torch.Generator().manual_seed(3)
    return Dataset(torch.randn(n, 5, generator=g), torch.randint(3, (n,), generator=g))


def model(seed=0):
    return build_model("mlp(6)", data(), seed=seed)


def dropout_model():
    net = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    net.load_state_dict(
        {n: torch.linspace(-1, 1, v.numel()).view_as(v) for n, v in net.state_dict().items()}
    )
    return net


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("cosine", [False, True])
def test_it_is_the_obvious_loop(optimizer, cosine):
    losses, twin = train_alone(
        model(), data(), steps=9, order=4, optimizer=optimizer, lr=0.03, cosine=cosine,
        weight_decay=1e-2 if optimizer == "adamw" else 0.0,
    )  # fmt: skip
    net = model()
    run = train(
        net,
        data(),
        steps=9,
        seed=4,
        optimizer=optimizer,
        lr=0.03,
        batch_size=8,
        schedule="cosine" if cosine else None,
    )
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    for name, value in twin.state_dict().items():
        assert_close(net.state_dict()[name], value)
        assert torch.equal(run.state[name], net.state_dict()[name])
    assert run.rates[0] == pytest.approx(0.03)
    assert run.diverged_at is None


def test_same_seed_same_bits_with_dropout_and_a_drawing_callback():
    def disturb(tick):
        torch.rand(tick.step)

    runs = [
        train(dropout_model(), data(), epochs=2, seed=1, callback=c) for c in (None, disturb)
    ]
    assert np.array_equal(runs[0].losses, runs[1].losses)
    assert all(torch.equal(v, runs[1].state[n]) for n, v in runs[0].state.items())
    other = train(dropout_model(), data(), epochs=2, seed=2)
    assert not np.array_equal(runs[0].losses, other.losses)


@given(st.integers(1, 9))
def test_stopped_and_resumed_has_the_same_bits(stop):
    settings = {"steps": 10, "seed": 7, "batch_size": 5, "schedule": "cosine"}
    whole = train(dropout_model(), data(), **settings)
    net, saved = dropout_model(), {}

    def halt(tick):
        saved["optimizer"] = tick.optimizer.state_dict()
        return tick.step == stop

    first = train(net, data(), callback=halt, **settings)

    def restored(parameters):
        made = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        made.load_state_dict(saved["optimizer"])
        return made

    second = train(net, data(), optimizer=restored, start=stop, **settings)
    assert len(first.losses) == stop
    assert np.array_equal(np.concatenate([first.losses, second.losses]), whole.losses)
    np.testing.assert_allclose(np.concatenate([first.rates, second.rates]), whole.rates)
    assert all(torch.equal(v, second.state[n]) for n, v in whole.state.items())


def test_a_callback_sees_the_step_and_can_look_around():
    seen = []
    net = model()

    def look(tick):
        seen.append((tick.step, tick.epoch, tick.loss, tick.closure().item()))
        assert tick.model is net
        assert tick.scheduler is None
        assert tick.batch[0].shape[1] == 5

    run = train(net, data(), epochs=2, batch_size=11, lr=0.01, callback=look)
    steps, epochs, losses, after = zip(*seen, strict=True)
    assert (steps, epochs) == ((1, 2, 3, 4), (0, 0, 1, 1))
    assert list(losses) == run.losses.tolist()
    assert all(b < a for a, b in zip(losses, after, strict=True))


def test_rates_belong_to_the_controller_where_there_is_no_schedule():
    def halve(tick):
        for group in tick.optimizer.param_groups:
            group["lr"] *= 0.5

    run = train(model(), data(), steps=4, lr=0.8, callback=halve)
    np.testing.assert_allclose(run.rates, [0.8, 0.4, 0.2, 0.1])


def test_checkpoints_lie_on_the_way():
    start = {n: p.detach().clone() for n, p in model().named_parameters()}
    run = train(model(), data(), steps=6, keep=4)
    assert run.checkpoint_steps == (0, 2, 4, 6)
    assert all(torch.equal(v, start[n]) for n, v in run.checkpoints[0].items())
    assert all(torch.equal(v, run.state[n]) for n, v in run.checkpoints[-1].items())
    assert train(model(), data(), steps=6, keep=[1, 5]).checkpoint_steps == (1, 5)
    assert train(model(), data(), steps=6).checkpoints == ()
    early = train(model(), data(), steps=6, keep=3, callback=lambda tick: tick.step == 4)
    assert early.checkpoint_steps == (0, 3, 4)


def test_divergence_is_reported_and_the_weights_are_the_last_ones():
    run = train(model(), data(), steps=30, lr=1e30, keep=2)
    assert 0 < run.diverged_at < 30
    assert not np.isfinite(run.losses[-1])
    assert np.isfinite(run.losses[:-1]).all()
    assert run.checkpoint_steps == (0, run.diverged_at)


def test_weights_that_break_in_the_last_update_are_seen():
    net = nn.Linear(1, 1, bias=False)
    run = train(net, [torch.full((1, 1), 1e30)], lambda m, b: m(b).mean(), steps=1, lr=1e30)
    assert np.isfinite(run.losses).all()
    assert run.diverged_at == 1


def test_batches_are_walked_in_their_order_with_any_loss():
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    batches = [{"x": torch.eye(2)}, {"x": torch.tensor([[0.0, 2.0]])}]
    seen = []
    run = train(
        net,
        batches,
        lambda m, b: m(b["x"]).squeeze(1),
        epochs=2,
        optimizer=torch.optim.SGD,
        lr=0.5,
        callback=lambda tick: seen.append(tick.batch["x"]),
    )
    assert [len(x) for x in seen] == [2, 1, 2, 1]
    np.testing.assert_allclose(run.losses, [1.0, 1.5, 0.25, -1.0])


def test_a_regression_is_measured_by_its_squares():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=g)
    problem = Dataset(x, x @ torch.ones(3, 2), task="regression")
    net = build_model("mlp(8)", problem)
    run = train(net, problem, epochs=40, lr=0.05)
    twin = train(
        build_model("mlp(8)", problem), problem, supervised(F.mse_loss), epochs=40, lr=0.05
    )
    assert run.losses[-1] < 0.1 * run.losses[0]
    np.testing.assert_allclose(run.losses, twin.losses, rtol=1e-4)


def test_digits_are_learned_in_seconds():
    digits = load_dataset("digits")
    net = build_model("mlp(32)", digits)
    run = train(net, digits.take(1000), epochs=6, lr=0.1, schedule="cosine")
    rest = digits.skip(1000)
    right = (net(rest.inputs).argmax(1) == rest.targets).double().mean()
    assert right > 0.85
    assert run.losses[-20:].mean() < 0.3


def test_nothing_else_is_touched():
    net = dropout_model()
    net[2].eval()
    modes = [module.training for module in net.modules()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.no_grad():
        train(net, data(), steps=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert [module.training for module in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())


BAD = {
    "no length": ({}, ArgumentError, "either .epochs. or .steps."),
    "epochs": ({"epochs": 0}, ArgumentError, "`epochs`"),
    "steps": ({"steps": 1.5}, ArgumentError, "`steps`"),
    "optimizer": ({"steps": 1, "optimizer": "sdg"}, UnknownNameError, "did you mean 'sgd'"),
    "no optimizer": ({"steps": 1, "optimizer": list}, ArgumentError, "`optimizer` must return"),
    "rate": ({"steps": 1, "lr": -1.0}, ArgumentError, "`lr`"),
    "schedule": ({"steps": 1, "schedule": 3}, ArgumentError, "`schedule`"),
    "no share": (
        {"steps": 1, "schedule": lambda step, steps: None},
        ArgumentError,
        r"`schedule\(0, 1\)` must be a finite number; got None",
    ),
    "failing schedule": (
        {"steps": 1, "schedule": lambda step: 1.0},
        ArgumentError,
        r"`schedule` failed .* called as schedule\(step, steps\)",
    ),
    "loss": ({"steps": 1, "loss": 3}, ArgumentError, "`loss`"),
    "batch size": ({"steps": 1, "batch_size": 0}, ArgumentError, "`batch_size`"),
    "start": ({"steps": 1, "start": -1}, ArgumentError, "`start`"),
    "no batches": ({"steps": 1, "data": []}, DataError, "at least one batch"),
    "frozen": ({"steps": 1, "model": nn.ReLU()}, ModelError, "no trainable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_named(case):
    changed, error, words = BAD[case]
    settings = {"model": model(), "data": data()} | changed
    with pytest.raises(error, match=words):
        train(**settings)


@pytest.mark.parametrize("keep", [6, 7, 2**70])
def test_more_checkpoints_than_steps_are_all_steps(keep):
    assert train(model(), data(), steps=5, keep=keep).checkpoint_steps == (0, 1, 2, 3, 4, 5)
