import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering.averaging import EMA, LAWA, PolynomialAverage

KINDS = {
    "valley": lambda p: PolynomialAverage(p, gamma=4),
    "ema": lambda p: EMA(p, 0.9),
    "lawa": lambda p: LAWA(p, window=3, every=2),
}


def fed(average, weights, values):
    for value in values:
        with torch.no_grad():
            for w in weights:
                w.fill_(value)
        average.update()
    return float(average.average[0].flatten()[0])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 20))
def test_the_power_law_is_its_definition(values, gamma):
    w = torch.zeros(2, dtype=torch.float64)
    truth = 0.0
    for t, value in enumerate(values, start=1):
        truth += (gamma + 1) / (t + gamma) * (value - truth)
    assert fed(PolynomialAverage([w], gamma), [w], values) == pytest.approx(truth, abs=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 0.99))
def test_the_exponential_average_is_corrected(values, decay):
    w = torch.zeros(2, dtype=torch.float64)
    shares = [decay**k for k in range(len(values))][::-1]
    truth = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
    assert fed(EMA([w], decay), [w], values) == pytest.approx(truth, abs=1e-9)


def test_the_latest_weights():
    w = torch.zeros(2, dtype=torch.float64)
    average = LAWA([w], window=3, every=2)
    # Taken in at the first update, then at every second one: 1, 2, 4, 6, 8.
    assert fed(average, [w], range(1, 9)) == pytest.approx((4 + 6 + 8) / 3)
    assert fed(LAWA([w]), [w], [7.0]) == 7.0


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


def trained(kind, model, steps=7, start=0):
    average = KINDS[kind](model.parameters())
    walk(model, average, start, steps)
    return average


def walk(model, average, start, stop):
    for step in range(start, stop):
        with torch.no_grad():
            for index, p in enumerate(model.parameters()):
                p.add_(torch.randn(p.shape, generator=generator("walk", step, index)).to(p))
        average.update()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapping_leaves_no_trace(kind, dtype):
    model = network().to(dtype)
    average = trained(kind, model)
    before = copy.deepcopy(model.state_dict())
    means = [m.clone() for m in average.average]
    places = [p.data_ptr() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    batches = [torch.randn(8, 4).to(dtype) for _ in range(3)]
    rng = torch.get_rng_state()
    with average.swapped(model, batches):
        for p, mean in zip(model.parameters(), means, strict=True):
            assert torch.equal(p, mean.to(p))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(average.average, means, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == places
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


def test_it_comes_back_after_an_error():
    model = nn.Linear(2, 2)
    average = trained("valley", model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), average.swapped(model):
        raise KeyError
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    average.update()


def test_statistics_are_those_of_the_averaged_weights():
    model = network()
    average = trained("ema", model)
    batches = [(torch.randn(16, 4, generator=generator(i)), None) for i in range(4)]
    with average.swapped(model, batches):
        hidden = [model[0](x) for x, _ in batches]
        means = torch.stack([h.mean(0) for h in hidden]).mean(0)
        variances = torch.stack([h.var(0) for h in hidden]).mean(0)
        assert_close(model[1].running_mean, means)
        assert_close(model[1].running_var, variances)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_average_goes_on_with_the_same_bits(kind):
    whole, half = nn.Linear(3, 2), nn.Linear(3, 2)
    half.load_state_dict(whole.state_dict())
    first, second = KINDS[kind](whole.parameters()), KINDS[kind](half.parameters())
    walk(whole, first, 0, 9)
    walk(half, second, 0, 5)
    other = KINDS[kind](half.parameters())
    other.load_state_dict(copy.deepcopy(second.state_dict()))
    walk(half, other, 5, 9)
    for a, b in zip(first.average, other.average, strict=True):
        assert torch.equal(a, b)


def test_half_precision_is_averaged_in_single():
    w = torch.zeros(1, dtype=torch.bfloat16)
    average = PolynomialAverage([w], gamma=0)
    fed(average, [w], [1.0] * 300 + [0.0] * 300)
    assert average.average[0].dtype == torch.float32
    assert average.average[0].item() == pytest.approx(0.5, abs=1e-3)


def test_bad_input_is_named():
    model = network()
    average = PolynomialAverage(model.parameters())
    with pytest.raises(ArgumentError, match="`batches` must be given"), average.swapped(model):
        pass
    with average.swapped():
        for call in (average.update, average.state_dict, average.swapped().__enter__):
            with pytest.raises(ArgumentError, match="outside `swapped"):
                call()
    with pytest.raises(ArgumentError, match=r"pass \.parameters"):
        EMA(model)
    with pytest.raises(ArgumentError, match="at least one"):
        EMA([])
    with pytest.raises(ArgumentError, match="`gamma`"):
        PolynomialAverage(model.parameters(), -1)
    with pytest.raises(ArgumentError, match="`decay`"):
        EMA(model.parameters(), 1.0)
    with pytest.raises(ArgumentError, match="`window`"):
        LAWA(model.parameters(), 0)
    with pytest.raises(ArgumentError, match="must be of weights"):
        average.load_state_dict(EMA(nn.Linear(2, 2).parameters()).state_dict())
