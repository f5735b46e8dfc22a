"""SAM beside its slow twin: weights moved by hand, passes written out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.rng import generator
from lossatlas.steering import SAM, sam_radius


def network():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3)
        )


def batch(step, count=12):
    drawn = generator("sam", step)
    return torch.randn(count, 5, generator=drawn), torch.randint(
        0, 3, (count,), generator=drawn
    )


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def closure_of(model, pair, scale=1.0):
    def closure():
        loss = F.cross_entropy(model(pair[0]), pair[1])
        (scale * loss).backward()
        return loss

    return closure


def twin(steps, rho, adaptive=False):
    """Every pass on a copy of its own, random numbers and statistics set by hand."""
    model = network()
    optimizer = adamw(model)
    for step in range(steps):
        x, y = batch(step)
        torch.random.default_generator.manual_seed(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        uphill = copy.deepcopy(model)
        grads = [p.grad for p in model.parameters()]
        scales = [p.detach().abs() + 0.01 if adaptive else 1.0 for p in model.parameters()]
        pushed = [s * g for s, g in zip(scales, grads, strict=True)]
        length = float(torch.stack([v.square().sum() for v in pushed]).sum().sqrt())
        with torch.no_grad():
            for p, s, v in zip(uphill.parameters(), scales, pushed, strict=True):
                p.add_(s * v, alpha=rho / length) if not adaptive else p.addcmul_(
                    s, v, value=rho / length
                )
        torch.random.default_generator.manual_seed(step)
        uphill.zero_grad()
        F.cross_entropy(uphill(x), y).backward()
        for p, q in zip(model.parameters(), uphill.parameters(), strict=True):
            p.grad = q.grad
        optimizer.step()
    return model


def assert_same(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_is_its_slow_twin_bit_for_bit(adaptive):
    rho, model = 0.1, network()
    sam = SAM(adamw(model), rho, adaptive=adaptive)
    for step in range(5):
        torch.random.default_generator.manual_seed(step)
        sam.step(closure_of(model, batch(step)))
    assert_same(model, twin(5, rho, adaptive))


def test_without_a_radius_it_is_the_bare_training():
    ours, bare = network(), network()
    sam, optimizer = SAM(adamw(ours), 0.0), adamw(bare)
    states = []
    for train in (ours, bare):
        torch.random.default_generator.manual_seed(7)
        for step in range(4):
            if train is ours:
                loss = sam.step(closure_of(ours, batch(step)))
                assert not loss.requires_grad
            else:
                optimizer.zero_grad()
                closure_of(bare, batch(step))()
                optimizer.step()
        states.append(torch.get_rng_state())
    assert_same(ours, bare)
    assert torch.equal(*states)


def test_the_loop_written_out_is_the_same_without_dropout():
    ours, other = network(), network()
    ours[3] = other[3] = nn.Identity()
    sam = SAM(adamw(ours), 0.1)
    optimizer = adamw(other)
    written = SAM(optimizer, 0.1)
    for step in range(3):
        sam.step(closure_of(ours, batch(step)))
        optimizer.zero_grad()
        closure_of(other, batch(step))()
        with written.perturbed():
            closure_of(other, batch(step))()
        optimizer.step()
    assert_same(ours, other)


def test_accumulated_batches_are_one_batch():
    ours, whole = nn.Linear(5, 3), nn.Linear(5, 3)
    whole.load_state_dict(ours.state_dict())
    pieces = [batch(0), batch(1)]
    joint = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))

    def accumulated():
        return sum(closure_of(ours, piece, scale=0.5)() for piece in pieces)

    SAM(adamw(ours), 0.1).step(accumulated)
    SAM(adamw(whole), 0.1).step(closure_of(whole, joint))
    torch.testing.assert_close(ours.state_dict(), whole.state_dict())


def test_a_scaler_scales_nothing_but_the_gradient_and_skips_overflows():
    ours, bare = nn.Linear(5, 3), nn.Linear(5, 3)
    bare.load_state_dict(ours.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sam = SAM(adamw(ours), 0.1)

    def scaled():
        loss = F.cross_entropy(ours(batch(0)[0]), batch(0)[1])
        scaler.scale(loss).backward()
        return loss

    def overflowing():
        scaler.scale(float("inf") * ours.weight.sum()).backward()

    before = copy.deepcopy(ours)
    sam.step(overflowing, scaler=scaler)
    assert_same(ours, before)
    assert scaler.get_scale() == 512.0
    sam.step(scaled, scaler=scaler)
    SAM(adamw(bare), 0.1).step(closure_of(bare, batch(0)))
    torch.testing.assert_close(ours.state_dict(), bare.state_dict())


def test_pieces_of_m_examples_have_moves_of_their_own():
    model, x, y = nn.Linear(5, 3), *batch(3, 10)
    start = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sam = SAM(optimizer, 0.2, m=4)

    def closure(piece):
        loss = F.cross_entropy(model(piece[0]), piece[1])
        loss.backward()
        return loss

    loss = sam.step(closure, (x, y))
    assert loss.item() == pytest.approx(F.cross_entropy(start(x), y).item(), rel=1e-6)
    expected = {n: p.detach().clone() for n, p in start.named_parameters()}
    for low, high in ((0, 4), (4, 8), (8, 10)):
        one = copy.deepcopy(start)
        alone = SAM(torch.optim.SGD(one.parameters(), lr=1.0), 0.2)
        alone.step(closure_of(one, (x[low:high], y[low:high])))
        for name, p in one.named_parameters():
            change = p.detach() - start.get_parameter(name)
            expected[name] += change.detach() * (high - low) / 10
    torch.testing.assert_close(dict(model.named_parameters()), expected)


def test_the_radius_raises_the_loss_by_its_share():
    model = network().eval()
    objective = la.Objective(model, la.supervised(F.cross_entropy), [batch(0), batch(1)])
    for adaptive in (False, True):
        rho = sam_radius(objective, share=0.2, adaptive=adaptive)
        loss, gradient = objective.value(), objective.gradient()
        scales = {n: p.abs() + 0.01 if adaptive else 1.0 for n, p in objective.params.items()}
        length = sum(float((scales[n] * g).square().sum()) for n, g in gradient.items()) ** 0.5
        moved = {
            n: p + rho / length * scales[n] * scales[n] * gradient[n]
            for n, p in objective.params.items()
        }
        assert objective.value(moved) == pytest.approx(1.2 * loss, rel=2e-3)
    with pytest.raises(ArgumentError, match="share"):
        sam_radius(objective, share=0.0)
    linear = la.Objective(nn.Linear(1, 1), lambda m, x: 0 * m(x).sum(), [torch.ones(1, 1)])
    with pytest.raises(NonFiniteError, match="finite loss above zero"):
        sam_radius(linear)


def test_defaults_are_the_radii_of_the_balls():
    optimizer = adamw(nn.Linear(1, 1))
    assert (SAM(optimizer).rho, SAM(optimizer, adaptive=True).rho) == (0.05, 0.5)


def test_bad_input_is_named():
    optimizer = adamw(nn.Linear(1, 1))
    for wrong, message in (
        ({"rho": -1}, "`rho`"),
        ({"m": 0}, "`m`"),
        ({"m": "all"}, "`m` must be None"),
        ({"m": "rank"}, "DistributedDataParallel"),
    ):
        with pytest.raises(ArgumentError, match=message):
            SAM(optimizer, **wrong)
    with pytest.raises(ArgumentError, match="`optimizer`"):
        SAM(nn.Linear(1, 1))
    with pytest.raises(ArgumentError, match="`batch` must be given"):
        SAM(optimizer, m=2).step(lambda: None)
    with pytest.raises(ArgumentError, match="no parameter has a gradient"):
        SAM(optimizer).step(lambda: None)
