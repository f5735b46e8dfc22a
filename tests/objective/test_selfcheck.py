"""Wrong derivatives, and parameters that do not reach the loss, are caught; others pass."""

import copy
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lossatlas as la
from lossatlas import curvature, io
from lossatlas.curvature import gauss_newton, gradient_noise, hessian
from lossatlas.curvature.selfcheck import ensure_curvature
from lossatlas.errors import DerivativeError, DerivativeWarning, LossError, ModelError
from lossatlas.objective.slope import check_slope

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
CE = la.supervised(F.cross_entropy)
# What re-entrant checkpointing says, once, of the fault that is planted.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


class Between(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 12), nn.Linear(12, 3), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class KeepsDerivative(torch.autograd.Function):
    """A bell whose derivative is made in forward, as in GPyTorch's kernels."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = -2 * x * torch.exp(-x.square())
        return torch.exp(-x.square())

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope


class Adjoint(torch.autograd.Function):
    """The derivative is right and has no graph, as that of an adjoint."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        with torch.no_grad():
            return grad * ctx.saved_tensors[0].cos()


class Scaled(torch.autograd.Function):
    """The identity; its backward is off by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + ctx.saved_tensors[0].abs()) ** 2


class MixedTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (3 * x - x.detach())


class FusedCriterion(torch.autograd.Function):
    """Cross-entropy whose gradient is made in forward, as fused kernels do."""

    @staticmethod
    def forward(ctx, outputs, targets):
        ctx.slope = (outputs.softmax(1) - F.one_hot(targets, 3)) / len(targets)
        return F.cross_entropy(outputs, targets)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope, None


def rounds(x):
    return x + ((4 * x).round() / 4 - x).detach()


def equilibrium(x):
    with torch.no_grad():
        z = x
        for _ in range(30):
            z = torch.tanh(0.7 * z + x)
    return torch.tanh(0.7 * z + x)


def halves(x):
    return 0.5 * x.tanh() + (0.5 * x.tanh()).detach()


class Apply(nn.Module):
    def __init__(self, of, *more):
        super().__init__()
        self.forward = function(of, *more)


def function(of, *more):
    return lambda x: of.apply(x, *more)


class Checkpointed(Between):
    def forward(self, x):
        return self.b(checkpoint(lambda v: self.a(v).tanh(), x, use_reentrant=True))


class ThroughNumpy(Between):
    def forward(self, x):
        hidden = F.linear(x, self.a.weight, torch.from_numpy(self.a.bias.detach().numpy()))
        return self.b(hidden.tanh())


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.merged = 2 * self.a.weight.detach()

    def forward(self, x):
        return x @ self.merged.T


def data():
    return [(X.to(torch.get_default_dtype()), Y)]


def build_of_copy():
    model = Between(torch.tanh)
    frozen = copy.deepcopy(model)
    return la.Objective(model, lambda m, b: CE(frozen, b), data())


def build_of_captured():
    model = Between(torch.tanh)
    captured = list(model.parameters())
    penalty = lambda: 0.1 * sum(p.square().sum() for p in captured)  # noqa: E731
    return la.Objective(model, lambda m, b: CE(m, b) + penalty(), data())


def of(model, loss=CE):
    return lambda: la.Objective(model(), loss, data())


WRONG = {
    "kept derivative": of(lambda: Between(function(KeepsDerivative))),
    "adjoint": of(lambda: Between(function(Adjoint))),
    "straight-through": of(lambda: Between(rounds)),
    "reversal": of(lambda: Between(function(Scaled, -1.0))),
    "factor": of(lambda: Between(function(Scaled, 0.7))),
    "spiking": of(lambda: Between(function(Spike))),
    "mixed": of(lambda: Between(function(MixedTwice))),
    "equilibrium": of(lambda: Between(equilibrium)),
    "detached": of(lambda: Between(halves)),
    "fused": of(lambda: Between(torch.tanh), lambda m, b: FusedCriterion.apply(m(b[0]), b[1])),
    "checkpoint": of(lambda: Checkpointed(None)),
    "numpy": of(lambda: ThroughNumpy(None)),
    "cached": of(Cached),
    "copy": build_of_copy,
    "captured": build_of_captured,
}


REFUSED = [WRONG[name] for name in ("cached", "copy", "captured")]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def kind(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("build", WRONG.values(), ids=WRONG)
def test_wrong_derivatives_are_caught(build, kind):
    torch.manual_seed(1)
    if build in REFUSED:
        with pytest.raises(ModelError, match=r"same to the bit|of the model itself"):
            build()
        return
    objective = build()
    assert la.check(objective).failed
    with pytest.raises(DerivativeError):
        hessian(objective) @ objective.params


class Convolutional(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.pool, self.head = pool, nn.Linear(16, 3)

    def forward(self, x):
        image = F.pad(x, (0, 30))[:, :36].reshape(-1, 1, 6, 6)
        return self.head(self.pool(F.relu(self.norm(self.conv(image)))).flatten(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(x.reshape(-1, 3, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.head = nn.Linear(2, 8), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.head(self.block(self.lift(x.reshape(-1, 3, 2))).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh())[:, :3]


def layers(*sizes, act):
    parts = [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), act())]
    return nn.Sequential(*parts[:-1])


HONEST = {
    "tanh": (lambda: layers(6, 12, 3, act=nn.Tanh), "eval"),
    "relu": (lambda: layers(6, 40, 40, 3, act=nn.ReLU), "eval"),
    "wide relu": (lambda: layers(6, 400, 3, act=nn.ReLU), "eval"),
    "gelu": (lambda: layers(6, 20, 20, 20, 3, act=nn.GELU), "eval"),
    "average": (lambda: Convolutional(nn.AvgPool2d(2)), "train"),
    "maximum": (lambda: Convolutional(nn.MaxPool2d(2)), "recalibrated"),
    "lstm": (Recurrent, "eval"),
    "attention": (Attention, "eval"),
    "tied": (Tied, "eval"),
    "linear": (lambda: nn.Linear(6, 3), "eval"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HONEST)
def test_honest_networks_raise_no_alarm(name, kind, seed):
    torch.manual_seed(seed)
    build, mode = HONEST[name]
    report = la.check(la.Objective(build(), CE, data(), mode=mode))
    assert not report.failed, str(report)
    found = {check.name: check for check in report.checks}
    assert found["gradient"].status == "passed"
    if name in {"tanh", "gelu", "lstm", "tied", "linear"}:
        assert found["hessian"].figure < 1e-2
        assert found["outputs"].figure < 1e-2


@pytest.mark.parametrize("whole", [True, False], ids=["uncut", "cut"])
def test_many_kinks_do_not_look_like_curvature(whole):
    torch.manual_seed(0)
    inputs, targets = torch.randn(8000, 6), torch.randint(0, 3, (8000,))

    def loss(model, batch):
        assert not whole or len(batch[0]) == 8000
        return F.cross_entropy(model(batch[0]), batch[1])

    objective = la.Objective(layers(6, 60, 60, 3, act=nn.ReLU), loss, [(inputs, targets)])
    assert not la.check(objective).failed


def images(count, scale, *, blank=0):
    """Digits of a sort: a few strokes on a ground of zeros, or nothing at all."""
    grid = torch.zeros(count, 28, 28)
    for number in range(blank, count):
        row, column = torch.randint(4, 20, (2,)).tolist()
        grid[number, row : row + 6, column : column + 3] = torch.rand(6, 3)
        grid[number, row : row + 3, column - 3 : column] = torch.rand(3, 3)
    return scale * grid.reshape(count, 1, 28, 28)


def digits_mlp(width=32, depth=3):
    return nn.Sequential(nn.Flatten(), layers(784, *[width] * depth, 10, act=nn.ReLU))


def digits_conv():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(144, 10)
    )


@torch.no_grad()
def with_biases(model, change):
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            change(value)
    return model


def dead(value):
    """A third of the units never fires, whatever comes in."""
    value[: len(value) // 3] -= 50 if len(value) > 10 else 0


# Networks of the kinds that raised false alarms: most kinks lie within every step.
KINKED = {
    "dead": lambda: (with_biases(digits_mlp(), dead), images(64, 1.0)),
    "dead, raw pixels": lambda: (with_biases(digits_mlp(), dead), images(64, 255.0)),
    "dead, wide": lambda: (with_biases(digits_mlp(400, 2), dead), images(64, 16.0)),
    "dead, deep": lambda: (with_biases(digits_mlp(24, 7), dead), images(64, 16.0)),
    "blank": lambda: (with_biases(digits_mlp(), Tensor.zero_), images(16, 1.0, blank=12)),
    "raw pixels": lambda: (with_biases(digits_mlp(400, 2), Tensor.zero_), images(8, 255.0)),
    "pools": lambda: (with_biases(digits_conv(), Tensor.zero_), images(16, 1.0, blank=8)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", KINKED)
def test_kinks_within_every_step_raise_no_alarm(name, kind, seed):
    torch.manual_seed(seed)
    model, inputs = KINKED[name]()
    model, inputs = model.to(kind), inputs.to(kind)
    targets = torch.randint(10, (len(inputs),))
    report = la.check(la.Objective(model, CE, [(inputs, targets)]))
    assert not report.failed, str(report)


def test_an_integral_checks_a_gradient_that_no_step_does():
    torch.manual_seed(0)
    model, inputs = KINKED["blank"]()
    data = [(inputs, torch.arange(16) % 10)]
    found = check_slope(la.Objective(model, CE, data))
    assert (found.status, found.sentence[:12]) == ("passed", "the integral")
    assert found.figure < 1e-2
    wrong = nn.Sequential(model[0], model[1][:5], Apply(Scaled, 0.7), model[1][5:])
    assert check_slope(la.Objective(wrong, CE, data)).status == "failed"


def test_results_say_what_was_checked_and_instruments_refuse():
    torch.manual_seed(0)
    smooth = la.Objective(Between(torch.tanh), CE, [(X, Y)])
    assert [text.partition(":")[0] for text in smooth.checked] == ["reach", "state"]
    found = la.spectrum(smooth, top=1, bottom=0, density=False)
    assert any(text.startswith("hessian: passed to") for text in found.checked)
    assert any(
        text.startswith("gradient: passed to") for text in gradient_noise(smooth).checked
    )
    unchecked = la.Objective(Between(torch.tanh), CE, [(X, Y)], check=False)
    assert la.trace(unchecked).checked == ("nothing was checked (check=False)",)
    surrogate = la.Objective(Between(rounds), CE, [(X, Y)])
    with pytest.warns(DerivativeWarning, match="not that of the loss"):
        surrogate.gradient()
    with pytest.raises(DerivativeError, match="'unchecked'"):
        la.spectrum(surrogate, top=1, bottom=0)
    assert any("failed" in text for text in gradient_noise(surrogate).checked)
    fused = WRONG["fused"]()
    with pytest.raises(DerivativeError, match="derivatives of the outputs"):
        gauss_newton(fused) @ fused.params


def test_every_stored_result_says_what_it_rests_on(tmp_path):
    torch.manual_seed(0)
    objective = la.Objective(Between(torch.tanh), CE, [(X, Y)])
    assert curvature.roughness(objective, 2, points=3).checked == ()
    spectrum = la.spectrum(objective, top=2, bottom=1)
    by_hessian = [
        spectrum,
        la.trace(objective),
        curvature.diagonal(objective, limit=30),
        curvature.frobenius_norm(objective),
        curvature.relative_flatness(objective, limit=12),
        curvature.hessian_criteria(spectrum),
        curvature.sample_size_curve(objective, [4, 8], directions=1, points=2, orders=2),
        curvature.edge_of_stability(objective, torch.optim.SGD(objective.model.parameters())),
    ]
    for found in by_hessian:
        assert any(text.startswith("hessian: passed to") for text in found.checked), found
    fresh = la.Objective(Between(torch.tanh), CE, [(X, Y)])
    for found in (
        curvature.zero_sum_gradients(fresh),
        curvature.worst_sharpness(fresh),
        curvature.m_sharpness(fresh, 8),
    ):
        assert found.checked == fresh.checked
        assert found.checked[-1].startswith("gradient: passed to")
    path = io.save(curvature.worst_sharpness(fresh), tmp_path / "a.nc")
    assert la.load(path).checked == fresh.checked


def test_gradients_of_examples_refuse_a_cut_graph():
    with pytest.raises(DerivativeError, match="use_reentrant=False"):
        curvature.zero_sum_gradients(WRONG["checkpoint"]())


def test_differences_of_gradients_serve_where_products_are_wrong():
    torch.manual_seed(0)
    model = Between(function(KeepsDerivative)).double()
    exact = copy.deepcopy(model)
    exact.between = lambda x: torch.exp(-x.square())
    batches = [(X.double(), Y)]
    got = la.spectrum(
        la.Objective(model, CE, batches, derivatives="differences"), top=3, density=False
    )
    want = la.spectrum(la.Objective(exact, CE, batches), top=3, density=False)
    assert (np.abs(got.top - want.top) <= got.top_bounds + want.top_bounds).all()
    np.testing.assert_allclose(got.top, want.top, rtol=1e-5)
    assert any(text.startswith("differences: passed") for text in got.checked)
    kinked = layers(6, 300, 300, 3, act=nn.ReLU)
    with pytest.raises(DerivativeError, match="not smooth enough"):
        la.spectrum(la.Objective(kinked, CE, [(X, Y)], derivatives="differences"))


def test_a_parameter_without_gradient_is_unused_or_cut():
    model = Between(torch.tanh)
    model.extra = nn.Linear(2, 2)
    objective = la.Objective(model, CE, [(X, Y)])
    assert objective.unused == ("extra.weight", "extra.bias")
    told = str(la.check(objective))
    assert "the loss does not depend on: extra.weight, extra.bias (unused, or read" in told
    cut = WRONG["checkpoint"]()
    assert set(cut.cut) == {"a.weight", "a.bias"}
    land = la.map_plane(cut, la.random_plane(cut), points=3, adaptive=False)
    assert land.range > 0
    with pytest.raises(DerivativeError, match=r"'a\.\w+' \(and 1 more\).*use_reentrant=False"):
        cut.gradient()
    head = la.Objective(cut.model, CE, [(X, Y)], params="b.*")
    assert head.gradient()["b.weight"].any()


def test_a_weight_that_is_read_through_a_kept_copy_is_named():
    model, kept = Between(torch.tanh), {}

    def loss(model, batch):
        weight = kept.setdefault("a", model.a.weight.detach().clone())
        return F.cross_entropy(model.b(F.linear(batch[0], weight).tanh()), batch[1])

    objective = la.Objective(model, loss, data())
    assert objective.unused == ("a.weight", "a.bias")
    (reach,) = (check for check in la.check(objective).checks if check.name == "reach")
    assert "'a.weight' (and 1 more) is unused, or read through a tensor" in reach.sentence


def test_losses_without_a_gradient_can_be_mapped():
    objective = la.Objective(Between(torch.tanh), la.accuracy, [(X, Y)])
    assert la.map_plane(objective, la.random_plane(objective), points=3).values.shape == (3, 3)


def test_a_loss_with_parameters_of_its_own_is_named():
    margin = nn.Linear(3, 3)
    loss = lambda m, b: F.cross_entropy(margin(m(b[0])), b[1])  # noqa: E731
    with pytest.raises(
        ModelError, match=r"parameters of its own \('Linear\.weight' \(and 1 more\)\)"
    ):
        la.Objective(Between(torch.tanh), loss, [(X, Y)])
    margin.requires_grad_(False)
    assert la.Objective(Between(torch.tanh), loss, [(X, Y)]).gradient()


class Listed(nn.Module):
    """Layers that torch does not find, in a container of some kind."""

    def __init__(self, hold, first=True):
        super().__init__()
        self.first = nn.Linear(6, 3) if first else nn.Identity()
        torch.manual_seed(0)
        self.layers = hold([nn.Linear(3 if first else 6, 3), nn.Linear(3, 3)])

    def forward(self, x):
        x = self.first(x)
        layers = self.layers.values() if isinstance(self.layers, dict) else self.layers
        for layer in layers:
            x = torch.tanh(layer(x) if isinstance(layer, nn.Module) else layer[0](x))
        return x


@pytest.mark.parametrize(
    ("hold", "where"),
    [
        (list, r"layers\[0\]\.weight"),
        (tuple, r"layers\[0\]\.weight"),
        (lambda layers: dict(zip("ab", layers, strict=True)), r"layers\['a'\]\.weight"),
        (lambda layers: [[layer] for layer in layers], r"layers\[0\]\[0\]\.weight"),
    ],
    ids=["list", "tuple", "dict", "nested"],
)
def test_modules_in_a_plain_container_are_named(hold, where):
    model = Listed(hold)
    with pytest.raises(ModelError, match=rf"'{where}' \(and 3 more\).*nn\.ModuleList"):
        la.Objective(model, CE, [(X, Y)])
    # All of them are there: part of it alone can be asked for, or the rest is frozen.
    assert la.Objective(model, CE, [(X, Y)], params="first.weight").gradient()
    for layer in nn.ModuleList(_layers(model.layers)):
        layer.requires_grad_(False)
    assert la.Objective(model, CE, [(X, Y)]).gradient()
    assert la.Objective(Listed(nn.ModuleList), CE, [(X, Y)]).gradient()
    with pytest.raises(ModelError, match=rf"no parameters.*'{where}' is in a plain container"):
        la.Objective(Listed(hold, first=False), CE, [(X, Y)])


def _layers(held):
    items = held.values() if isinstance(held, dict) else held
    return [item if isinstance(item, nn.Module) else item[0] for item in items]


def test_modules_in_a_list_of_the_loss_are_named():
    heads = [nn.Linear(3, 3)]
    loss = lambda m, b: F.cross_entropy(heads[0](m(b[0])), b[1])  # noqa: E731
    with pytest.raises(ModelError, match=r"one of shape \(3, 3\)' \(and 1 more\)"):
        la.Objective(Between(torch.tanh), loss, [(X, Y)])


def test_inputs_that_take_a_gradient_are_no_parameters():
    points = X.clone().requires_grad_()
    objective = la.Objective(Between(torch.tanh), CE, [(points, Y)])
    assert objective.gradient()


class Remembering(nn.Module):
    """Keeps a tensor made of its weight, with its graph, from batch to batch."""

    def __init__(self):
        super().__init__()
        self.a, self.kept = nn.Linear(6, 3), None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.exp(self.a.weight)
        return x @ self.kept.T + self.a.bias


@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.gradient(),
        lambda o: la.spectrum(o, top=1, bottom=0, density=False),
        la.trace,
        lambda o: la.trace(o, curvature="fisher"),
    ],
    ids=["gradient", "spectrum", "trace", "fisher"],
)
def test_a_weight_kept_with_its_graph_is_an_error_with_the_remedy(call):
    objective = la.Objective(Remembering(), CE, [(X, Y), (X, Y)])
    with pytest.raises(LossError, match=r"\(a cached weight\) anew at every call"):
        call(objective)
    assert la.map_plane(objective, la.random_plane(objective), points=3).range > 0


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("_hf_hook", "remove_hook_from_submodules"),
        ("merged", "keeps a tensor in 'merged'"),
    ],
)
def test_the_remedy_is_that_of_the_kind(attribute, words):
    model = Cached()
    if attribute != "merged":
        setattr(model, attribute, object())
    with pytest.raises(ModelError, match=words):
        la.Objective(model, CE, [(X, Y)])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("keras.src.layers.layer", "Keras layers"),
        ("torchrl.objectives.common", "TorchRL's loss modules"),
    ],
)
def test_models_of_other_libraries_are_known_by_their_modules(module, words):
    kind = type("Layer", (Cached,), {"__module__": module})
    with pytest.raises(ModelError, match=words):
        la.Objective(kind(), CE, [(X, Y)])


def test_a_stationary_point_is_no_surrogate():
    place = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(place.weight)

    def loss(model, batch):
        x, y = model.weight[0]
        return x**2 + 2 * y**2 + x**3 - y**3

    objective = la.Objective(place, loss, [torch.zeros(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient = objective.gradient()
    assert not gradient["weight"].any()
    assert objective.checks["gradient"].status == "could not be checked"


class Uncut:
    """A loss that serves whole batches only, and counts its calls."""

    def __init__(self, size):
        self.size, self.calls = size, 0

    def __call__(self, model, batch):
        if len(batch[0]) != self.size:
            raise ValueError("a part of a batch")
        self.calls += 1
        return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("normalized", [False, True])
def test_kinks_of_a_batch_that_cannot_be_cut_cost_one_pair_of_gradients(normalized):
    torch.manual_seed(0)
    x, y = torch.randn(256, 16), torch.randint(3, (256,))
    middle = [nn.BatchNorm1d(64)] if normalized else []
    model = nn.Sequential(nn.Linear(16, 64), *middle, nn.ReLU(), nn.Linear(64, 3)).eval()
    loss = Uncut(256)
    objective = la.Objective(model, loss, [(x, y)])
    loss.calls = 0
    ensure_curvature(objective, "hessian")
    assert objective.checks["hessian"].status == "could not be checked"
    assert objective.checks["gradient"].status == "passed"
    # The graph of the product, a pair of gradients, and values along two directions.
    assert loss.calls <= 1 + 2 + 6


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_kinks_of_data_that_a_loss_holds_are_no_wrong_curvature(kind, slope):
    # The batch says nothing of how many examples there are.
    torch.manual_seed(0)
    x, y = torch.randn(4000, 6, dtype=kind), torch.randint(3, (4000,))
    model = layers(6, 60, 60, 3, act=lambda: nn.LeakyReLU(slope)).to(kind)
    penalty = lambda m: 0.1 * sum(p.square().sum() for p in m.parameters())  # noqa: E731
    loss = lambda m, b: F.cross_entropy(m(x), y) + penalty(m)  # noqa: E731
    assert not la.check(la.Objective(model, loss, [torch.zeros(1)])).failed
    wrong = Between(KeepsDerivative.apply).to(kind)
    found = la.check(la.Objective(wrong, loss, [torch.zeros(1)]))
    assert [check.name for check in found.failed][:1] == ["hessian"]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_wrong_curvature_of_a_batch_that_cannot_be_cut_is_no_kink(kind):
    torch.manual_seed(0)
    x, y = torch.randn(256, 6, dtype=kind), torch.randint(3, (256,))
    model = Between(KeepsDerivative.apply).to(kind)
    with pytest.raises(DerivativeError, match="at every step"):
        ensure_curvature(la.Objective(model, Uncut(256), [(x, y)]), "hessian")


@pytest.mark.parametrize("seed", range(6))
def test_losses_near_zero_round_as_outputs_do_and_raise_no_alarm(seed):
    # Cross-entropy is a difference of logits: its rounding is theirs, not that of its value.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        inputs, labels = torch.randn(8, 8), torch.arange(8) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(inputs, labels)])
    assert objective.value() < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.gradient()
    assert objective.checks["gradient"].status != "failed"
