"""On a device that is pretended, everything gives the numbers of the processor.

Tensors on two devices that meet, generators of the wrong one, numpy of tensors on the device:
what a first run on a card would raise is raised here. Nothing else of a card is shown.
"""

import dataclasses
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

import cases
import fuzz_calls
import lossatlas as la
from lossatlas import curvature, steering, training, weights
from lossatlas.errors import LossError
from lossatlas.rng import generator
from lossatlas.steering import penalties
from pretend_device import PretendTensor, pretend_cuda

CE = la.supervised(F.cross_entropy)
OF_THE_MACHINE = {"seconds", "memory", "free", "fits"}


def assert_equal(ours, theirs, where=""):
    """Equal to rounding, whatever is nested in whatever; how many numbers were compared."""
    if isinstance(ours, torch.Tensor):
        return assert_equal(_array(ours), _array(theirs), where)
    if isinstance(ours, np.ndarray | np.number | float | int):
        return _assert_close(np.asarray(ours), np.asarray(theirs), where)
    if isinstance(ours, Mapping):
        assert ours.keys() == theirs.keys(), where
        return sum(assert_equal(ours[k], theirs[k], f"{where}.{k}") for k in ours)
    if dataclasses.is_dataclass(ours):
        kept = [f.name for f in dataclasses.fields(ours) if f.name not in OF_THE_MACHINE]
        return sum(
            assert_equal(getattr(ours, k), getattr(theirs, k), f"{where}.{k}") for k in kept
        )
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        pairs = enumerate(zip(ours, theirs, strict=True))
        return sum(assert_equal(a, b, f"{where}.{i}") for i, (a, b) in pairs)
    if isinstance(ours, nn.Module):
        return assert_equal(ours.state_dict(), theirs.state_dict(), where)
    return 0


def _array(tensor):
    kept = tensor.detach().cpu()
    return (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy()


def _assert_close(ours, theirs, where):
    assert ours.shape == theirs.shape, where
    if ours.dtype.kind not in "biufc":
        return 0
    scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale, err_msg=where)
    return ours.size


def assert_same_on_both(measure):
    """`measure(device)` gives the same on the processor and on the pretended device."""
    theirs = measure("cpu")
    with pretend_cuda():
        ours = measure("cuda")
        # Inside: what is drawn or fetched later is drawn there.
        assert assert_equal(ours, theirs) > 0
    return ours, theirs


def on(device, builder):
    case = cases.make(builder)
    case.model.to(device)
    return case


# The device itself.


def test_the_device_refuses_what_cuda_refuses():
    with pretend_cuda():
        x, index = torch.ones(3, device="cuda"), torch.tensor([0])
        assert x.device == (x + torch.tensor(1.0)).device == torch.device("cuda:0")
        assert x[index].is_cuda
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: x.index_select(0, index),
            lambda: torch.stack([x.sum(), torch.tensor(0.0)]),
            lambda: torch.ones(3).add_(x.sum()),
            lambda: nn.Linear(3, 2)(x),
        ):
            with pytest.raises(RuntimeError, match="to be on the same device"):
                mixed()
        with pytest.raises(RuntimeError, match="either on cpu or on the same device"):
            torch.ones(3)[torch.tensor([0], device="cuda")]
        for read in (x.numpy, lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor"):
                read()
        with pytest.raises(RuntimeError, match="'cuda' device type for generator but found"):
            torch.randn(3, device="cuda", generator=torch.Generator())
        with pytest.raises(RuntimeError, match="'cpu' device type for generator but found"):
            torch.randn(3, generator=torch.Generator("cuda"))


def test_the_device_has_numbers_gradients_and_a_generator_of_its_own():
    def measure(device):
        net = network().to(device)
        x = torch.linspace(-1, 1, 30).reshape(5, 6).to(device)
        net(x).square().sum().backward()
        params = {n: p.detach() for n, p in net.named_parameters()}
        f = lambda p: torch.func.functional_call(net.eval(), p, (x,)).square().sum()  # noqa: E731
        rows = {n: torch.stack([v, 2 * v]) for n, v in params.items()}
        return (
            [p.grad for p in net.parameters()],
            torch.func.jvp(torch.func.grad(f), (params,), (params,)),
            torch.func.vmap(f)(rows),
        )

    ours, _ = assert_same_on_both(measure)
    assert all(isinstance(each, PretendTensor) for each in ours[0])
    before = torch.get_rng_state()
    with pretend_cuda() as card:
        kept = torch.cuda.get_rng_state()
        assert float(torch.randn(3, device="cuda").sum()) == pytest.approx(-0.9312, abs=1e-4)
        assert not torch.equal(kept, torch.cuda.get_rng_state())
    assert card.reads == {"aten::_local_scalar_dense": 1}
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.cuda.is_available()


# What the library measures.


@pytest.mark.parametrize("mode", ["eval", "train", "recalibrated"])
@pytest.mark.parametrize("builder", cases.BUILDERS, ids=lambda b: b.__name__)
def test_values_and_gradients(builder, mode):
    def measure(device):
        objective = on(device, builder).objective(mode=mode)
        assert objective.device.type == device
        return objective.evaluate(), objective.gradient()

    assert_same_on_both(measure)


def test_random_states_of_the_device_are_left_as_they_were():
    with pretend_cuda():
        objective = on("cuda", cases.dropout).objective(mode="train")
        before = torch.cuda.get_rng_state(), torch.get_rng_state()
        objective.evaluate()
        objective.gradient()
        assert torch.equal(before[0], torch.cuda.get_rng_state())
        assert torch.equal(before[1], torch.get_rng_state())


ENGINES = {
    cases.mlp: ("plain", "stacked", "batched", "folded", "streaming", "in_place", "auto"),
    cases.conv_bn: ("plain", "batched", "folded", "streaming", "in_place", "auto"),
    cases.transformer: ("batched", "streaming"),
}


@pytest.mark.parametrize(
    ("builder", "engine"), [(b, e) for b, names in ENGINES.items() for e in names]
)
def test_maps(builder, engine):
    def measure(device):
        objective = on(device, builder).objective()
        plane = la.random_plane(objective, seed=3)
        land = la.map_plane(objective, plane, points=3, span=0.5, engine=engine)
        line = la.random_plane(objective, seed=1, dimension=1)
        return land, la.map_plane(objective, line, points=4, span=0.5, engine=engine)

    ours, theirs = assert_same_on_both(measure)
    assert ours[0].engine == theirs[0].engine


def test_batches_of_the_host_are_not_sent_for_every_point():
    with pretend_cuda() as card:
        objective = on("cuda", cases.mlp).objective()
        plane = la.random_plane(objective)

        def sent(points):
            before = card.sent
            la.map_plane(
                objective, plane, points=points, span=0.5, engine="plain", adaptive=False
            )
            return card.sent - before

        # Once for every 16 points, and not for every point.
        assert 0 < sent(3) < sent(17) < 17**2


INSTRUMENTS = {
    "span": lambda o: la.suggest_span(o, la.random_plane(o)),
    "spectrum": lambda o: la.spectrum(o, top=2, bottom=1, probes=2, steps=4, limit=12),
    "layers": lambda o: la.spectrum(
        o, top=1, bottom=1, by="layer", density=False, limit=5, vectors=True
    ),
    "classes": lambda o: la.spectrum(
        o, top=1, bottom=0, by="class", density=False, limit=3, curvature="gauss_newton"
    ),
    "differences": lambda o: curvature.trace(o, limit=10, curvature="gauss_newton"),
    "trace": lambda o: la.trace(o, limit=20),
    "fisher": lambda o: curvature.trace(o, curvature="fisher", limit=10),
    "empirical_fisher": lambda o: curvature.trace(o, curvature="empirical_fisher", limit=10),
    "frobenius_norm": lambda o: curvature.frobenius_norm(o, limit=20, rows=10),
    "diagonal": lambda o: curvature.diagonal(o, limit=20, rows=10),
    "average_sharpness": lambda o: curvature.average_sharpness(o, directions=4),
    "worst_sharpness": lambda o: curvature.worst_sharpness(
        o, adaptive=True, steps=4, restarts=1
    ),
    "m_sharpness": lambda o: curvature.m_sharpness(o, 2),
    "roughness": lambda o: curvature.roughness(o, directions=3, points=5),
    "sample_size": lambda o: curvature.sample_size_curve(
        o, sizes=(2, 4), directions=2, points=3, orders=3
    ),
    "plasticity": lambda o: curvature.plasticity(o, tasks=2, steps=3),
    "survey": lambda o: la.survey(o, points=3, span=0.5),
}
# Those of the registry that no line above covers, or a survey of all.
REGISTERED = (
    "stability", "gradient", "gradient_conflict", "representations", "collapse", "similarity",
)  # fmt: skip


# These take the products of "trace" and "layers", and seconds more on a convolutional network.
SMALL_ONLY = {"classes", "empirical_fisher", "frobenius_norm", "diagonal"}


@pytest.mark.parametrize(
    ("builder", "name"),
    [(cases.mlp, name) for name in INSTRUMENTS]
    + [(cases.conv_bn, name) for name in INSTRUMENTS if name not in SMALL_ONLY],
)
def test_instruments(builder, name):
    assert_same_on_both(lambda device: INSTRUMENTS[name](on(device, builder).objective()))


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("builder", [cases.mlp, cases.conv_bn], ids=lambda b: b.__name__)
def test_registered_instruments(builder, name):
    run = {each.name: each.run for each in curvature.instruments()}[name]

    def measure(device):
        objective = on(device, builder).objective()
        points = [{n: k * v for n, v in objective.params.items()} for k in (1.1, 1.0)]
        found = run(curvature.Context(objective, lr=0.1, checkpoints=points))
        return found.results, found.missing

    ours, theirs = assert_same_on_both(measure)
    assert ours[1] == theirs[1]


# Checkpoints are read on the host, and models are on the device.

HOST_POINTS = {
    "value": lambda o, a, b, c: (o.value(b), o.gradient(b)),
    "line": lambda o, a, b, c: la.map_plane(o, la.plane_through(a, b), points=3),
    "mixed": lambda o, a, b, c: la.map_plane(o, la.plane_through(o.params, b, c), points=3),
    "trajectory": lambda o, a, b, c: la.map_plane(
        o, la.trajectory_plane([b, c, o.params]), points=3
    ),
    "plane": lambda o, a, b, c: la.map_plane(o, la.plane(a, b, c), points=3, span=0.1),
    "random": lambda o, a, b, c: la.map_plane(
        o, la.random_plane(o, origin=b), points=3, span=0.1
    ),
    "compare": lambda o, a, b, c: la.compare(o, a, b, points=3, span=0.5),
    "spectrum": lambda o, a, b, c: la.spectrum(
        o, top=1, bottom=0, density=False, limit=5, params=b
    ),
    "merge": weights.merge,
    "connect": lambda o, a, b, c: weights.connect(o, a, b, points=3, steps=3),
    "soup": lambda o, a, b, c: weights.soup(o, a, o.params, c),
    "choose": lambda o, a, b, c: weights.choose(o, a, b, sharpness=False),
}


@pytest.mark.parametrize("name", HOST_POINTS)
@pytest.mark.parametrize("builder", [cases.mlp, cases.conv_bn], ids=lambda b: b.__name__)
def test_points_of_the_host(builder, name):
    def measure(device):
        objective = on(device, builder).objective()
        held = {n: v.cpu().clone() for n, v in objective.model.state_dict().items()}
        a = {n: held[n] for n in objective.params}
        b, c = ({n: (1 + s) * v + s for n, v in a.items()} for s in (0.1, -0.1))
        c = {n: v + 0.01 * torch.arange(v.numel()).reshape(v.shape) for n, v in c.items()}
        return HOST_POINTS[name](objective, a, b, c)

    assert_same_on_both(measure)


def test_results_of_the_device_are_read_on_the_host(tmp_path):
    with pretend_cuda():
        objective = on("cuda", cases.mlp).objective()
        plane = la.random_plane(objective)
        path = tmp_path / "map.resume"
        made = {
            "map": la.map_plane(objective, plane, points=3, resume=path),
            "spectrum": la.spectrum(
                objective, top=1, bottom=0, density=False, limit=5, vectors=True
            ),
            "factors": weights.factors(objective, examples=0),
        }
        for name, result in made.items():
            result.save(tmp_path / f"{name}.nc")
            assert assert_equal(la.load(tmp_path / f"{name}.nc"), result) > 0
        again = la.map_plane(objective, plane, points=3, resume=path)
        assert assert_equal(again, made["map"]) > 0


# Every exported call, with model, batches and tensors on the device.

ROOMS = {"topology", "forecast", "report", "executor", "plots", "io"}
# Slow or covered above, and files of weights, which no tensors of this device can be in.
APART = {"learning_coefficient", "relative_flatness", "load_weights", "write_report"}
APART |= {"write_atlas", "effective_parameters", "hessian_criteria", "suggest_lr", "Survey"}
APART |= {"trace", "spectrum", "survey", "roughness", "plasticity", "sample_size_curve"}
CALLS = [
    name
    for name in fuzz_calls.exported()
    if name.split(".")[0] not in ROOMS and name.split(".")[-1] not in APART
]


@pytest.mark.parametrize("name", CALLS)
def test_every_exported_call(name, monkeypatch):
    target = fuzz_calls.exported()[name]

    def measure(device):
        monkeypatch.setattr(fuzz_calls, "DEVICE", device)
        monkeypatch.setattr(fuzz_calls, "_KEPT", {})
        torch.manual_seed(0)
        call = fuzz_calls.valid_call(name, target)
        if call is None:
            pytest.skip("needs another framework")
        return target(*call[0], **call[1])

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = measure("cpu")
        with pretend_cuda():
            ours = measure("cuda")
            # Some give no number: the call itself is what is tried.
            assert_equal(ours, theirs)


# Trainings.


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))


def batch(step, device="cpu", examples=16):
    drawn = generator("pretend", step)
    x = torch.randn(examples, 6, generator=drawn)
    return x.to(device), torch.randint(0, 4, (examples,), generator=drawn).to(device)


def trained(device, make, step, steps=8):
    """The weights after a training of which `make` and `step` do what is particular."""
    net = network().to(device)
    held = make(net)
    for number in range(steps):
        x, y = batch(number, device)
        net.zero_grad()
        loss = F.cross_entropy(net(x), y, reduction="none")
        loss.mean().backward()
        step(net, held, x, y, loss.detach().mean())
    return net, held


def _group(net, policy):
    return steering.layer_groups(net) if policy == "group-noise" else net.parameters()


@pytest.mark.parametrize("policy", steering.POLICIES)
def test_controllers(policy):
    def make(net):
        rule = steering.POLICIES[policy]()
        if policy in {"growth", "group-noise"}:
            rule = dataclasses.replace(rule, every=2)
        optimizer = torch.optim.AdamW(_group(net, policy), lr=0.01)
        return optimizer, steering.LandscapeLR(optimizer, rule, interval=2, warmup=0, model=net)

    def step(net, held, x, y, loss):
        held[1].observe(loss)
        held[0].step()
        held[1].step(lambda: F.cross_entropy(net(x), y, reduction="none"))

    def measure(device):
        net, (_, controller) = trained(device, make, step)
        assert not any(record.failed for record in controller.log)
        return net, [record.scales for record in controller.log]

    assert_same_on_both(measure)


def _on_the_host(state):
    return tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, state)


@pytest.mark.parametrize("policy", ["momo", "growth", "group-noise"])
def test_states_of_controllers_and_averages_are_read_on_the_host(policy):
    def make(net):
        rule = steering.POLICIES[policy]()
        if policy != "momo":
            rule = dataclasses.replace(rule, every=3)
        optimizer = torch.optim.SGD(_group(net, policy), lr=0.01)
        controller = steering.LandscapeLR(optimizer, rule, warmup=0, model=net)
        lawa = steering.LAWA(net, 3, every=1, batches=[batch(0)])
        return optimizer, controller, lawa, steering.EMA(net, 0.9, batches=[batch(0)])

    def step(net, held, x, y, loss):
        held[1].observe(loss)
        held[0].step()
        held[1].step(lambda: F.cross_entropy(net(x), y, reduction="none"))
        for each in held[2:]:
            each.update()
        for each in held[1:]:
            each.load_state_dict(_on_the_host(each.state_dict()))

    def measure(device):
        net, (_, controller, *averages) = trained(device, make, step)
        assert not any(record.failed for record in controller.log)
        return net, [each.average for each in averages]

    assert_same_on_both(measure)


def test_networks_of_the_host_are_evaluated_together():
    def measure(device):
        net = network().to(device)
        states = {n: torch.stack([p, 2 * p]).cpu() for n, p in net.named_parameters()}
        data = training.Dataset(*batch("data", examples=48))
        return training.evaluate_ensemble(net, states, data)

    assert_same_on_both(measure)


def _topoadamw(net):
    return steering.TopoAdamW(net.parameters(), net, lr=1e-2, interval=2)


def _sam_step(net, sam, x, y, loss):
    def closure():
        value = F.cross_entropy(net(x), y)
        value.backward()
        return value

    net.zero_grad()
    sam.step(closure)


def _averaging(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    averages = [
        steering.PolynomialAverage(net, (4, 16), batches=[batch(0)]),
        steering.EMA(net, 0.9, batches=[batch(0)]),
        steering.LAWA(net, 3, every=1, batches=[batch(0)]),
    ]
    return optimizer, averages, steering.CautiousUpdates(optimizer)


def _averaged_step(net, held, x, y, loss):
    held[0].step()
    for average in held[1]:
        average.update()


TRAININGS = {
    "TopoAdamW": (
        _topoadamw,
        lambda net, o, x, y, loss: o.step(data=x, target=y, criterion=F.cross_entropy),
    ),
    "SAM": (lambda net: la.SAM(torch.optim.SGD(net.parameters(), lr=0.1)), _sam_step),
    "ASAM": (
        lambda net: la.SAM(torch.optim.SGD(net.parameters(), lr=0.1), adaptive=True, m=4),
        lambda net, sam, x, y, loss: sam.step(lambda part=(x, y): _backward(net, part), (x, y)),
    ),
    "recipe": (
        lambda net: la.recipe(net, batches=[batch(0)]),
        lambda net, recipe, x, y, loss: recipe.step(loss),
    ),
    "recipe with a rate": (
        lambda net: la.recipe(net, optimizer="sgd", lr=0.1, warmup=2, batches=[batch(0)]),
        lambda net, recipe, x, y, loss: recipe.step(loss),
    ),
    "averages": (_averaging, _averaged_step),
}


def _backward(net, part):
    value = F.cross_entropy(net(part[0]), part[1])
    value.backward()
    return value


def _weights_of(held):
    if isinstance(held, la.steering.AveragedOptimizer):
        return held.average.average
    return [each.average for each in held[1]] if isinstance(held, tuple) else ()


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name):
    def measure(device):
        net, held = trained(device, *TRAININGS[name])
        return net, _weights_of(held)

    assert_same_on_both(measure)


def test_the_best_average_is_chosen_on_the_device():
    def measure(device):
        net, recipe = trained(device, *TRAININGS["recipe"])
        x, y = batch("valid", device)
        choice = recipe.best(lambda m: F.cross_entropy(m(x), y), [batch(0)], mode="min")
        with recipe.swapped():
            inside = [p.detach().clone() for p in net.parameters()]
        return choice.gamma, inside

    assert_same_on_both(measure)


PENALTIES = {
    "sasp": lambda net, z, h, y: penalties.SASPLoss(0.1)(z, h),
    "fused": lambda net, z, h, y: penalties.SASPCrossEntropy(0.1)(z, h, y),
    "spectral": lambda net, z, h, y: penalties.SpectralRegularizer(net)(),
    "topological": lambda net, z, h, y: la.TopologicalLoss(sasp_weight=0.1)(
        F.cross_entropy(z, y), logits=z, features=h
    ),
    "per example": lambda net, z, h, y: penalties.per_example_sasp_penalty(
        F.cross_entropy(z, y, reduction="none"), [net[3].weight]
    ),
    "mesa": lambda net, z, h, y: penalties.trajectory_penalty(z, z.detach() * 0.9),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name):
    def measure(device):
        net = network().to(device)
        x, y = batch(0, device)
        h = net[:3](x)
        value = PENALTIES[name](net, net[3](h), h, y)
        value.backward()
        return value, [p.grad for p in net.parameters() if p.grad is not None]

    assert_same_on_both(measure)


def test_a_monitor():
    def measure(device):
        def make(net):
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
            # Batches may stay with the host.
            objective = la.Objective(net, CE, [batch("a"), batch("b")])
            names = ("loss", "gradient")
            return optimizer, la.Monitor(
                objective, names, optimizer=optimizer, every=4, share=None
            )

        def step(net, held, x, y, loss):
            held[0].step()
            held[1].step(loss=loss)

        net, (_, monitor) = trained(device, make, step)
        assert len(monitor.log.steps) == 2
        return net, monitor.log.values

    assert_same_on_both(measure)


def test_a_spike_is_explained():
    def measure(device):
        net = network().to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        recorder = la.SpikeRecorder(net, optimizer, CE)
        for step in range(26):
            x, y = batch(step, device)
            optimizer.zero_grad()
            loss = CE(net, (x * (1000 if step == 24 else 1), y)).mean()
            loss.backward()
            recorder.observe(loss * (100 if step == 24 else 1), (x, y))
            optimizer.step()
        (report, *_) = recorder.reports
        return [report.step, [p.detach() for p in net.parameters()]]

    assert_same_on_both(measure)


def test_a_rate_is_suggested():
    def measure(device):
        net = network().to(device)
        batches = [batch(k, examples=8) for k in range(5)]
        found = la.suggest_lr(la.Objective(net, CE, batches), "sgd", updates=10)
        return found.lr, found.low, found.high

    assert_same_on_both(measure)


def test_networks_are_merged_connected_aligned_and_factored():
    def measure(device):
        net = network().to(device)
        objective = la.Objective(net, CE, [batch(0), batch(1)])
        ends = [
            {
                n: v + 0.1 * torch.randn(v.shape, generator=generator("end", k, n)).to(v)
                for n, v in objective.params.items()
            }
            for k in range(2)
        ]
        factors = weights.factors(objective, examples=0)
        return (
            weights.merge(objective, objective.params, *ends).loss,
            weights.connect(objective, *ends, points=3, steps=4).barrier,
            weights.align(objective, *ends, starts=1).distance,
            factors.solve(objective.gradient(), damping=0.1),
            weights.soup(objective, *ends),
        )

    assert_same_on_both(measure)


def test_networks_are_trained_alone_and_together():
    def measure(device):
        net = network().to(device)
        data = training.Dataset(*batch("data", examples=48))
        start = {n: v.detach().clone() for n, v in net.named_parameters()}
        both = training.train_ensemble(
            net, data, initial=[start, {n: 0.9 * v for n, v in start.items()}], steps=4
        )
        alone = training.train(net, data, steps=4, optimizer="adamw", lr=0.01)
        return both.losses, alone.losses, net

    assert_same_on_both(measure)


def test_a_loss_that_mixes_devices_is_an_error_that_says_so():
    with pretend_cuda():
        net = network().to("cuda")
        share = torch.ones(4)
        loss = la.supervised(lambda z, y: F.cross_entropy(z, y, weight=share))
        with pytest.raises(LossError, match="to be on the same device"):
            la.Objective(net, loss, [batch(0)]).value()
