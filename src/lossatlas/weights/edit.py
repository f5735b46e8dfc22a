"""Editing weights by curvature: what the loss hardly sees is taken out, all the way down."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_list, check_one_of, is_number
from lossatlas.errors import ArgumentError, StructureError
from lossatlas.io.records import record
from lossatlas.linalg.params import Params, snapshot
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result
from lossatlas.text import count, number, percent
from lossatlas.weights.factors import Factors, fits
from lossatlas.weights.layer_factors import Factor, LayerFactors, factor
from lossatlas.weights.network_checks import check_finite
from lossatlas.weights.paired import PairedLosses
from lossatlas.weights.statistics import notes_on_change

Array = NDArray[np.float64]
EditScore = Literal["mass", "obd"]
SCORES: tuple[str, ...] = get_args(EditScore)
KEEP = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999, 1.0)
# Above this size rotations are in float32.
_LARGE = 4096
_EDIT = Reference(
    "editing by curvature",
    "J. Merullo, S. Vatsavaya, L. Bushnaq, O. Lewis. From Memorization to Reasoning in the "
    "Spectrum of Loss Curvature. 2025.",
    "https://arxiv.org/abs/2510.24256",
)
_OBD = Reference(
    "saliency",
    "Y. LeCun, J. S. Denker, S. A. Solla. Optimal Brain Damage. NeurIPS 1989.",
    "https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract"
    ".html",
)


@record
@dataclass(frozen=True, eq=False)
class EditedLayer:
    """One weight in the eigenvectors of its Kronecker factors.

    Attributes:
        name: of the weight.
        is_transposed: whether it holds one row an input.
        inputs: eigenvectors of A without the bias.
        outputs: eigenvectors of G.
        score: "mass" or "obd".
    """

    name: str
    is_transposed: bool
    inputs: Factor
    outputs: Factor
    score: EditScore

    def edited(self, weight: Tensor, keep: float) -> tuple[Tensor, int, float]:
        """The edited weight, how many pairs are kept, and the error of the cast."""
        flat = weight.detach().flatten(1)
        flat = flat.T if self.is_transposed else flat
        if keep == 1:
            return weight.detach().clone(), flat.numel(), 0.0
        wide = flat.to(torch.float32 if max(flat.shape) > _LARGE else torch.float64)
        turned = self._turned(wide)
        mask = self._kept(turned, keep)
        back = self._turned_back(torch.where(mask, turned, 0.0))
        cast = back.to(weight.dtype)
        error = float((cast.to(back) - back).norm()) / max(float(wide.norm()), 1e-300)
        shaped = (cast.T if self.is_transposed else cast).reshape(weight.shape)
        return shaped.contiguous(), int(mask.sum()), error

    def _turned(self, weight: Tensor) -> Tensor:
        left, right = self.outputs.vectors, self.inputs.vectors
        turned = weight if left is None else left.to(weight).T @ weight
        return turned if right is None else turned @ right.to(weight)

    def _turned_back(self, weight: Tensor) -> Tensor:
        left, right = self.outputs.vectors, self.inputs.vectors
        turned = weight if left is None else left.to(weight) @ weight
        return turned if right is None else turned @ right.to(weight).T

    def _kept(self, turned: Tensor, keep: float) -> Tensor:
        """The fewest pairs, those of the largest score, that hold a share of it."""
        score = torch.outer(self.outputs.values, self.inputs.values).to(turned)
        if self.score == "obd":
            score *= turned.square() / 2
        order = score.flatten().argsort(descending=True, stable=True)
        held = score.flatten()[order].double().cumsum(0)
        needed = int(torch.searchsorted(held, keep * held[-1])) + 1
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=turned.device)
        mask[order[:needed]] = True
        return mask.view_as(score)


def _why_no_error(rise: float, stderr: float) -> str | None:
    if not math.isfinite(stderr):
        return "one batch mean has no spread"
    return (
        None if stderr or rise else "the loss of every example is the same up to rounding error"
    )


@result("edit curve", references=(_EDIT, _OBD))
class EditCurve(Result):
    """What is left of a network when weights keep only directions of high curvature.

    Attributes:
        keep: share rho of the score that is kept, ascending, shape (points,).
        pairs: name of a weight -> how many pairs of eigenvectors are kept, shape (points,).
        sizes: name of a weight -> how many pairs there are.
        loss: on the data of the objective, shape (points,).
        rise: of the loss over that of the unchanged network, shape (points,).
        rise_stderr: its paired standard error, shape (points,).
        other_loss: on the other data (`against`), shape (points,); empty where none were given.
        other_rise: as `rise`, on the other data.
        other_rise_stderr: as `rise_stderr`, on the other data.
        cast_error: largest error that writing back in the dtype of a weight makes, relative to
            the length of the weight, shape (points,).
        score: "mass" or "obd".
        base: the unchanged weights; `params(1.0)` gives them back.
        layers: what edits are made from.
        samples: how many independent units the errors come from, on each of the data.
        notes: which running statistics were used.
    """

    keep: Array = quantity("share of the score")
    pairs: Mapping[str, Array]
    sizes: Mapping[str, int]
    loss: Array = quantity("loss")
    rise: Array = quantity("loss")
    rise_stderr: Array = quantity("loss")
    other_loss: Array = quantity("loss")
    other_rise: Array = quantity("loss")
    other_rise_stderr: Array = quantity("loss")
    cast_error: Array = quantity("")
    score: EditScore
    base: Mapping[str, Tensor]
    layers: tuple[EditedLayer, ...]
    samples: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def params(self, keep: float) -> dict[str, Tensor]:
        """The edited network at any share.

        Args:
            keep: rho, above 0 and at most 1; 1 gives the unchanged weights bit for bit.

        Returns:
            name -> tensor for all parameters of the objective.

        Raises:
            ArgumentError: `keep` is outside (0, 1].
        """
        _check_share(keep)
        edits = {layer.name: layer.edited(self.base[layer.name], keep) for layer in self.layers}
        return dict(self.base) | {name: edit[0] for name, edit in edits.items()}

    def kept(self, at: int) -> float:
        """Share of all pairs that is kept at one point of the curve."""
        return sum(float(p[at]) for p in self.pairs.values()) / sum(self.sizes.values())

    def estimates(self) -> tuple[Estimate, ...]:
        """Rises of the loss at every share, on both sets of data.

        Returns:
            One estimate a point and set.
        """
        sides = [
            ("", self.rise, self.rise_stderr),
            ("other data, ", self.other_rise, self.other_rise_stderr),
        ]
        return tuple(
            Estimate(
                float(value),
                float(error) if error or value else math.nan,
                samples=samples,
                why_no_error=_why_no_error(float(value), float(error)),
                name=f"{name}keep {share:g}",
                unit="loss",
                meaning=f"rise of the loss with {percent(self.kept(k))} of the pairs",
            )
            for (name, values, errors), samples in zip(sides, self.samples, strict=False)
            for k, (share, value, error) in enumerate(
                zip(self.keep, values, errors, strict=True)
            )
        )

    def sentences(self) -> tuple[str, ...]:
        """How far the weights can be cut before the loss rises, and what casts cost.

        Returns:
            One to three sentences, and which running statistics were used.
        """
        free = [k for k in range(len(self.keep)) if not self._rises(k)]
        first = min(free, default=len(self.keep) - 1)
        sentences = [
            f"With {percent(float(self.keep[first]))} of the {self.score} kept "
            f"({percent(self.kept(first))} of the pairs in "
            f"{count(len(self.layers), 'weight')}) the loss does not rise by more than its "
            "error (95 %)."
            if free
            else "The loss rises by more than its error at every share."
        ]
        if len(self.other_rise):
            k = int(np.argmax(self.other_rise - self.rise))
            sentences.append(
                f"At {percent(float(self.keep[k]))} the two sets of data differ most: the loss "
                f"rises by {number(float(self.other_rise[k]))} on the other data and by "
                f"{number(float(self.rise[k]))} on these."
            )
        if self.cast_error.max(initial=0) > 1e-4:
            sentences.append(
                "Writing back in the dtype of the weights moves them by up to "
                f"{percent(float(self.cast_error.max()))} of their length."
            )
        return (*sentences, *self.notes)

    def _rises(self, k: int) -> bool:
        difference = Estimate(
            float(self.rise[k]), float(self.rise_stderr[k]), samples=self.samples[0]
        )
        low, _ = difference.interval()
        return not low <= 0

    def figures(self) -> tuple[Figure, ...]:
        """The rise of the loss over the share that is kept.

        Returns:
            One figure.
        """
        from lossatlas.plots.chart import Axis, backends
        from lossatlas.plots.paths import Curve, curve_chart

        at = np.arange(len(self.keep), dtype=np.float64)
        curves = [Curve("this data", at, self.rise, 1.96 * self.rise_stderr)]
        if len(self.other_rise):
            other = self.other_rise, 1.96 * self.other_rise_stderr
            curves.append(Curve("other data", at, *other))
        ticks = at.tolist(), [f"{share:g}" for share in self.keep]
        x, title = Axis(f"share of the {self.score} kept", ticks=ticks), "Loss under the edit"
        return (
            Figure(
                "curve",
                title,
                *backends(lambda: curve_chart(curves, title, x, "rise of the loss")),
                caption="Rise of the loss over that of the unchanged network, with 95 % "
                "intervals of paired differences.",
                alt="Curves of the rise of the loss over the share of curvature that is kept.",
            ),
        )


def edit_curve(
    objective: Objective,
    factors: Factors,
    layers: str | Sequence[str] = "*",
    *,
    keep: Sequence[float] = KEEP,
    score: EditScore = "mass",
    against: Objective | None = None,
    params: Params | None = None,
) -> EditCurve:
    """Take directions of low curvature out of weights and measure what that changes.

    In the eigenvectors of the Kronecker factors, C = U_G^T W U_A, every pair (i, j) has the
    mass lambda_i mu_j, or with score="obd" lambda_i mu_j C_ij^2 / 2, the rise of the loss that
    its removal predicts. The edit keeps the pairs of the largest scores that together hold a
    share rho, W' = U_G (C * mask) U_A^T; biases stay. What single examples were memorized
    with has low curvature on average over the data, and goes first. All layers are edited
    together; give one at a time to compare layers.

    Args:
        objective: model, loss and data; for what you report, data that the model was not
            trained on.
        factors: see `factors`; measured at the same weights.
        layers: which of their weights, names or patterns of weights or modules.
        keep: shares rho, above 0 and at most 1. Good ones differ by model: .6 leaves a large
            language model whole and destroys a small network.
        score: "mass" or "obd".
        against: other data, such as memorized examples, to compare with.
        params: the weights that are edited; the present ones by default.

    Returns:
        The whole curve: kept pairs, losses with paired errors, and weights at any share.

    Raises:
        ArgumentError: a share outside (0, 1], or two objectives of different models.
        NonFiniteError: the weights are not finite.
        StructureError: the factors are those of another model.
        UnknownNameError: an unknown score, or a pattern that matches nothing.

    Source: Merullo et al., arXiv:2510.24256.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import edit_curve, factors
        >>> batch = torch.randn(8, 4), torch.randint(3, (8,))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> objective = la.Objective(torch.nn.Linear(4, 3), loss, [batch])
        >>> curve = edit_curve(objective, factors(objective), keep=[0.5, 1.0])
        >>> curve.rise[1], bool(curve.pairs["weight"][0] < 12)
        (np.float64(0.0), True)
    """
    check_one_of("score", score, SCORES)
    check_list("keep", keep, "shares")
    if not keep:
        raise ArgumentError("`keep` must hold at least one share; pass keep=[0.5, 1.0].")
    for share in keep:
        _check_share(share)
    base = snapshot(objective.params if params is None else objective.split(params).whole)
    check_finite("params", base)
    chosen = [_edited_layer(layer, base, score) for layer in _matching(factors, layers)]
    if against is not None and set(against.params) - set(base):
        raise ArgumentError(
            "`against` must be an objective of the same model; build it from `objective.model`."
        )
    sides = [_Side(each, base) for each in (objective, against) if each is not None]
    curve = _measured(sides, base, chosen, sorted(map(float, keep)))
    return replace(curve, notes=notes_on_change(objective, "Edited weights"))


def _measured(
    sides: "list[_Side]", base: dict[str, Tensor], layers: list[EditedLayer], keep: list[float]
) -> EditCurve:
    pairs: dict[str, list[float]] = {layer.name: [] for layer in layers}
    casts = []
    for share in keep:
        edits = {layer.name: layer.edited(base[layer.name], share) for layer in layers}
        point = base | {name: edit[0] for name, edit in edits.items()}
        for side in sides:
            side.add(point)
        for name, (_, left, _) in edits.items():
            pairs[name].append(float(left))
        casts.append(max(edit[2] for edit in edits.values()))
    first, other = sides[0], sides[1] if len(sides) > 1 else None
    none = np.zeros(0)
    return EditCurve(
        keep=np.array(keep),
        pairs={name: np.array(values) for name, values in pairs.items()},
        sizes={layer.name: base[layer.name].numel() for layer in layers},
        loss=first.values("value"),
        rise=first.rises("value"),
        rise_stderr=first.rises("stderr"),
        other_loss=none if other is None else other.values("value"),
        other_rise=none if other is None else other.rises("value"),
        other_rise_stderr=none if other is None else other.rises("stderr"),
        cast_error=np.array(casts),
        score=layers[0].score,
        base=base,
        layers=tuple(layers),
        samples=tuple(side.samples for side in sides),
    )


class _Side:
    """Losses of edited weights on one set of data."""

    def __init__(self, objective: Objective, base: Params) -> None:
        self._losses = PairedLosses(objective)
        self._base = self._losses.sums(base)
        self._rows: list[tuple[Estimate, Estimate]] = []
        self.samples = self._losses.mean(self._base).samples

    def add(self, point: Params) -> None:
        sums = self._losses.sums(point)
        rise = self._losses.difference(sums, self._base)
        self._rows.append((self._losses.mean(sums), rise))

    def values(self, part: str) -> Array:
        return np.array([getattr(loss, part) for loss, _ in self._rows])

    def rises(self, part: str) -> Array:
        return np.array([getattr(rise, part) for _, rise in self._rows])


def _check_share(keep: float) -> None:
    if not is_number(keep) or not 0 < keep <= 1:
        raise ArgumentError(f"`keep` must be above 0 and at most 1; got {keep!r}.")


def _matching(factors: Factors, patterns: str | Sequence[str]) -> list[LayerFactors]:
    layers_by_name = {layer.name: layer for layer in factors.layers}
    chosen = fits(layers_by_name, patterns)
    return [layers_by_name[name] for name in chosen]


def _edited_layer(layer: LayerFactors, base: Params, score: EditScore) -> EditedLayer:
    if layer.name not in base or tuple(base[layer.name].shape) != tuple(layer.shape):
        raise StructureError(
            f"`factors` holds '{layer.name}' of shape {list(layer.shape)}, which this "
            "objective does not have; measure factors of the same model."
        )
    inputs = layer.inputs
    if layer.bias:
        # Biases stay: only the part of A that meets the weight counts.
        values = inputs.values[:-1]
        inputs = Factor(values) if inputs.vectors is None else factor(inputs.matrix[:-1, :-1])
    return EditedLayer(layer.name, layer.is_transposed, inputs, layer.outputs, score)
