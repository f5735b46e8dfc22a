"""Trainings that tests make on one process, and what two processes check of them."""

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from lossatlas.errors import ArgumentError
from lossatlas.rng import generator
from lossatlas.steering import (
    EMA,
    LAWA,
    POLICIES,
    SAM,
    Decision,
    EdgePolicy,
    LandscapeLR,
    PolynomialAverage,
    RegimePolicy,
    layer_groups,
    recipe,
)

AVERAGES = {
    "polynomial": lambda model: PolynomialAverage(model, (4, 16)),
    "ema": lambda model: EMA(model, 0.9),
    "lawa": lambda model: LAWA(model, 3, every=1),
}
STEPS, HALF = 8, 4


def network():
    drawn = generator("every policy")
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn) * 0.3)
    return model


def batch(step):
    drawn = generator("every policy", step)
    return torch.randn(8, 6, generator=drawn), torch.randint(0, 4, (8,), generator=drawn)


def loss_of(model, x, y):
    return F.cross_entropy(model(x), y)


def made(name):
    policy = POLICIES[name]()
    # So that the few steps hold some decisions.
    return replace(policy, every=2) if name in {"growth", "group-noise"} else policy


class Training:
    """AdamW with one policy and every average, in one of the ways that people train."""

    def __init__(self, policy, way="", model=None):
        self.way, self.model = way, network() if model is None else model
        groups = (
            layer_groups(self.model) if policy == "group-noise" else self.model.parameters()
        )
        self.optimizer = torch.optim.AdamW(groups, lr=0.01)
        self.controller = LandscapeLR(
            self.optimizer, made(policy), interval=2, warmup=0, model=self.model
        )
        self.averages = {name: make(self.model) for name, make in AVERAGES.items()}
        self.scaler = torch.amp.GradScaler("cpu", enabled=way == "amp", init_scale=64.0)
        self.run = (
            torch.compile(self.model, backend="eager") if way == "compile" else self.model
        )

    def _cast(self):
        half = self.way == "amp"
        return torch.autocast("cpu", torch.bfloat16) if half else nullcontext()

    def go(self, start, stop):
        for step in range(start, stop):
            x, y = batch(step)
            parts = 2 if self.way == "accumulation" else 1
            self.optimizer.zero_grad()
            total = 0.0
            for some, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
                with self._cast():
                    loss = loss_of(self.run, some, labels) / parts
                self.scaler.scale(loss).backward()
                total = total + loss.detach()
            self.controller.observe(total)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            with self._cast():
                self.controller.step(lambda x=x, y=y: loss_of(self.run, x, y))
            for average in self.averages.values():
                average.update()
        return self

    def found(self):
        """Scales, rates and averages as plain numbers."""
        averages = {name: weights_of(each) for name, each in self.averages.items()}
        return {
            "scales": [list(record.scales) for record in self.controller.log],
            "failed": [record.reason for record in self.controller.log if record.failed],
            "weights": [v for p in self.model.parameters() for v in plain(p)],
            "averages": averages,
        }


# Gradients between weights and average; without a rate, with one, and with a mask.
RECIPES = {
    "growth": {},
    "rate": {"lr": 0.01, "warmup": 2},
    "cautious": {"lr": 0.01, "warmup": 2, "cautious": True},
}


def recipe_trained(name, way="", model=None):
    """A ready-made recipe in one of the ways that people train."""
    model = network() if model is None else model
    run = torch.compile(model, backend="eager") if way == "compile" else model
    training = recipe(run, **RECIPES[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if way == "amp" else None
    parts = 2 if way == "accumulation" else 1
    for step in range(STEPS):
        x, y = batch(step)
        training.zero_grad()
        total = 0.0
        for some, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=way == "amp"):
                loss = loss_of(run, some, labels) / parts
            (loss if scaler is None else scaler.scale(loss)).backward()
            total = total + loss.detach()
        training.step(total, scaler=scaler)
    weights = [v for p in model.parameters() for v in plain(p)]
    average = weights_of(training.average)
    return {"weights": weights, "average": average, "count": training.average.count}


def ddp_recipes(rank, folder):
    return {
        name: recipe_trained(name, model=nn.parallel.DistributedDataParallel(network()))
        for name in RECIPES
    }


def fsdp2_recipes(rank, folder):
    return {name: recipe_trained(name, model=sharded()) for name in RECIPES}


def plain(tensor):
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().flatten().tolist()


def weights_of(average):
    with average.swapped():
        return [v for p in average.model.parameters() for v in plain(p)]


def ddp(rank, folder):
    found = {}
    for policy in POLICIES:
        model = nn.parallel.DistributedDataParallel(network())
        found[policy] = Training(policy, model=model).go(0, STEPS).found()
    return found


def sharded():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, model = init_device_mesh("cpu", (2,)), network()
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def fsdp2(rank, folder):
    found = {}
    for policy, make in POLICIES.items():
        if isinstance(make(), EdgePolicy):
            # It needs second derivatives and is refused.
            continue
        found[policy] = Training(policy, model=sharded()).go(0, STEPS).found()
    return found


def sharpness_aware(model):
    """SAM with an average; the loss with the average in place, and that of the weights."""
    average = PolynomialAverage(model, (4, 16))
    sam = SAM(torch.optim.AdamW(model.parameters(), lr=0.01), 0.1)
    for step in range(6):
        x, y = batch(step)

        def closure(x=x, y=y):
            loss = loss_of(model, x, y)
            loss.backward()
            return loss

        sam.step(closure)
        average.update()
    with torch.no_grad(), average.swapped():
        shown = loss_of(model, *batch(0)).item()
    back = loss_of(model, *batch(0)).item()
    weights = [v for p in model.parameters() for v in plain(p)]
    return {"weights": weights, "average": weights_of(average), "losses": [shown, back]}


def fsdp2_sam(rank, folder):
    return sharpness_aware(sharded())


def sam_trained(model, m=None, run=None, part=lambda batch: batch):
    """SAM alone; `m` as in `SAM`, `part` takes what a process has of a batch."""
    run = model if run is None else run
    sam = SAM(torch.optim.AdamW(model.parameters(), lr=0.01), 0.1, m=m, model=run)
    for step in range(6):
        given = part(batch(step))

        def closure(piece=given):
            loss = loss_of(run, *piece)
            loss.backward()
            return loss

        sam.step(closure, given if isinstance(m, int) else None)
    return [v for p in model.parameters() for v in plain(p)]


def ddp_sam(rank, folder):
    """Every process has half of each batch; one move for all, and one for each."""
    found = {}
    for m in (None, "rank"):
        model = network()
        run = nn.parallel.DistributedDataParallel(model)
        found[str(m)] = sam_trained(
            model, m, run, lambda batch: tuple(values.chunk(2)[rank] for values in batch)
        )
    return found


def fsdp2_refusals(rank, folder):
    optimizer, said = torch.optim.SGD(sharded().parameters(), lr=0.1), []
    for policy in (EdgePolicy(), RegimePolicy()):
        try:
            LandscapeLR(optimizer, policy)
        except ArgumentError as error:
            said.append(str(error))
    return said


class Wavy(RegimePolicy):
    """Turns every reading into another scale, so that ranks by themselves would part."""

    def decide(self, state, reading):
        factor = 0.7 + 0.3 * abs(math.sin(1000 * reading.variability))
        return state, Decision(factor, "wavy")


def own_batches(rank, folder):
    """DDP with batches of its own on every rank and a BatchNorm layer."""
    found = {}
    for steering in ("", "watch", "steer"):
        model = nn.Sequential(network(), nn.BatchNorm1d(4))
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(parallel.parameters(), lr=0.01)
        ratios = {"min_ratio": 1.0} if steering == "watch" else {}
        controller = LandscapeLR(optimizer, Wavy(), interval=2, warmup=0, **ratios)
        average = PolynomialAverage(parallel)
        for step in range(6):
            x, y = batch(f"{rank} {step}")
            optimizer.zero_grad()
            loss_of(parallel, x, y).backward()
            optimizer.step()
            if steering:
                controller.step(lambda m=parallel, x=x, y=y: loss_of(m, x, y))
            average.update()
        weights = [v for p in model.parameters() for v in plain(p)]
        log = [str(record) for record in controller.log]
        found[steering] = {"weights": weights, "log": log}
    with average.swapped([batch(f"{rank} {step}")[0] for step in range(3)]):
        found["statistics"] = plain(model[1].running_var)
    return found
