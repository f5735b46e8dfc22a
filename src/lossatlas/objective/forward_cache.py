"""One forward for the loss and all metrics of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch import nn

from lossatlas.guard import patched
from lossatlas.objective.batches import tensors

# Objects that a model holds, and counts that change with them.
_State = tuple[list[object], list[object]]


@contextmanager
def forward_cache(model: nn.Module) -> Iterator[None]:
    """Let repeated calls of the model on the very same input objects run once."""
    forward = model.forward
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any, object, _State]] = []

    def remember(*args: Any, **kwargs: Any) -> Any:
        state = _state(model)
        for seen_args, seen_kwargs, output, stamp, seen_state in calls:
            same = _same(args, seen_args) and _same_keywords(kwargs, seen_kwargs)
            same = same and _same_state(state, seen_state)
            if same and stamp == _stamp(args, kwargs, output):
                return output
        drawn = torch.get_rng_state()
        output = forward(*args, **kwargs)
        if torch.equal(drawn, torch.get_rng_state()):
            # As the first call left it: what it changes itself is of that call.
            calls.append((args, kwargs, output, _stamp(args, kwargs, output), _state(model)))
        return output

    with patched((model, "forward", remember)):
        yield


def _state(model: nn.Module) -> _State:
    # What a forward pass reads beside its input. Objects are kept: their ids may come again.
    held: list[object] = []
    counts: list[object] = [torch.is_autocast_enabled()]
    for module in model.modules():
        held.extend(module.__dict__.values())
        counts.append(len(module._forward_hooks) + len(module._forward_pre_hooks))
        for entries in (module._parameters, module._buffers):
            values = [value for value in entries.values() if value is not None]
            held.extend(values)
            counts.extend(0 if v.is_inference() else v._version for v in values)
    return held, counts


def _same_state(a: _State, b: _State) -> bool:
    return a[1] == b[1] and len(a[0]) == len(b[0]) and all(map(is_, a[0], b[0]))


def _stamp(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> object:
    # Changed in place since, or asked for under another gradient mode: not the same call.
    seen = [*tensors(list(args)), *tensors(kwargs), *tensors(output)]
    states = [(value._version, value.requires_grad) for value in seen]
    return torch.is_grad_enabled(), states


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(map(_same_value, a, b))


def _same_keywords(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(_same_value(a[key], b[key]) for key in a)


def _same_value(a: Any, b: Any) -> bool:
    # The loss and each metric get a batch in containers of their own.
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return _same_keywords(a, b)
    return isinstance(a, list | tuple) and _same(tuple(a), tuple(b))
