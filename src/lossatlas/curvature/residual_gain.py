"""How much each residual block can amplify a gradient: the risk of loss spikes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import nearest
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.differentiable import is_finite, second_derivatives
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.errors import ArgumentError, ModelError, NonFiniteError, UnknownNameError
from lossatlas.io.records import record
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Objective
from lossatlas.objective.batches import tensors
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, result
from lossatlas.rng import generator
from lossatlas.text import count, number

_REFERENCE = Reference(
    "spike risk of pre-norm blocks",
    "S. Takase et al. Spike No More: Stabilizing the Pre-training of Large Language Models. "
    "COLM 2025.",
    "https://arxiv.org/abs/2312.16903",
)


@record
@dataclass(frozen=True)
class BlockGain:
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


@result("residual_gain", references=(_REFERENCE,))
class ResidualGain(Result):
    """How much the blocks of a network can amplify a gradient together.

    Attributes:
        blocks: one line a block, in order.
        log_bound: sum of log gains: the gradient of the first block is at most exp of it times
            that of the last.
        reason: why the numbers carry no sampling error.
    """

    blocks: tuple[BlockGain, ...]
    log_bound: float
    reason: str

    @property
    def _weakest(self) -> BlockGain:
        return min(self.blocks, key=lambda block: block.shortcut)

    def estimates(self) -> tuple[Estimate, ...]:
        """The gain of all blocks together, the smallest shortcut, each gain."""
        bound = "the gradient grows at most e to this power from the last block to the first"
        safe = f"deviation of the input of {self._weakest.name}; about 1 or more is safe"
        head = (
            ("log gain of all blocks", self.log_bound, bound),
            ("smallest shortcut", self._weakest.shortcut, safe),
        )
        return (
            *(Estimate(v, why_no_error=self.reason, name=n, meaning=m) for n, v, m in head),
            *(
                Estimate(
                    block.gain,
                    why_no_error=f"power iteration, last change {block.change:.1g}",
                    name=f"gain of {block.name}",
                    meaning=f"shortcut {block.shortcut:.3g}, branch {block.branch:.3g}",
                    is_minor=True,
                )
                for block in self.blocks
            ),
        )

    def answer(self) -> tuple[str, str]:
        """By what factor the blocks can stretch a gradient at most."""
        gain = number(math.exp(min(self.log_bound, 700)), 3)
        return f"by {gain} times at most", ""

    def sentences(self) -> tuple[str, ...]:
        """How much the blocks can amplify a gradient."""
        gain = number(math.exp(min(self.log_bound, 700)), 3)
        shortcut = self._weakest.shortcut
        safe = "on the safe side of 1" if shortcut >= 1 else "below 1, where norms amplify"
        return (
            f"Together {count(len(self.blocks), 'block')} can stretch a gradient by a factor "
            f"of {gain} at most; the smallest shortcut has a deviation of "
            f"{number(shortcut, 2)}, {safe}.",
        )

    def figures(self) -> tuple[Figure, ...]:
        """The gain of each block."""
        import numpy as np

        from lossatlas.plots.rows import Dots, rows_chart

        gains = np.array([block.gain for block in self.blocks])
        names, axis = [block.name for block in self.blocks], "largest factor on a gradient"
        caption = "How much each block can stretch a gradient; the product bounds them all."
        title, dots = "Residual blocks", [Dots("gain", gains)]
        chart = partial(rows_chart, names, dots, title, axis, log=True)
        return (chart_of("gains", title, chart, caption=caption, alt=caption),)


@instrument(
    "residual_gain",
    title="Residual gain",
    question="Can gradients explode through the residual blocks?",
    group="learning",
    cost="40 products a block",
    needs="a list of residual blocks",
    references=(_REFERENCE,),
    place=3,
)
def survey_residual_gain(context: Context) -> Parts:
    """How much residual blocks can amplify a gradient."""
    return {"blocks": lambda: residual_gain(context.objective, seed=context.seed)}


def residual_gain(
    objective: Objective,
    blocks: Iterable[str] | None = None,
    *,
    iterations: int = 20,
    seed: int = 0,
    params: Params | None = None,
) -> ResidualGain:
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

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import residual_gain
        >>> block = torch.nn.TransformerEncoderLayer(4, 1, 8, norm_first=True)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), block)
        >>> loss = lambda model, batch: model(batch).square().mean()
        >>> objective = la.Objective(model, loss, [torch.randn(5, 3)])
        >>> [each.name for each in residual_gain(objective, ["1"], iterations=2).blocks]
        ['1']

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

    def look() -> tuple[BlockGain, ...]:
        objective.batch_loss(objective.first_batch())
        for handle in handles:
            handle.remove()
        return tuple(
            _block_gain(name, module, seen, iterations, seed)
            for name, module in modules.items()
        )

    try:
        with torch.enable_grad(), second_derivatives(objective.model):
            lines = objective.with_params(params, look)
    finally:
        for handle in handles:
            handle.remove()
    reason = "measured on one batch, and gains are maxima over it, not means"
    logs = [math.log(line.gain) if line.gain else -math.inf for line in lines]
    return ResidualGain(lines, math.fsum(logs), reason)


def _keeper(seen: dict[str, Any], name: str) -> Any:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(tensors((args, kwargs)), None)
        if first is not None and name not in seen:
            seen[name] = (first.detach(), args, kwargs)

    return keep


def _found(model: nn.Module) -> list[str]:
    lists = [
        [qualified_name(name, str(index)) for index in range(len(module))]
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
    modules = dict(model.named_modules())
    if name not in modules:
        hint = nearest(name, modules)
        raise UnknownNameError(f"`blocks`: no module is called '{name}'{hint}.")
    module: nn.Module = modules[name]
    if getattr(module, "norm_first", True) is False:
        raise ModelError(
            f"'{name}' is a post-norm block (norm_first=False); the analysis holds for "
            "pre-norm blocks only."
        )
    return module


def _block_gain(
    name: str, module: nn.Module, seen: dict[str, Any], iterations: int, seed: int
) -> BlockGain:
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
    return BlockGain(
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
