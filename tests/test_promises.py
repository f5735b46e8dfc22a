"""The promises that hold for all instruments and models. A new instrument is one line."""

import random
import warnings
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

import cases
import lossatlas as la
from lossatlas import curvature
from lossatlas.errors import AtlasError

INSTRUMENTS = {
    "value": lambda o: o.value(),
    "evaluate": lambda o: o.evaluate(),
    "gradient": lambda o: o.gradient(),
    "suggest_span": lambda o: la.suggest_span(o, la.random_plane(o)),
    "map_line": lambda o: la.map_plane(o, la.random_plane(o, dimension=1), points=7),
    "map_plane": lambda o: la.map_plane(o, la.random_plane(o, seed=3), points=5),
    "map_adaptive": lambda o: la.map_plane(o, la.random_plane(o, seed=3), points=17),
    "map_streaming": lambda o: la.map_plane(
        o, la.random_plane(o), points=3, engine="streaming"
    ),
    "spectrum": lambda o: curvature.spectrum(o, top=3, bottom=1, probes=2, steps=6, limit=12),
    "spectrum_by_layer": lambda o: curvature.spectrum(
        o, top=1, bottom=1, by="layer", density=False, limit=5, vectors=True
    ),
    "spectrum_by_class": lambda o: curvature.spectrum(
        o, top=1, bottom=1, by="class", density=False, limit=5, curvature="gauss_newton"
    ),
    "trace": lambda o: curvature.trace(o, limit=20),
    "frobenius_norm": lambda o: curvature.frobenius_norm(o, limit=20, rows=10),
    "diagonal": lambda o: curvature.diagonal(o, limit=20, rows=10),
    "gauss_newton": lambda o: curvature.trace(o, curvature="gauss_newton", limit=20),
    "fisher": lambda o: curvature.trace(o, curvature="fisher", limit=20),
    "empirical_fisher": lambda o: curvature.trace(o, curvature="empirical_fisher", limit=20),
    "average_sharpness": lambda o: curvature.average_sharpness(o, directions=4),
    "worst_sharpness": lambda o: curvature.worst_sharpness(
        o, adaptive=True, steps=4, restarts=1
    ),
    "m_sharpness": lambda o: curvature.m_sharpness(o, 2),
    "relative_flatness": lambda o: curvature.relative_flatness(o, limit=20),
    "roughness": lambda o: curvature.roughness(o, directions=3, points=5),
    "sample_size_curve": lambda o: curvature.sample_size_curve(
        o, sizes=(2, 4), directions=2, points=3, orders=3
    ),
    "plasticity": lambda o: curvature.plasticity(o, tasks=2, steps=3),
    "residual_gain": lambda o: curvature.residual_gain(o, blocks=["0"]),
    "survey": lambda o: la.survey(o, points=5, span=0.5),
    "survey_instruments": lambda o: la.survey(
        o,
        points=3,
        span=0.5,
        instruments=("stability", "gradient", "gradient_conflict", "representations"),
        lr=0.1,
    ),
}
# What a survey measures comes from the registry: a new instrument needs no line here.
REGISTERED = {each.name: each for each in curvature.instruments()}
# What cannot serve a model says so, and leaves no trace either. It needs labels of a known
# kind, the loss of every example, logits, or a residual block called "0".
REFUSED = {
    "spectrum_by_class": ("tied", "frozen", "transformer"),
    "fisher": ("tied", "transformer"),
    "empirical_fisher": ("tied",),
    "sample_size_curve": ("tied",),
    "plasticity": ("tied", "frozen", "transformer"),
    "residual_gain": ("mlp", "conv_bn", "tied", "frozen", "dropout"),
}
MODES = ("eval", "train", "recalibrated")


def state_of(model):
    tensors = dict(model.state_dict(keep_vars=True))
    return {
        "bits": {name: value.detach().clone() for name, value in tensors.items()},
        "places": {name: value.data_ptr() for name, value in tensors.items()},
        "grads": {name: value.grad for name, value in model.named_parameters()},
        "needs": {name: value.requires_grad for name, value in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "own": {name: sorted(module.__dict__) for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "identity": {name: id(value) for name, value in model.named_parameters()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tobytes(),
        "python": random.getstate(),
    }


def assert_same(a, b):
    """Equal to the last bit, whatever is nested in whatever."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif is_dataclass(a):
        for field in fields(a):
            if field.name != "seconds":
                assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, AtlasError):
        assert repr(a) == repr(b)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("builder", cases.BUILDERS, ids=lambda b: b.__name__)
def test_every_registered_instrument_leaves_no_trace_and_gives_the_same_bits(builder, name):
    case = cases.make(builder)
    objective = case.objective()
    next(case.model.parameters()).grad = torch.ones_like(next(case.model.parameters()))
    points = [{n: (1 + k) * v for n, v in objective.params.items()} for k in (0.1, 0.0)]
    before = state_of(case.model)

    def run():
        context = curvature.Context(objective, lr=0.1, checkpoints=points)
        return REGISTERED[name].run(context)

    first, second = run(), run()
    assert_same(before, state_of(case.model))
    assert_same(first, second)
    assert first.results or first.why_not
    assert not any("the other instruments" in why for why in first.missing.values())
    assert all(np.isfinite(e.error) or e.why_no_error for e in first.estimates())


def measured(instrument, objective):
    """The result, or the error of a refusal."""
    try:
        return INSTRUMENTS[instrument](objective)
    except AtlasError as refusal:
        return refusal


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("builder", cases.BUILDERS, ids=lambda b: b.__name__)
def test_leaves_no_trace_and_gives_the_same_bits(builder, instrument):
    case = cases.make(builder)
    objective = case.objective()
    next(case.model.parameters()).grad = torch.ones_like(next(case.model.parameters()))
    before = state_of(case.model)
    with warnings.catch_warnings():
        first = measured(instrument, objective)
        assert_same(before, state_of(case.model))
        second = measured(instrument, objective)
    assert_same(first, second)
    refused = first if isinstance(first, AtlasError) else None
    assert (refused is not None) == (builder.__name__ in REFUSED.get(instrument, ())), refused


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("builder", cases.BUILDERS, ids=lambda b: b.__name__)
def test_modes_leave_no_trace_either(builder, mode):
    case = cases.make(builder)
    before = state_of(case.model)
    objective = case.objective(mode=mode)
    la.map_plane(objective, la.random_plane(objective), points=3)
    assert_same(before, state_of(case.model))


def test_training_with_a_watching_instrument_is_bitwise_the_training_without_it():
    def train(watch):
        case = cases.make(cases.conv_bn)
        optimizer = torch.optim.Adam(case.model.parameters(), lr=1e-2)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for inputs, targets in case.batches * 3:
                optimizer.zero_grad()
                noisy = inputs + 0.1 * torch.randn_like(inputs)
                case.loss(case.model, (noisy, targets)).backward()
                optimizer.step()
                if watch:
                    objective = case.objective()
                    la.map_plane(objective, la.random_plane(objective), points=3)
        return case.model.state_dict()

    assert_same(dict(train(watch=False)), dict(train(watch=True)))


@pytest.mark.parametrize("engine", ["auto", "batched", "folded", "streaming"])
@pytest.mark.parametrize("biases", [False, True], ids=["still", "biases"])
@pytest.mark.parametrize("builder", cases.BUILDERS, ids=lambda b: b.__name__)
def test_engines_agree_with_the_plain_loop(builder, biases, engine):
    case = cases.make(builder)
    objective = case.objective()
    plane = la.random_plane(objective, seed=1, biases=biases)
    options = {"points": 5, "adaptive": False, "metrics": {"double": _double}}
    plain = la.map_plane(objective, plane, engine="plain", **options)
    fast = la.map_plane(objective, plane, engine=engine, **options)
    # A loss may pass through zero, where no relative error is small.
    scale = np.abs(plain.values).max()
    np.testing.assert_allclose(fast.values, plain.values, rtol=1e-6, atol=1e-7 * scale)
    np.testing.assert_allclose(fast.stderr, plain.stderr, rtol=1e-4)
    np.testing.assert_allclose(fast.metrics["double"], plain.metrics["double"], rtol=1e-6)


def _double(model, batch):
    inputs = batch["tokens"] if isinstance(batch, dict) else batch[0]
    return 2 * model(inputs).square().flatten(1).mean(1) + 1.0


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        (cases.mlp, "stacked"),
        (cases.conv_bn, "folded"),
        (cases.tied, "batched"),
        (cases.frozen, "stacked"),
        (cases.dropout, "batched"),
        (cases.transformer, "batched"),
    ],
    ids=lambda b: getattr(b, "__name__", b),
)
def test_auto_takes_the_fast_engine(builder, expected):
    objective = cases.make(builder).objective()
    assert la.plan_map(objective, la.random_plane(objective)).engine == expected
