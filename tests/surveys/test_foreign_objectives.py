"""Objectives of other shapes than (input, target) go through every instrument."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import instruments
from reference.curvature_cases import classes, initialized, normal

QUICK = {"points": 3, "span": 0.5, "instruments": "all", "lr": 0.1}


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 4)
        self.decode = nn.Linear(2, 6)

    def forward(self, x, eps):
        mean, log_var = self.encode(x).chunk(2, dim=1)
        return self.decode(mean + eps * (log_var / 2).exp()), mean, log_var


def vae_loss(model, batch):
    x, eps = batch
    out, mean, log_var = model(x, eps)
    divergence = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
    return (out - x).square().sum(1) + divergence


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x, adjacency):
        return self.head(adjacency @ torch.tanh(self.first(adjacency @ x)))


def graph_loss(model, batch):
    x, adjacency, targets, mask = batch
    return F.cross_entropy(model(x, adjacency)[mask], targets[mask])


def vae():
    batches = [(normal(n, 6, seed=n), normal(n, 2, seed=n + 1)) for n in (40, 24)]
    return la.Objective(initialized(Autoencoder()), vae_loss, batches)


def graph():
    adjacency = (normal(30, 30) > 1).double() + torch.eye(30)
    adjacency = adjacency / adjacency.sum(1, keepdim=True)
    batch = (normal(30, 5), adjacency, classes(30, 3), torch.arange(30) % 2 == 0)
    return la.Objective(initialized(Graph()), graph_loss, [batch])


def mapping():
    model = initialized(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    batches = [{"input": normal(n, 4, seed=n), "label": classes(n, 3)} for n in (40, 24)]

    def loss(model, batch):
        return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")

    return la.Objective(model, loss, batches)


def contrastive():
    # The loss of a pair depends on all others of its batch.
    model = initialized(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)))

    def loss(model, batch):
        first, second = (F.normalize(model(x), dim=1) for x in batch)
        return F.cross_entropy(first @ second.T / 0.5, torch.arange(len(first)))

    views = normal(32, 6)
    return la.Objective(model, loss, [(views, views + 0.3 * normal(32, 6, seed=1))])


# For each instrument the parts that have a result ("" for all), or what the reason says.
COMMON = {
    "classes": "classes are read from",
    "residual_gain": "no list of blocks",
    "collapse": "classes are read from",
    "similarity": "two checkpoints",
}
PLAIN = {"gradient_conflict": {"gradients"}}
MEANS = {
    "sample_size": "one number an example",
    "gradient_conflict": "one number an example",
}
OBJECTIVES = {
    "vae": (vae, COMMON | PLAIN | {"plasticity": "takes the first part of a batch alone"}),
    "graph": (
        graph,
        COMMON
        | MEANS
        | {"plasticity": "takes the first part of a batch alone"}
        | {"stability": {"descent"}}
        | {"sharpness": {"average", "worst", "adaptive_average", "adaptive_worst"}},
    ),
    "mapping": (mapping, COMMON | PLAIN | {"plasticity": "got dict"}),
    "contrastive": (
        contrastive,
        COMMON
        | MEANS
        | {"stability": {"descent"}}
        | {"sharpness": {"average", "worst", "adaptive_average", "adaptive_worst"}},
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_instrument_serves_it_or_says_why(name):
    make, wanted = OBJECTIVES[name]
    found = la.survey(make(), **QUICK)
    assert list(found.findings) == [tool.name for tool in instruments()]
    for instrument, finding in found.findings.items():
        expected = wanted.get(instrument, "")
        if instrument in {"learning_coefficient", "effective_parameters"} and finding.why_not:
            # Networks that are not trained are at no minimum; a batch mean has no count.
            assert finding.why_not
        elif not expected:
            assert finding.results
            assert set(finding.missing) <= {"alpha_req"}
        elif isinstance(expected, set):
            assert set(finding.results) == expected
        else:
            assert not finding.results
            assert expected in finding.why_not
        assert "the other instruments are not affected" not in " ".join(
            finding.missing.values()
        )
        for quantity in finding.estimates():
            assert math.isfinite(quantity.error) or quantity.why_no_error


def test_the_reasons_of_pieces_tell_a_structure_from_a_dependence():
    names = ("sharpness", "stability")
    options = QUICK | {"instruments": names}
    for make, reason in ((graph, "does not come in pieces"), (contrastive, "is not that of")):
        found = la.survey(make(), **options).findings
        assert reason in found["sharpness"].missing["sets"]
        assert reason in found["stability"].missing["adam"]


# What others' code raises


class Odd(Exception):
    def __str__(self):
        raise ValueError("its own text fails")


FAILURES = {
    "an odd one": Odd,
    "a stop": lambda: StopIteration("none left"),
    "recursion": lambda: RecursionError("too deep"),
    "an assertion": lambda: AssertionError("not mine"),
    "a key": lambda: KeyError("missing"),
    "memory of the processor": lambda: RuntimeError("DefaultCPUAllocator: not enough memory"),
    "memory": MemoryError,
    "memory of a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory"),
}


def failing(make):
    """A loss that can be evaluated; its second derivative raises."""

    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise make()

    model = initialized(nn.Linear(4, 3))
    batch = (normal(30, 4), classes(30, 3))

    def loss(model, batch):
        return F.cross_entropy(Raises.apply(model(batch[0])), batch[1], reduction="none")

    return la.Objective(model, loss, [batch])


@pytest.mark.parametrize("name", FAILURES)
def test_a_foreign_exception_becomes_the_reason_of_its_instrument(name):
    names = ("curvature", "gradient", "roughness")
    found = la.survey(failing(FAILURES[name]), **QUICK | {"instruments": names}).findings
    # The learning rate brings "stability" along.
    assert [each for each in found if each != "stability"] == list(names)
    assert found["roughness"].results
    assert found["gradient"].why_not
    assert found["curvature"].why_not
    assert found["gradient"].is_final == (not name.startswith("memory"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_ends_a_survey(error):
    with pytest.raises(error):
        la.survey(failing(error), **QUICK | {"instruments": ("gradient", "roughness")})


def test_a_finding_that_lacked_memory_is_measured_again(tmp_path):
    ledger, short = tmp_path / "s.resume", [True]

    def now():
        return MemoryError() if short else ValueError("another")

    options = QUICK | {"instruments": ("gradient", "roughness"), "resume": ledger}
    first = la.survey(failing(now), **options).findings
    assert "memory did not suffice" in first["gradient"].why_not
    short.clear()
    second = la.survey(failing(now), **options).findings
    assert "memory" not in second["gradient"].why_not
    assert second["roughness"].seconds == first["roughness"].seconds
