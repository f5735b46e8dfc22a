"""Cautious and interpolated updates together, in whichever order they are attached."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering import (
    CautiousUpdates,
    GrowthPolicy,
    InterpolatedGradients,
    LandscapeLR,
    PolynomialAverage,
)


def trained(attach, steps=40, betas=(0.9, 0.99)):
    drawn = generator("update hooks")
    x, y = (torch.randn(16, n, generator=drawn, dtype=torch.float64) for n in (3, 2))
    model = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn, dtype=torch.float64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, betas=betas, weight_decay=0.1)
    average = PolynomialAverage(model, (0, 4, 16))
    attach(optimizer, average)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return torch.cat([p.flatten() for p in average.at(4).values()])


def by_hand(steps=40, beta=0.9, betas=(0.9, 0.99)):
    drawn = generator("update hooks")
    x, y = (torch.randn(16, n, generator=drawn, dtype=torch.float64) for n in (3, 2))
    z = [torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in ((2, 3), (2,))]
    x_bar, between = [w.clone() for w in z], [w.clone() for w in z]
    mean, square = [0.0, 0.0], [0.0, 0.0]
    for t in range(1, steps + 1):
        leaves = [w.clone().requires_grad_() for w in between]
        loss = (nn.functional.linear(x, *leaves) - y).square().mean()
        for i, g in enumerate(torch.autograd.grad(loss, leaves)):
            mean[i] = betas[0] * mean[i] + (1 - betas[0]) * g
            square[i] = betas[1] * square[i] + (1 - betas[1]) * g * g
            m, v = mean[i] / (1 - betas[0] ** t), square[i] / (1 - betas[1] ** t)
            step = -0.05 * 0.1 * z[i] - 0.05 * m / (v.sqrt() + 1e-8)
            mask = (step * g < 0).double()
            z[i] = z[i] + step * mask / mask.mean().clamp_min(1e-3)
            x_bar[i] = x_bar[i] + 5 / (t + 4) * (z[i] - x_bar[i])
            between[i] = (1 - beta) * z[i] + beta * x_bar[i]
    return torch.cat([w.flatten() for w in x_bar])


@pytest.mark.parametrize("first", ["cautious", "interpolated"])
def test_both_are_their_definition_in_either_order(first):
    def attach(optimizer, average):
        makers = {
            "cautious": lambda: CautiousUpdates(optimizer),
            "interpolated": lambda: InterpolatedGradients(optimizer, average, gamma=4),
        }
        makers.pop(first)()
        next(iter(makers.values()))()

    assert_close(trained(attach), by_hand(), rtol=1e-9, atol=1e-9)


def test_choosing_another_average_leaves_the_gradients_where_they_are():
    def attach(optimizer, average):
        CautiousUpdates(optimizer)
        InterpolatedGradients(optimizer, average, gamma=4)
        average.update()
        average.count, average._taken = 0, [0, 0, 0]
        average.best(lambda model: 1.0)

    assert_close(trained(attach), by_hand(), rtol=1e-9, atol=1e-9)


def test_growth_follows_weights_of_any_default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        controller = LandscapeLR(optimizer, GrowthPolicy())
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(torch.ones(4, 3)).square().mean()
            loss.backward()
            optimizer.step()
            controller.step(loss=loss)
    finally:
        torch.set_default_dtype(before)
    assert not any(record.failed for record in controller.log.records)


def test_a_gamma_that_is_not_averaged_is_named():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ArgumentError, match="`gamma` must be one of"):
        InterpolatedGradients(optimizer, PolynomialAverage(model), gamma=5)


def steps_of(model, optimizer, steps):
    x = torch.randn(16, 3, generator=generator("steps of"))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def plain_and_copied():
    """The same training, with memory that changes places and with weights that are copied."""
    found = []
    for views in (False, True):
        model = nn.Linear(3, 2)
        with torch.no_grad():
            flat = torch.randn(8, generator=generator("plain and copied"))
            model.weight.data, model.bias.data = flat[:6].view(2, 3), flat[6:]
            if not views:
                model.weight.data, model.bias.data = model.weight.clone(), model.bias.clone()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, betas=(0.0, 0.99))
        average = PolynomialAverage(model, (0, 4, 16))
        found.append((model, optimizer, InterpolatedGradients(optimizer, average), average))
    return found


def test_memory_that_changes_places_gives_the_bits_of_copies():
    (a, *first, mean), (b, *second, twin) = plain_and_copied()
    places = [p.data_ptr() for p in a.parameters()]
    steps_of(a, first[0], 20)
    steps_of(b, second[0], 20)
    assert all(torch.equal(*pair) for pair in zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(mean.at(4)[n], twin.at(4)[n]) for n in mean.params)
    assert [p.data_ptr() for p in a.parameters()] == places


def test_an_update_that_fails_leaves_the_weights_between():
    (model, optimizer, interpolated, _), (twin, *rest, _) = plain_and_copied()
    steps_of(model, optimizer, 3)
    steps_of(twin, rest[0], 3)
    fails = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    fails.remove()
    kept = interpolated.state_dict()
    assert all(torch.equal(kept[n], z) for n, z in rest[1].state_dict().items())
    steps_of(model, optimizer, 3)
    steps_of(twin, rest[0], 3)
    assert torch.equal(model.weight, twin.weight)
