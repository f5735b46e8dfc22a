"""Planes along the sharpest directions: eigenvectors handed down as plain directions."""

from dataclasses import replace

from lossatlas.checks import check_at_least
from lossatlas.curvature.spectrum import spectrum
from lossatlas.errors import ArgumentError
from lossatlas.landscape.plane import Plane, plane
from lossatlas.objective import Objective


def eigen_plane(objective: Objective, *, dimension: int = 2, seed: int = 0) -> Plane:
    """The line, plane or box along the top eigenvectors of the Hessian.

    Directions have length 1: a coordinate is a distance in the weights, and the loss rises by
    about eigenvalue x coordinate^2 / 2 along each.

    Args:
        objective: model, loss, batches; the origin is its present weights.
        dimension: how many eigenvectors, 1 to 3.
        seed: of the start of the Krylov run.

    Returns:
        The plane; its labels say the eigenvalues.

    Raises:
        ArgumentError: a dimension that is not 1, 2 or 3, or more than there are weights.
        LossError: the loss is not twice differentiable.
        NonFiniteError: the gradient or a product is not finite.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.surveys import eigen_plane
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> eigen_plane(la.Objective(model, loss, [batch])).labels[0]
        'eigenvector 1 (λ = 4)'
    """
    check_at_least("dimension", dimension, 1)
    if dimension > 3:
        raise ArgumentError(f"`dimension` must be 1, 2 or 3; got {dimension}.")
    ends = spectrum(objective, top=dimension, bottom=0, density=False, seed=seed, vectors=True)
    values = [float(value) for value in ends.top]
    labels = [f"eigenvector {k} (λ = {value:.4g})" for k, value in enumerate(values, 1)]
    origin = {name: value.clone() for name, value in objective.params.items()}
    spanned = plane(origin, *ends.vectors, labels=labels)
    recipe = {
        "kind": "eigen",
        "seed": seed,
        "dimension": dimension,
        "eigenvalues": values,
        "bounds": [float(bound) for bound in ends.top_bounds],
        "products": ends.products,
    }
    return replace(spanned, recipe=recipe)
