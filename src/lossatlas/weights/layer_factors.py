"""Kronecker factors of the Fisher matrix of one linear map."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossatlas.io.records import record
from lossatlas.linalg.params import Params
from lossatlas.result import Estimate


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
        tensors = {self.name: weight.reshape(self.shape).to(like[self.name])}
        if self.bias:
            tensors[self.bias] = matrix[:, -1].to(like[self.bias])
        return tensors

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


def factor(matrix: Tensor) -> Factor:
    """The eigenvalues and eigenvectors of a symmetric matrix, rounding below 0 clamped."""
    values, vectors = torch.linalg.eigh(matrix)
    return Factor(values.clamp(min=0).flip(0), vectors.flip(1).contiguous())
