"""Points written into the memory of the parameters: the same numbers, the bits come back."""

import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature
from lossatlas.errors import ArgumentError, DerivativeError, LossError, ModelError
from lossatlas.objective.in_place import WeightsInPlace
from lossatlas.rng import generator
from lossatlas.shards import plain_name

CE = la.supervised(F.cross_entropy)


def network() -> nn.Sequential:
    drawn = generator("in place")
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=drawn))
    return model


def batches():
    drawn = generator("in place", "batches")
    return [
        (torch.randn(n, 5, generator=drawn), torch.randint(0, 3, (n,), generator=drawn))
        for n in (4, 6)
    ]


def bits(model):
    return {n: (v.data_ptr(), v.detach().clone()) for n, v in model.state_dict().items()}


def same_bits(model, before):
    after = model.state_dict()
    return all(
        after[n].data_ptr() == place and torch.equal(after[n], value)
        for n, (place, value) in before.items()
    )


def test_numbers_in_place_are_those_of_swapped_weights():
    model = network()
    before = bits(model)
    plain, placed = (la.Objective(model, CE, batches(), in_place=i) for i in (False, True))
    doubled = {k: 2 * v for k, v in plain.params.items()}
    assert placed.evaluate(doubled) == plain.evaluate(doubled)
    gradient, truth = placed.gradient(doubled), plain.gradient(doubled)
    for name in truth:
        torch.testing.assert_close(gradient[name], truth[name], rtol=1e-6, atol=1e-7)
    options = {"points": 4, "span": 0.5, "adaptive": False}
    plane = la.random_plane(plain, seed=1)
    slow = la.map_plane(plain, plane, engine="plain", **options)
    for objective, engine in ((placed, "auto"), (plain, "in_place")):
        land = la.map_plane(
            objective, la.random_plane(objective, seed=1), engine=engine, **options
        )
        assert land.engine == "in_place"
        np.testing.assert_array_equal(land.values, slow.values)
        np.testing.assert_array_equal(land.stderr, slow.stderr)
    far = la.plane(doubled, {k: v + 1 for k, v in doubled.items()})
    slow = la.map_plane(plain, far, engine="plain", **options)
    np.testing.assert_array_equal(la.map_plane(placed, far, **options).values, slow.values)
    assert same_bits(model, before)
    assert all(value.grad is None for value in model.parameters())


KINDS = ("hessian", "gauss_newton", "fisher", "empirical_fisher")


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_in_place_is_that_of_swapped_weights(kind):
    model = network()
    plain, placed = (la.Objective(model, CE, batches(), in_place=i) for i in (False, True))
    before, far = bits(model), {k: 1.5 * v for k, v in plain.params.items()}
    for params in (None, far):
        truth, found = (
            curvature.matrices.product_of(kind, o, params=params, names="0.*")
            for o in (plain, placed)
        )
        vector = {k: torch.ones_like(v) for k, v in truth.params.items()}
        assert all(torch.equal((found @ vector)[k], v) for k, v in (truth @ vector).items())
    assert same_bits(model, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled_inside", [False, True])
def test_curvature_of_compiled_models_rests_on_differences_and_says_so(kind, compiled_inside):
    torch.compiler.reset()
    model = network()
    if compiled_inside:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    placed = la.Objective(model, CE, batches(), in_place=True)
    options = {"top": 2, "bottom": 0, "density": False, "curvature": kind}
    found = la.spectrum(placed, **options)
    truth = la.spectrum(la.Objective(network(), CE, batches()), **options)
    np.testing.assert_allclose(found.top, truth.top, atol=float(found.bounds.max()) + 1e-5)
    assert any("are differences of" in line for line in found.checked)
    assert la.check(placed).passed


def test_losses_that_oscillate_within_every_step_are_refused():
    def rough(model, batch):
        logits = model(batch[0])
        logits = logits + 5 * torch.sin(3e4 * logits)
        return F.cross_entropy(logits, batch[1], reduction="none")

    model = torch.compile(network(), backend="eager")
    objective = la.Objective(model, rough, batches(), in_place=True)
    with pytest.raises(
        DerivativeError, match=r"differences of losses change.*not smooth enough"
    ):
        la.spectrum(objective, curvature="empirical_fisher")


def test_passes_in_place_are_planned_where_they_can_be():
    plain, placed = (la.Objective(network(), CE, batches(), in_place=i) for i in (False, True))
    plan = curvature.plan_memory(placed, "gradient")
    assert plan.passes == curvature.plan_memory(plain, "gradient").passes > 0
    compiled = la.Objective(
        torch.compile(network(), backend="eager"), CE, batches(), in_place=True
    )
    assert "compiled" in curvature.plan_memory(compiled, "trace").unknown


def test_what_takes_single_gradients_in_place_is_refused():
    with pytest.raises(ModelError, match=r"moved in place.*whole copy"):
        curvature.gradient_noise(la.Objective(network(), CE, batches(), in_place=True))


def test_a_state_dict_brings_its_buffers_and_frozen_weights():
    model = network()
    model[0].requires_grad_(False)
    other = network()
    with torch.no_grad():
        for value in other.state_dict().values():
            value.mul_(1.5) if value.is_floating_point() else value.add_(1)
    plain, placed = (la.Objective(model, CE, batches(), in_place=i) for i in (False, True))
    before = bits(model)
    state = other.state_dict()
    assert placed.value(state) == plain.value(state) != plain.value()
    assert same_bits(model, before)


@pytest.fixture
def interruptible():
    """Where a shell starts tests in the background, it has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, "signal"])
def test_weights_come_back_after_an_interrupt(kind, interruptible):
    model, calls = network(), []

    def loss(module, batch):
        calls.append(1)
        if len(calls) == stop:
            if kind == "signal":
                signal.raise_signal(signal.SIGINT)
            else:
                raise kind
        return CE(module, batch)

    stop = 0
    objective = la.Objective(model, loss, batches(), in_place=True)
    plane, before = la.random_plane(objective), bits(model)
    moved = {k: v + 1 for k, v in objective.params.items()}
    raised = LossError if kind is ValueError else KeyboardInterrupt
    for measure in (
        lambda: objective.value(moved),
        lambda: objective.gradient(moved),
        lambda: la.map_plane(objective, plane, points=3, adaptive=False),
    ):
        measure()
        stop, calls[:] = 4 if measure.__code__.co_names[0] == "la" else 2, []
        with pytest.raises(raised):
            measure()
        stop = 0
        assert same_bits(model, before)


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_while_weights_come_back_does_not_stop_them(monkeypatch, times):
    model = network()
    placed = WeightsInPlace(model, [n for n, _ in model.named_parameters()])
    before, left = bits(model), [times]
    write = WeightsInPlace.write

    def interrupted(self, pieces):
        if left[0]:
            left[0] -= 1
            raise KeyboardInterrupt
        write(self, pieces)

    def measure():
        with placed.moved_to({"0.bias": torch.ones(7)}):
            assert not same_bits(model, before)
            monkeypatch.setattr(WeightsInPlace, "write", interrupted)

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert same_bits(model, before)


def test_a_plane_is_the_same_with_and_without_wrappers():
    model = network()
    names = {
        "module.0.weight": "0.weight",
        "_orig_mod.0.weight": "0.weight",
        "module._orig_mod.0.weight": "0.weight",
        "0._checkpoint_wrapped_module.weight": "0.weight",
        "a.module.weight": "a.module.weight",
    }
    assert {name: plain_name(name) for name in names} == names
    wrapped = torch.compile(model, backend="eager")
    plain, compiled = (la.Objective(m, CE, batches()) for m in (model, wrapped))
    first, second = (la.random_plane(o, seed=2).directions[0] for o in (plain, compiled))
    torch.testing.assert_close(first["0.weight"], second["_orig_mod.0.weight"], rtol=0, atol=0)


def test_compiled_models_are_moved_where_they_are():
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(network(), backend=backend)
    objective = la.Objective(compiled, CE, batches(), in_place=True)
    made = len(graphs)
    plane = la.random_plane(objective, seed=1)
    land = la.map_plane(objective, plane, points=3, adaptive=False)
    plain = la.Objective(network(), CE, batches())
    truth = la.map_plane(
        plain, la.random_plane(plain, seed=1), points=3, adaptive=False, engine="plain"
    )
    np.testing.assert_allclose(land.values, truth.values, rtol=1e-6)
    assert len(graphs) == made


def test_other_engines_are_refused_in_place():
    objective = la.Objective(network(), CE, batches(), in_place=True)
    with pytest.raises(ArgumentError, match=r'engine="plain".*moved in place'):
        la.map_plane(objective, la.random_plane(objective), points=3, engine="plain")


def test_a_model_that_keeps_a_copy_is_refused():
    class Copied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 3)
            self.kept = [self.inner.weight.detach().clone()]

        def forward(self, x):
            return x @ self.kept[0].T

    with pytest.raises(ModelError, match="nothing can be measured"):
        la.Objective(Copied(), CE, batches(), in_place=True)


def test_offloaded_models_have_values_and_maps():
    accelerate = pytest.importorskip("accelerate")
    model = network()
    plain = la.Objective(network(), CE, batches())
    offloaded = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    objective = la.Objective(offloaded, CE, batches())
    doubled = {k: 2 * v for k, v in plain.params.items()}
    assert objective.value() == plain.value()
    assert objective.value(doubled) == plain.value(doubled)
    options = {"points": 3, "adaptive": False}
    land = la.map_plane(objective, la.random_plane(objective), **options)
    truth = la.map_plane(plain, la.random_plane(plain), engine="plain", **options)
    np.testing.assert_array_equal(land.values, truth.values)
    with pytest.raises(LossError, match=r"offloaded.*map only"):
        objective.gradient()
    assert objective.value() == plain.value()


def half_offloaded(inner: nn.Sequential, place: int, **options) -> nn.Sequential:
    """One layer is offloaded, and the others are held as they are."""
    hooks = pytest.importorskip("accelerate.hooks")
    kept = {name: value.clone() for name, value in inner[place].state_dict().items()}
    hook = hooks.AlignDevicesHook("cpu", offload=True, weights_map=kept, **options)
    hooks.add_hook_to_module(inner[place], hook)
    return inner


@pytest.mark.parametrize("place", [0, 3])
def test_half_offloaded_models_have_values_and_maps_and_say_what_has_no_gradient(place):
    model = network()
    whole = la.Objective(network(), CE, batches())
    half = half_offloaded(model, place)
    objective = la.Objective(half, CE, batches())
    assert objective.value() == pytest.approx(whole.value(), rel=1e-6)
    maps = [
        la.map_plane(o, la.random_plane(o, seed=3), points=3).values for o in (whole, objective)
    ]
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-6)
    for call in (objective.gradient, lambda: la.trace(objective, limit=4)):
        with pytest.raises(LossError, match=rf"'{place}.weight' is offloaded.*map only"):
            call()
    held = [name for name, value in half.named_parameters() if not value.is_meta]
    part, truth = (
        la.Objective(m, CE, batches(), params=held).gradient() for m in (half, whole.model)
    )
    for name, value in truth.items():
        torch.testing.assert_close(part[name], value)


def test_offloaded_buffers_and_weights_that_are_nowhere_are_refused():
    model = network()
    with pytest.raises(ModelError, match=r"buffer '1.running_mean' is offloaded"):
        la.Objective(half_offloaded(network(), 1, offload_buffers=True), CE, batches())
    half = half_offloaded(model, 0)
    half[3] = half[3].to("meta")
    with pytest.raises(ModelError, match=r"'3.weight' is on the meta device"):
        la.Objective(half, CE, batches())
