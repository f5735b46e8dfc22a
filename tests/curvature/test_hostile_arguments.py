"""Hostile arguments: every exported callable gives a result or an error with a name."""

import inspect
import math
import random
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas import curvature, surveys
from lossatlas.errors import AtlasError
from reference.curvature_cases import classes, initialized, normal

CALLS = 250
# A map of so many points is long, not wrong.
MAPS, HUGE = {"survey", "survey_along", "compare"}, (10**30, 2**31)
VALUES = [
    *(math.nan, math.inf, -math.inf, 0, -1, 1, 2.5, -0.0, 1e-300, 1e300, *HUGE),
    *(None, True, "", "a", "*", b"x", [], (), {}, [math.nan], ["0.weight", 3], {"a": 1}),
    *(object(), np.float64("nan"), np.int64(3), np.zeros(0), torch.tensor(math.nan)),
    *(torch.zeros(0, 3), torch.zeros(3, dtype=torch.int64), lambda *a, **k: 1 / 0, nn.Linear),
]


def _objective():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return x + torch.tanh(self.inner(x))

    model = initialized(nn.Sequential(Block(), Block(), nn.Linear(3, 2)))
    batches = [(normal(30, 3, seed=k), classes(30, 2, seed=k)) for k in (0, 1)]
    return la.Objective(model, la.supervised(F.cross_entropy), batches, check=False)


@cache
def valid():
    """A quick call of every exported function: name -> arguments by name."""
    objective = _objective()
    features, labels = normal(12, 4), torch.arange(3).repeat(4)
    found = curvature.spectrum(objective, 2, 1, probes=2, steps=3)
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=0.1)
    moved = {k: v + 0.1 for k, v in objective.params.items()}
    small = {"objective": objective}
    return {
        "check": small,
        "hessian": small,
        "gauss_newton": small,
        "fisher": small,
        "empirical_fisher": small,
        "spectrum": small | {"top": 2, "bottom": 1, "probes": 2, "steps": 3, "limit": 9},
        "spectrum_memory": small,
        "plan_memory": small | {"instrument": "trace"},
        "hessian_criteria": {"spectrum": found},
        "trace": small | {"tolerance": 0.5, "limit": 20},
        "frobenius_norm": small | {"tolerance": 0.5, "limit": 20},
        "diagonal": small | {"tolerance": 0.9, "limit": 20},
        "average_sharpness": small | {"directions": 2},
        "worst_sharpness": small | {"steps": 2, "restarts": 0},
        "m_sharpness": small | {"size": 5, "sets": 2},
        "relative_flatness": small | {"tolerance": 0.9, "limit": 13},
        "edge_of_stability": small | {"optimizer": optimizer, "limit": 9},
        "gradient_noise": small | {"probes": 2},
        "roughness": small | {"directions": 2, "points": 3},
        "sample_size_curve": small | {"directions": 1, "points": 2, "orders": 2},
        "plasticity": small | {"tasks": 1, "steps": 2},
        "interference": {"values": torch.randn(4)},
        "zero_sum_losses": small | {"before": moved},
        "zero_sum_gradients": small,
        "residual_gain": small | {"iterations": 2, "blocks": ["0", "1"]},
        "activations": small | {"layer": "0.inner"},
        "learning_coefficient": small | {"chains": 1, "draws": 50, "localization": 1e4},
        "effective_parameters": small | {"prior": 1.0, "probes": 2},
        "rankme": {"features": features},
        "effective_rank": {"features": features},
        "alpha_req": {"features": normal(40, 30)},
        "neural_collapse": {"features": features, "labels": labels, "weight": torch.eye(3, 4)},
        "cka": {"first": features, "second": normal(12, 3)},
        "survey": small | {"points": 2, "span": 0.1},
        "compare": small | {"first": objective.params, "second": moved, "points": 2},
        "survey_along": small | {"checkpoints": [objective.params, moved, objective.params]},
        "eigen_plane": small,
        "chosen": {"requested": "curvature"},
        "instrument": {"name": "mine", "title": "Mine", "question": "What?", "group": "other"},
        "instruments": {},
    }


def exported():
    every = {**vars(curvature), **vars(surveys)}
    names = [*curvature.__all__, *surveys.__all__]
    return [n for n in names if inspect.isfunction(every[n])], every


def hostile_calls():
    """(name, argument, value) of every argument of every function."""
    names, every = exported()
    return [
        (name, argument, value)
        for name in names
        for argument, kind in inspect.signature(every[name]).parameters.items()
        if kind.kind is not inspect.Parameter.VAR_KEYWORD
        for value in VALUES
        if not (argument == "points" and name in MAPS and any(value is huge for huge in HUGE))
        # What a caller's own callback raises is the caller's.
        if not (argument == "progress" and callable(value))
    ]


def outcome(name, argument, value, arguments):
    """What a call ends in: "" for a result or a named error, otherwise the exception."""
    _, every = exported()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            every[name](**{**arguments, argument: value})
    except AtlasError as error:
        return "" if str(error) else "an empty message"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_every_function_that_is_exported_is_called():
    names, _ = exported()
    assert sorted(valid()) == sorted(names)


def test_hostile_arguments_end_in_named_errors(tmp_path, monkeypatch):
    # A text is a path: what is written must not lie beside the sources.
    monkeypatch.chdir(tmp_path)
    calls, arguments = hostile_calls(), valid()
    chosen = random.Random(0).sample(calls, CALLS)
    bad = [
        (n, a, repr(v)[:40], why)
        for n, a, v in chosen
        if (why := outcome(n, a, v, arguments[n]))
    ]
    assert bad == []


@pytest.mark.parametrize("name", sorted(n for n, given in valid().items() if given))
def test_valid_arguments_are_served(name):
    assert outcome(name, *next(iter(valid()[name].items())), valid()[name]) == ""
