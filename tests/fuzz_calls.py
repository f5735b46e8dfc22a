"""A valid call of every exported callable, for the fuzzer to spoil."""

import dataclasses
import importlib
import inspect
import pkgutil
import tempfile
import types
import typing
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature, forecast
from lossatlas.result import Estimate
from lossatlas.training import Dataset
from reference.event_files import event_file

# Where models and batches of the calls are.
DEVICE = "cpu"
ROOT = Path(la.__file__).parent
# Not functions of ours: aliases of types, protocols, and the errors themselves.
NOT_CALLS = {"Array", "Start", "Executor", "Batch", "Metric", "Engine", "Policy"}
NOT_CALLS |= {"AtlasError", "Builder", "Ray", "Choice", "Progress", "ScaledFamily"}
INITS = (
    "Calibration", "Features", "FinishedStage", "InitsSettings", "Labels", "Quality",
    "Ranking", "Reliability", "Samples", "Surrogates", "Trust", "fit_surrogates", "rank", "run",
    "run_stage",
)  # fmt: skip


def exported():
    """Every exported callable once: "room.name" -> object."""
    names = ["lossatlas"]
    names += sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "lossatlas.") if m.ispkg)
    # The names of other packages hand everything on to ours.
    names = [name for name in names if not name.startswith("lossatlas.compat")]
    found, seen = {}, set()
    for room in names:
        module = importlib.import_module(room)
        for name in sorted(getattr(module, "__all__", ())):
            value = getattr(module, name)
            if not callable(value) or name in NOT_CALLS or id(value) in seen:
                continue
            seen.add(id(value))
            found[f"{room.removeprefix('lossatlas').strip('.')}.{name}".strip(".")] = value
    return found


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(DEVICE)


def batch():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, generator=draw).to(DEVICE), _labels(12)


def _labels(count):
    return torch.arange(count, device=DEVICE) % 3


def objective():
    return la.Objective(model(), la.supervised(F.cross_entropy), [batch()])


def _of_width(width, seed):
    layers = nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)
    network = nn.Sequential(*layers).to(DEVICE)
    made = la.Objective(network, la.supervised(F.cross_entropy), [batch()], check=False)
    return made, torch.optim.SGD(network.parameters(), lr=0.1)


def _bottom():
    return la.Objective(model(), lambda m, b: m(b[0]).square().mean(1) * 1e-3, [batch()])


def point(shift=0.0):
    return {n: v.detach() + shift for n, v in model().named_parameters()}


def other_point():
    draw = torch.Generator().manual_seed(1)
    return {n: v + 0.1 * torch.randn(v.shape, generator=draw).to(v) for n, v in point().items()}


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def field(size=5):
    x = np.linspace(-1, 1, size)
    return x[:, None] ** 2 + np.cos(4 * x[None])


_KEPT = {}


def once(make):
    """Results are frozen: one of each serves all calls."""
    return lambda: _KEPT.setdefault(make, make()) if make not in _KEPT else _KEPT[make]


def _landscape():
    o = objective()
    return la.map_plane(o, la.random_plane(o), points=5, span=0.5)


def _survey():
    return la.survey(objective(), points=5, span=0.5)


def _comparison():
    return la.compare(objective(), point(), other_point(), points=5, span=0.5)


def _curve():
    step = np.arange(1, 120)
    return forecast.Curve(step, 2 + 3 * step**-0.5, np.full(119, 0.1))


def _fit():
    return forecast.fit(forecast.PowerLaw(), [_curve()])


def _stability():
    o = objective()
    return curvature.edge_of_stability(o, torch.optim.SGD(o.model.parameters(), lr=0.1))


def dataset():
    return Dataset(batch()[0], batch()[1], classes=("a", "b", "c"))


def file(name, write):
    place = Path(tempfile.mkdtemp()) / name
    write(place)
    return place


def _events():
    rows = [(step, "train/loss", 1 / step) for step in range(1, 20)]
    return file("events.out.tfevents.1.host", lambda p: p.write_bytes(event_file(rows)))


def optimizer():
    return torch.optim.SGD(model().parameters(), lr=0.1)


landscape, survey, comparison = once(_landscape), once(_survey), once(_comparison)
curve, fit, stability = once(_curve), once(_fit), once(_stability)
tree = once(lambda: la.merge_tree(landscape()))
diagram = once(lambda: la.persistence(landscape()))
spectrum = once(lambda: la.spectrum(objective(), top=2, bottom=1))
samples = once(
    lambda: curvature.sample_size_curve(objective(), [2, 4, 8], directions=1, orders=3)
)


def log():
    from lossatlas.steering import DecisionLog, DecisionRecord, Reading

    return DecisionLog((DecisionRecord(Reading(1), (1.0,), "neutral", (1.0,), (0.1,)),))


def policy():
    from lossatlas.steering import RegimePolicy

    return RegimePolicy()


def setup():
    from lossatlas.recipes import TrainingSetup

    return TrainingSetup(dataset(), dataset(), dataset(), "mlp(4)", batch_size=4, warmup=0)


def task():
    from lossatlas.landscape.engines import Task

    o = objective()
    return Task(o, la.random_plane(o))


@once
def _plan():
    from lossatlas.forecast.best_schedule import plan_schedule
    from lossatlas.forecast.validation import error_model

    values = np.array([2.0, 0.5, 0.3, 2.0, 0.6, 2.0, 0.1])
    law = forecast.MultiPowerLaw()
    return plan_schedule(
        law, values[: len(law.parameters)], 40, 0.1, warmup=4, errors=error_model((), ())
    )


def logits():
    drawn = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    return drawn.to(DEVICE).requires_grad_()


def numbers(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def csv(text="step,loss,lr,_step\n1,3,.1,1\n2,2.5,.1,2\n3,2.2,.1,3\n"):
    return file("a.csv", lambda p: p.write_text(text))


# Parameter -> a valid value; what depends on the callable stands in `SPECIAL`.
POOL = {
    "objective": objective,
    "plane": lambda: la.random_plane(objective()),
    "model": model,
    "batch": batch,
    "batches": lambda: [batch()],
    "loss": lambda: loss,
    "criterion": lambda: F.cross_entropy,
    "params": lambda: None,
    "origin": point,
    "first": point,
    "second": other_point,
    "before": other_point,
    "checkpoints": lambda: [point(), other_point(), point(0.3)],
    "landscape": landscape,
    "tree": tree,
    "diagram": diagram,
    "spectrum": spectrum,
    "survey": survey,
    "results": survey,
    "surveys": lambda: [survey()],
    "path": lambda: file("x.nc", lambda p: None),
    "optimizer": optimizer,
    "closure": lambda: lambda: torch.tensor(1.0),
    "features": lambda: numbers(12, 4),
    "labels": lambda: _labels(12),
    "values": lambda: np.linspace(0, 1, 7),
    "curve": curve,
    "curves": lambda: [curve()],
    "law": forecast.PowerLaw,
    "fit": fit,
    "log": log,
    "policy": policy,
    "task": task,
    "setup": setup,
    "train": dataset,
    "test": dataset,
    "data": dataset,
    "logits": logits,
    "targets": lambda: _labels(6),
    "seed": lambda: 0,
    "steps": lambda: 3,
    "lr": lambda: 0.1,
    "recipe": lambda: "sgd",
    "recipes": lambda: ["sgd"],
    "name": lambda: "x",
    "text": lambda: "sgd",
    "weights": lambda: [torch.nn.Parameter(v) for v in point().values()],
    "readings": lambda: (
        [__import__("lossatlas").steering.Reading(1)] if hasattr(la, "steering") else []
    ),
    "examples": lambda: numbers(8, 5, 5).cpu().numpy(),
    "repeats": lambda: [{"a": 1.0}, {"a": 2.0}],
    "points": lambda: numbers(8, 2).cpu().numpy(),
    "levels": lambda: np.linspace(0, 1, 4),
    "title": lambda: "t",
    "traces": lambda: [np.arange(3.0)],
    "names": lambda: ["a"],
    "intervals": lambda: [(0.0, 1.0, 2.0)],
    "spec": lambda: "mlp(4)",
    "run": lambda: {"a": 1},
    "seeds": lambda: 3,
    "width": lambda: 4,
    "folder": lambda: Path(tempfile.mkdtemp()),
    "result": landscape,
    "step": lambda: np.arange(1, 30),
    "head": lambda: None,
    "loads": lambda: [2],
    "horizons": lambda: [3],
}
DEFAULTS = {
    int: lambda: 1,
    float: lambda: 1.0,
    str: lambda: "x",
    bool: lambda: True,
    np.ndarray: lambda: np.arange(3.0),
    Estimate: lambda: Estimate(1.0, 0.1, 3),
    torch.Tensor: lambda: numbers(3, 3),
    Path: lambda: Path("x"),
    nn.Module: model,
    la.Landscape: landscape,
    la.Diagram: diagram,
    la.MergeTree: tree,
    la.Objective: objective,
    la.Spectrum: spectrum,
    forecast.Curve: curve,
    forecast.Fit: fit,
    Dataset: dataset,
    torch.optim.Optimizer: optimizer,
}


def _special():
    params = lambda: list(model().parameters())  # noqa: E731
    weight = lambda: numbers(3, 4)  # noqa: E731
    shared = lambda: torch.ones(3, device=DEVICE, requires_grad=True)  # noqa: E731
    return {
        "plane": lambda: ((point(), other_point()), {}),
        "check": lambda: ((objective(),), {}),
        "Weighted": lambda: ((numbers(3), numbers(3)), {}),
        "diffusion": lambda: ((model(), _scheduler()), {}),
        # These start from objects of other frameworks, and are tested with the real ones.
        "huggingface": None,
        "from_trainer": None,
        "from_lightning": None,
        "plane_through": lambda: ((point(), other_point()), {}),
        "Objective": lambda: ((model(), loss, [batch()]), {}),
        "TopoAdamW": lambda: ((params(), model()), {}),
        "LandscapeLR": lambda: ((optimizer(),), {}),
        "load": lambda: ((file("a.nc", landscape().save),), {}),
        "write_report": lambda: ((survey(), Path(tempfile.mkdtemp()) / "r.html"), {}),
        "report.write_film": lambda: (
            (survey(), Path(tempfile.mkdtemp()) / "f.gif"),
            {"seconds": 0.5, "rate": 4, "width": 160},
        ),
        "report.write_mesh": lambda: ((survey(), Path(tempfile.mkdtemp()) / "s.glb"), {}),
        "forecast.read_tensorboard_events": lambda: ((_events(),), {}),
        "SpikeRecorder": lambda: ((model(), optimizer(), loss), {}),
        "Monitor": lambda: ((objective(), ("loss",)), {}),
        "map_plane": lambda: (
            ((o := objective()), la.random_plane(o)),
            {"points": 3, "span": 0.5},
        ),
        "weights.align": lambda: ((objective(), point(), other_point()), {"starts": 1}),
        "weights.align_many": lambda: ((objective(), point(), other_point()), {"starts": 1}),
        "weights.alignment_cost": lambda: ((objective(),), {}),
        "weights.with_adapter": lambda: ((point(), {}), {"scale": 1.0}),
        "weights.connect": lambda: ((objective(), point(), other_point()), {"points": 3}),
        "weights.merge": lambda: ((objective(), point(), other_point()), {}),
        "weights.compare_merges": lambda: (
            (objective(), point(), other_point()),
            {"methods": ["ties"]},
        ),
        "weights.choose": lambda: ((objective(), point(), other_point()), {}),
        "weights.weight_spectra": lambda: ((point(),), {}),
        "weights.edit_curve": lambda: (
            (objective(), la.weights.factors(objective(), examples=0)),
            {"keep": [0.9]},
        ),
        "weights.repair": lambda: ((objective(), point(), point(), other_point(), 0.5), {}),
        "weights.soup": lambda: ((objective(), point(), other_point()), {}),
        "survey": lambda: ((objective(),), {"points": 3, "span": 0.5}),
        "compare": lambda: (
            (objective(), point(), other_point()),
            {"points": 3, "span": 0.5},
        ),
        "spectrum": lambda: ((objective(), 1, 1), {"density": False}),
        "trace": lambda: ((objective(),), {"limit": 20}),
        "sasp_penalty": lambda: ((logits(), numbers(6, 4)), {}),
        "curvature.m_sharpness": lambda: ((objective(), 4), {}),
        "curvature.plasticity": lambda: ((objective(), 1, 2), {}),
        "curvature.learning_coefficient": lambda: (
            (_bottom(), 1),
            {"draws": 200, "step": 1.0, "localization": 1e5},
        ),
        "curvature.effective_parameters": lambda: ((objective(), 1.0), {"probes": 2}),
        "curvature.plan_memory": lambda: ((objective(), "trace"), {}),
        "curvature.roughness": lambda: ((objective(), 2, 0.5, 5), {}),
        "curvature.activations": lambda: ((objective(), "0"), {}),
        "curvature.interference": lambda: ((numbers(5),), {}),
        "curvature.alpha_req": lambda: ((numbers(30, 9),), {}),
        "curvature.edge_of_stability": _edge,
        "executor.get_executor": lambda: (("serial",), {}),
        "forecast.fit_best": lambda: (
            ([curve(), _curve()],),
            {"laws": [forecast.PowerLaw(), forecast.ShiftedPowerLaw()]},
        ),
        "report.Number": lambda: (("x", 1.0, 0.1), {}),
        "training.Dataset": lambda: ((batch()[0], batch()[1]), {}),
        "curvature.cka": lambda: ((numbers(12, 3), numbers(12, 4)), {}),
        "curvature.CurvatureOperator": lambda: ((objective(), lambda *a: lambda *b: []), {}),
        "curvature.zero_sum_losses": lambda: ((objective(), other_point()), {}),
        "curvature.worst_sharpness": lambda: ((objective(),), {"steps": 2, "restarts": 1}),
        "curvature.sample_size_curve": lambda: (
            (objective(), [2, 4, 8]),
            {"directions": 1, "orders": 3, "points": 4},
        ),
        "curvature.residual_gain": lambda: ((_residual(), ["0", "1"]), {}),
        "curvature.frobenius_norm": lambda: ((objective(),), {"limit": 10}),
        "curvature.diagonal": lambda: ((objective(),), {"limit": 10}),
        "forecast.Curve": lambda: ((np.arange(1, 30), 1 / np.arange(1, 30)), {}),
        "forecast.LiveForecast": lambda: ((np.full(50, 0.1),), {}),
        "forecast.spikes": lambda: ((np.arange(1, 30), 1 / np.arange(1, 30)), {}),
        "forecast.smoothed": lambda: ((np.linspace(2, 1, 20),), {}),
        "forecast.points": lambda: ((np.array([3.0, 2.5, 2.2]),), {"size": [1e6, 2e6, 4e6]}),
        "forecast.from_torch": lambda: (
            (torch.optim.lr_scheduler.StepLR(optimizer(), 2), 4),
            {},
        ),
        "forecast.translate": _translate,
        "forecast.read_csv": lambda: ((csv(),), {}),
        "forecast.read_json": lambda: (
            (
                file(
                    "a.jsonl",
                    lambda p: p.write_text('{"step":1,"loss":3}\n{"step":2,"loss":2}'),
                ),
            ),
            {},
        ),
        "forecast.read_points": lambda: (
            (csv("size,loss\n1e6,3\n2e6,2.5\n"),),
            {"size": "size"},
        ),
        "forecast.read_tensorboard": lambda: (
            (csv("Wall time,Step,Value\n0,1,3\n0,2,2.5\n0,3,2.2\n"),),
            {},
        ),
        "forecast.read_trainer_state": lambda: (
            (
                file(
                    "s.json",
                    lambda p: p.write_text(
                        '{"log_history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]}'
                    ),
                ),
            ),
            {},
        ),
        "forecast.read_wandb": lambda: (
            (csv("Step,a - loss\n1,3\n2,2.5\n3,2.2\n"),),
            {},
        ),
        "landscape.engines.build": lambda: ((task(), "plain"), {}),
        "landscape.engines.choose": lambda: ((task(), "plain", np.full((1, 2), 0.3)), {}),
        "landscape.engines.select": lambda: ((task(), "plain", np.full(2, 0.3)), {}),
        "steering.sub_batch": lambda: ((model(), loss, batch()), {}),
        "steering.replay": lambda: ((policy(), [log().records[0].reading]), {}),
        "steering.WeightAverage": lambda: ((model(),), {}),
        "steering.PolynomialAverage": lambda: ((model(),), {}),
        "steering.EMA": lambda: ((model(),), {}),
        "steering.LAWA": lambda: ((model(),), {}),
        "recipe": lambda: ((model(),), {}),
        "SAM": lambda: ((optimizer(),), {}),
        "PolynomialAverage": lambda: ((model(),), {}),
        "steering.AveragedOptimizer": _averaged,
        "forecast.laws.Baseline": None,
        "steering.AverageChoice": None,
        "steering.sam_radius": lambda: ((objective(),), {"share": 0.05}),
        "steering.CautiousUpdates": lambda: ((optimizer(),), {}),
        "steering.InterpolatedGradients": _interpolated,
        "steering.WSD": lambda: ((optimizer(), 20), {}),
        "steering.WSDS": lambda: ((optimizer(), [5, 10]), {}),
        "steering.penalties.per_example_sasp_penalty": lambda: (
            ((logits() * (w := shared())).square().sum(1), [w]),
            {},
        ),
        "steering.penalties.sasp_cross_entropy": lambda: (
            (logits(), numbers(6, 4), _labels(6)),
            {},
        ),
        "steering.penalties.Capture": lambda: ((nn.Linear(3, 2).to(DEVICE),), {}),
        "steering.penalties.cvp_gate": lambda: (
            (weight(), weight()),
            {"mode": "cautious", "beta": 5.0},
        ),
        "steering.penalties.cvp_penalty": lambda: (
            (params(), [p.detach() for p in params()]),
            {},
        ),
        "steering.penalties.apply_cvp_": lambda: (
            (params(), 0.01),
            {"lr": 0.1, "grads": [p.detach() for p in params()]},
        ),
        "steering.penalties.nger_weights": lambda: ((numbers(3), numbers(3), numbers(3)), {}),
        "steering.penalties.nger_loss": lambda: ((numbers(3), numbers(3)), {}),
        "steering.penalties.ntk_proxies": lambda: (
            ((logits() * (w := shared())).sum(0), [w]),
            {},
        ),
        "steering.penalties.NGERWeighter": lambda: ((3,), {}),
        "steering.penalties.sbmp_penalty": lambda: (
            (numbers(4, 3), lambda e: e @ torch.ones(2, 3, device=DEVICE), numbers(4, 2)),
            {},
        ),
        "steering.penalties.dmta_penalty": lambda: ((numbers(5), numbers(5)), {}),
        "steering.penalties.DMTATracker": lambda: ((params(),), {}),
        "steering.penalties.trajectory_penalty": lambda: ((logits(), numbers(6, 3)), {}),
        "steering.penalties.SAFLoss": lambda: ((10, 3), {}),
        "steering.penalties.tram_radius": lambda: ((logits(), numbers(6, 3)), {}),
        "steering.penalties.ascended": lambda: ((_with_grads(), 0.1), {}),
        "steering.read_probe": lambda: (
            (lambda: torch.tensor(1.0), params()),
            {},
        ),
        "recipes.effect_size": lambda: ((la.trace(objective()),), {}),
        "recipes.paired": lambda: ((np.arange(4.0), np.arange(4.0) + 1), {}),
        "recipes.run_recipe": lambda: ((setup(), "sgd", 0.1, 0, 2), {}),
        "recipes.train_recipes": lambda: ((setup(), ["sgd"]), {"steps": 2, "seeds": 1}),
        "recipes.transfer_check": lambda: (
            (_of_width, (4, 8, 16)),
            {"steps": 1, "seeds": 1, "sharpness": False},
        ),
        "recipes.verdict": lambda: ((la.trace(objective()),), {}),
        "executor.run_tasks": lambda: (({"a": 1}, lambda: abs), {}),
        "executor.show_progress": lambda: ((None,), {}),
        "executor.check_progress": lambda: ((True,), {}),
        "io.open_ledger": lambda: ((Path(tempfile.mkdtemp()) / "a.resume", {"a": 1}), {}),
        "io.run_identity": lambda: (("maps", {"a": 1}), {}),
        "io.to_bytes": lambda: ((np.arange(3.0),), {}),
        "io.from_bytes": lambda: ((la.io.to_bytes(np.arange(3.0)),), {}),
        "io.Ledger": lambda: ((Path(tempfile.mkdtemp()) / "a.resume", {"a": 1}), {}),
        "io.below": lambda: (({"a/b": None}, "a"), {}),
        "io.nested": lambda: (({"a": {"b": None}},), {}),
        "io.load_checkpoint": lambda: (
            (file("a.pt", lambda p: torch.save(point(), p)),),
            {},
        ),
        "io.remove_ledger": lambda: ((Path(tempfile.mkdtemp()) / "a",), {}),
        "io.save": lambda: ((landscape(), Path(tempfile.mkdtemp()) / "a.nc"), {}),
        "training.ScaledLinear": lambda: ((numbers(2, 3), 1.0), {}),
        "training.scaled_mlp": lambda: (
            (4, dataset(), 0),
            {"scaling": lambda width, last: (1.0, 1.0)},
        ),
        # Stages need a folder and hours of data; their results are made by them.
        **dict.fromkeys(map("inits.{}".format, INITS)),
        "curvature.chosen": lambda: (("all",), {}),
        "curvature.instruments": lambda: ((), {}),
        "curvature.instrument": lambda: (("mine",), {"title": "Mine", "question": "What?"}),
        "topology.rips": lambda: ((numbers(8, 2).cpu().numpy(),), {}),
        "topology.checkpoints": lambda: (([1.0, 2.0, 1.5], {(0, 1): 3.0, (1, 2): 2.5}), {}),
        "topology.graph": lambda: ((np.arange(3.0), [(0, 1), (1, 2)]), {}),
        "topology.scattered": lambda: ((numbers(8, 2).cpu().numpy(), np.arange(8.0)), {}),
        "topology.flood_below": lambda: ((field(), 0.1), {}),
        "topology.barrier_distance": lambda: ((field(), field() + 0.1), {}),
        "topology.bottleneck": lambda: ((diagram(), diagram()), {}),
        "topology.wasserstein": lambda: ((diagram(), diagram()), {}),
        "topology.sliced_wasserstein": lambda: ((diagram(), diagram()), {}),
        "topology.match_bars": lambda: ((diagram(), diagram()), {}),
        "topology.match_basins": lambda: ((field(), field() + 0.1), {}),
        "topology.betti_curve": lambda: ((diagram(), np.arange(3.0)), {}),
        "topology.euler_curve": lambda: ((field(), np.arange(3.0)), {}),
        "topology.silhouette": lambda: ((diagram(), np.arange(3.0)), {}),
        "topology.persistence_landscape": lambda: ((diagram(), np.arange(3.0)), {}),
        "topology.persistence_image": lambda: (
            (diagram(),),
            {"births": (0.0, 1.0), "lengths": (0.0, 1.0)},
        ),
        "training.build_loss": lambda: (("mse",), {}),
        "training.build_model": lambda: (("mlp(4)", dataset()), {}),
        "training.initial_weights": lambda: (("mlp(4)", dataset()), {"seeds": [0, 1]}),
        "training.load_dataset": lambda: (("digits",), {"examples": 5}),
        "training.load_weights": lambda: (
            (model(), file("a.pt", lambda p: torch.save(point(), p))),
            {},
        ),
        "training.train": lambda: ((model(), dataset()), {"steps": 2}),
        "training.train_ensemble": lambda: (
            (model(), dataset()),
            {"initial": [point(), other_point()], "steps": 2},
        ),
        "training.evaluate_ensemble": lambda: (
            (model(), {n: torch.stack([v, v]) for n, v in point().items()}, dataset()),
            {},
        ),
        "training.normalization_of": lambda: (("mlp(4)",), {}),
    }


def _interpolated():
    from lossatlas.steering import PolynomialAverage

    net = model()
    return (torch.optim.SGD(net.parameters(), lr=0.1), PolynomialAverage(net)), {}


def _averaged():
    from lossatlas.steering import PolynomialAverage

    net = model()
    made = torch.optim.SGD(net.parameters(), lr=0.1)
    rate = torch.optim.lr_scheduler.ConstantLR(made)
    return (made, PolynomialAverage(net), rate), {}


def _scheduler():
    config = types.SimpleNamespace(num_train_timesteps=4, prediction_type="epsilon")
    alphas = torch.linspace(0.9, 0.1, 4)
    return types.SimpleNamespace(
        config=config, alphas_cumprod=alphas, add_noise=lambda x, noise, steps: x + noise
    )


def _edge():
    o = objective()
    return (o, torch.optim.SGD(o.model.parameters(), lr=0.1)), {}


def _residual():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(DEVICE)
    return la.Objective(net, la.supervised(F.cross_entropy), [batch()])


def _translate():
    law = {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 410.0, "beta": 0.28}
    return (law, {"K": 1.0, "kappa": 1.1, "E0": 1.7, "E1": 1.8}), {}


def _with_grads():
    net = model()
    loss(net, batch()).mean().backward()
    return list(net.parameters())


@once
def _box():
    o = objective()
    return la.map_plane(o, la.random_plane(o, dimension=3), points=3, span=0.5)


SPECIAL = _special()


def valid_call(name, target):
    """The arguments of a call that works: by name, by place where names are not enough."""
    if name in SPECIAL:
        make = SPECIAL[name]
        return None if make is None else make()
    kwargs = {}
    hints = _hints(target)
    for key, parameter in _parameters(target).items():
        if parameter.default is inspect.Parameter.empty and parameter.kind not in {2, 4}:
            kwargs[key] = _value(name, key, hints.get(key))
    return (), kwargs


def _value(name, key, hint):
    if dataclasses.is_dataclass(hint) is False and key in POOL:
        return POOL[key]()
    made = _default(hint)
    if made is None and key in POOL:
        return POOL[key]()
    return made


def _default(hint):
    origin = typing.get_origin(hint) or hint
    if origin in {typing.Union, types.UnionType}:
        return _default(typing.get_args(hint)[0])
    if origin in {tuple, list} or "Sequence" in str(origin):
        return ()
    if origin is dict or "Mapping" in str(origin):
        return {}
    for kind, make in DEFAULTS.items():
        if isinstance(origin, type) and issubclass(origin, kind):
            return make()
    return None


def _parameters(target):
    try:
        return {k: p for k, p in inspect.signature(target).parameters.items() if k != "self"}
    except (TypeError, ValueError):
        return {}


def _hints(target):
    try:
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    except (NameError, TypeError, AttributeError):
        return {}
