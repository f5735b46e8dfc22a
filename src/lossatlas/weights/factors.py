"""Kronecker factors of the Fisher matrix, for every linear map of a model."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_positive, check_same_structure, nearest
from lossatlas.curvature.matrices import Likelihood
from lossatlas.errors import ArgumentError, NonFiniteError, UnknownNameError
from lossatlas.io.records import record
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Reference, Result, result
from lossatlas.text import count
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
# Numbers of per-example gradients that are held at once.
_ROOM = 2**26
_FEW = 4
# Pairs of gradients that a cosine comes from, at least.
_PAIRS = 48


@record
@dataclass(frozen=True, eq=False)
class Factor:
    """A positive semi-definite matrix by its eigenvalues and eigenvectors.

    Attributes:
        values: float64, shape (size,), descending where there are vectors.
        vectors: one column an eigenvector, shape (size, size); None for a diagonal matrix.
    """

    values: Tensor
    vectors: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """The matrix itself, shape (size, size)."""
        if self.vectors is None:
            return torch.diag(self.values)
        return (self.vectors * self.values) @ self.vectors.T

    @property
    def mean(self) -> float:
        """Trace by size."""
        return float(self.values.mean())


@record
@dataclass(frozen=True, eq=False)
class LayerFactors:
    """The Fisher matrix of one linear map, about A (x) G.

    Attributes:
        name: of the weight.
        bias: of the bias that is part of the map; empty where there is none.
        kind: "linear", "convolution", "transposed convolution", "embedding" or "tied" (an
            embedding that is the last layer as well).
        shape: of the weight.
        is_transposed: whether the weight holds one row an input.
        inputs: A, the mean of a a^T over rows (examples, positions), with a 1 appended to the
            inputs a where there is a bias.
        outputs: G, the sum over rows of g g^T by the number of labels, g the slope of the loss
            of a sampled label in the outputs. For "tied", A and G are the partial traces of the
            block of both uses, A by its trace and of G the diagonal.
        corrected: eigenvalues in the basis of the two, measured, shape (outputs, inputs);
            None for the products of theirs.
        rows: how many rows A and G are sums over.
        agreement: cosine between A (x) G and the exact Fisher block of a part of the examples.
    """

    name: str
    bias: str
    kind: str
    shape: tuple[int, ...]
    is_transposed: bool
    inputs: Factor
    outputs: Factor
    corrected: Tensor | None = None
    rows: int = 0
    agreement: Estimate = field(
        default_factory=lambda: Estimate(math.nan, why_no_error="not compared: examples=0")
    )

    @property
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the block, float64, shape (outputs, inputs), not sorted."""
        if self.corrected is not None:
            return self.corrected
        return torch.outer(self.outputs.values, self.inputs.values)

    @property
    def spectrum(self) -> Tensor:
        """Eigenvalues of the block, descending, shape (outputs * inputs,)."""
        return self.eigenvalues.flatten().sort(descending=True).values

    @property
    def trace(self) -> float:
        """Sum of the eigenvalues."""
        return float(self.eigenvalues.sum())

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that the block is over."""
        return (self.name, self.bias) if self.bias else (self.name,)

    def matrix_of(self, vector: Params) -> Tensor:
        """Weight and bias as one matrix, float64, shape (outputs, inputs)."""
        weight = vector[self.name].detach().double()
        weight = weight.flatten(1).T if self.is_transposed else weight.flatten(1)
        if not self.bias:
            return weight
        return torch.cat([weight, vector[self.bias].detach().double()[:, None]], 1)

    def vector_of(self, matrix: Tensor, like: Params) -> dict[str, Tensor]:
        """The inverse of `matrix_of`, in the dtypes of `like`."""
        weight = matrix[:, :-1] if self.bias else matrix
        weight = weight.T if self.is_transposed else weight
        found = {self.name: weight.reshape(self.shape).to(like[self.name])}
        if self.bias:
            found[self.bias] = matrix[:, -1].to(like[self.bias])
        return found

    def to_basis(self, matrix: Tensor) -> Tensor:
        """Coefficients of a matrix in the eigenvectors."""
        left, right = self.outputs.vectors, self.inputs.vectors
        matrix = matrix if left is None else left.T.to(matrix) @ matrix
        return matrix if right is None else matrix @ right.to(matrix)

    def from_basis(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_basis`."""
        left, right = self.outputs.vectors, self.inputs.vectors
        matrix = matrix if left is None else left.to(matrix) @ matrix
        return matrix if right is None else matrix @ right.T.to(matrix)

    def solve(self, matrix: Tensor, damping: float) -> Tensor:
        """The damped inverse of the block times a matrix, shape (outputs, inputs)."""
        if self.corrected is not None:
            divisor = self.corrected + damping
        else:
            ratio = math.sqrt(self.inputs.mean / self.outputs.mean) if self.trace > 0 else 1.0
            root = math.sqrt(damping)
            divisor = torch.outer(
                self.outputs.values + root / ratio, self.inputs.values + root * ratio
            )
        return self.from_basis(self.to_basis(matrix) / divisor.to(matrix.device))


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
        raise UnknownNameError(f"there are no factors of '{name}'{nearest(name, known)}.")

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
    here = State(objective.params) if params is None else objective.split(params)
    chosen = fits([n for n, v in here.params.items() if v.ndim > 1], layers)
    leaves = {n: v.detach().clone().requires_grad_() for n, v in here.params.items()}
    job = _Job(
        objective, leaves, chosen, max_size, sampling(objective, likelihood, draws, seed)
    )

    def run() -> Factors:
        with torch.enable_grad():
            found = job.collected()
            found = job.corrected(found) if correct else found
            return job.compared(found, examples, seed) if examples else found

    return objective.with_params({**leaves, **here.buffers}, run)


def fits(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """Names of weights that patterns of weights or modules match, in their order."""
    known, chosen = list(names), set[str]()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = {n for n in known if any(fnmatchcase(p, pattern) for p in (n, _module(n)))}
        if not found:
            raise UnknownNameError(
                f"`layers`: no weight matches {pattern!r}{nearest(pattern, known)}."
            )
        chosen |= found
    return [name for name in known if name in chosen]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


class _Sums:
    """Sums over rows of one linear map, the inputs with a 1 appended."""

    def __init__(self, use: Use, weight: Tensor) -> None:
        self.use = use
        flat = weight.flatten(1) if use.is_transposed else weight.flatten(1).T
        self.inputs, self.outputs = flat.shape
        self.is_table = use.kind == "embedding"
        width = (self.inputs + 1,) if self.is_table else (self.inputs + 1,) * 2
        make: Any = {"dtype": torch.float64, "device": weight.device}
        self.a = torch.zeros(width, **make)
        self.g = torch.zeros(self.outputs, self.outputs, **make)
        self.rows = 0
        # Products with the slopes in one pass, until they have been compared with the gradient.
        self.product: Tensor | None = None
        self.is_checked = self.has_bias = False

    @property
    def largest(self) -> int:
        """Side of the largest matrix whose eigenvectors are needed."""
        return max(self.outputs, 0 if self.is_table else self.inputs)

    def serves(self, use: Use) -> bool:
        """Whether the rows of a use belong to these sums."""
        same = (use.kind, use.is_transposed) == (self.use.kind, self.use.is_transposed)
        return same and not use.is_tied

    def add(self, use: Use, rows: Rows, *, is_first: bool) -> None:
        a, g, place = rows.inputs, rows.slopes, rows.place
        if is_first:
            self.rows += len(a)
            if self.is_table:
                self.a += torch.bincount(a, minlength=self.inputs + 1)
            else:
                wide = with_one(a)
                self.a += wide.T @ wide
        self.g[place, place] += g.T @ g
        if self.is_checked:
            return
        if self.product is None:
            self.product = self.g.new_zeros(self.outputs, self.inputs + 1)
        if self.is_table:
            self.product[:, : self.inputs].index_add_(1, a, g.T)
            self.product[:, -1] += g.sum(0)
        else:
            self.product[place] += g.T @ with_one(a)

    def factors(self, shares: int) -> tuple[Factor, Factor]:
        """A and G."""
        width = self.inputs + self.has_bias
        a = self.a[:width] if self.is_table else self.a[:width, :width]
        a, g = a / max(self.rows, 1), self.g / shares
        self._check(a, g)
        return Factor(a) if self.is_table else factor(a), factor(g)

    def _check(self, *matrices: Tensor) -> None:
        if not all(bool(matrix.isfinite().all()) for matrix in matrices):
            raise NonFiniteError(f"the inputs or slopes of '{self.use.name}' are not finite.")


class _TiedSums(_Sums):
    """Partial traces of the block of a weight that is both a table and a matrix."""

    def __init__(self, use: Use, weight: Tensor) -> None:
        self.use = replace(use, kind="tied", is_transposed=False)
        self.outputs, self.inputs = weight.shape
        make: Any = {"dtype": torch.float64, "device": weight.device}
        self.a = torch.zeros(self.inputs, self.inputs, **make)
        self.g = torch.zeros(self.outputs, **make)
        self.rows = 0
        self.product: Tensor | None = None
        self.is_checked = self.has_bias = False

    @property
    def largest(self) -> int:
        return self.inputs

    def serves(self, use: Use) -> bool:
        return use.is_tied and (use.kind == "embedding" or not use.is_transposed)

    def add(self, use: Use, rows: Rows, *, is_first: bool) -> None:
        a, g = rows.inputs, rows.slopes
        self.rows += len(a) if is_first else 0
        if use.kind == "embedding":
            self.a += g.T @ g
            self.g.index_add_(0, a, g.square().sum(1))
        else:
            squares = g.square()
            self.a += (a * squares.sum(1)[:, None]).T @ a
            self.g += squares.T @ a.square().sum(1)
        if self.is_checked:
            return
        if self.product is None:
            self.product = self.a.new_zeros(self.outputs, self.inputs + 1)
        if use.kind == "embedding":
            self.product[:, :-1].index_add_(0, a, g)
        else:
            self.product[:, :-1] += g.T @ a

    def factors(self, shares: int) -> tuple[Factor, Factor]:
        a, g = self.a / shares, self.g / shares
        self._check(a, g)
        total = float(a.trace())
        return factor(a / total if total > 0 else a), Factor(g)


def with_one(rows: Tensor) -> Tensor:
    """Inputs with a 1 appended to each."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


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
        self.sums: dict[str, _Sums] = {}
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

    def _sums_of(self, use: Use) -> _Sums | None:
        if use.name in self.skipped or use.name not in self.chosen:
            return None
        if use.name not in self.sums:
            sums = (_TiedSums if use.is_tied else _Sums)(use, self.leaves[use.name])
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
            raise ArgumentError(f"`layers` holds no linear map that has factors ({reasons}).")
        shares = max(labels * self.sampled.draws, 1)
        found = tuple(self._layer(name, self.sums[name], shares) for name in kept)
        return Factors(found, dict(self.skipped), labels, self.sampled.draws)

    def _layer(self, name: str, sums: _Sums, shares: int) -> LayerFactors:
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

    def corrected(self, found: Factors) -> Factors:
        layers = {layer.name: layer for layer in found.layers}
        sums = {n: torch.zeros_like(layer.eigenvalues) for n, layer in layers.items()}

        def visit(use: Use, slopes: Tensor) -> None:
            if use.name in layers:
                for rows in use.rows(slopes):
                    _add_squares(sums[use.name], layers[use.name], use, rows)

        for _ in each_pass(self.objective, self.leaves, self.sampled, visit):
            pass
        shares = max(found.labels * found.draws, 1)
        return replace(
            found,
            layers=tuple(
                replace(layer, corrected=sums[layer.name] / shares) for layer in found.layers
            ),
        )

    def compared(self, found: Factors, examples: int, seed: int) -> Factors:
        known: dict[str, Estimate] = {}
        for group, some in _groups(found.layers, examples):
            pairs = _Pairs(group, self.examples)
            # Few examples leave more time for labels of each.
            few = min(examples, self.examples) if some == examples else _PAIRS
            turns = -(-_PAIRS // max(few, 1))
            sampled = replace(self.sampled, draws=2 * turns, seed=seed + 1)
            for number, gradients in self._single(sampled, some, group):
                pairs.add(number, gradients)
            known |= pairs.estimates()
        layers = (replace(layer, agreement=known[layer.name]) for layer in found.layers)
        return replace(found, layers=tuple(layers))

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


def _near(found: Tensor, slope: Tensor) -> bool:
    half = torch.finfo(slope.dtype).bits < 32
    wanted = slope.double()
    return float((found - wanted).norm()) <= (0.05 if half else 1e-3) * float(wanted.norm())


def factor(matrix: Tensor) -> Factor:
    """The eigenvalues and eigenvectors of a symmetric matrix, rounding below 0 clamped."""
    values, vectors = torch.linalg.eigh(matrix)
    return Factor(values.clamp(min=0).flip(0), vectors.flip(1).contiguous())


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


def _groups(
    layers: Iterable[LayerFactors], examples: int
) -> Iterator[tuple[list[LayerFactors], int]]:
    """Layers whose gradients of single examples fit in memory together, and how many do."""
    group: list[LayerFactors] = []
    for layer in layers:
        size = sum(known.eigenvalues.numel() for known in [*group, layer])
        if group and 2 * max(examples, _PAIRS) * size > _ROOM:
            yield group, _fitting(group, examples)
            group = []
        group.append(layer)
    yield group, _fitting(group, examples)


def _fitting(group: list[LayerFactors], examples: int) -> int:
    size = sum(layer.eigenvalues.numel() for layer in group)
    fitting = _ROOM // (2 * size)
    return examples if fitting >= max(examples, _PAIRS) else min(examples, max(_FEW, fitting))


class _Pairs:
    """Sums from which cosines between factors and exact Fisher blocks come."""

    def __init__(self, layers: list[LayerFactors], population: int) -> None:
        self._layers, self._population = layers, population
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {la.name: [] for la in layers}
        self._inner: dict[str, list[float]] = {la.name: [] for la in layers}
        self._numbers: list[int] = []

    def add(self, number: int, gradients: list[dict[str, Tensor | None]]) -> None:
        self._numbers.append(number)
        for layer in self._layers:
            sides = [_matrix(layer, slopes) for slopes in gradients]
            first, second = (matrix.flatten().float() for matrix in sides)
            self._rows[layer.name].append((first, second))
            inner = sum(
                (layer.eigenvalues * layer.to_basis(matrix).square()).sum() for matrix in sides
            )
            self._inner[layer.name].append(float(inner) / 2)

    def estimates(self) -> dict[str, Estimate]:
        return {layer.name: self._estimate(layer) for layer in self._layers}

    def _estimate(self, layer: LayerFactors) -> Estimate:
        numbers = torch.tensor(self._numbers)
        inner = torch.tensor(self._inner[layer.name], dtype=torch.float64)
        rows = self._rows[layer.name]
        first, second = (torch.stack(side).double() for side in zip(*rows, strict=True))
        squares = (first @ second.T).square().cpu()
        length = float(layer.eigenvalues.norm())

        def cosine(kept: Tensor) -> float:
            chosen = numbers[kept]
            is_own = chosen[:, None] == chosen
            return _cosine(
                inner[kept], squares[kept][:, kept], is_own, self._population, length
            )

        size = len(set(self._numbers))
        value = cosine(torch.ones_like(numbers, dtype=torch.bool))
        if size < _FEW or not math.isfinite(value):
            why = "no slope in this layer" if math.isnan(value) else "fewer than four examples"
            return Estimate(value, samples=size, why_no_error=why)
        left_out = torch.tensor([cosine(numbers != k) for k in range(size)]).double()
        spread = float((left_out - left_out.mean()).square().sum())
        error = math.sqrt((size - 1) / size * spread)
        return Estimate(value, error, samples=size, sample_unit="examples")


def _matrix(layer: LayerFactors, slopes: Mapping[str, Tensor | None]) -> Tensor:
    known = {name: slopes[name] for name in layer.names}
    given = {name: value for name, value in known.items() if value is not None}
    if len(given) < len(known):
        return torch.zeros_like(layer.eigenvalues)
    return layer.matrix_of(given)


def _cosine(
    inner: Tensor, squares: Tensor, is_own: Tensor, population: int, length: float
) -> float:
    """Cosine to the Fisher block of all examples, whose square is a mean over pairs of them."""
    own, others = squares[is_own].mean(), squares[~is_own].mean()
    # A part of the data has more pairs of an example with itself than all of it.
    share = 1 / population
    square = float(own if is_own.all() else share * own + (1 - share) * others)
    if square <= 0 or length == 0:
        return math.nan
    return float(inner.mean()) / (math.sqrt(square) * length)
