"""Kronecker factors of the Fisher matrix, for every linear map of a model."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_positive, check_same_structure, nearest
from lossatlas.curvature.matrices import Likelihood
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Reference, Result, result
from lossatlas.text import count
from lossatlas.weights.factor_agreement import PAIRS, Pairs, groups_that_fit
from lossatlas.weights.factor_sums import Sums, TiedSums, with_one
from lossatlas.weights.layer_factors import LayerFactors
from lossatlas.weights.linear_maps import (
    Look,
    Rows,
    Sampling,
    Use,
    each_pass,
    outputs_of,
    pulled,
    sampling,
    scores_of,
)

_KFAC = Reference(
    "Kronecker factors",
    "J. Martens, R. Grosse. Optimizing Neural Networks with Kronecker-factored Approximate "
    "Curvature. ICML 2015.",
    "https://arxiv.org/abs/1503.05671",
)
_EKFAC = Reference(
    "corrected eigenvalues",
    "T. George, C. Laurent, X. Bouthillier, N. Ballas, P. Vincent. Fast Approximate Natural "
    "Gradient Descent in a Kronecker-factored Eigenbasis. NeurIPS 2018.",
    "https://arxiv.org/abs/1806.03884",
)


@result("factors", references=(_KFAC, _EKFAC))
class Factors(Result):
    """Kronecker factors of the Fisher matrix, layer by layer.

    Attributes:
        layers: one entry a linear map, in the order of the parameters.
        skipped: parameter -> why it has no factors.
        labels: how many labels of the data count.
        draws: labels drawn for each of them.
    """

    layers: tuple[LayerFactors, ...]
    skipped: Mapping[str, str]
    labels: int = 0
    draws: int = 1

    def __getitem__(self, name: str) -> LayerFactors:
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = [layer.name for layer in self.layers]
        raise UnknownNameError(
            f"there are no factors of '{name}'{nearest(name, known)}; `skipped` says why a "
            "weight has none."
        )

    @property
    def spectrum(self) -> dict[str, Tensor]:
        """Weight -> eigenvalues of its block, descending, float64."""
        return {layer.name: layer.spectrum for layer in self.layers}

    def solve(self, gradient: Params, damping: float) -> dict[str, Tensor]:
        """The inverse of the damped Fisher matrix times a vector, block by block.

        Each block is (G + sqrt(d) / pi I)^-1 V (A + pi sqrt(d) I)^-1 with pi^2 the ratio of the
        mean eigenvalues of A and G; with corrected eigenvalues it is (F + d I)^-1 V.

        Args:
            gradient: name -> tensor for every parameter that has factors; others are left out.
            damping: d, in units of eigenvalues.

        Returns:
            name -> tensor for the parameters that have factors.

        Raises:
            ArgumentError: `damping` is not above 0.
            StructureError: a parameter is missing or of another shape.
        """
        check_positive("damping", damping)
        names = [name for layer in self.layers for name in layer.names]
        check_same_structure(
            gradient={name: gradient[name] for name in names if name in gradient},
            factors=self._shapes(),
        )
        solved: dict[str, Tensor] = {}
        for layer in self.layers:
            matrix = layer.solve(layer.matrix_of(gradient), damping)
            solved |= layer.vector_of(matrix, gradient)
        return solved

    def _shapes(self) -> dict[str, Tensor]:
        shapes = {la.name: la.shape for la in self.layers}
        shapes |= {la.bias: (len(la.outputs.values),) for la in self.layers if la.bias}
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    def estimates(self) -> tuple[Estimate, ...]:
        """How well the factors describe each block: the cosine to the exact Fisher block.

        Returns:
            One estimate a layer.
        """
        return tuple(
            replace(layer.agreement, name=layer.name, unit="cosine") for layer in self.layers
        )

    def sentences(self) -> tuple[str, ...]:
        """How far the factors can be trusted, and what has none.

        Returns:
            One or two sentences.
        """
        known = [la for la in self.layers if math.isfinite(la.agreement.value)]
        said = [f"Kronecker factors of {count(len(self.layers), 'linear map')}."]
        if known:
            worst = min(known, key=lambda layer: layer.agreement.value)
            said.append(
                "Their cosine to the exact Fisher block is lowest in "
                f"{worst.name}: {worst.agreement}."
            )
        if self.skipped:
            said.append(
                f"Without factors: {', '.join(self.skipped)} "
                f"({next(iter(self.skipped.values()))})."
            )
        return tuple(said)


def factors(
    objective: Objective,
    layers: str | Iterable[str] = "*",
    *,
    draws: int = 1,
    correct: bool = False,
    likelihood: Likelihood | None = None,
    params: Params | None = None,
    examples: int = 32,
    max_size: int = 8192,
    seed: int = 0,
) -> Factors:
    """Kronecker factors of the Fisher matrix of every linear map (K-FAC, EK-FAC).

    For outputs s = W a (+ b) the block of W is about A (x) G, A the mean of a a^T and G that of
    g g^T, g = dl/ds with labels drawn from the model. Linear maps are found in the graph of the
    forward pass, whatever module they belong to: linear layers, convolutions over one or two
    axes (unfolded; transposed ones with a row for each input position), embeddings, the gates
    of recurrent layers at every step. Where weights are used at many positions, each counts as
    a row of its own ("expand"), which leaves out how positions go together; the groups of a
    convolution are rows as well, so that A is their mean and G has one block a group. That
    every block is found as a whole is checked: the products of inputs and slopes must add up
    to the gradient.

    Args:
        objective: the model must return one tensor of logits or predictions; classes stand on
            axis 1, or last where batches are (input, labels) and labels have all other axes.
        layers: names of weights or modules, or patterns such as "*.mlp.*".
        draws: labels drawn for each example; the labels are those of `curvature.fisher`.
        correct: measure the eigenvalues in the basis of the factors, in a second pass over the
            data (EK-FAC); they are then those of the mean of (a a^T) (x) (g g^T).
        likelihood: see `curvature.fisher`.
        params: where; the present weights by default.
        examples: how many examples the cosine to the exact block is measured on, at two labels
            drawn for each; 0 leaves it out.
        max_size: a map with more inputs or outputs has no factors (rows of an embedding
            excepted, whose factor is diagonal).
        seed: what labels are drawn from.

    Returns:
        Factors with their eigenvectors, float64, and what has none.

    Raises:
        ArgumentError: a number of the wrong kind, no linear map, or an unknown likelihood.
        LossError: the model gives more than one tensor.
        NonFiniteError: inputs or slopes are not finite.
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a pattern matches nothing.

    Source: Martens, Grosse, arXiv:1503.05671; Grosse, Martens, arXiv:1602.01407 (convolutions);
        Eschenhagen et al., arXiv:2311.00636 (shared weights); George et al., arXiv:1806.03884.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import factors
        >>> layers = torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)
        >>> batch = torch.randn(8, 2), torch.randint(2, (8,))
        >>> loss = la.supervised(torch.nn.functional.cross_entropy)
        >>> objective = la.Objective(torch.nn.Sequential(*layers), loss, [batch])
        >>> found = factors(objective)
        >>> [layer.name for layer in found.layers]
        ['0.weight', '2.weight']
        >>> found["0.weight"].inputs.matrix.shape
        torch.Size([3, 3])
        >>> found.solve(objective.gradient(), damping=0.1)["2.weight"].shape
        torch.Size([2, 3])
    """
    for name, value in (("draws", draws), ("max_size", max_size)):
        check_at_least(name, value, 1)
    check_at_least("examples", examples, 0)
    state = State(objective.params) if params is None else objective.split(params)
    chosen = fits([n for n, v in state.params.items() if v.ndim > 1], layers)
    leaves = {n: v.detach().clone().requires_grad_() for n, v in state.params.items()}
    job = _Job(
        objective, leaves, chosen, max_size, sampling(objective, likelihood, draws, seed)
    )

    def run() -> Factors:
        with torch.enable_grad():
            collected = job.collected()
            collected = job.corrected(collected) if correct else collected
            return job.compared(collected, examples, seed) if examples else collected

    return objective.with_params({**leaves, **state.buffers}, run)


def fits(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """Names of weights that patterns of weights or modules match, in their order."""
    known, chosen = list(names), set[str]()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = {n for n in known if any(fnmatchcase(p, pattern) for p in (n, _module(n)))}
        if not matches:
            raise UnknownNameError(
                f"`layers`: no weight matches {pattern!r}{nearest(pattern, known)}."
            )
        chosen |= matches
    return [name for name in known if name in chosen]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


class _Job:
    """Passes over the data that give factors, eigenvalues and cosines."""

    def __init__(
        self,
        objective: Objective,
        leaves: dict[str, Tensor],
        chosen: list[str],
        max_size: int,
        sampled: Sampling,
    ) -> None:
        self.objective, self.leaves, self.sampled = objective, leaves, sampled
        self.chosen, self.max_size = chosen, max_size
        self.skipped: dict[str, str] = {}
        self.sums: dict[str, Sums] = {}
        self.examples = 0

    def collected(self) -> Factors:
        labels = passes = 0

        def visit(use: Use, slopes: Tensor) -> None:
            sums = self._sums_of(use)
            if sums is None:
                return
            for rows in use.rows(slopes):
                sums.add(use, rows, is_first=passes % self.sampled.draws == 0)

        for look in each_pass(self.objective, self.leaves, self.sampled, visit):
            self.skipped |= {n: why for n, why in look.left_out.items() if n in self.chosen}
            self._compare(look)
            passes += 1
            labels += look.labels if look.is_first else 0
            self.examples += look.examples if look.is_first else 0
        return self._factors(labels)

    def _sums_of(self, use: Use) -> Sums | None:
        if use.name in self.skipped or use.name not in self.chosen:
            return None
        if use.name not in self.sums:
            sums = (TiedSums if use.is_tied else Sums)(use, self.leaves[use.name])
            if sums.largest > self.max_size:
                self.skipped[use.name] = (
                    f"{sums.largest:,} inputs or outputs, above max_size={self.max_size:,}"
                )
                return None
            self.sums[use.name] = sums
        sums = self.sums[use.name]
        if not sums.serves(use):
            self.skipped[use.name] = "it is used in different ways"
            return None
        return sums

    def _compare(self, look: Look) -> None:
        """Products of inputs and slopes of one pass must be the gradient."""
        for name, sums in self.sums.items():
            product, slope = sums.product, look.gradient[name]
            sums.product = None
            is_open = not sums.is_checked and name not in self.skipped
            if not is_open or product is None or slope is None or not bool(product.any()):
                continue
            sums.is_checked = True
            flat = slope.flatten(1).T if sums.use.is_transposed else slope.flatten(1)
            if not _near(product[:, :-1], flat):
                self.skipped[name] = "it is also used by an operation that is no linear map"
            bias = look.gradient.get(_bias_of(name))
            sums.has_bias = (
                bias is not None
                and bias.shape == product[:, -1].shape
                and _near(product[:, -1], bias)
            )

    def _factors(self, labels: int) -> Factors:
        missing = {
            name: "no batch multiplies by it in a way that is known"
            for name in self.chosen
            if name not in self.sums and name not in self.skipped
        }
        self.skipped |= missing
        kept = [name for name in self.chosen if name not in self.skipped]
        if not kept:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.skipped.items())
            raise ArgumentError(
                f"`layers` holds no linear map that has factors ({reasons}); name a weight of "
                "a linear layer, a convolution or an embedding."
            )
        shares = max(labels * self.sampled.draws, 1)
        layers = tuple(self._layer(name, self.sums[name], shares) for name in kept)
        return Factors(layers, dict(self.skipped), labels, self.sampled.draws)

    def _layer(self, name: str, sums: Sums, shares: int) -> LayerFactors:
        inputs, outputs = sums.factors(shares)
        return LayerFactors(
            name=name,
            bias=_bias_of(name) if sums.has_bias else "",
            kind=sums.use.kind,
            shape=tuple(self.leaves[name].shape),
            is_transposed=sums.use.is_transposed,
            inputs=inputs,
            outputs=outputs,
            rows=sums.rows,
        )

    def corrected(self, collected: Factors) -> Factors:
        layers = {layer.name: layer for layer in collected.layers}
        sums = {n: torch.zeros_like(layer.eigenvalues) for n, layer in layers.items()}

        def visit(use: Use, slopes: Tensor) -> None:
            if use.name in layers:
                for rows in use.rows(slopes):
                    _add_squares(sums[use.name], layers[use.name], use, rows)

        for _ in each_pass(self.objective, self.leaves, self.sampled, visit):
            pass
        shares = max(collected.labels * collected.draws, 1)
        return replace(
            collected,
            layers=tuple(
                replace(layer, corrected=sums[layer.name] / shares)
                for layer in collected.layers
            ),
        )

    def compared(self, collected: Factors, examples: int, seed: int) -> Factors:
        known: dict[str, Estimate] = {}
        for group, some in groups_that_fit(collected.layers, examples):
            pairs = Pairs(group, self.examples)
            # Few examples leave more time for labels of each.
            few = min(examples, self.examples) if some == examples else PAIRS
            turns = -(-PAIRS // max(few, 1))
            sampled = replace(self.sampled, draws=2 * turns, seed=seed + 1)
            for number, gradients in self._single(sampled, some, group):
                pairs.add(number, gradients)
            known |= pairs.estimates()
        layers = (replace(layer, agreement=known[layer.name]) for layer in collected.layers)
        return replace(collected, layers=tuple(layers))

    def _single(
        self, sampled: Sampling, examples: int, group: list[LayerFactors]
    ) -> Iterator[tuple[int, list[dict[str, Tensor | None]]]]:
        """Gradients of single examples by number, at two labels each."""
        names = [name for layer in group for name in layer.names]
        leaves = {name: self.leaves[name] for name in names}
        share = -(-examples // (self.objective.count or 1))
        left, number = examples, 0
        for index, batch in enumerate(self.objective.iter_batches()):
            if not left:
                continue
            outputs = outputs_of(self.objective, batch, sampled)
            scores, _ = scores_of(self.objective, batch, outputs, sampled, index)
            some = min(share, left, len(outputs))
            left -= some
            for k in torch.linspace(0, len(outputs) - 1, some).round().long().tolist():
                for pair in zip(scores[::2], scores[1::2], strict=True):
                    only = [_only(score, k) for score in pair]
                    yield number, [pulled(outputs, leaves, one, [], _ignore) for one in only]
                number += 1


def _ignore(use: Use, slopes: Tensor) -> None:
    """No use is looked at."""


def _only(score: Tensor, k: int) -> Tensor:
    one = torch.zeros_like(score)
    one[k] = score[k]
    return one


def _bias_of(name: str) -> str:
    start, dot, last = name.rpartition(".")
    return f"{start}{dot}{last.replace('weight', 'bias')}"


def _near(gradient: Tensor, slope: Tensor) -> bool:
    half = torch.finfo(slope.dtype).bits < 32
    wanted = slope.double()
    return float((gradient - wanted).norm()) <= (0.05 if half else 1e-3) * float(wanted.norm())


def _add_squares(total: Tensor, layer: LayerFactors, use: Use, rows: Rows) -> None:
    left, right = layer.outputs.vectors, layer.inputs.vectors
    a, g = rows.inputs, rows.slopes
    if use.is_tied and use.kind == "embedding":
        assert right is not None
        total.index_add_(0, a, (g @ right).square())
        return
    slopes = (g if left is None else g @ left[rows.place]).square()
    if right is None:
        total.index_add_(1, a, slopes.T)
    else:
        total += slopes.T @ ((with_one(a) if layer.bias else a) @ right).square()
