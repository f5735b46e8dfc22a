"""Hostile calls of every exported callable: each works or raises an error of this library."""

import contextlib
import inspect
import os
import pathlib
import resource
import signal
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import fuzz_calls
from lossatlas.errors import AtlasError

CALLS = 5_000 if os.environ.get("LOSSATLAS_HYPOTHESIS") == "nightly" else 500
SECONDS = 5.0
# What one call may take beyond what the process has.
MEMORY = 6 << 30


class TooLong(BaseException):
    """The call goes on; whether it is hostile cannot be said."""


def closed_file():
    with pathlib.Path(os.devnull).open() as file:
        return file


HOSTILE = {
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "huge": lambda: 10**15,
    "beyond 64 bits": lambda: 2**70,
    "half": lambda: 0.5,
    "true": lambda: True,
    "none": lambda: None,
    "no text": lambda: "",
    "number as text": lambda: "3",
    "null byte": lambda: "a\0b",
    "no list": list,
    "ragged": lambda: [[1.0, 2.0], [3.0]],
    "texts": lambda: ["a", "b"],
    "nones": lambda: [None, None],
    "object": object,
    "class": lambda: dict,
    "masked": lambda: np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
    "complex": lambda: 1 + 2j,
    "complex array": lambda: np.array([1 + 1j, 2.0]),
    "meta": lambda: torch.empty(3, 3, device="meta"),
    "scalar tensor": lambda: torch.tensor(1.0),
    "scalar array": lambda: np.array(1.0),
    "empty array": lambda: np.empty((0, 2)),
    "nan array": lambda: np.array([[1.0, np.nan], [2.0, 3.0]]),
    "object array": lambda: np.array([{}, None], dtype=object),
    "whole tensor": lambda: torch.arange(4),
    "no mapping": dict,
    "nested": lambda: {"a": {"b": {"c": 1}}},
    "number keys": lambda: {1: 2.0},
    "tensors": lambda: {"0.weight": torch.ones(2), "x": torch.ones(3)},
    "generator": lambda: (k for k in range(3)),
    "closed file": closed_file,
    "bytes": lambda: b"bytes",
    "set": lambda: {1, 2},
    "function": lambda: lambda *args, **kwargs: None,
    "module": lambda: torch.nn.Linear(2, 2),
    "range": lambda: range(3),
}


def spoiled(name, target, draw):
    """A valid call with one or two arguments replaced."""
    args, kwargs = fuzz_calls.valid_call(name, target)
    args, kwargs = list(args), dict(kwargs)
    places = [*range(len(args)), *kwargs]
    taken = list(fuzz_calls._parameters(target).values())[: len(args)]
    known = {p.name for p in taken}
    for key, parameter in fuzz_calls._parameters(target).items():
        if parameter.kind in {1, 3} and key not in known and key not in kwargs:
            places.append(key)
    said = []
    for index in draw.permutation(len(places))[: draw.integers(1, 3)]:
        place, hostile = places[index], str(draw.choice(list(HOSTILE)))
        (args if isinstance(place, int) else kwargs)[place] = HOSTILE[hostile]()
        said.append(f"{place}={hostile}")
    return args, kwargs, f"{name}({', '.join(said)})"


@contextlib.contextmanager
def limits():
    def ring(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with pathlib.Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def unnamed(target, args, kwargs):
    """The error of a call that is not one of ours, or None."""
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = target(*args, **kwargs)
            if isinstance(result, contextlib.AbstractContextManager):
                with contextlib.suppress(AtlasError), result:
                    pass
    except (AtlasError, TooLong):
        return None
    # Any other exception is what this test looks for.
    except Exception as error:
        try:
            inspect.signature(target).bind(*args, **kwargs)
        except TypeError:
            return None
        return error
    finally:
        plt.close("all")
    return None


def hostile_calls(count, seed=0):
    draw = np.random.default_rng(seed)
    targets = fuzz_calls.exported()
    names = [n for n in targets if fuzz_calls.SPECIAL.get(n, n) is not None]
    while count > 0:
        for index in draw.permutation(len(names))[:count]:
            yield targets[names[index]], *spoiled(names[index], targets[names[index]], draw)
            count -= 1


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    # Whatever takes a relative path writes here.
    monkeypatch.chdir(tmp_path)


def test_every_exported_callable_has_a_valid_call():
    failed = {}
    for name, target in fuzz_calls.exported().items():
        try:
            call = fuzz_calls.valid_call(name, target)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if call is not None:
                    target(*call[0], **call[1])
        # Whatever it is, this callable is not covered.
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:150]
        plt.close("all")
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


def test_hostile_calls_work_or_are_refused_by_name():
    failed = []
    for target, args, kwargs, said in hostile_calls(CALLS):
        error = unnamed(target, args, kwargs)
        if error is not None:
            failed.append(f"{said}: {type(error).__name__}: {str(error)[:100]}")
    assert not failed, "\n".join([f"{len(failed)} of {CALLS}", *failed])
