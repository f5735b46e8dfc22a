"""What two processes check; each function runs on both of them."""

import datetime
import time
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

import lossatlas as la
from distributed.problems import (
    CE,
    batches,
    by_batches,
    flat,
    network,
    normalized,
    numbers,
    other_derivatives,
    other_products,
    recalibrated,
    souped,
    values,
)
from lossatlas.errors import AtlasError, RankWarning
from lossatlas.objective.in_place import WeightsInPlace


def world():
    return distributed.group.WORLD


def share(rank: int):
    return batches()[rank::2]


def sharded(model=None):
    from torch.distributed.fsdp import fully_shard

    model = network() if model is None else model
    for layer in list(model):
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    return fully_shard(model)


def error(call) -> str:
    try:
        call()
    except AtlasError as failure:
        return f"{type(failure).__name__}: {failure}"
    return "no error"


def data_parallel(rank: int, folder: Path):
    return numbers(la.Objective(network(), CE, share(rank), group=world()))


def single_batches(rank: int, folder: Path):
    return by_batches(la.Objective(network(), CE, share(rank), group=world()))


def statistics(rank: int, folder: Path):
    """Running statistics of all data, with shares of two and one batches, and of three."""
    options = {"mode": "recalibrated", "group": world()}
    held = batches() if rank else []
    return [
        recalibrated(la.Objective(normalized(), CE, share(rank), **options)),
        recalibrated(la.Objective(normalized(), CE, held, **options)),
    ]


def soups(rank: int, folder: Path):
    return souped(la.Objective(normalized(), CE, share(rank), group=world()))


def empty_share(rank: int, folder: Path):
    held = batches() if rank else []
    return numbers(la.Objective(network(), CE, held, group=world()))


def weighted_means(rank: int, folder: Path):
    """Pairs of sums and weights, and means of batches."""

    def pairs(model, batch):
        losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return la.Weighted(losses * (1 + batch[1]), 1.0 + batch[1])

    def mean(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    found = {}
    for loss in (pairs, mean):
        objective = la.Objective(network(), loss, share(rank), group=world())
        here = objective.evaluate()
        found[loss.__name__] = [here.value, here.stderr, here.skewness, here.samples]
        found[loss.__name__] += flat(objective.gradient())
    return found


def wrapped(rank: int, folder: Path):
    """DistributedDataParallel with buffers, which it would broadcast at every pass."""
    model = network()
    model.insert(1, nn.BatchNorm1d(7))
    parallel = nn.parallel.DistributedDataParallel(model)
    objective = la.Objective(parallel, CE, share(rank), group=world())
    land = la.map_plane(objective, la.random_plane(objective, seed=3), points=3, span=0.5)
    return {"value": objective.value(), "map": land.values.tolist()}


def fsdp(rank: int, folder: Path):
    model = sharded()
    before = [p.to_local().clone() for p in model.parameters()]
    grads = [torch.full_like(p, 2.0) for p in model.parameters()]
    for p, grad in zip(model.parameters(), grads, strict=True):
        p.grad = grad
    found = numbers(la.Objective(model, CE, share(rank)))
    kept = zip(model.parameters(), before, grads, strict=True)
    found["restored"] = all(
        torch.equal(p.to_local(), old) and p.grad is grad for p, old, grad in kept
    )
    objective = la.Objective(model, CE, share(rank))
    found["others"] = other_derivatives(objective)
    found["checked"] = list(objective.checked)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    found["hooks"] = sum(hooks)
    found["recalibrated"] = error(
        lambda: la.Objective(model, CE, share(rank), mode="recalibrated")
    )
    whole = la.Objective(model, CE, share(rank))
    found["part"] = whole.part(list(whole.iter_batches())[:1]).value()
    return found


def doubled_unless_trained(module, given, output):
    return output if isinstance(module.weight, nn.Parameter) else 2 * output


def sharded_by_differences(rank: int, folder: Path):
    """Where whole weights give another value, and where it is asked for."""
    model = sharded()
    model[2].register_forward_hook(doubled_unless_trained)
    other = la.Objective(model, CE, share(rank))
    top = la.spectrum(other, top=1, bottom=0, density=False, seed=1).top.tolist()
    asked = la.Objective(sharded(), CE, share(rank), derivatives="differences")
    trace = la.trace(asked, limit=24, seed=1)
    # Uneven shares: the process with fewer batches makes passes that do not count.
    options = {"top": 1, "bottom": 0, "density": False, "seed": 1}
    spectrum = la.spectrum(asked, curvature="gauss_newton", **options)
    return {"top": top, "other": list(other.checked), "others": other_products(asked),
            "gauss_newton": [spectrum.top[0], spectrum.bounds[0]],
            "checked": list(asked.checked), "trace": trace.value}  # fmt: skip


def half_precision(rank: int, folder: Path):
    """Passes in bfloat16 of weights in float32: second derivatives are those of the latter."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(torch.bfloat16, output_dtype=torch.float32)
    objective = la.Objective(fully_shard(network(), mp_policy=policy), CE, share(rank))
    # Nothing is sent where it is read, or a process that reads it alone would wait.
    by_differences = objective.by_differences if rank == 0 else False
    spectrum = la.spectrum(objective, top=1, bottom=0, density=False, seed=1)
    return {"top": spectrum.top.tolist(), "checked": list(objective.checked),
            "said": list(spectrum.checked), "by_differences": by_differences}  # fmt: skip


def sharded_as_one(rank: int, folder: Path):
    """The outermost module keeps gathered weights after a pass, here before it is measured."""
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(network())
    model(batches()[0][0])
    return values(la.Objective(model, CE, share(rank)))


def training_goes_on(rank: int, folder: Path):
    """Training between which a model is measured is the training without it."""
    ends = []
    for measured in (False, True):
        model = sharded()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in batches():
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if measured:
                objective = la.Objective(model, CE, share(rank))
                objective.value({k: 1.1 * v for k, v in objective.params.items()})
                objective.gradient()
                la.trace(objective, limit=3)
        ends.append(flat({k: v.full_tensor().detach() for k, v in model.named_parameters()}))
    return ends


def trained(model) -> list:
    """Weights and readings of a training that controllers watch."""
    from lossatlas.steering import GrowthPolicy, LandscapeLR, RegimePolicy, read_probe

    x, y = batches()[0]
    found = []
    for policy in (RegimePolicy(), GrowthPolicy()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        controller = LandscapeLR(
            optimizer, policy, interval=2, warmup=0, dry_run=True, model=model
        )
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            controller.step(lambda: nn.functional.cross_entropy(model(x), y), loss=loss)
        for record in controller.log:
            reading = record.reading
            found.append([reading.sharpness, reading.variability, reading.distance])
    reading = read_probe(
        lambda: nn.functional.cross_entropy(model(x), y, reduction="none"),
        model.parameters(),
        model=model,
    )
    return [found, list(reading.values.values())]


def controllers(rank: int, folder: Path):
    """All processes are given the same batch, so that the training is that of one."""
    from lossatlas.steering import EdgePolicy, LandscapeLR

    model = sharded()
    found = trained(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return [*found, error(lambda: LandscapeLR(optimizer, EdgePolicy()))]


def reads_its_piece(module, given) -> None:
    module.weight.to_local()


def tensor_parallel(rank: int, folder: Path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (2,))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    model = parallelize_module(network(8), mesh, plan)
    found = numbers(la.Objective(model, CE, batches()))
    found["other_data"] = error(lambda: la.Objective(model, CE, share(rank)))
    found["others"] = other_derivatives(la.Objective(model, CE, batches()))
    # Code that reads its own piece of the weights is not that of a whole model.
    model[2].register_forward_pre_hook(reads_its_piece)
    objective = la.Objective(model, CE, batches())
    found["own_code"] = la.spectrum(objective, top=1, bottom=0, density=False, seed=1).top[0]
    found["checked"] = list(objective.checked)
    return found


def says_that_it_is_a_share(rank: int, folder: Path):
    import warnings

    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        la.Objective(network(), CE, share(rank))
    return [str(w.message) for w in given if w.category is RankWarning]


def what_is_refused(rank: int, folder: Path):
    """Errors that all processes are told."""

    def other_weights():
        model = network()
        with torch.no_grad():
            model[0].weight.add_(float(rank))
        la.Objective(model, CE, share(rank), group=world())

    def other_model():
        la.Objective(network(7 + rank), CE, share(rank), group=world())

    def other_data():
        held = [(x.long() if rank else x, y) for x, y in share(rank)]
        la.Objective(network(), CE, held, group=world())

    def other_seed():
        objective = la.Objective(network(), CE, share(rank), group=world())
        la.map_plane(objective, la.random_plane(objective, seed=rank), points=3)

    def no_data():
        la.Objective(network(), CE, [], group=world())

    def fails_on_one():
        def loss(model, batch):
            if rank and len(batch[0]) == 6:
                raise ValueError("a broken image")
            return CE(model, batch)

        la.Objective(network(), loss, share(rank), group=world())

    def fails_later():
        broken = []

        def loss(model, batch):
            if rank and broken:
                raise ValueError("a broken image")
            return CE(model, batch)

        objective = la.Objective(network(), loss, share(rank), group=world())
        broken.append(True)
        objective.value()

    def other_part():
        objective = la.Objective(network(), CE, share(rank), group=world())
        objective.part(share(rank))

    def joblib():
        objective = la.Objective(network(), CE, share(rank), group=world())
        la.map_plane(objective, la.random_plane(objective), points=3, executor="joblib")

    def measured(call):
        objective = la.Objective(network(), CE, share(rank), group=world())
        return lambda: call(objective)

    top = {"top": 1, "bottom": 0, "density": False}
    at_others = {
        "spectrum_seed": measured(lambda o: la.spectrum(o, seed=rank, **top)),
        "spectrum_names": measured(lambda o: la.spectrum(o, names=f"{2 * rank}.*", **top)),
        "trace_seed": measured(lambda o: la.trace(o, limit=8, seed=rank, rows=0)),
        "sharpness_seed": measured(lambda o: la.curvature.average_sharpness(o, seed=rank)),
        "map_points": measured(lambda o: la.map_plane(o, la.random_plane(o), points=3 + rank)),
        "other_point": measured(lambda o: o.value({k: rank * v for k, v in o.params.items()})),
    }
    checks = (other_weights, other_model, other_data, other_seed, no_data, fails_on_one,
              fails_later, other_part, joblib)  # fmt: skip
    return {name: error(call) for name, call in at_others.items()} | {
        check.__name__: error(check) for check in checks
    }


def what_is_refused_of_shards(rank: int, folder: Path):
    """The same where the model is spread as well."""

    def other_seed():
        objective = la.Objective(sharded(), CE, share(rank))
        la.map_plane(objective, la.random_plane(objective, seed=rank), points=3)

    def other_direction():
        objective = la.Objective(sharded(), CE, share(rank), derivatives="differences")
        la.trace(objective, limit=4, seed=rank, rows=0)

    def other_data():
        la.Objective(sharded(), CE, [(x.long() if rank else x, y) for x, y in share(rank)])

    def no_data():
        la.Objective(sharded(), CE, [])

    checks = (other_seed, other_direction, other_data, no_data)
    return {check.__name__: error(check) for check in checks}


def monitored(rank: int, folder: Path):
    """Readings of an objective that is shared, and of one that belongs to one process."""
    found = {}
    for name, objective in (
        ("together", la.Objective(network(), CE, share(rank), group=world())),
        ("first", la.Objective(network(), CE, batches())),
    ):
        path = folder / f"{name}.nc"
        watch = la.Monitor(objective, ("loss", "gradient"), every=2, share=0.9, to=path)
        # A first reading waits until the share allows it by the clock of the first process.
        objective.walk_seconds = 0.0, objective.device
        for _ in range(4):
            watch.step()
            time.sleep(0.5)
        found[name] = [watch.log.steps.tolist(), watch.log.values.tolist()]
    return found


def resumed(rank: int, folder: Path):
    """Stopped in the middle and resumed: the same bits, and nothing twice."""
    looked = []

    def loss(model, batch):
        looked.append(1)
        return CE(model, batch)

    objective = la.Objective(network(), loss, share(rank), group=world(), in_place=True)
    plane = la.random_plane(objective, seed=3)

    def stop(done, total, label):
        if done >= 16:
            raise KeyboardInterrupt

    options = {"points": 7, "span": 0.5, "adaptive": False}
    whole = la.map_plane(objective, plane, **options)
    file = folder / "pair.resume"
    try:
        la.map_plane(objective, plane, **options, resume=file, progress=stop)
    except KeyboardInterrupt:
        looked.clear()
    again = la.map_plane(objective, plane, **options, resume=file)
    return {
        "same": bool(np.array_equal(whole.values, again.values)),
        "passes": len(looked) / len(share(rank)),
        "file": file.exists(),
    }


def command_line(rank: int, folder: Path):
    """`torchrun -m lossatlas survey`: one process writes."""
    import os
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    from lossatlas.cli.app import cli
    from lossatlas.io import load

    given = ["survey", "--data", "digits", "--examples", "60", "--model", "mlp(4)", "--points"]
    given += ["3", "--batch-size", "8", "--set", "train.steps=2", "--instruments", "curvature"]
    given += ["--json", "--out", str(folder / "survey")]
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    out, told = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(told):
            cli.main(given, standalone_mode=False)
            try:
                cli.main(["train", "--out", str(folder / "t")], standalone_mode=False)
            except AtlasError as failure:
                refused = str(failure)
    finally:
        del os.environ["RANK"], os.environ["WORLD_SIZE"]
    distributed.barrier()
    found = load(folder / "survey" / "survey.nc")
    return {
        "printed": len(out.getvalue()),
        "loss": found.loss.value,
        "samples": found.loss.samples,
        "files": sorted(path.name for path in (folder / "survey").iterdir()),
        "refused": refused,
        "top": found.findings["curvature"].results["spectrum"].top.tolist(),
    }


def an_error_restores_the_shards(rank: int, folder: Path):
    model = sharded()
    before = [p.to_local().clone() for p in model.parameters()]
    objective = la.Objective(model, CE, share(rank))
    placed = WeightsInPlace(model, objective.names)
    moved = {name: value + 1 for name, value in objective.params.items()}
    try:
        with placed.moved_to(moved):
            changed = not torch.equal(next(model.parameters()).to_local(), before[0])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    pairs = zip(model.parameters(), before, strict=True)
    return [changed, all(torch.equal(p.to_local(), old) for p, old in pairs)]


def fails_in_a_sharded_pass(rank: int, folder: Path):
    """In a group of the user's own, which has a time limit of its own."""
    broken = []

    def loss(model, batch):
        if rank and broken:
            raise ValueError("a broken image")
        return CE(model, batch)

    group = distributed.new_group(timeout=datetime.timedelta(seconds=2))
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh.from_group(group, "cpu")
    model = fully_shard(network(), mesh=mesh)
    objective = la.Objective(model, loss, share(rank))
    broken.append(True)
    started = time.monotonic()
    return [error(objective.value), time.monotonic() - started]


CHECKS = [
    monitored, single_batches, statistics, soups,
    data_parallel, empty_share, weighted_means, wrapped, fsdp, sharded_by_differences,
    half_precision, sharded_as_one, training_goes_on,
    controllers, tensor_parallel, says_that_it_is_a_share, what_is_refused,
    what_is_refused_of_shards, resumed,
    command_line, an_error_restores_the_shards, fails_in_a_sharded_pass,
]  # fmt: skip
