"""Relative flatness: the trace of a layer's Hessian, weighed by the layer's own weights."""

import fnmatch
from dataclasses import replace

from lossatlas.checks import check_positive, check_text, nearest
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.matrices import hessian
from lossatlas.curvature.selfcheck import says_checks
from lossatlas.errors import ArgumentError, ModelError, UnknownNameError
from lossatlas.linalg.estimators import mean_of, rademacher
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Reference
from lossatlas.rng import derive_seed

_MEANING = "trace of the layer's Hessian weighted by its weights; small is flat"
_REFERENCE = Reference(
    "relative flatness",
    "H. Petzka, M. Kamp, L. Adilova, C. Sminchisescu, M. Boley. Relative Flatness and "
    "Generalization. NeurIPS 2021.",
    "https://arxiv.org/abs/2001.00939",
)


@says_checks
def relative_flatness(
    objective: Objective,
    name: str | None = None,
    *,
    tolerance: float = 0.1,
    limit: int = 300,
    seed: int = 0,
    params: Params | None = None,
) -> Estimate:
    """The sum over rows s, t of <w_s, w_t> tr(H_st) of one weight matrix.

    Doubling a layer's weights and halving the next leaves it as it is, unlike the trace. For
    probes u, z of random signs, the matrix (W u) z^T has this as its expected quadratic form.

    Args:
        objective: model, loss, batches.
        name: one weight with at least two axes (further ones are flattened), or a pattern
            that matches one; by default the last one of the model, whose inputs are the
            features.
        tolerance: half-width of the 95 % interval, relative to the value.
        limit: products at most.
        seed: what probes are drawn from.
        params: where; the present weights by default.

    Returns:
        Value, standard error and products; small is flat.

    Raises:
        ArgumentError: a number of the wrong kind, or a name that matches several parameters.
        UnknownNameError: no such parameter.
        ModelError: no parameter with two axes, or the one named has fewer.
        LossError: the loss is not twice differentiable; the message names the operation.
        NonFiniteError: the gradient or a product is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import relative_flatness
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, [batch])
        >>> relative_flatness(objective, limit=20).name
        'relative flatness'

    Source: Petzka et al., NeurIPS 2021, arXiv:2001.00939.
    """
    check_objective(objective, params)
    check_text("name", name, optional=True)
    check_positive("tolerance", tolerance)
    check_count("limit", limit, 2)
    chosen = _matrix(objective, name)
    product = hessian(objective, params, names=chosen)
    weight = product.params[chosen].flatten(1)
    samples: list[float] = []
    while True:
        seeds = [derive_seed(seed, "flatness", len(samples), part) for part in "uz"]
        u, z = (rademacher(weight.shape[1], each, weight) for each in seeds)
        probe = (weight @ u)[:, None] * z
        image = product.flat(probe.reshape(-1).to(product.dtype))
        samples.append(float(image.double() @ probe.reshape(-1).double()))
        estimate = mean_of(samples, len(samples))
        estimate = replace(estimate, name="relative flatness", meaning=_MEANING)
        half = estimate.interval()[1] - estimate.value
        if len(samples) >= 12 and half <= tolerance * abs(estimate.value):
            return estimate
        if len(samples) >= limit:
            return replace(estimate, reached=False)


@instrument(
    "flatness",
    title="Relative flatness",
    question="How flat is the minimum, in a sense that rescaling layers does not change?",
    group="sharpness",
    cost="up to 100 products",
    needs="two derivatives",
    references=(_REFERENCE,),
    place=2,
)
def survey_flatness(context: Context) -> Parts:
    """Relative flatness of the last weight matrix."""
    return {
        "flatness": lambda: relative_flatness(context.objective, limit=100, seed=context.seed)
    }


def _matrix(objective: Objective, name: str | None) -> str:
    matrices = [key for key, value in objective.params.items() if value.ndim >= 2]
    if not matrices:
        raise ModelError("no parameter of the objective has two axes; there is no layer.")
    if name is None:
        return matrices[-1]
    names = fnmatch.filter(objective.names, name)
    if not names:
        raise UnknownNameError(
            f"`name`: the objective moves no parameter called '{name}'"
            f"{nearest(name, objective.names)}."
        )
    if len(names) > 1:
        raise ArgumentError(
            f"`name` must be one parameter; '{name}' matches {', '.join(map(repr, names))}: "
            "call it once for each."
        )
    if names[0] not in matrices:
        raise ModelError(f"'{names[0]}' has fewer than two axes; name a weight matrix.")
    return names[0]
