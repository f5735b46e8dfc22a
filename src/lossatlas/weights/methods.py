"""Ways to merge networks, each a function of what experts changed: pure arithmetic on tensors.

`base + change` is the merged network; experts are base + delta_i. Every formula is elementwise
unless it says otherwise.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_number, is_number, nearest
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.linalg.params import Params
from lossatlas.rng import generator

Deltas = Sequence[Params]
Change = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What methods may look at beside the deltas.

    Attributes:
        base: the network that all experts started from.
        importances: one mapping an expert, name -> importance of each entry, at least 0:
            diagonals of Fisher matrices, or second moments of Adam; empty where not given.
        grams: one mapping an expert, name of a weight matrix -> sum over examples of the outer
            products of its inputs; empty where not given.
        seed: of random choices.
    """

    base: Params
    importances: Sequence[Params] = ()
    grams: Sequence[Params] = field(default=())
    seed: int = 0


Method = Callable[..., Change]
METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a way to merge: a function of (deltas, inputs, *, options) -> change."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def changed(name: str, deltas: Deltas, inputs: Inputs, options: Mapping[str, Any]) -> Change:
    """What a method adds to the base."""
    if name not in METHODS:
        raise UnknownNameError(
            f"`method` must be one of {', '.join(METHODS)}, search; got {name!r}"
            f"{nearest(name, (*METHODS, 'search'))}."
        )
    taken = options_of(name)
    for option in options:
        if option not in taken:
            raise UnknownNameError(
                f"`{option}` is no option of '{name}'{nearest(option, taken)}; it takes "
                f"{', '.join(taken) or 'none'}."
            )
    return METHODS[name](deltas, inputs, **options)


def options_of(name: str) -> dict[str, Any]:
    """Options of a method with their defaults."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _each(deltas: Deltas, combine: Callable[[Tensor], Tensor]) -> Change:
    """Tensor by tensor: the deltas stacked along a new first axis."""
    return {name: combine(torch.stack([delta[name] for delta in deltas])) for name in deltas[0]}


@method("average")
def average(deltas: Deltas, inputs: Inputs) -> Change:
    """The mean of the deltas."""
    return _each(deltas, lambda stack: stack.mean(0))


@method("task_arithmetic")
def task_arithmetic(deltas: Deltas, inputs: Inputs, *, scale: float = 1.0) -> Change:
    """The sum of the deltas times `scale` (Ilharco et al., arXiv:2212.04089)."""
    check_number("scale", scale)
    return _each(deltas, lambda stack: scale * stack.sum(0))


@method("slerp")
def slerp(deltas: Deltas, inputs: Inputs, *, t: float = 0.5) -> Change:
    """Great circle between two whole delta vectors (Shoemake 1985); linear where parallel."""
    if len(deltas) != 2:
        raise ArgumentError(
            f"'slerp' merges two experts; got {len(deltas)}; 'average' takes any number."
        )
    check_number("t", t, 0)
    first, second = deltas
    norms = [
        math.sqrt(sum(float(v.double().square().sum()) for v in d.values())) for d in deltas
    ]
    inner = sum(float((first[n].double() * second[n].double()).sum()) for n in first)
    cosine = inner / (norms[0] * norms[1]) if all(norms) else 1.0
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    shares = [1 - t, t]
    if math.sin(angle) >= 1e-6:
        shares = [math.sin(share * angle) / math.sin(angle) for share in shares]
    return {name: shares[0] * first[name] + shares[1] * second[name] for name in first}


@method("ties")
def ties(deltas: Deltas, inputs: Inputs, *, density: float = 0.2, scale: float = 1.0) -> Change:
    """Keep the largest, elect signs, average what agrees (Yadav et al., arXiv:2306.01708)."""
    _check_share("density", density)
    return _each([_trimmed(d, density) for d in deltas], lambda stack: scale * _elected(stack))


def _trimmed(delta: Params, density: float) -> Change:
    # The threshold is that of all entries of an expert at once.
    sizes = torch.cat([value.abs().flatten() for value in delta.values()])
    count = max(1, round(density * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - count + 1).values
    return {name: torch.where(v.abs() >= threshold, v, 0.0) for name, v in delta.items()}


def _elected(stack: Tensor) -> Tensor:
    sign = stack.sum(0).sign()
    agrees = (stack.sign() == sign) & (stack != 0)
    return torch.where(agrees, stack, 0.0).sum(0) / agrees.sum(0).clamp(min=1)


@method("dare")
def dare(deltas: Deltas, inputs: Inputs, *, density: float = 0.5, scale: float = 1.0) -> Change:
    """Drop entries at random, rescale the rest, average (Yu et al., arXiv:2311.03099)."""
    _check_share("density", density)

    def dropped(number: int, delta: Params) -> Change:
        draw = generator(inputs.seed, "dare", number)
        masks = {n: torch.rand(v.shape, generator=draw) < density for n, v in delta.items()}
        return {
            n: torch.where(masks[n].to(v.device), v / density, 0.0) for n, v in delta.items()
        }

    thinned = [dropped(number, delta) for number, delta in enumerate(deltas)]
    return _each(thinned, lambda stack: scale * stack.mean(0))


@method("fisher")
def fisher(deltas: Deltas, inputs: Inputs, *, normalize: bool = True) -> Change:
    """Mean weighted by importances (Matena and Raffel, arXiv:2111.09832)."""
    # An expert that fits its own data has a Fisher matrix near 0 there, and would lose
    # everywhere: `normalize` divides the importances of each expert by their mean.
    weights = _importances(inputs, len(deltas))
    if normalize:
        weights = [_normalized(weight) for weight in weights]
    return _weighted(deltas, weights)


@method("ota")
def ota(deltas: Deltas, inputs: Inputs, *, density: float = 0.4, power: float = 0.5) -> Change:
    """Weighted mean of the entries with the largest v delta^2 (arXiv:2509.11167)."""
    # v are second moments of Adam, the weights v^power; what is left is grafted on the base.
    _check_share("density", density)
    moments = _importances(inputs, len(deltas))
    grafted = [_grafted(d, m, density) for d, m in zip(deltas, moments, strict=True)]
    weights = [{name: v**power for name, v in moment.items()} for moment in moments]
    masked = [
        {n: torch.where(d[n] != 0, w[n], 0.0) for n in d}
        for d, w in zip(grafted, weights, strict=True)
    ]
    return _weighted(grafted, masked)


def _grafted(delta: Params, moments: Params, density: float) -> Change:
    saliency = {name: moments[name] * value.square() for name, value in delta.items()}
    sizes = torch.cat([value.flatten() for value in saliency.values()])
    count = max(1, round(density * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - count + 1).values
    return {name: torch.where(saliency[name] >= threshold, v, 0.0) for name, v in delta.items()}


@method("stock")
def stock(deltas: Deltas, inputs: Inputs) -> Change:
    """The mean times N cos / (1 + (N - 1) cos) (Jang et al., arXiv:2403.19522)."""
    count = len(deltas)
    if count < 2:
        raise ArgumentError(
            "'stock' needs at least two experts; got one; 'task_arithmetic' scales a single "
            "one."
        )

    def shrunk(stack: Tensor) -> Tensor:
        flat = torch.nn.functional.normalize(stack.flatten(1).double(), dim=1)
        cosines = flat @ flat.T
        cosine = float((cosines.sum() - cosines.trace()) / (count * (count - 1)))
        cosine = max(cosine, 0.0)
        return stack.mean(0) * (count * cosine / (1 + (count - 1) * cosine))

    return _each(deltas, shrunk)


@method("regmean")
def regmean(deltas: Deltas, inputs: Inputs, *, shrink: float = 0.9) -> Change:
    """Least squares on the inputs of each linear map (Jin et al., arXiv:2212.09849)."""
    # (sum G_i)^-1 sum G_i W_i^T, off-diagonal entries of G_i times `shrink`, others averaged.
    _check_share("shrink", shrink)
    if len(inputs.grams) != len(deltas):
        raise ArgumentError(
            "'regmean' needs `objectives`, one an expert, to see the inputs of linear maps."
        )
    merged = average(deltas, inputs)
    for name in inputs.grams[0]:
        grams = [_shrunk(gram[name].double(), shrink) for gram in inputs.grams]
        pulled = sum(g @ d[name].double().T for g, d in zip(grams, deltas, strict=True))
        total = torch.stack(grams).sum(0)
        solved = torch.linalg.lstsq(total, pulled, driver="gelsd").solution.T
        merged[name] = solved.to(merged[name].dtype)
    return merged


def _shrunk(gram: Tensor, shrink: float) -> Tensor:
    return shrink * gram + (1 - shrink) * torch.diag(gram.diagonal())


def _check_share(name: str, value: float) -> None:
    if not is_number(value) or not 0 < value <= 1:
        raise ArgumentError(f"`{name}` must be above 0 and at most 1; got {value!r}.")


def _importances(inputs: Inputs, count: int) -> list[Change]:
    if len(inputs.importances) != count:
        raise ArgumentError(
            f"this method needs `importances`, one mapping an expert ({count}); got "
            f"{len(inputs.importances)}. Pass diagonals of Fisher matrices, second moments of "
            "Adam, or `objectives` to measure them."
        )
    for given in inputs.importances:
        for name in inputs.base:
            if name not in given or bool((given[name] < 0).any()):
                raise ArgumentError(
                    f"`importances` must hold numbers of at least 0 for '{name}': "
                    "squares, such as second moments of Adam."
                )
    return [
        {name: given[name].to(value.device) for name, value in inputs.base.items()}
        for given in inputs.importances
    ]


def _normalized(weight: Params) -> Change:
    total = sum(float(v.double().sum()) for v in weight.values())
    mean = total / max(sum(v.numel() for v in weight.values()), 1)
    return {name: v / mean if mean else v for name, v in weight.items()}


def _weighted(deltas: Deltas, weights: Sequence[Params]) -> Change:
    """Weighted mean; the plain mean where no expert has a weight."""
    merged = {}
    for name in deltas[0]:
        stack = torch.stack([delta[name] for delta in deltas])
        weight = torch.stack([w[name] for w in weights]).to(stack.dtype)
        total = weight.sum(0)
        mean = (weight * stack).sum(0) / torch.where(total > 0, total, 1.0)
        merged[name] = torch.where(total > 0, mean, stack.mean(0))
    return merged
