"""Which layers can be cut: what curvature predicts for a change, beside what happens."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.curvature import gauss_newton, hessian
from lossatlas.curvature.memory_plan import require_memory
from lossatlas.curvature.selfcheck import ensure_curvature
from lossatlas.errors import ArgumentError
from lossatlas.io.records import record
from lossatlas.linalg.estimators import rademacher
from lossatlas.linalg.params import Params, dot, snapshot
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Figure, Reference, Result, result
from lossatlas.rng import derive_seed
from lossatlas.text import as_sentence, count, interval_text
from lossatlas.weights.factors import fits
from lossatlas.weights.network_checks import check_finite
from lossatlas.weights.paired import PairedLosses
from lossatlas.weights.statistics import notes_on_change

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Change = Callable[[str, Tensor], Tensor]
_MATRICES = {"hessian": hessian, "gauss_newton": gauss_newton}
_HAWQ = Reference(
    "sensitivity of layers",
    "Z. Dong, Z. Yao, Y. Cai, D. Arfeen, A. Gholami, M. W. Mahoney, K. Keutzer. HAWQ-V2: "
    "Hessian Aware trace-Weighted Quantization of Neural Networks. NeurIPS 2020.",
    "https://arxiv.org/abs/1911.03852",
)


@record
@dataclass(frozen=True, eq=False)
class LayerSensitivity:
    """One weight under a change of it alone.

    Attributes:
        name: of the weight.
        size: how many entries it has.
        distance: length of the change.
        trace: of the curvature of the weight.
        predicted: tr(H) |dW|^2 / (2 size), the rise for a change in a random direction.
        measured: rise of the loss, with its paired error.
    """

    name: str
    size: int
    distance: float
    trace: Estimate
    predicted: Estimate
    measured: Estimate


@result("sensitivity", references=(_HAWQ,))
class Sensitivity(Result):
    """How much the loss rises when one weight after another is changed.

    Attributes:
        change: what was done, as in "prune:0.5".
        layers: one entry a weight, in the order of the parameters.
        rank_correlation: Spearman's, between predicted and measured rises.
        rank_interval: its 95 % interval (Bonett and Wright); NaN for fewer than four layers.
        notes: which running statistics were used.
    """

    change: str
    layers: tuple[LayerSensitivity, ...]
    rank_correlation: Estimate
    rank_interval: tuple[float, float]
    notes: tuple[str, ...] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """The rank correlation, and measured rises, the smallest first.

        Returns:
            One estimate, and one a layer.
        """
        order = sorted(self.layers, key=lambda layer: layer.measured.value)
        return (self.rank_correlation, *(layer.measured for layer in order))

    def sentences(self) -> tuple[str, ...]:
        """Which weight can be changed, which not, and whether curvature told so.

        Returns:
            Two sentences, and which running statistics were used.
        """
        order = sorted(self.layers, key=lambda layer: layer.measured.value)
        first, last = order[0], order[-1]
        return (
            f"Under {self.change} the loss rises least by {first.name} ({first.measured}) and "
            f"most by {last.name} ({last.measured}).",
            self._ranked(),
            *self.notes,
        )

    def _ranked(self) -> str:
        value, (low, high) = self.rank_correlation.value, self.rank_interval
        weights = count(len(self.layers), "weight")
        if math.isnan(value):
            why = self.rank_correlation.why_no_error
            return as_sentence(f"How well curvature orders {weights} is not known: {why}")
        interval = (
            "too few layers for an interval"
            if math.isnan(low)
            else f"95 % interval {interval_text(low, high)}"
        )
        return (
            f"Curvature orders {weights} with a rank correlation of {value:.2f} ({interval})."
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row a layer.

        Returns:
            Columns name, size, distance, trace, predicted, measured and their errors.
        """
        import pandas as pd

        rows: list[Mapping[str, Any]] = [
            {
                "name": layer.name,
                "size": layer.size,
                "distance": layer.distance,
                "trace": layer.trace.value,
                "trace_stderr": layer.trace.stderr,
                "predicted": layer.predicted.value,
                "measured": layer.measured.value,
                "measured_stderr": layer.measured.stderr,
            }
            for layer in self.layers
        ]
        return pd.DataFrame(rows)

    def figures(self) -> tuple[Figure, ...]:
        """Measured over predicted rises, and measured rises by layer.

        Returns:
            Two figures.
        """
        from lossatlas.plots.chart import backends
        from lossatlas.plots.paths import Curve, Difference, difference_chart, scatter_chart

        rises = [
            Difference(layer.name, layer.measured.value, *layer.measured.interval())
            for layer in self.layers
        ]
        columns = [
            (layer.predicted.value, layer.measured.value, 1.96 * layer.measured.stderr)
            for layer in self.layers
        ]
        curve = Curve("layers", *np.array(columns).T)
        titles = f"Rise of the loss under {self.change}", "Measured and predicted rise"
        return (
            Figure(
                "layers",
                titles[0],
                *backends(lambda: difference_chart(rises, titles[0], "rise of the loss")),
                caption="Rise when one weight alone is changed, with 95 % intervals.",
                alt="Intervals of the rise of the loss, one a layer.",
            ),
            Figure(
                "prediction",
                titles[1],
                *backends(
                    lambda: scatter_chart(curve, titles[1], "predicted rise", "measured rise")
                ),
                caption="One point a layer; the prediction takes the change for a random "
                "direction.",
                alt="Points of measured over predicted rises of the loss.",
            ),
        )


def sensitivity(
    objective: Objective,
    change: str | Change = "prune:0.5",
    *,
    layers: str | Iterable[str] = "*",
    probes: int = 16,
    curvature: str = "hessian",
    params: Params | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Change one weight after another, and compare the rise of the loss with a prediction.

    The prediction for a change dW of a weight with n entries is tr(H) |dW|^2 / (2 n), H the
    block of the curvature: what a random direction of that length costs to second order. It
    says nothing of the slope, and a change that is no random direction may cost far less.

    Args:
        objective: model, loss and data.
        change: "prune:S" sets the share S of smallest entries to 0; "round:B" rounds to B bits
            (2^(B-1) - 1 levels on each side of 0, up to the largest entry); or a function of
            (name, weight) that gives the changed weight.
        layers: names of weights (two axes or more) or modules, or patterns.
        probes: products with the curvature that the traces come from.
        curvature: "hessian" or "gauss_newton".
        params: where; the present weights by default.
        seed: of the probes.

    Returns:
        A table a layer, and the rank correlation of prediction and measurement.

    Raises:
        ArgumentError: a change that cannot be read, or that gives another shape.
        LossError: the loss is not twice differentiable.
        NonFiniteError: the weights are not finite.
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: an unknown curvature, or a pattern that matches nothing.

    Source: Dong et al., arXiv:1911.03852 (the prediction); Bonett, Wright, Psychometrika 65
        (2000) (the interval).

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import sensitivity
        >>> layers = torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        >>> batch = torch.randn(8, 4), torch.randint(3, (8,))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> found = sensitivity(la.Objective(torch.nn.Sequential(*layers), loss, [batch]))
        >>> [layer.name for layer in found.layers]
        ['0.weight', '2.weight']
    """
    check_at_least("probes", probes, 2)
    check_one_of("curvature", curvature, _MATRICES)
    make, title = _change_of(change)
    require_memory(objective, "sensitivity")
    ensure_curvature(objective, curvature)
    base = snapshot(objective.params if params is None else objective.split(params).whole)
    check_finite("params", base)
    moved = objective.params
    chosen = fits([name for name, value in moved.items() if value.ndim > 1], layers)
    if not chosen:
        raise ArgumentError(
            "the objective has no weights with two axes or more; let weights of linear layers "
            "or convolutions move (`params=` of the objective)."
        )
    traces = _traces(_MATRICES[curvature](objective, base, names=chosen), probes, seed)
    losses = PairedLosses(objective)
    start = losses.sums(base)
    rows = []
    for name in chosen:
        weight = _changed(make, name, base[name])
        rise = losses.mean(losses.sums(base | {name: weight}) - start, name, "loss")
        rows.append(_layer(name, base[name], weight, traces[name], rise))
    value, interval = _ranks(rows)
    notes = notes_on_change(objective, "Changed weights")
    return Sensitivity(title, tuple(rows), value, interval, notes)


def _layer(
    name: str, weight: Tensor, changed: Tensor, trace: Estimate, rise: Estimate
) -> LayerSensitivity:
    square = float((changed.double() - weight.double()).square().sum())
    share = square / (2 * weight.numel())
    predicted = Estimate(
        trace.value * share,
        trace.stderr * share,
        samples=trace.samples,
        name=name,
        unit="loss",
    )
    return LayerSensitivity(name, weight.numel(), math.sqrt(square), trace, predicted, rise)


def _traces(matrix: Any, probes: int, seed: int) -> dict[str, Estimate]:
    """Traces of all blocks from the same products."""
    rows = []
    for k in range(probes):
        signs = rademacher(matrix.size, derive_seed(seed, "trace", k), matrix.zeros())
        vector = matrix.unflatten(signs)
        image = matrix @ vector
        rows.append({n: dot({n: v}, image) for n, v in vector.items()})
    traces = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        error = float(values.std(ddof=1)) / math.sqrt(probes)
        traces[name] = Estimate(
            float(values.mean()), error, products=probes, samples=probes, name=name
        )
    return traces


def _change_of(change: str | Change) -> tuple[Change, str]:
    if callable(change):
        return change, getattr(change, "__name__", "a change of its own")
    kind, _, text = str(change).partition(":")
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if kind == "prune" and 0 < amount <= 1:
        return lambda _, weight: _pruned(weight, amount), change
    if kind == "round" and amount in range(2, 17):
        return lambda _, weight: _rounded(weight, int(amount)), change
    raise ArgumentError(
        "`change` must be 'prune:S' with a share S above 0 and at most 1, 'round:B' with 2 to "
        f"16 bits, or a function of (name, weight); got {change!r}."
    )


def _pruned(weight: Tensor, share: float) -> Tensor:
    order = weight.abs().flatten().argsort(stable=True)
    changed = weight.flatten().clone()
    changed[order[: round(share * len(order))]] = 0
    return changed.view_as(weight)


def _rounded(weight: Tensor, bits: int) -> Tensor:
    largest = weight.abs().max()
    step = largest / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (weight / step).round() * step, weight)


def _changed(make: Change, name: str, weight: Tensor) -> Tensor:
    changed = make(name, weight.clone())
    if not isinstance(changed, Tensor) or changed.shape != weight.shape:
        raise ArgumentError(
            f"`change` must give a tensor of shape {list(weight.shape)} for '{name}'."
        )
    return changed.to(weight).detach()


def _ranks(layers: list[LayerSensitivity]) -> tuple[Estimate, tuple[float, float]]:
    name = "rank correlation"
    pairs = [(layer.predicted.value, layer.measured.value) for layer in layers]
    columns = np.array(pairs).T
    ranks = np.array([scipy.stats.rankdata(column) for column in columns])
    if len(layers) < 3 or np.ptp(ranks, axis=1).min() == 0 or not np.isfinite(columns).all():
        why = "fewer than three layers that differ"
        return Estimate(math.nan, why_no_error=why, name=name), (math.nan, math.nan)
    value = float(np.corrcoef(ranks)[0, 1])
    if len(layers) < 4:
        why = "fewer than four layers"
        return Estimate(value, why_no_error=why, name=name), (math.nan, math.nan)
    spread = math.sqrt((1 + value**2 / 2) / (len(layers) - 3))
    middle = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    low, high = (math.tanh(middle + sign * 1.96 * spread) for sign in (-1, 1))
    samples = len(layers)
    correlation = Estimate(value, (1 - value**2) * spread, samples=samples, name=name)
    return correlation, (low, high)
