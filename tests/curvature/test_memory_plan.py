"""What instruments say they hold, beside what they are seen to hold, operation by operation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature, weights
from lossatlas.curvature import all_eigenvalues, memory_plan, plan_memory
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.objective.pass_memory import AllocationCounter, pass_memory
from lossatlas.rng import generator

# Name, options of the plan, and the call that they are of.
CASES = [
    ("value", {}, lambda o, a, b: o.value()),
    ("gradient", {}, lambda o, a, b: o.gradient()),
    (
        "spectrum",
        {"top": 2, "bottom": 1, "rows": 7, "limit": 10},
        lambda o, a, b: la.spectrum(o, top=2, bottom=1, density=False, limit=10, rows=7),
    ),
    ("trace", {"limit": 24, "rows": 4}, lambda o, a, b: la.trace(o, limit=24, rows=4)),
    (
        "frobenius_norm",
        {"limit": 20, "rows": 4},
        lambda o, a, b: curvature.frobenius_norm(o, limit=20, rows=4),
    ),
    (
        "diagonal",
        {"limit": 16, "rows": 4},
        lambda o, a, b: curvature.diagonal(o, limit=16, rows=4),
    ),
    (
        "edge_of_stability",
        {"limit": 8},
        lambda o, a, b: curvature.edge_of_stability(
            o, torch.optim.SGD(o.model.parameters(), lr=0.1), limit=8
        ),
    ),
    ("average_sharpness", {}, lambda o, a, b: curvature.average_sharpness(o, directions=2)),
    (
        "average_sharpness",
        {"adaptive": True},
        lambda o, a, b: curvature.average_sharpness(o, directions=2, adaptive=True),
    ),
    ("worst_sharpness", {}, lambda o, a, b: curvature.worst_sharpness(o, steps=3)),
    (
        "worst_sharpness",
        {"restarts": 1, "adaptive": True},
        lambda o, a, b: curvature.worst_sharpness(o, steps=3, restarts=1, adaptive=True),
    ),
    ("m_sharpness", {"size": 3}, lambda o, a, b: curvature.m_sharpness(o, 3, sets=2)),
    ("roughness", {}, lambda o, a, b: curvature.roughness(o, directions=2, points=3)),
    ("gradient_noise", {}, lambda o, a, b: curvature.gradient_noise(o)),
    ("connect", {}, lambda o, a, b: weights.connect(o, a, b, points=3)),
    (
        "connect",
        {"kind": "bezier"},
        lambda o, a, b: weights.connect(o, a, b, points=3, kind="bezier", steps=3),
    ),
    (
        "connect",
        {"kind": "chain", "bends": 2},
        lambda o, a, b: weights.connect(o, a, b, points=3, kind="chain", bends=2, steps=3),
    ),
    ("merge", {"experts": 2}, lambda o, a, b: weights.merge(o, a, b, a)),
    ("soup", {}, weights.soup),
    ("sensitivity", {}, lambda o, a, b: weights.sensitivity(o, probes=2)),
    ("window_fisher", {"window": 6}, lambda o, a, b: weights.window_fisher(o, window=6)),
    ("plasticity", {}, lambda o, a, b: curvature.plasticity(o, tasks=2, steps=3)),
    ("choose", {"sharpness": False}, lambda o, a, b: weights.choose(o, a, b, sharpness=False)),
    ("factors", {"examples": 0}, lambda o, a, b: weights.factors(o, examples=0)),
    ("factors", {"examples": 8}, lambda o, a, b: weights.factors(o, examples=8)),
    (
        "factors",
        {"examples": 0, "correct": True},
        lambda o, a, b: weights.factors(o, examples=0, correct=True),
    ),
    ("edit_curve", {}, lambda o, a, b: weights.edit_curve(o, FACTORS[0], keep=[0.5, 0.9])),
    ("representations", {}, lambda o, a, b: features_read(o)),
]
# Of the objective that is measured, made before memory is counted.
FACTORS = []


def features_read(given):
    features = curvature.activations(given, "4", side="input")
    curvature.rankme(features)
    curvature.effective_rank(features, "participation")
    curvature.alpha_req(features)


def chained(given):
    options = {"chains": 1, "draws": 200, "temperature": 1e4, "localization": 1.0}
    curvature.learning_coefficient(given, **options)


# What depends on how fast they converge is announced at the most.
BOUNDED = [
    ("choose", {}, lambda o: weights.choose(o, o.params, o.params)),
    (
        "effective_parameters",
        {"numbers": 90},
        lambda o: curvature.effective_parameters(o, 1.0, names="4.*"),
    ),
    ("learning_coefficient", {}, chained),
]


def objective(width: int = 300, examples: int = 8, **options):
    drawn = generator("memory plan")
    model = nn.Sequential(
        nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
        nn.Linear(width, 10),
    )  # fmt: skip
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=drawn) / width**0.5)
    batches = [
        (
            torch.randn(examples, width, generator=drawn),
            torch.randint(10, (examples,), generator=drawn),
        )
        for _ in range(2)
    ]
    return la.Objective(model, la.supervised(F.cross_entropy), batches, **options)


# Weights that are most of what is held, activations that are, and a first time with checks.
SHAPES = [(300, 8, False), (60, 200, False), (300, 8, True)]


@pytest.mark.parametrize(("width", "examples", "check"), SHAPES)
@pytest.mark.parametrize(
    ("name", "options", "call"), CASES, ids=[f"{n}-{k}" for k, (n, _, _) in enumerate(CASES)]
)
def test_what_is_announced_is_what_is_held(name, options, call, width, examples, check):
    given = objective(width, examples, check=check)
    first = {n: v.clone() for n, v in given.params.items()}
    other = {n: 1.01 * v for n, v in first.items()}
    FACTORS[:] = [weights.factors(given, examples=0)] if name == "edit_curve" else []
    plan = plan_memory(given, name, **options)
    assert not plan.unknown
    with AllocationCounter() as counter:
        call(given, first, other)
    assert 0.9 <= plan.memory / counter.peak <= 1.2
    assert plan.fits
    # The edge of stability reached its limit of products here.
    assert plan.at_most == (name == "edge_of_stability")


@pytest.mark.parametrize(("name", "options", "call"), BOUNDED, ids=[n for n, _, _ in BOUNDED])
def test_no_more_is_held_than_is_announced(name, options, call):
    given = objective(8, 30, check=False)
    plan = plan_memory(given, name, **options)
    with AllocationCounter() as counter:
        call(given)
    assert plan.memory / counter.peak >= 0.9


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trace", {"rows": 4, "limit": 8}),
        ("spectrum", {"rows": 4, "limit": 8, "top": 1, "bottom": 0}),
    ],
)
def test_the_graph_that_a_single_batch_keeps_is_announced(name, options):
    several = objective(60, 400, check=False)
    given = several.part(several.batches[:1])
    plan = plan_memory(given, name, **options)
    with AllocationCounter() as counter:
        getattr(la, name)(given, **options)
    assert 0.9 <= plan.memory / counter.peak <= 1.2
    assert plan.passes > plan_memory(several, name, **options).passes


class Attention(nn.Module):
    def __init__(self, masked):
        super().__init__()
        self.masked, self.inner = masked, nn.Linear(16, 48)

    def forward(self, tokens):
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).triu(1) if self.masked else None
        heads = self.inner(tokens).unflatten(2, (6, 8)).transpose(1, 2)
        query, key, value = heads.split(2, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["value", "gradient"])
def test_attention_is_announced_as_the_fused_kernel_takes_it(name, masked):
    drawn = generator("memory of attention")
    batch = torch.randn(2, 512, 16, generator=drawn), torch.zeros(2, 512, 16)
    given = la.Objective(Attention(masked), la.supervised(F.mse_loss), [batch], check=False)
    plan = plan_memory(given, name)
    with AllocationCounter() as counter:
        getattr(given, name)()
    assert 0.9 <= plan.memory / counter.peak <= 1.2


CONVOLUTIONS = """
from pathlib import Path
import torch
from torch import nn
from torch.nn import functional as F
import lossatlas as la
from lossatlas.curvature import plan_memory

def given(images, dtype):
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.AdaptiveAvgPool2d(1)
    )
    batch = torch.zeros(images, 3, 32, 32, dtype=dtype), torch.zeros(images, 24, 1, 1)
    return la.Objective(model.to(dtype), la.supervised(F.mse_loss), [batch], check=False)

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

torch.set_num_threads(1)
for dtype in (torch.float32, torch.float64):
    for name in ("value", "gradient"):
        getattr(given(2, dtype), name)()
        large = given(150, dtype)
        said = plan_memory(large, name).memory
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        getattr(large, name)()
        print(said / (status("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_what_convolutions_take_for_a_moment_is_announced():
    # A process of its own, which gives back what is freed.
    done = subprocess.run(
        [sys.executable, "-c", CONVOLUTIONS],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    found = [float(line) for line in done.stdout.split()]
    assert len(found) == 4
    assert found == pytest.approx([1.0] * 4, abs=0.1)


def test_the_range_of_a_matrix_is_announced():
    # 7,930 parameters and 300 outputs: all eigenvalues are those of the range.
    given = objective(60, 15, check=False)
    matrix = curvature.gauss_newton(given)
    products = all_eigenvalues.range_products(matrix, None)
    assert products == 2 * (300 + all_eigenvalues.MORE)
    with AllocationCounter() as counter:
        found = all_eigenvalues.eigenvalues_in_range(matrix, products, 0)
    assert len(found.values) == products // 2
    plan = plan_memory(given, "effective_parameters", outputs=300)
    assert 0.9 <= plan.memory / counter.peak <= 1.2
    # Without the number of outputs it is the largest range that would be worth it.
    assert plan_memory(given, "effective_parameters").memory > plan.memory
    other = {"curvature": "hessian", "outputs": 300}
    assert plan_memory(given, "effective_parameters", **other).memory < plan.memory
    # The quadratic approximation is of the Hessian by default.
    chain = plan_memory(given, "learning_coefficient", outputs=300)
    twin = plan_memory(given, "learning_coefficient", outputs=300, curvature="gauss_newton")
    assert chain.memory < plan.memory <= twin.memory


def test_a_whole_matrix_is_announced():
    given = objective(49, 20, check=False)
    matrix = curvature.gauss_newton(given, names="4.*")
    assert matrix.size == 500
    with AllocationCounter() as counter:
        all_eigenvalues.dense_eigenvalues(matrix)
    plan = plan_memory(given, "effective_parameters", numbers=500)
    assert 0.9 <= plan.memory / counter.peak <= 1.5


def test_counts_that_are_none_are_refused_by_name():
    given = objective(20)
    for name, options in (
        ("effective_parameters", {"numbers": -3}),
        ("effective_parameters", {"numbers": 0}),
        ("effective_parameters", {"steps": 2.5}),
        ("effective_parameters", {"outputs": -1}),
        ("learning_coefficient", {"outputs": "many"}),
        ("m_sharpness", {"size": -1}),
        ("window_fisher", {"window": -1}),
    ):
        (option,) = options
        with pytest.raises(ArgumentError, match=f"`{option}` must be a whole number"):
            plan_memory(given, name, **options)
    with pytest.raises(UnknownNameError, match="`curvature`"):
        plan_memory(given, "effective_parameters", curvature="none")


def test_every_instrument_of_the_table_is_compared():
    compared = {name for name, _, _ in CASES} | {name for name, _, _ in BOUNDED}
    assert compared == set(memory_plan.MODELS)


def test_asking_allocates_nothing():
    class Real(AllocationCounter):
        def _note(self, key, storage):
            if storage.device.type != "meta":
                super()._note(key, storage)

    given = objective()
    with Real() as counter:
        plan_memory(given, "trace")
    # Numbers of one batch at the most.
    assert counter.peak < 1e5


def test_a_check_leaves_nothing_behind():
    given = objective(check=True)
    with AllocationCounter() as counter:
        la.check(given)
    assert counter.held < 1e4


def test_what_does_not_fit_is_refused_by_name(monkeypatch):
    given = objective(check=False)
    copy = sum(value.nbytes for value in given.params.values())
    monkeypatch.setattr(memory_plan, "free_memory", lambda device: int(2.5 * copy))
    point = given.params
    for name, call in (
        ("average_sharpness", lambda: curvature.average_sharpness(given)),
        ("worst_sharpness", lambda: curvature.worst_sharpness(given)),
        ("roughness", lambda: curvature.roughness(given)),
        ("gradient_noise", lambda: curvature.gradient_noise(given)),
        ("connect", lambda: weights.connect(given, point, point, kind="bezier", steps=1)),
        ("merge", lambda: weights.merge(given, point, point, point)),
        ("sensitivity", lambda: weights.sensitivity(given)),
    ):
        with pytest.raises(ArgumentError, match=f"'{name}' holds .* are free"):
            call()
    assert not plan_memory(given, "roughness").fits


def test_a_model_that_reads_numbers_is_planned_without_its_passes():
    class Reads(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * float(inputs.mean() > 0)

    batch = torch.ones(4, 3), torch.zeros(4, 2)
    given = la.Objective(Reads(3, 2), la.supervised(F.mse_loss), [batch], check=False)
    plan = plan_memory(given, "roughness")
    assert plan.unknown
    assert plan.passes == 0 < plan.held
    assert "at least" in plan.sentences()[0]
    assert pass_memory(given).unknown


def test_what_cannot_be_planned_is_said():
    given = objective(20)
    with pytest.raises(UnknownNameError, match="roughness"):
        plan_memory(given, "rough")
    with pytest.raises(ArgumentError, match="`probes`: the memory of 'trace' depends on limit"):
        plan_memory(given, "trace", probes=3)
    assert plan_memory(given, "trace").sentences()[0].startswith("'trace' holds about")


class Recurrent(nn.Module):
    def __init__(self, kind, width, **options):
        super().__init__()
        self.steps = getattr(nn, kind)(width, width, batch_first=True, **options)
        sides = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear(sides * width, 3)

    def forward(self, given):
        return self.head(self.steps(given)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "options", "name", "width"),
    [
        ("GRU", {}, "gradient", 24),
        ("GRU", {}, "trace", 24),
        ("GRU", {"num_layers": 2, "bidirectional": True}, "gradient", 24),
        ("RNN", {"nonlinearity": "relu"}, "trace", 24),
        ("LSTM", {}, "gradient", 64),
        ("LSTM", {"bias": False, "num_layers": 2}, "gradient", 64),
    ],
)
def test_recurrent_layers_are_counted_as_a_processor_runs_them(kind, options, name, width):
    drawn = generator("recurrent memory")
    model = Recurrent(kind, width, **options)
    # Steps enough that they outweigh the parameters, of which an LSTM has the most.
    steps = 30 if kind == "LSTM" else 12
    given = [
        (torch.randn(16, steps, width, generator=drawn), torch.arange(16) % 3) for _ in range(2)
    ]
    objective = la.Objective(model, la.supervised(F.cross_entropy), given, check=False)
    limits = {"limit": 4, "rows": 2} if name == "trace" else {}
    plan = plan_memory(objective, name, **limits)
    assert not plan.unknown
    with AllocationCounter() as counter:
        objective.gradient() if name == "gradient" else la.trace(objective, **limits)
    assert 0.9 <= plan.memory / counter.peak <= 1.2


def test_plans_of_recurrent_layers_are_lower_bounds():
    def last(model, batch):
        return (model(batch[0])[0][:, -1] - batch[1]).square().mean(1)

    data = [(torch.randn(4, 5, 3), torch.randn(4, 2))]
    objective = la.Objective(torch.nn.LSTM(3, 2, batch_first=True), last, data)
    plan = curvature.plan_memory(objective, "trace")
    assert plan.at_least
    assert "holds at least" in plan.sentences()[0]
    assert "at least" in plan.estimates()[0].why_no_error
