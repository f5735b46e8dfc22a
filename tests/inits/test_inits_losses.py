import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.inits.losses import TrueLosses
from lossatlas.objective import supervised
from lossatlas.training.criteria import as_loss


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )


def dense(activation):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(128, 9), activation, nn.Linear(9, 3, bias=False)
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(128, 128), nn.Linear(128, 3)

    def forward(self, x):
        flat = x.flatten(1)
        return self.second(flat + self.first(flat).relu())


class Untraceable(nn.Module):
    """What vmap cannot serve: the value of a weight decides the way."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(128, 3)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return out if self.layer.weight[0, 0].item() > 0 else -out


CASES = {
    "convolutions": (small_cnn, "chain"),
    "dense relu": (lambda: dense(nn.ReLU()), "chain"),
    "dense tanh": (lambda: dense(nn.Tanh()), "chain"),
    "relu first": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(128, 3)), "chain"),
    "grouped first": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 3)),
        "chain",
    ),
    "residual": (Residual, "vmap"),
    "untraceable": (Untraceable, "plain"),
}


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    return torch.randn(32, 2, 8, 8, generator=random), torch.arange(32) % 3


def members(model, count):
    random = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(count, *p.shape, generator=random) * 0.3
        for name, p in model.named_parameters()
    }


def one_by_one(model, loss, batch, weights):
    count = len(next(iter(weights.values())))
    with torch.no_grad():
        return torch.stack(
            [
                loss(
                    lambda x, i=i: functional_call(
                        model, {n: v[i] for n, v in weights.items()}, x
                    ),
                    batch,
                )
                for i in range(count)
            ]
        ).double()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
def test_losses_are_those_of_one_network_at_a_time(name, criterion, batch):
    make, engine = CASES[name]
    model, loss = make().eval(), as_loss(criterion)
    kept = [part.clone() for part in batch]
    losses, weights = TrueLosses(model, loss, batch), members(model, 11)
    found = losses(weights)
    assert losses.engine == engine
    assert_close(found, one_by_one(model, loss, batch, weights), rtol=1e-5, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(kept, batch, strict=True))


def test_a_loss_of_ones_own_goes_through_vmap(batch):
    model = dense(nn.ReLU()).eval()
    losses = TrueLosses(model, lambda m, b: m(b[0]).square().mean(), batch)
    weights = members(model, 5)
    found = losses(weights)
    assert losses.engine == "vmap"
    slow = one_by_one(model, lambda m, b: m(b[0]).square().mean(), batch, weights)
    assert_close(found, slow, rtol=1e-5, atol=1e-7)


def test_the_model_stays_as_it_was_and_is_measured_in_eval_mode(batch):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    weights = members(model, 4)
    losses = TrueLosses(model, supervised(F.cross_entropy), batch)
    assert torch.equal(losses(weights), losses(weights))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_losses_that_are_not_finite_stay(batch):
    model = dense(nn.ReLU()).eval()
    weights = members(model, 3)
    weights["1.weight"][1] = torch.inf
    found = TrueLosses(model, as_loss("cross_entropy"), batch)(weights)
    assert found.isfinite().tolist() == [True, False, True]
