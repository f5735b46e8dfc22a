"""The recipe: an optimizer with its rate and averages, as one object."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.rng import generator
from lossatlas.steering import (
    CautiousUpdates,
    GrowthPolicy,
    InterpolatedGradients,
    LandscapeLR,
    PolynomialAverage,
)

# Most of these recipes never show their averages.
pytestmark = pytest.mark.filterwarnings("ignore:.*running statistics")


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def batch(step):
    drawn = generator("recipe", step)
    return torch.randn(16, 5, generator=drawn), torch.randint(0, 3, (16,), generator=drawn)


BATCHES = [batch(step) for step in range(4)]


def go(model, training, start, stop, scaler=None):
    for step in range(start, stop):
        x, y = batch(step)
        training.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        training.step(loss, scaler=scaler)


def assert_same(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("lr", [None, 1e-2])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_it_is_the_same_loop_written_out(lr, name):
    ours, other = network(), network()
    go(ours, la.recipe(ours, name, lr=lr, warmup=3, interpolated=False), 0, 8)
    kinds = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=lr or 1e-3, weight_decay=1e-2),
        "sgd": lambda p: torch.optim.SGD(p, lr=lr or 0.1, momentum=0.9),
    }
    optimizer = kinds[name](other.parameters())
    controller = LandscapeLR(optimizer, GrowthPolicy()) if lr is None else None
    for step in range(8):
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 3, 1.0)
        optimizer.zero_grad()
        loss = F.cross_entropy(other(batch(step)[0]), batch(step)[1])
        loss.backward()
        optimizer.step()
        if controller is not None:
            controller.step(loss=loss)
    assert_same(ours, other)


@pytest.mark.parametrize("lr", [None, 1e-2])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_interpolated_is_the_same_loop_written_out(lr, name):
    ours, other = network(), network()
    go(ours, la.recipe(ours, name, lr=lr, warmup=3, interpolated=True), 0, 8)
    kinds = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=lr or 1e-3, betas=(0.0, 0.999)),
        "sgd": lambda p: torch.optim.SGD(p, lr=lr or 0.1),
    }
    optimizer, average = kinds[name](other.parameters()), PolynomialAverage(other, 16)
    controller = LandscapeLR(optimizer, GrowthPolicy()) if lr is None else None
    weights = list(other.parameters())
    z = [p.detach().clone() for p in weights]
    for step in range(8):
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 3, 1.0)
        optimizer.zero_grad()
        loss = F.cross_entropy(other(batch(step)[0]), batch(step)[1])
        loss.backward()
        with torch.no_grad():
            torch._foreach_copy_(weights, z)
        optimizer.step()
        average.update()
        z = [p.detach().clone() for p in weights]
        with torch.no_grad():
            torch._foreach_lerp_(weights, list(average.average.values()), 0.9)
        if controller is not None:
            controller.step(loss=loss)
    for a, b in zip(ours.parameters(), weights, strict=True):
        torch.testing.assert_close(a, b)


def test_another_state_is_named():
    state = la.recipe(network(), lr=1e-2, gamma=4, interpolated=False).state_dict()
    with pytest.raises(ArgumentError, match="must hold 'interpolated'"):
        la.recipe(network(), lr=1e-2, gamma=4).load_state_dict(state)
    assert la.recipe(network(), "sgd").interpolated is None
    assert la.recipe(network()).average.gammas == (0.0, 4.0, 16.0, 64.0)


@pytest.mark.parametrize("interpolated", [False, True])
@pytest.mark.parametrize("lr", [None, 1e-2])
def test_it_goes_on_with_the_same_bits(lr, interpolated, tmp_path):
    whole, half = network(), network()
    more = {"lr": lr, "warmup": 6, "interpolated": interpolated}
    first = la.recipe(whole, batches=BATCHES, **more)
    go(whole, first, 0, 9)
    second = la.recipe(half, **more)
    go(half, second, 0, 4)
    torch.save({"model": half.state_dict(), "training": second.state_dict()}, tmp_path / "x.pt")
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    resumed = network()
    third = la.recipe(resumed, batches=BATCHES, **more)
    resumed.load_state_dict(saved["model"])
    third.load_state_dict(saved["training"])
    go(resumed, third, 4, 9)
    assert_same(whole, resumed)
    for one, other in zip(first.average._means, third.average._means, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_best_average_is_shown_with_its_own_statistics():
    model = network()
    training = la.recipe(model, lr=1e-2, batches=BATCHES)
    go(model, training, 0, 12)
    x, y = batch(100)

    def score(shown):
        return (shown(x).argmax(1) == y).float().mean()

    before = copy.deepcopy(model)
    choice = training.best(score)
    assert choice.gamma == training.average.gamma
    assert_same(model, before)
    with training.swapped():
        model.eval()
        assert float(score(model)) == max(s.value for s in choice.scores)
        assert not torch.equal(model[1].running_mean, before[1].running_mean)


def test_a_scaler_that_skips_is_no_step():
    model = network()
    training = la.recipe(model, lr=1e-2, warmup=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    training.zero_grad()
    scaler.scale(float("inf") * model[0].weight.sum()).backward()
    training.step(scaler=scaler)
    assert training.average.count == 0
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.25e-2)
    go(model, training, 0, 2, scaler)
    assert training.average.count == 2
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.75e-2)


def test_compiled_and_accumulated_trainings_are_served():
    plain, compiled = network(), network()
    fast = torch.compile(compiled, backend="eager")
    for model, module in ((plain, plain), (fast, compiled)):
        training = la.recipe(model, lr=1e-2, warmup=0)
        for step in range(3):
            training.zero_grad()
            for piece in (2 * step, 2 * step + 1):
                (0.5 * F.cross_entropy(model(batch(piece)[0]), batch(piece)[1])).backward()
            training.step()
        assert training.average.count == 3
        with training.swapped(BATCHES):
            state = copy.deepcopy(module.state_dict())
        module.averaged = state
    for name, value in plain.averaged.items():
        assert torch.equal(value, compiled.averaged[name])


def test_an_optimizer_may_be_given():
    model = network()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    training = la.recipe(model, optimizer, warmup=0)
    assert training.optimizer is optimizer
    assert optimizer.param_groups[0]["lr"] == 1e-3
    la.recipe(network(), torch.optim.Adam, lr=0.1)
    assert la.recipe(model, optimizer, lr=0.5, warmup=2).optimizer.param_groups[0]["lr"] == 0.25


def cautious_twin(steps):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        with torch.no_grad():
            for p, old in zip(model.parameters(), before, strict=True):
                move = p - old
                for index in torch.nonzero(move * p.grad >= 0):
                    move[tuple(index)] = 0.0
                kept = (move != 0).float().mean().clamp(1e-3)
                p.copy_(old + move / kept)
    return model


def test_cautious_updates_are_their_slow_twin():
    model = network()
    go(model, la.recipe(model, lr=1e-2, warmup=0, cautious=True, interpolated=False), 0, 5)
    torch.testing.assert_close(model.state_dict(), cautious_twin(5).state_dict())


def test_removed_masks_leave_updates_alone():
    ours, bare = network(), network()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    CautiousUpdates(optimizer).remove()
    other = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9)
    for model, made in ((ours, optimizer), (bare, other)):
        for step in range(3):
            made.zero_grad()
            F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
            made.step()
    assert_same(ours, bare)


def test_interpolated_gradients_are_schedule_free_training():
    # By hand: y = (1 - beta) z + beta x, z moves by the gradient at y, x averages the z.
    model = nn.Linear(5, 3)
    x = z = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    average = PolynomialAverage(model, gamma=2)
    interpolated = InterpolatedGradients(optimizer, average, beta=0.8)
    for step in range(6):
        data, targets = batch(step)
        y = {n: 0.2 * z[n] + 0.8 * x[n] for n in z}
        loss = F.cross_entropy(torch.func.functional_call(model, y, data), targets)
        hand = {n: v.requires_grad_() for n, v in y.items()}
        loss = F.cross_entropy(torch.func.functional_call(model, hand, data), targets)
        grads = dict(zip(hand, torch.autograd.grad(loss, list(hand.values())), strict=True))
        z = {n: z[n] - 0.5 * grads[n] for n in z}
        share = 3 / (step + 3)
        x = {n: (1 - share) * x[n] + share * z[n] for n in x}
        optimizer.zero_grad()
        F.cross_entropy(model(data), targets).backward()
        optimizer.step()
    torch.testing.assert_close(average.average, {n: v.detach() for n, v in x.items()})
    kept = interpolated.state_dict()
    torch.testing.assert_close(kept, {n: v.detach() for n, v in z.items()})
    interpolated.load_state_dict(kept)
    with pytest.raises(ArgumentError, match="names differ"):
        interpolated.load_state_dict({})
    with pytest.raises(ArgumentError, match="must hold the weights"):
        InterpolatedGradients(torch.optim.SGD(network().parameters(), lr=1.0), average)


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="`lr`"):
        la.recipe(network(), lr=0.0)
    with pytest.raises(ArgumentError, match="`warmup`"):
        la.recipe(network(), lr=0.1, warmup=-1)
    with pytest.raises(ArgumentError, match="`policy` must be None"):
        la.recipe(network(), lr=0.1, policy=GrowthPolicy())
    with pytest.raises(UnknownNameError, match="did you mean 'adam'"):
        la.recipe(network(), "adamv")
