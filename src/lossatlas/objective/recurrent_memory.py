"""What recurrent layers hold on a processor, where tensors without numbers go another way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import _VF, Tensor
from torch.nn import functional as F

from lossatlas.guard import patched

# What oneDNN takes for a moment without a gradient, in outputs of the layer.
_SCRATCH = 1.4
# Gates of a step -> hidden state, or hidden state and cell.
Cell = Callable[[Tensor, tuple[Tensor, ...], Any], tuple[Tensor, ...]]


@contextmanager
def recurrent_layers(*, twice: bool) -> Iterator[None]:
    """Run recurrent layers on tensors without numbers as a processor runs them.

    A processor takes the gates of all inputs in one product, before the first step; LSTM layers
    in float32 run in oneDNN, which keeps a workspace for the gradient.

    Args:
        twice: whether what runs is differentiated twice.
    """
    names = {"gru": _gru, "rnn_tanh": _simple(Tensor.tanh_), "rnn_relu": _simple(Tensor.relu_)}
    changes = [(name, _by_steps(getattr(_VF, name), cell)) for name, cell in names.items()]
    changes.append(("lstm", _by_steps(_VF.lstm, _lstm, not twice)))
    with patched(*((_VF, name, function) for name, function in changes)):
        yield


def _by_steps(whole: Callable[..., Any], cell: Cell, fused: bool = False) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        # Packed sequences and projections have other arguments, or other weights.
        given, hidden, weights, biased, layers = args[:5]
        states = (hidden,) if isinstance(hidden, Tensor) else tuple(hidden)
        both = args[7] if len(args) > 7 else False
        each = 4 if biased else 2
        plain = isinstance(weights, list | tuple) and len(weights) == each * layers * (1 + both)
        if not plain or not args[0].is_meta:
            return whole(*args)
        steps = given.transpose(0, 1) if args[8] else given
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(layers):
            found = []
            for side in range(1 + both):
                place = layer * (1 + both) + side
                own = weights[each * place : each * (place + 1)]
                first = tuple(state[place] for state in states)
                one = _fused if fused and steps.dtype == torch.float32 else _layer
                out, end = one(steps, first, own, cell, side == 1)
                found.append(out)
                ends.append(end)
            steps = torch.cat(found, -1) if both else found[0]
        last = [torch.stack(parts) for parts in zip(*ends, strict=True)]
        return (steps.transpose(0, 1) if args[8] else steps, *last)

    return run


def _layer(
    steps: Tensor, first: tuple[Tensor, ...], own: Any, cell: Cell, backward: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    # As ATen's layers on a processor, operation by operation.
    inner, outer, *biases = own
    gates = F.linear(steps, inner, *biases[:1]).unbind(0)
    state, outputs = first, list[Tensor]()
    for gate in reversed(gates) if backward else gates:
        state = cell(gate, state, (outer, *biases[1:]))
        outputs.append(state[0])
    if backward:
        outputs.reverse()
    return torch.stack(outputs), state


def _gru(gate: Tensor, state: tuple[Tensor, ...], own: Any) -> tuple[Tensor, ...]:
    (hidden,) = state
    given, held = gate.unsafe_chunk(3, 1), F.linear(hidden, *own).unsafe_chunk(3, 1)
    reset = held[0].add_(given[0]).sigmoid_()
    update = held[1].add_(given[1]).sigmoid_()
    new = given[2].add(held[2].mul_(reset)).tanh_()
    return ((hidden - new).mul_(update).add_(new),)


def _lstm(gate: Tensor, state: tuple[Tensor, ...], own: Any) -> tuple[Tensor, ...]:
    hidden, cell = state
    gates = F.linear(hidden, *own).add_(gate).unsafe_chunk(4, 1)
    enter, forget, given, leave = (
        gates[0].sigmoid_(),
        gates[1].sigmoid_(),
        gates[2].tanh_(),
        gates[3].sigmoid_(),
    )
    cell = (forget * cell).add_(enter * given)
    return leave * cell.tanh(), cell


def _simple(bend: Callable[[Tensor], Tensor]) -> Cell:
    def cell(gate: Tensor, state: tuple[Tensor, ...], own: Any) -> tuple[Tensor, ...]:
        return (bend(F.linear(state[0], *own).add_(gate)),)

    return cell


def _fused(
    steps: Tensor, first: tuple[Tensor, ...], own: Any, cell: Cell, backward: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    out, *end = _OneDNN.apply(steps, *first, *own)  # type: ignore[no-untyped-call]
    return out, tuple(end)


class _OneDNN(torch.autograd.Function):
    """A layer whose forward pass keeps a workspace, and whose backward pass reads it."""

    @staticmethod
    def forward(context: Any, steps: Tensor, hidden: Tensor, cell: Tensor, *own: Tensor) -> Any:
        out = steps.new_empty(*steps.shape[:2], hidden.shape[-1])
        if any(context.needs_input_grad):
            context.save_for_backward(steps, hidden, cell, *own, out, _workspace(steps, out))
        else:
            # For a moment, where nothing is kept.
            out.new_empty(round(_SCRATCH * out.numel()))
        return out, torch.empty_like(hidden), torch.empty_like(cell)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Any:
        given = context.saved_tensors[:-2]
        return tuple(map(torch.empty_like, given))


def _workspace(steps: Tensor, out: Tensor) -> Tensor:
    # Gates, states of both kinds and their slopes; fitted to oneDNN's sizes within 3 %.
    (length, batch, width), inner = out.shape, steps.shape[-1]
    numbers = 6 * (length + 1) * (width + max(width, inner)) + 3.2 * length * width
    return out.new_empty(round(batch * numbers))
