"""REPAIR: units of an interpolated network get the spread that those of its ends have."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_number
from lossatlas.errors import ArgumentError
from lossatlas.landscape.checkpoints import states_of
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Objective
from lossatlas.objective.modes import norm_layers
from lossatlas.result import Estimate, Reference, quantity, result
from lossatlas.text import count
from lossatlas.weights.network_checks import check_finite
from lossatlas.weights.network_result import NetworkResult, complete_state
from lossatlas.weights.statistics import running_statistics

_REPAIR = Reference(
    "statistics of interpolated networks",
    "K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted "
    "Activations for Interpolation Repair. ICLR 2023.",
    "https://arxiv.org/abs/2211.08403",
)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@result("repair", references=(_REPAIR,))
class Repair(NetworkResult):
    """A network between two others whose units have their mean and spread.

    Attributes:
        params: the weights; with running statistics, where norm layers keep them.
        corrected: layers whose weight and bias were changed, from the input on.
        norms: layers whose running statistics were estimated anew.
        skipped: layer -> why it was left as it is.
        before: mean over corrected units of spread by wanted spread, as it was.
        after: the same afterwards.
        tied: second names of tied tensors -> the name in `params`.
    """

    params: Mapping[str, Tensor]
    corrected: tuple[str, ...]
    norms: tuple[str, ...]
    skipped: Mapping[str, str]
    before: float = quantity("share of the wanted spread")
    after: float = quantity("share of the wanted spread")
    tied: Mapping[str, str] = field(default_factory=dict)

    def estimates(self) -> tuple[Estimate, ...]:
        """Spread of the units before and after, as a share of what it should be.

        Returns:
            Two estimates.
        """
        sides = ("spread before", self.before), ("spread after", self.after)
        none = "no layer was corrected"
        return tuple(
            Estimate(v, math.nan if math.isnan(v) else 0.0, name=name, why_no_error=none)
            for name, v in sides
        )

    def sentences(self) -> tuple[str, ...]:
        """What was changed.

        Returns:
            One sentence.
        """
        said = f"{count(len(self.corrected), 'layer')} corrected"
        if self.corrected:
            said += f" (spread of their units before: {self.before:.0%} of that of the ends)"
        return (f"{said}, statistics of {count(len(self.norms), 'norm layer')} re-estimated.",)


def repair(
    objective: Objective, params: Params, first: Params, second: Params, share: float
) -> Repair:
    """Give the units of an interpolated network the statistics of its ends.

    The spread of units of an average is too small (their activations are not perfectly
    correlated), more so with every layer. Every output unit of a linear layer or convolution
    gets the mean (1 - a) m_0 + a m_1 and the standard deviation (1 - a) s_0 + a s_1 over the
    data, in order from the input on, folded into its weight and bias. Layers that feed a norm
    layer are left alone; running statistics are estimated anew. The layer that gives the
    outputs stays. It costs one pass over the data a layer.

    Args:
        objective: model, loss and data that statistics are taken on; a part of the training
            data will do, labels are not used.
        params: the network in between, as in `Connection.params_at(share)`.
        first: the network at 0.
        second: the network at 1.
        share: a, the place between the two, from 0 to 1; at 0 and 1 `params` are unchanged.

    Returns:
        The repaired weights, and what was done.

    Raises:
        ArgumentError: `share` is outside of 0 to 1.
        NonFiniteError: weights are not finite.
        StructureError: the three are no points of one model.

    Source: Jordan et al., arXiv:2211.08403, sec. 3.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import repair
        >>> layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        >>> batch = torch.randn(30, 4), torch.randint(3, (30,))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> objective = la.Objective(torch.nn.Sequential(*layers), loss, [batch])
        >>> ends = [{k: torch.randn_like(v) for k, v in objective.params.items()} for _ in "ab"]
        >>> middle = {k: (v + ends[1][k]) / 2 for k, v in ends[0].items()}
        >>> found = repair(objective, middle, *ends, share=0.5)
        >>> found.corrected, round(found.after, 3)
        (('0',), 1.0)
    """
    check_number("share", share, 0)
    if share > 1:
        raise ArgumentError(f"`share` must be from 0 to 1; got {share!r}.")
    for name, point in (("params", params), ("first", first), ("second", second)):
        check_finite(name, point)
    points = [state.whole for state in states_of(objective, (params, first, second))]
    repaired = Repairer(objective, points[1], points[2]).repaired(points[0], share)
    whole, tied = complete_state(objective, repaired.params, params)
    return replace(repaired, params=whole, tied=tied)


@dataclass(frozen=True, eq=False)
class _Moments:
    mean: Tensor
    spread: Tensor


class Repairer:
    """Repairs points between two networks, whose statistics are taken once.

    Args:
        objective: model, loss and data.
        first: the network at 0.
        second: the network at 1.
        only_norms: leave linear layers and convolutions alone.
    """

    def __init__(
        self, objective: Objective, first: Params, second: Params, *, only_norms: bool = False
    ) -> None:
        self._objective, self._inside = objective, objective.part()
        # Running statistics fit neither of the points in between.
        self._tracked = [
            name
            for name, module in objective.model.named_modules()
            if module in norm_layers(objective.model) and _tracks(module)
        ]
        if objective.mode == "eval" and self._tracked:
            self._inside.mode = "train"
        self._layers, self.skipped = ({}, {}) if only_norms else _layers(objective, first)
        ends = [_moments(objective, end, self._layers) for end in (first, second)]
        self._ends = ends if self._layers else [{}, {}]

    def repaired(self, params: Params, share: float) -> Repair:
        """The network with corrected layers and new statistics."""
        point, ratios = dict(params), list[tuple[Tensor, Tensor]]()
        if share in {0, 1}:
            return Repair(point, (), (), {}, math.nan, math.nan)
        for name, module in self._layers.items():
            wanted = self._wanted(name, share)
            moments = _moments(self._inside, point, {name: module})[name]
            point |= _corrected(point, name, moments, wanted)
            after = _moments(self._inside, point, {name: module})[name]
            ratios.append(
                (_ratio(moments.spread, wanted.spread), _ratio(after.spread, wanted.spread))
            )
        sides = [torch.cat(side) for side in zip(*ratios, strict=True)]
        before, after_ = (float(s.mean()) for s in sides) if sides else (math.nan, math.nan)
        point |= self._statistics(point)
        return Repair(
            params=point,
            corrected=tuple(self._layers),
            norms=tuple(self._tracked) if self._objective.mode == "eval" else (),
            skipped=dict(self.skipped),
            before=before,
            after=after_,
        )

    def _wanted(self, name: str, share: float) -> _Moments:
        one, two = (end[name] for end in self._ends)
        return _Moments(
            (1 - share) * one.mean + share * two.mean,
            (1 - share) * one.spread + share * two.spread,
        )

    def _statistics(self, point: Params) -> dict[str, Tensor]:
        if self._objective.mode != "eval" or not self._tracked:
            return {}
        return running_statistics(self._objective, point)


def _tracks(module: nn.Module) -> bool:
    return bool(getattr(module, "track_running_stats", False))


def _ratio(spread: Tensor, wanted: Tensor) -> Tensor:
    alive = wanted > 0
    return spread[alive] / wanted[alive]


def _layers(objective: Objective, point: Params) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Layers that are corrected, in the order in which they run, and why others are not."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    normed: list[Tensor] = []
    last: list[Tensor] = []

    def note(name: str, module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(module, _NORMS):
            normed.append(args[0])
        elif isinstance(out, Tensor):
            seen.append((name, module, out))

    def end(name: str, module: nn.Module, args: Any, out: Any) -> None:
        last.append(out)

    watched = {
        n: m
        for n, m in objective.model.named_modules()
        if isinstance(m, (nn.Linear, *_CONVOLUTIONS, *_NORMS))
    }
    whole = {"": objective.model}
    with _hooked(watched, note), _hooked(whole, end), torch.no_grad():
        objective.with_params(
            point, lambda: objective.batch_loss(next(objective.iter_batches()))
        )
    return _sorted_out(seen, normed, last, set(objective.names))


def _sorted_out(
    seen: list[tuple[str, nn.Module, Tensor]],
    normed: list[Tensor],
    last: list[Tensor],
    names: set[str],
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    modules: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    counts = [name for name, _, _ in seen]
    for name, module, out in seen:
        if any(out is given for given in normed):
            skipped[name] = "a norm layer follows"
        elif any(out is given for given in last):
            skipped[name] = "it gives the outputs"
        elif counts.count(name) > 1:
            skipped[name] = "it is used more than once"
        elif not {qualified_name(name, part) for part in ("weight", "bias")} <= names:
            skipped[name] = "weight and bias do not both move"
        else:
            modules[name] = module
    return modules, skipped


@contextmanager
def _hooked(
    modules: Mapping[str, nn.Module], call: Callable[[str, nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call a function after the forward of some modules."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, out: call(name, module, args, out)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moments(
    objective: Objective, point: Params, layers: Mapping[str, nn.Module]
) -> dict[str, _Moments]:
    """Mean and spread of every output unit over all examples and positions."""
    sums: dict[str, tuple[float, Tensor, Tensor]] = {}

    def note(name: str, module: nn.Module, args: Any, out: Tensor) -> None:
        axis = 1 if isinstance(module, _CONVOLUTIONS) else -1
        rows = out.detach().movedim(axis, -1).flatten(0, -2).double()
        counted, total, scatter = sums.get(name, (0, rows.new_zeros(()), rows.new_zeros(())))
        # Chan's update: squares about the running mean do not cancel.
        own, mean = float(len(rows)), rows.mean(0)
        shift = mean - total
        both = counted + own
        scatter = (
            scatter + (rows - mean).square().sum(0) + shift.square() * counted * own / both
        )
        sums[name] = both, total + shift * own / both, scatter

    if layers:
        with _hooked(layers, note), torch.no_grad():
            objective.with_params(
                point, lambda: [objective.batch_loss(b) for b in objective.iter_batches()]
            )
    return {name: _Moments(m, (s / n).sqrt()) for name, (n, m, s) in sums.items()}


def _corrected(
    point: Params, name: str, moments: _Moments, wanted: _Moments
) -> dict[str, Tensor]:
    weight, bias = point[f"{name}.weight"], point[f"{name}.bias"]
    # A unit that gives one number has no spread to be scaled.
    scale = torch.where(moments.spread > 0, wanted.spread / moments.spread, 1.0)
    wide = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    moved = (bias.double() - moments.mean) * scale + wanted.mean
    return {f"{name}.weight": wide.to(weight), f"{name}.bias": moved.to(bias)}
