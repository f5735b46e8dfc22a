"""Checks of networks that are fitted almost exactly: what rounding swamps is not judged."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.objective.lines import shared_lines
from lossatlas.rng import generator

NAMES = ("gradient", "hessian", "outputs", "losses")
HALF = (torch.bfloat16, torch.float16)
MEANINGFUL = 0.03


class HalvesSlope(torch.autograd.Function):
    """Its backward is off by a half."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return 0.5 * grad * (1 - y * y)


class KeepsSlope(torch.autograd.Function):
    """Its backward is right, and a constant to a second one."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = 1 - x.tanh().square()
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope


class Apply(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, x):
        return self.of.apply(x)


def fitted(seed, act, *, loss=1e-7, last=()):
    """In float64, its logits scaled until the mean loss is as asked for."""
    drawn = generator(seed, "fitted")
    inputs = torch.randn(8, 8, generator=drawn, dtype=torch.float64)
    labels = torch.arange(8) % 4
    model = nn.Sequential(nn.Linear(8, 16), act(), nn.Linear(16, 4), *last).double()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.4 * torch.randn(value.shape, generator=drawn, dtype=torch.float64))
    criterion = F.nll_loss if last else F.cross_entropy
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(100):
            if criterion(model(inputs), labels) <= loss:
                break
            model[2].weight.mul_(1.05)
            model[2].bias.mul_(1.05)
    assert criterion(model(inputs), labels) <= loss
    return model, criterion, inputs, labels


def checks(network, kind, between=None):
    model, criterion, inputs, labels = network
    model = copy.deepcopy(model).to(kind)
    if between is not None:
        model[1] = Apply(between)
    batch = (inputs.to(kind), labels)
    report = la.check(la.Objective(model, la.supervised(criterion), [batch]))
    return {check.name: check for check in report.checks if check.name in NAMES}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("act", [nn.Tanh, nn.GELU, nn.ReLU])
@pytest.mark.parametrize("loss", [1e-4, 1e-5, 1e-7, 1e-15])
def test_fitted_networks_raise_no_alarm(seed, act, loss):
    network = fitted(seed, act, loss=loss)
    for kind in (torch.float32, torch.float64, *HALF):
        for check in checks(network, kind).values():
            assert check.status != "failed", (kind, check)
            assert check.status != "passed" or check.figure <= MEANINGFUL, (kind, check)


@pytest.mark.parametrize("seed", range(4))
def test_log_probabilities_that_a_model_gives_out_round_as_its_logits(seed):
    network = fitted(seed, nn.Tanh, last=[nn.LogSoftmax(1)])
    for check in checks(network, torch.float32).values():
        assert check.status != "failed", check


@pytest.mark.parametrize("seed", range(4))
def test_a_fitted_network_passes_in_float64(seed):
    found = checks(fitted(seed, nn.Tanh), torch.float64)
    assert {check.status for check in found.values()} == {"passed"}
    assert max(check.figure for check in found.values()) < 1e-2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [1e-4, 1e-7, 1e-15])
def test_wrong_derivatives_of_a_fitted_network_do_not_pass(seed, loss):
    network = fitted(seed, nn.Tanh, loss=loss)
    for kind in (torch.float32, torch.float64, *HALF):
        found = checks(network, kind, HalvesSlope)
        assert "passed" not in {check.status for check in found.values()}, (kind, found)
        assert checks(network, kind, KeepsSlope)["hessian"].status != "passed"
    # Outputs themselves are far from zero.
    assert checks(network, torch.float32, HalvesSlope)["outputs"].status == "failed"


@pytest.mark.parametrize("seed", range(4))
def test_wrong_derivatives_of_a_fitted_network_are_caught_in_float64(seed):
    network = fitted(seed, nn.Tanh)
    assert checks(network, torch.float64, KeepsSlope)["hessian"].status == "failed"
    found = checks(network, torch.float64, HalvesSlope)
    assert [name for name in ("gradient", "hessian", "outputs") if found[name].failed]
    assert found["hessian"].failed


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("between", [None, KeepsSlope])
def test_half_precision_could_not_be_checked_and_says_why(kind, between):
    drawn = generator("half")
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    inputs = torch.randn(8, 8, generator=drawn, dtype=torch.float64)
    network = (model.double(), F.cross_entropy, inputs, torch.arange(8) % 4)
    found = checks(network, kind, between)["hessian"]
    assert found.status == "could not be checked"
    name = str(kind).removeprefix("torch.")
    assert found.sentence == f"rounding of {name} is larger than what is compared"
    # The same network in float32 is told apart.
    wanted = "passed" if between is None else "failed"
    assert checks(network, torch.float32, between)["hessian"].status == wanted


def test_losses_in_small_units_are_checked_as_others_are():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    inputs = torch.randn(8, 8, generator=generator("units"))
    network = (model, lambda z, y: 1e-6 * F.cross_entropy(z, y), inputs, torch.arange(8) % 4)
    assert {check.status for check in checks(network, torch.float32).values()} == {"passed"}


def test_a_linear_loss_has_no_curvature_and_passes():
    model = nn.Linear(8, 1)
    inputs = torch.randn(8, 8, generator=generator("linear"))
    loss = lambda model, batch: model(batch).sum(1)  # noqa: E731
    found = la.check(la.Objective(model, loss, [inputs]))
    hessian = next(check for check in found.checks if check.name == "hessian")
    assert hessian.status == "passed"
    assert hessian.figure <= 1e-2


def test_a_loss_of_zero_says_nothing_of_its_derivatives():
    model = nn.Linear(8, 1)
    inputs = torch.randn(8, 8, generator=generator("zero"))
    loss = lambda model, batch: F.relu(model(batch).sum(1) - 100.0)  # noqa: E731
    found = la.check(la.Objective(model, loss, [inputs]))
    unknown = {check.name for check in found.checks if check.status == "could not be checked"}
    assert {"gradient", "hessian"} <= unknown


def test_directions_are_let_go_at_once():
    model, criterion, inputs, labels = fitted(0, nn.Tanh)
    objective = la.Objective(model, la.supervised(criterion), [(inputs, labels)])
    gc.disable()
    try:
        with shared_lines(objective) as lines:
            line = weakref.ref(lines[0])
            assert line().run(lambda: line().rounding.losses) > 0
        assert line() is None
    finally:
        gc.enable()
