"""Risk of loss spikes in pre-norm networks: how much each block can amplify a gradient."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import nearest
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.differentiable import is_finite, second_derivatives
from lossatlas.curvature.trees import Stored, part
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError, UnknownNameError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.batches import tensors
from lossatlas.rng import generator
from lossatlas.store import kind

Array = NDArray[np.float64]


@part
@dataclass(frozen=True)
class BlockRisk:
    """One residual block y = x + f(x).

    Attributes:
        name: the module.
        shortcut: standard deviation of x. About 1 or more is safe: the norm inside f divides
            by it.
        branch: standard deviation of f(x); well below `shortcut` is safe.
        gain: largest singular value of the Jacobian of the block on the first batch; a
            gradient grows at most this much. A lower bound, by power iteration.
        change: relative change of `gain` in the last iteration: how far it has settled.
        weight_deviation: largest standard deviation of a weight matrix inside.
    """

    name: str
    shortcut: float
    branch: float
    gain: float
    change: float
    weight_deviation: float


@part
@kind("spike_risk")
@dataclass(frozen=True)
class SpikeRisk(Stored):
    """How much the blocks of a network can amplify a gradient together.

    Attributes:
        blocks: one line a block, in order.
        log_bound: sum of log gains: the gradient of the first block is at most exp of it times
            that of the last.
        reason: why the numbers carry no sampling error.
    """

    blocks: tuple[BlockRisk, ...]
    log_bound: float
    reason: str


def spike_risk(
    objective: Objective,
    blocks: Iterable[str] | None = None,
    *,
    iterations: int = 20,
    seed: int = 0,
    params: Params | None = None,
) -> SpikeRisk:
    """Measure shortcut, branch and gain of every residual block on the first batch.

    The theory is for pre-norm blocks; post-norm ones are refused where they are recognized.
    Small branches (small init of the last matrix of each) and a large shortcut (embeddings
    with deviation about 1) keep the bound small.

    Args:
        objective: model, loss, batches.
        blocks: names of modules that map a tensor to one of the same shape; by default the
            members of the longest `nn.ModuleList` or `nn.Sequential` of modules of one class.
        iterations: products for each gain.
        seed: what starts are drawn from.
        params: where; the present weights by default.

    Returns:
        A line for each block.

    Raises:
        ArgumentError: a number of the wrong kind.
        ModelError: no blocks are found, a block is post-norm, or changes the shape.
        NonFiniteError: a block returns or amplifies to NaN or inf.
        UnknownNameError: no module has that name.

    Source: Takase et al., COLM 2025, arXiv:2312.16903.
    """
    check_objective(objective, params)
    check_count("iterations", iterations, 2)
    names = _found(objective.model) if blocks is None else _named(blocks)
    modules = {name: _module(objective.model, name) for name in names}
    seen: dict[str, tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = {}
    handles = [
        module.register_forward_pre_hook(_keeper(seen, name), with_kwargs=True)
        for name, module in modules.items()
    ]

    def look() -> tuple[BlockRisk, ...]:
        objective.measure(objective.first_batch())
        for handle in handles:
            handle.remove()
        return tuple(
            _risk(name, module, seen, iterations, seed) for name, module in modules.items()
        )

    try:
        with torch.enable_grad(), second_derivatives(objective.model):
            lines = objective.at(params, look)
    finally:
        for handle in handles:
            handle.remove()
    reason = "measured on one batch, and gains are maxima over it, not means"
    logs = [math.log(line.gain) if line.gain else -math.inf for line in lines]
    return SpikeRisk(lines, math.fsum(logs), reason)


def _keeper(seen: dict[str, Any], name: str) -> Any:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(tensors((args, kwargs)), None)
        if first is not None and name not in seen:
            seen[name] = (first.detach(), args, kwargs)

    return keep


def _found(model: nn.Module) -> list[str]:
    lists = [
        [f"{name}.{index}".lstrip(".") for index in range(len(module))]
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and len({type(member) for member in module}) == 1
        and any(True for _ in module[0].children())
    ]
    if not lists:
        raise ModelError(
            "no list of blocks of one class was found; name the residual blocks with `blocks`."
        )
    return max(lists, key=len)


def _named(blocks: Any) -> list[str]:
    names = list(blocks) if isinstance(blocks, Iterable) and not isinstance(blocks, str) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            "`blocks` must hold names of modules, as in ['layers.0', 'layers.1']; got "
            f"{blocks!r}."
        )
    return names


def _module(model: nn.Module, name: str) -> nn.Module:
    known = dict(model.named_modules())
    if name not in known:
        hint = nearest(name, known)
        raise UnknownNameError(f"`blocks`: no module is called '{name}'{hint}.")
    module: nn.Module = known[name]
    if getattr(module, "norm_first", True) is False:
        raise ModelError(
            f"'{name}' is a post-norm block (norm_first=False); the analysis holds for "
            "pre-norm blocks only."
        )
    return module


def _risk(
    name: str, module: nn.Module, seen: dict[str, Any], iterations: int, seed: int
) -> BlockRisk:
    if name not in seen:
        raise ModelError(f"'{name}' is not called with a tensor by the model.")
    x, args, kwargs = seen[name]
    leaf = x.clone().requires_grad_()
    output = next(tensors((module(*_with(args, x, leaf), **_with(kwargs, x, leaf)),)))
    if output.shape != x.shape:
        raise ModelError(
            f"'{name}' maps {tuple(x.shape)} to {tuple(output.shape)}; a residual block keeps "
            "the shape."
        )
    gain, change = _gain(leaf, output, iterations, seed, name)
    if not (is_finite(output) and math.isfinite(gain)):
        raise NonFiniteError(
            f"'{name}' does not have a finite output and derivative on the first batch; check "
            "its weights and what it is given."
        )
    deviations = [float(p.detach().std()) for p in module.parameters() if p.ndim >= 2]
    branch = float((output.detach() - x).std())
    return BlockRisk(
        name, float(x.std()), branch, gain, change, max(deviations, default=math.nan)
    )


def _with(structure: Any, old: Tensor, new: Tensor) -> Any:
    # Hooks see what the block was called with; the tensor among it is exchanged, once.
    if isinstance(structure, dict):
        return {key: _with(value, old, new) for key, value in structure.items()}
    if isinstance(structure, tuple):
        return tuple(_with(value, old, new) for value in structure)
    same = isinstance(structure, Tensor) and structure.data_ptr() == old.data_ptr()
    return new if same else structure


def _gain(
    leaf: Tensor, output: Tensor, iterations: int, seed: int, name: str
) -> tuple[float, float]:
    # Power iteration on J^T J: forward products are derivatives of backward ones.
    drawn = generator(seed, "gain", name, device=leaf.device)
    vector = torch.randn(leaf.shape, generator=drawn, dtype=leaf.dtype, device=leaf.device)
    dummy = torch.zeros_like(output, requires_grad=True)
    (pulled,) = torch.autograd.grad(output, leaf, dummy, create_graph=True)
    gains = []
    for _ in range(iterations):
        vector = vector / vector.norm()
        (pushed,) = torch.autograd.grad(pulled, dummy, vector, retain_graph=True)
        gains.append(float(pushed.norm()))
        if gains[-1] == 0:
            return 0.0, 0.0
        (vector,) = torch.autograd.grad(output, leaf, pushed, retain_graph=True)
    return gains[-1], abs(gains[-1] - gains[-2]) / gains[-1]
