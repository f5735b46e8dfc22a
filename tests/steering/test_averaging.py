import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.testing import assert_close

import lossatlas as la
from lossatlas.errors import ArgumentError, ModelError
from lossatlas.rng import generator
from lossatlas.steering import statistics
from lossatlas.steering.penalties import SpectralRegularizer
from lossatlas.steering.polynomial_average import PolynomialAverage
from lossatlas.steering.simple_averages import EMA, LAWA

# Most of these averages are given their batches with `swapped`.
pytestmark = pytest.mark.filterwarnings("ignore:.*running statistics")

KINDS = {
    "bank": lambda m: PolynomialAverage(m, gamma=(4, 16, math.inf)),
    "single": lambda m: PolynomialAverage(m, gamma=4),
    "ema": lambda m: EMA(m, 0.9),
    "lawa": lambda m: LAWA(m, window=3, every=2),
}


def one_weight(dtype=torch.float64):
    return nn.Linear(1, 2, bias=False, dtype=dtype)


def fed(average, values):
    for value in values:
        nn.init.constant_(average.model.weight, value)
        average.update()
    return float(average.average["weight"].flatten()[0])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 20))
def test_the_power_law_is_its_definition(values, gamma):
    truth = 0.0
    for t, value in enumerate(values, start=1):
        truth += (gamma + 1) / (t + gamma) * (value - truth)
    average = PolynomialAverage(one_weight(), gamma)
    assert fed(average, values) == pytest.approx(truth, abs=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_a_bank_is_its_members_and_infinity_is_the_weights(values):
    bank = PolynomialAverage(one_weight(), (math.inf, 0, 4))
    fed(bank, values)
    assert bank.gammas == (0.0, 4.0, math.inf)
    for gamma in (0.0, 4.0):
        alone = PolynomialAverage(one_weight(), gamma)
        fed(alone, values)
        with bank.swapped(gamma=gamma):
            assert torch.equal(bank.model.weight, alone.average["weight"])
    with bank.swapped(gamma=math.inf):
        assert bank.model.weight[0, 0].item() == values[-1]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 0.99))
def test_the_exponential_average_is_corrected(values, decay):
    shares = [decay**k for k in range(len(values))][::-1]
    truth = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
    assert fed(EMA(one_weight(), decay), values) == pytest.approx(truth, abs=1e-9)


def test_the_latest_weights():
    average = LAWA(one_weight(), window=3, every=2)
    # Taken in at the first update, then at every second one: 1, 2, 4, 6, 8.
    assert fed(average, range(1, 9)) == pytest.approx((4 + 6 + 8) / 3)
    assert fed(LAWA(one_weight()), [7.0]) == 7.0


def test_every_second_update():
    thinned = PolynomialAverage(one_weight(), gamma=0, every=2)
    # The first one counts, then every second one: 1, 3, 5.
    assert fed(thinned, range(1, 6)) == pytest.approx(3.0)
    assert thinned.count == 3


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


def trained(kind, model, steps=7, start=0):
    average = KINDS[kind](model)
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
    means = {n: m.clone() for n, m in average.average.items()}
    places = [p.data_ptr() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    batches = [torch.randn(8, 4).to(dtype) for _ in range(3)]
    rng = torch.get_rng_state()
    with average.swapped(batches):
        for name, p in model.named_parameters():
            assert torch.equal(p, means[name].to(p))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(torch.equal(a, means[n]) for n, a in average.average.items())
    assert [p.data_ptr() for p in model.parameters()] == places
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


def test_it_comes_back_after_an_error():
    model = nn.Linear(2, 2)
    average = trained("single", model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), average.swapped():
        raise KeyError
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    average.update()


def test_statistics_are_those_of_the_averaged_weights():
    model = network()
    average = trained("ema", model)
    batches = [(torch.randn(16, 4, generator=generator(i)), None) for i in range(4)]
    with average.swapped(batches):
        hidden = [model[0](x) for x, _ in batches]
        means = torch.stack([h.mean(0) for h in hidden]).mean(0)
        variances = torch.stack([h.var(0) for h in hidden]).mean(0)
        assert_close(model[1].running_mean, means)
        assert_close(model[1].running_var, variances)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_average_goes_on_with_the_same_bits(kind, tmp_path):
    whole, half = nn.Linear(3, 2), nn.Linear(3, 2)
    half.load_state_dict(whole.state_dict())
    first, second = KINDS[kind](whole), KINDS[kind](half)
    walk(whole, first, 0, 9)
    walk(half, second, 0, 5)
    other = KINDS[kind](half)
    path = tmp_path / "state.pt"
    torch.save(second.state_dict(), path)
    other.load_state_dict(torch.load(path, weights_only=True))
    walk(half, other, 5, 9)
    for means, others in zip(first._means, other._means, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(means, others, strict=True))


def test_half_precision_is_averaged_in_single():
    average = PolynomialAverage(one_weight(torch.bfloat16), gamma=0)
    fed(average, [1.0] * 300 + [0.0] * 300)
    assert average.average["weight"].dtype == torch.float32
    assert average.average["weight"][0].item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_left_out(kind, bad):
    clean, spoiled = KINDS[kind](one_weight()), KINDS[kind](one_weight())
    fed(clean, [1.0, 2.0])
    with pytest.warns(UserWarning, match="not finite are left out") as caught:
        fed(spoiled, [1.0, bad, bad, 2.0] if kind != "lawa" else [1.0, bad, 3.0, bad])
    assert len(caught) == 1
    if kind == "lawa":
        assert spoiled.average["weight"].isfinite().all()
        return
    assert (spoiled.count, spoiled.skipped) == (2, 2)
    assert torch.equal(spoiled.average["weight"], clean.average["weight"])


def test_it_follows_an_optimizer_and_a_scaler_that_skips():
    model = one_weight(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = PolynomialAverage(model)
    handle = average.follow(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * model(torch.ones(1, 1)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert average.count == 2
    handle.remove()
    optimizer.step()
    assert average.count == 2


def test_what_is_unfrozen_later_joins_with_its_present_value():
    model = nn.Sequential(one_weight(), one_weight())
    model[0].weight.requires_grad_(False)
    average = PolynomialAverage(model, 0)
    assert list(average.params) == ["1.weight"]
    average.update()
    nn.init.constant_(model[0].weight.requires_grad_(), 3.0)
    average.update()
    nn.init.constant_(model[0].weight, 6.0)
    average.update()
    assert average.average["0.weight"].flatten().tolist() == [4.0, 4.0]


def score_of(model):
    return -(model.weight.detach() - 2.5).abs().max().item()


def test_the_best_of_a_bank_is_shown():
    bank = PolynomialAverage(one_weight(), (0, 1, math.inf))
    assert bank.gamma == 1
    fed(bank, [1.0, 2.0, 3.0, 4.0])
    choice = bank.best(score_of)
    assert choice.gamma == bank.gamma == 0
    assert [s.value for s in choice.scores] == pytest.approx([0.0, -0.5, -1.5])
    assert "gamma 0 scores highest" in choice.sentences()[0]
    with bank.swapped():
        assert bank.model.weight[0, 0].item() == pytest.approx(2.5)
    lowest = bank.best(lambda m: -score_of(m), mode="min")
    assert lowest.gamma == 0
    assert "gamma 0 scores lowest" in lowest.sentences()[0]
    assert bank.best(score_of, mode="min").gamma == math.inf
    other = PolynomialAverage(one_weight(), (0, 1, math.inf))
    other.load_state_dict(bank.state_dict())
    assert other.gamma == math.inf
    with pytest.raises(ArgumentError, match="finite number for some"):
        bank.best(lambda model: math.nan)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x, scale):
        assert not self.training or not torch.is_grad_enabled()
        return self.norm(x) * scale


def test_batches_may_be_mappings_or_go_through_forward():
    model = Named()
    x = torch.randn(32, 2, generator=generator("mapping"))
    seen = {}
    for batches, forward in (
        ([{"x": x, "scale": 2.0}], None),
        ([(0, x)], lambda m, batch: m(batch[1], 1.0)),
    ):
        average = PolynomialAverage(model, batches=batches, forward=forward)
        average.update()
        with average.swapped():
            seen[forward] = model.norm.running_mean.clone()
    for mean in seen.values():
        assert_close(mean, x.mean(0))


class OwnNorm(nn.Module):
    """Keeps statistics that no class of torch knows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return (x - self.running_mean) * self.scale


class FrozenNorm(OwnNorm):
    """Has them as constants, as torchvision's FrozenBatchNorm2d."""


TRACKING = {
    "alone": nn.BatchNorm1d(4),
    "nested": nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4))),
    "synchronized": nn.Sequential(nn.SyncBatchNorm(4)),
    "instances": nn.Sequential(nn.InstanceNorm1d(4, affine=True, track_running_stats=True)),
}
PLAIN = {
    "layers": nn.LayerNorm(4),
    "untracked": nn.BatchNorm1d(4, track_running_stats=False),
    "instances": nn.InstanceNorm1d(4, affine=True),
    "frozen": FrozenNorm(),
}


@pytest.mark.parametrize("build", [PolynomialAverage, EMA, LAWA, la.recipe])
@pytest.mark.parametrize("model", TRACKING.values(), ids=TRACKING)
def test_missing_batches_are_told_before_the_training(model, build):
    with pytest.warns(
        UserWarning, match=r"running statistics \('.*as `batches=`, here or later"
    ) as caught:
        build(model)
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", PLAIN.values(), ids=PLAIN)
def test_models_without_statistics_need_no_batches(model):
    average = PolynomialAverage(model)
    average.update()
    average.best(lambda shown: 1.0)


@pytest.mark.filterwarnings("error")
def test_statistics_that_are_not_estimated_anew_are_told():
    with pytest.warns(
        UserWarning, match="'1.running_mean' keeps running statistics of its own"
    ):
        PolynomialAverage(nn.Sequential(nn.Linear(4, 4), OwnNorm()))


def test_batches_that_come_late_are_enough():
    model = network()
    average = trained("bank", model)
    with pytest.raises(ArgumentError, match="Nothing is lost"):
        average.best(lambda shown: 1.0)
    batches = [torch.randn(8, 4, generator=generator("late"))]
    found = average.best(lambda shown: float(shown[1].running_mean.sum()), batches)
    other = trained("bank", network())
    other.batches = batches
    assert [s.name for s in found.scores] == [
        s.name for s in other.best(lambda shown: 1.0).scores
    ]


@pytest.mark.parametrize(
    ("batches", "said"),
    [(iter([torch.ones(8, 4)]), "walkable many times"),
     ((torch.ones(8, 4), torch.ones(8)), "one batch"),
     ([], "at least one batch"),
     ([{"x": torch.ones(8, 4)}], "give forward="),
     ([torch.ones(8, 3)], "a pass over `batches` failed")],
)  # fmt: skip
def test_batches_that_cannot_serve_are_named_before_the_training(batches, said):
    with pytest.raises(ArgumentError, match=said):
        PolynomialAverage(network(), batches=batches)


def test_an_iterator_does_not_serve_several_members():
    average = trained("bank", network())
    with pytest.raises(ArgumentError, match="walkable many times"):
        average.best(lambda shown: 1.0, iter([torch.ones(8, 4)]))


def test_trying_the_batches_leaves_no_trace():
    model, batches, forwards = network(), [torch.randn(8, 4)] * 3, []
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    def forward(shown, x):
        forwards.append(shown(x) + torch.rand(1))

    PolynomialAverage(model, batches=batches, forward=forward)
    assert len(forwards) == 1
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(module.training for module in model.modules())


class Stream:
    """Batches that never end, and how many were drawn."""

    def __init__(self):
        self.drawn = 0

    def __iter__(self):
        while True:
            self.drawn += 1
            yield torch.randn(8, 4, generator=generator("stream", self.drawn))


def test_a_loader_is_not_drawn_from_before_it_is_needed_and_a_stream_ends(monkeypatch):
    monkeypatch.setattr(statistics, "_MOST", 7)
    stream = Stream()
    average = EMA(network(), batches=stream)
    average.update()
    assert stream.drawn == 0
    with average.swapped():
        assert stream.drawn == 7


def test_wrappers_are_looked_through():
    model = network()
    compiled = torch.compile(model, backend="eager")
    average = PolynomialAverage(compiled)
    assert average.model is model
    assert set(average.params) == {name for name, _ in model.named_parameters()}


def test_bad_input_is_named():
    model = network()
    average = PolynomialAverage(model)
    with pytest.raises(ArgumentError, match="`batches` must be given"), average.swapped():
        pass
    with pytest.raises(ArgumentError, match="used up"), average.swapped(iter(())):
        pass
    assert not average._inside
    with average.swapped([torch.randn(8, 4)]):
        for call in (average.update, average.state_dict, average.swapped().__enter__):
            with pytest.raises(ArgumentError, match="outside `swapped"):
                call()
    with pytest.raises(ArgumentError, match="give the model itself"):
        EMA(model.parameters())
    with pytest.raises(ArgumentError, match="trainable"):
        EMA(nn.ReLU())
    for gamma in (-1, (), (4, 4)):
        with pytest.raises(ArgumentError, match="`gamma`"):
            PolynomialAverage(model, gamma)
    with pytest.raises(ArgumentError, match="`gamma` must be one of"):
        average.swapped(gamma=3).__enter__()
    with pytest.raises(ArgumentError, match="`decay`"):
        EMA(model, 1.0)
    with pytest.raises(ArgumentError, match="`window`"):
        LAWA(model, 0)
    with pytest.raises(ArgumentError, match="must be of a bank with gamma"):
        average.load_state_dict(PolynomialAverage(model, 4).state_dict())
    with pytest.raises(ArgumentError, match=r"'0\.bias' is missing"):
        EMA(model).load_state_dict(EMA(nn.Linear(2, 2)).state_dict())
    model[0].weight = nn.Parameter(torch.zeros(6, 4))
    with pytest.raises(ArgumentError, match="replaced"), average.swapped():
        pass


def test_long_windows_take_in_some_updates_for_all():
    gammas, steps = (0, 4, math.inf), 2000
    values = torch.randn(steps, generator=generator("thinned"), dtype=torch.float64).tolist()
    bank = PolynomialAverage(one_weight(), gammas)
    fed(bank, values)
    assert bank.count == steps
    for gamma in gammas[:2]:
        # Every update that is left out counts as the one that is taken in after it.
        stands, last = [], 0
        for t in range(1, steps + 1):
            if t - last >= int(t / (gamma + 1) / 64):
                stands += [values[t - 1]] * (t - last)
                last = t
        truth = 0.0
        for t, value in enumerate(stands, start=1):
            truth += (gamma + 1) / (t + gamma) * (value - truth)
        assert last < steps or gamma == 4
        assert float(bank.at(gamma)["weight"][0, 0]) == pytest.approx(truth, abs=1e-9)
    assert float(bank.at(math.inf)["weight"][0, 0]) == values[-1]


def test_a_gamma_that_is_not_there_is_named():
    with pytest.raises(ArgumentError, match=r"one of \[4.0, 16.0, 64.0\]; got 5"):
        PolynomialAverage(one_weight()).at(5)


@pytest.mark.parametrize(
    "build",
    [
        la.recipe,
        PolynomialAverage,
        EMA,
        LAWA,
        SpectralRegularizer,
        lambda model: la.SpikeRecorder(
            model, torch.optim.SGD(nn.Linear(1, 1).parameters()), F.mse_loss
        ),
    ],
    ids=["recipe", "polynomial", "ema", "lawa", "spectral", "spikes"],
)
@pytest.mark.parametrize("layer", [lambda: nn.LazyLinear(3), nn.LazyBatchNorm1d])
def test_lazy_layers_are_sent_back_by_name(build, layer):
    model = nn.Sequential(nn.Flatten(), layer())
    with pytest.raises(ModelError, match=r"'1\.\w+' of Sequential is lazy.*run the model once"):
        build(model)
    assert any(map(is_lazy, model.parameters()))
