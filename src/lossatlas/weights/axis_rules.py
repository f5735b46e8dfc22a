"""What each operation of torch does with the axes of its tensors."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lossatlas.weights.axes import (
    Axis,
    bend,
    concatenation,
    hold,
    piece,
    product,
    selected,
    split_product,
    unify,
    view_factors,
)
from lossatlas.weights.trace import AxisTrace, Call, Labels, Rule, operation_name

_RULES: dict[str, Rule] = {}


@cache
def rule_of(function: Any) -> Rule | None:
    """The rule of an operation; elementwise ones share one."""
    is_pointwise = torch.Tag.pointwise in getattr(function, "tags", ())
    return _RULES.get(operation_name(function), pointwise_rule if is_pointwise else None)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of operations."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


# -- elementwise -------------------------------------------------------------------------------

_COPIES = {"clone", "_to_copy", "detach", "alias", "contiguous", "lift_fresh", "copy_", "neg"}
_SUMS = {"add", "sub", "add_", "sub_", "rsub"}
_PRODUCTS = {"mul", "mul_", "div", "div_"}


@rule(
    *_COPIES, *_SUMS, *_PRODUCTS, "native_dropout", "dropout", "masked_fill", "masked_fill_",
    "where", "_softmax", "_log_softmax", "_safe_softmax", "logical_not", "bernoulli_",
)  # fmt: skip
def pointwise_rule(trace: AxisTrace, call: Call) -> None:
    """Axes that lie upon each other are one."""
    out = call.first
    labels = trace.broadcast(call.tensors, out.shape, call.name)
    for k, axis in enumerate(labels):
        if not _is_linear(call, k - out.ndim):
            bend(axis)
    for result in call.outputs:
        if result.shape == out.shape:
            trace.put(result, labels)
        else:
            trace.hold_all(result, call.name)


def _is_linear(call: Call, axis: int) -> bool:
    """Whether it commutes with every linear map along an axis, counted from the end."""
    if call.name in _COPIES:
        return True
    carriers = [t.ndim >= -axis and t.shape[axis] > 1 for t in call.tensors]
    if call.name in _PRODUCTS:
        # A divisor that varies along the axis, or two factors that do, are not linear in it.
        return sum(carriers) < 2 and not (
            "div" in call.name and carriers[-1] and len(carriers) > 1
        )
    numbers = [a for a in call.args[:2] if isinstance(a, int | float) and a != 0]
    return call.name in _SUMS and all(carriers) and not numbers


@rule("cumsum", "flip", "roll", "sort")
def _ordered(trace: AxisTrace, call: Call) -> bool | None:
    labels = trace.labels(call.args[0])
    dims = call.get(2, "dims") if call.name == "roll" else call.get(1, "dim", -1)
    if not isinstance(dims, int | list | tuple):
        return False
    for k in [dims] if isinstance(dims, int) else dims:
        hold(labels[k], f"operation {call.name}")
    for axis in labels:
        bend(axis)
    for result in call.outputs:
        trace.put(result, labels)
    return None


# -- contractions ------------------------------------------------------------------------------


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot")
def _contraction(trace: AxisTrace, call: Call) -> None:
    added = call.args[0] if call.name in {"addmm", "baddbmm", "addmv"} else None
    x, y = call.args[:2] if added is None else call.args[1:3]
    left, right = trace.labels(x), trace.labels(y)
    trace.enters(x, -1)
    trace.enters(y, -2 if y.ndim > 1 else 0)
    if x.ndim == 3:
        unify(left[0], right[0], call.name)
    unify(left[-1], right[-2] if y.ndim > 1 else right[0], call.name)
    labels = [*left[:-1], *(right[-1:] if y.ndim > 1 else [])]
    trace.put(call.first, labels)
    if added is not None:
        for k, axis in enumerate(trace.labels(added), start=len(labels) - added.ndim):
            if axis.size == labels[k].size:
                unify(axis, labels[k], call.name)
            else:
                bend(labels[k])


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(trace: AxisTrace, call: Call) -> bool | None:
    x, weight, bias = call.args[:3]
    if call.name not in {"convolution", "_convolution"}:
        return False
    transposed, groups = call.args[6], call.args[8]
    source, kernel = trace.labels(x), trace.labels(weight)
    trace.enters(x, 1)
    if transposed and groups != 1:
        return False
    if groups == 1:
        unify(source[1], kernel[0 if transposed else 1], "convolution")
        out = kernel[1 if transposed else 0]
    else:
        out = _grouped(source[1], kernel, groups)
    for axis in kernel[2:]:
        hold(axis, "place in a kernel")
    if bias is not None:
        unify(trace.labels(bias)[0], out, "convolution")
    places = [Axis(size, "place in space") for size in call.first.shape[2:]]
    trace.put(call.first, [source[0], out, *places])
    return None


def _grouped(source: Axis, kernel: Labels, groups: int) -> Axis:
    # Input and output channels are (group, within); the groups may be exchanged as wholes.
    group, within, without = (
        Axis(size) for size in (groups, source.size // groups, kernel[0].size // groups)
    )
    unify(source, product([group, within]), "grouped convolution")
    if within.size > 1:
        unify(kernel[1], within, "grouped convolution")
    unify(kernel[0], product([group, without]), "grouped convolution")
    return kernel[0]


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(trace: AxisTrace, call: Call) -> None:
    direction, lengths = call.args[:2]
    labels = trace.labels(direction)
    for axis, length in zip(labels, trace.labels(lengths), strict=True):
        bend(axis)
        if length.size > 1:
            unify(axis, length, "weight norm")
    trace.put(call.first, labels)
    for saved in call.outputs[1:]:
        trace.put(saved, trace.labels(lengths))


@rule("embedding")
def _embedding(trace: AxisTrace, call: Call) -> None:
    table, indices = call.args[:2]
    rows, columns = trace.labels(table)
    hold(rows, "entry of a vocabulary")
    trace.put(call.first, [*trace.labels(indices), columns])


@rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
)  # fmt: skip
def _attention(trace: AxisTrace, call: Call) -> bool | None:
    query, key, value = (trace.labels(t) for t in call.args[:3])
    if query[1].size != key[1].size or call.first.ndim != 4:
        return False
    for a, b in (
        (query[0], key[0]),
        (key[0], value[0]),
        (query[1], key[1]),
        (key[1], value[1]),
    ):
        unify(a, b, "attention")
    unify(query[3], key[3], "attention")
    unify(key[2], value[2], "attention")
    for axis in (query[1], query[2], key[2]):
        bend(axis)
    masks = [t for t in (*call.args[3:], *call.kwargs.values()) if isinstance(t, Tensor)]
    for mask in masks:
        trace.hold_all(mask, "an attention mask")
    trace.put(call.first, [query[0], query[1], query[2], value[3]])
    for extra in call.outputs[1:]:
        trace.hold_all(extra, "attention")
    return None


@rule("_grouped_mm")
def _grouped_contraction(trace: AxisTrace, call: Call) -> bool | None:
    x, weight = call.args[:2]
    if x.ndim != 2 or weight.ndim != 3:
        return False
    rows, inner = trace.labels(x)
    expert, contracted, outer = trace.labels(weight)
    hold(expert, "an expert that is chosen")
    trace.enters(x, 1)
    unify(inner, contracted, "grouped product")
    trace.put(call.first, [rows, outer])
    return None


# -- norms -------------------------------------------------------------------------------------


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
      "_batch_norm_with_update", "_native_batch_norm_legit_no_stats", "cudnn_batch_norm",
      "batch_norm", "_batch_norm_no_update")  # fmt: skip
def _batch_norm(trace: AxisTrace, call: Call) -> None:
    x, *others = [a for a in call.args if isinstance(a, Tensor)]
    labels = trace.labels(x)
    for tensor in others:
        unify(trace.labels(tensor, statistic=True)[0], labels[1], "batch norm")
    bend(labels[1])
    trace.put(call.first, labels)
    for saved in call.outputs[1:]:
        fits = saved.ndim == 1 and len(saved) == x.shape[1]
        trace.put(saved, [labels[1]] if fits else [Axis(n, "batch norm") for n in saved.shape])


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(trace: AxisTrace, call: Call) -> None:
    labels = trace.labels(call.args[0])
    inner = labels[-len(call.args[1]) :]
    for axis in inner:
        bend(axis)
    for tensor in (a for a in call.args[2:4] if isinstance(a, Tensor)):
        for gain, axis in zip(trace.labels(tensor), inner, strict=True):
            unify(gain, axis, "layer norm")
    trace.put(call.first, labels)
    for saved in call.outputs[1:]:
        trace.put(saved, [Axis(n, "layer norm") for n in saved.shape])


@rule("native_group_norm")
def _group_norm(trace: AxisTrace, call: Call) -> None:
    x, weight, bias, _, channels, _, groups = call.args[:7]
    labels = trace.labels(x)
    if groups not in {1, channels}:
        unify(labels[1], product([Axis(groups), Axis(channels // groups)]), "group norm")
    for tensor in (weight, bias):
        if isinstance(tensor, Tensor):
            unify(trace.labels(tensor)[0], labels[1], "group norm")
    bend(labels[1])
    trace.put(call.first, labels)
    for saved in call.outputs[1:]:
        trace.put(saved, [Axis(n, "group norm") for n in saved.shape])


# -- views -------------------------------------------------------------------------------------


@rule("t")
def _t(trace: AxisTrace, call: Call) -> None:
    trace.put(call.first, trace.labels(call.args[0])[::-1])


@rule("transpose", "transpose_", "swapaxes")
def _transpose(trace: AxisTrace, call: Call) -> None:
    labels, (i, j) = list(trace.labels(call.args[0])), call.args[1:3]
    labels[i], labels[j] = labels[j], labels[i]
    trace.put(call.first, labels)


@rule("permute")
def _permute(trace: AxisTrace, call: Call) -> None:
    labels = trace.labels(call.args[0])
    trace.put(call.first, [labels[k] for k in call.args[1]])


@rule("unsqueeze", "unsqueeze_")
def _unsqueeze(trace: AxisTrace, call: Call) -> None:
    labels = list(trace.labels(call.args[0]))
    labels.insert(call.args[1] % (len(labels) + 1), Axis(1))
    trace.put(call.first, labels)


@rule("squeeze", "squeeze_")
def _squeeze(trace: AxisTrace, call: Call) -> None:
    labels = trace.labels(call.args[0])
    dims = call.get(1, "dim", range(len(labels)))
    chosen = {k % len(labels) for k in ([dims] if isinstance(dims, int) else dims)}
    trace.put(call.first, [a for k, a in enumerate(labels) if k not in chosen or a.size != 1])


@rule("expand")
def _expand(trace: AxisTrace, call: Call) -> None:
    labels, shape = trace.labels(call.args[0]), call.first.shape
    offset = len(shape) - len(labels)
    # Along an axis that was stretched all entries are equal: any permutation keeps them.
    grown = [Axis(n, bent=True) for n in shape[:offset]]
    kept = [
        a if a.size == n else Axis(n, bent=True)
        for a, n in zip(labels, shape[offset:], strict=True)
    ]
    trace.put(call.first, [*grown, *kept])


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(trace: AxisTrace, call: Call) -> bool | None:
    flat = [f for axis in trace.labels(call.args[0]) for f in view_factors(axis) if f.size > 1]
    labels = []
    for size in call.first.shape:
        taken = _taken(flat, size)
        if taken is None:
            return False
        labels.append(product(taken) if size != 1 else Axis(1))
    trace.put(call.first, labels)
    return None


def _taken(flat: Labels, size: int) -> Labels | None:
    # Factors from the left whose sizes multiply to `size`; the last may have to be cut.
    taken: Labels = []
    while size > 1:
        axis = flat[0].root()
        if axis.size > size:
            cut = split_product(axis, size)
            if cut is None:
                return None
            flat[0:1] = cut
            continue
        if size % axis.size:
            return None
        taken.append(flat.pop(0))
        size //= axis.size
    return taken


@rule("slice")
def _slice(trace: AxisTrace, call: Call) -> None:
    x = call.args[0]
    dim = call.get(1, "dim", 0) % x.ndim
    step = call.get(4, "step", 1)
    labels = list(trace.labels(x))
    start, stop, _ = slice(call.get(2, "start"), call.get(3, "end")).indices(x.shape[dim])
    if step != 1:
        hold(labels[dim], "sliced with a step")
        labels[dim] = Axis(call.first.shape[dim], "sliced with a step")
    else:
        labels[dim] = piece(labels[dim], start, max(stop, start))
    trace.put(call.first, labels)


@rule("select")
def _select(trace: AxisTrace, call: Call) -> None:
    x, dim, index = call.args
    if trace.is_zeros(x):
        trace.put_zeros(call.first)
        return
    labels = list(trace.labels(x))
    axis = labels.pop(dim % x.ndim)
    trace.put(call.first, selected(axis, index % axis.size, labels))


@rule("unbind")
def _unbind(trace: AxisTrace, call: Call) -> None:
    x = call.args[0]
    if trace.is_zeros(x):
        for result in call.outputs:
            trace.put_zeros(result)
        return
    labels = list(trace.labels(x))
    axis = labels.pop(call.get(1, "dim", 0) % x.ndim)
    for index, result in enumerate(call.outputs):
        trace.put(result, selected(axis, index, labels))


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk")
def _split(trace: AxisTrace, call: Call) -> None:
    x = call.args[0]
    dim, position = call.get(2, "dim", 0) % x.ndim, 0
    for result in call.outputs:
        labels = list(trace.labels(x))
        stop = position + result.shape[dim]
        labels[dim] = piece(labels[dim], position, stop)
        position = stop
        trace.put(result, labels)


@rule("index", "index_select")
def _index(trace: AxisTrace, call: Call) -> bool | None:
    x = call.args[0]
    if call.name == "index_select":
        dim, indices = call.args[1] % x.ndim, call.args[2]
    else:
        chosen = [k for k, index in enumerate(call.args[1]) if index is not None]
        if len(chosen) != 1 or call.args[1][chosen[0]].dtype == torch.bool:
            return False
        dim, indices = chosen[0], call.args[1][chosen[0]]
    labels = list(trace.labels(x))
    hold(labels.pop(dim), "indexed")
    trace.put(call.first, [*labels[:dim], *trace.labels(indices), *labels[dim:]])
    return None


@rule("index_add", "index_add_", "index_copy_")
def _index_add(trace: AxisTrace, call: Call) -> None:
    x, dim, _, source = call.args[:4]
    labels = trace.labels(x)
    for k, (axis, other) in enumerate(zip(labels, trace.labels(source), strict=True)):
        if k == dim % x.ndim:
            hold(axis, "indexed")
            hold(other, "indexed")
        else:
            unify(axis, other, call.name)
    trace.put(call.first, labels)


@rule("scatter_add", "scatter_add_")
def _scatter_add(trace: AxisTrace, call: Call) -> bool | None:
    x, dim, index, _ = call.args[:4]
    others = [k for k in range(x.ndim) if k != dim % x.ndim]
    # Whole rows are added only where the index is one number a row.
    if any(index.shape[k] > 1 and index.stride(k) != 0 for k in others):
        return False
    _index_add(trace, call)
    return None


@rule("index_put_", "index_put")
def _index_put(trace: AxisTrace, call: Call) -> bool | None:
    x, indices, values = call.args[:3]
    if len(indices) != 1 or indices[0].dtype == torch.bool or values.ndim != x.ndim:
        return False
    first, *labels = trace.labels(x)
    hold(first, "indexed")
    for axis, other in zip(labels, trace.labels(values)[1:], strict=True):
        unify(axis, other, call.name)
    trace.put(call.first, [first, *labels])
    return None


# -- joining -----------------------------------------------------------------------------------


@rule("cat", "concat")
def _cat(trace: AxisTrace, call: Call) -> None:
    # An empty tensor of one axis may be concatenated with anything.
    parts = [t for t in call.args[0] if t.numel() or t.ndim > 1]
    dim = call.get(1, "dim", 0) % call.first.ndim
    first, *others = (list(trace.labels(tensor)) for tensor in parts)
    axes = [first.pop(dim), *(labels.pop(dim) for labels in others)]
    ties = [pair for labels in others for pair in zip(first, labels, strict=True)]
    trace.put(call.first, [*first[:dim], concatenation(axes), *first[dim:]], ties)


@rule("stack")
def _stack(trace: AxisTrace, call: Call) -> None:
    first, *others = (trace.labels(tensor) for tensor in call.args[0])
    ties = [pair for labels in others for pair in zip(first, labels, strict=True)]
    labels = list(first)
    labels.insert(call.get(1, "dim", 0) % call.first.ndim, Axis(1 + len(others), "stack"))
    trace.put(call.first, labels, ties)


@rule("constant_pad_nd")
def _pad(trace: AxisTrace, call: Call) -> None:
    x, widths = call.args[:2]
    value = call.get(2, "value", 0)
    labels = list(trace.labels(x))
    for k in range(len(widths) // 2):
        dim, before, after = x.ndim - 1 - k, widths[2 * k], widths[2 * k + 1]
        if before or after:
            labels[dim] = _padded(labels[dim], call.first.shape[dim], before, after, value)
    trace.put(call.first, labels)


def _padded(axis: Axis, size: int, before: int, after: int, value: float) -> Axis:
    if axis.is_held or before < 0 or after < 0:
        hold(axis, "padding")
        return Axis(size, "padding")
    # Equal entries may be exchanged; zeros may even be rotated.
    low, high = (Axis(n, bent=bool(value)) for n in (before, after))
    return concatenation([low, axis, high])


# -- reductions --------------------------------------------------------------------------------


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "prod", "logsumexp", "any",
      "all", "linalg_vector_norm", "norm")  # fmt: skip
def _reduction(trace: AxisTrace, call: Call) -> None:
    x = call.args[0]
    labels = trace.labels(x)
    at = 2 if call.name in {"linalg_vector_norm", "norm"} else 1
    dims, keep = call.get(at, "dim"), call.get(at + 1, "keepdim", False)
    if isinstance(dims, int):
        dims = [dims]
    reduced = {k % x.ndim for k in dims} if dims else set(range(x.ndim))
    linear = call.name in {"mean", "sum"}
    for k, axis in enumerate(labels):
        if k in reduced or not linear:
            bend(axis)
    keep = keep is True or call.first.ndim == x.ndim
    kept = [
        Axis(1) if k in reduced else axis
        for k, axis in enumerate(labels)
        if keep or k not in reduced
    ]
    for result in call.outputs:
        trace.put(result, kept)


@rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool2d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool1d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d",
    "reflection_pad1d", "reflection_pad2d", "replication_pad2d",
)  # fmt: skip
def _pool(trace: AxisTrace, call: Call) -> bool | None:
    x = call.args[0]
    if x.ndim != call.first.ndim or x.ndim < 3:
        return False
    kept, channel = trace.labels(x)[:2]
    if "max" in call.name:
        bend(channel)
    for result in call.outputs:
        places = [Axis(size, "place in space") for size in result.shape[2:]]
        trace.put(result, [kept, channel, *places])
    return None


@rule("nll_loss_forward", "nll_loss2d_forward", "nll_loss_nd")
def _labels_chosen(trace: AxisTrace, call: Call) -> None:
    for tensor in (*call.tensors, *call.outputs):
        trace.hold_all(tensor, "classes")


@rule("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
def _elementwise_loss(trace: AxisTrace, call: Call) -> None:
    labels = trace.broadcast(call.tensors[:2], call.args[0].shape, call.name)
    for axis in labels:
        bend(axis)
    trace.put(call.first, labels if call.first.ndim else [])


# -- new tensors -------------------------------------------------------------------------------


@rule("zeros", "zeros_like", "new_zeros")
def _zeros(trace: AxisTrace, call: Call) -> None:
    trace.put_zeros(call.first)


@rule("empty", "empty_like", "new_empty")
def _empty(trace: AxisTrace, call: Call) -> None:
    trace.put(call.first, [Axis(size) for size in call.first.shape])


@rule("ones", "ones_like", "new_ones", "full", "full_like", "new_full", "scalar_tensor")
def _constants(trace: AxisTrace, call: Call) -> None:
    trace.put(call.first, [Axis(size, bent=True) for size in call.first.shape])


@rule("arange", "tril", "triu", "randn", "rand", "eye", "linspace", "randn_like", "rand_like")
def _ordered_constants(trace: AxisTrace, call: Call) -> None:
    for tensor in call.tensors:
        trace.hold_all(tensor, call.name)
    trace.put(call.first, [Axis(size, call.name) for size in call.first.shape])
