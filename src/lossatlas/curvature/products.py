"""Curvature matrices as functions of a vector: Hessian, Gauss-Newton, Fisher."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_at_least
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.forms import (
    Form,
    Leaves,
    gauss_newton_form,
    hessian_form,
    model_outputs,
    sandwich_form,
)
from lossatlas.curvature.likelihoods import likelihood_of, sampled_form
from lossatlas.curvature.matrix import Product
from lossatlas.errors import LossError
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Objective, Supervised, Total
from lossatlas.objective.weighted import pairs_of, total_of
from lossatlas.rng import generator

KINDS = ("hessian", "gauss_newton", "fisher", "empirical_fisher")


def hessian(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
) -> Product:
    """The Hessian of the objective: second derivatives of the mean loss.

    With mode="train" it is that of the loss with the batches' own statistics; with
    mode="recalibrated" statistics are estimated at the point and then held.

    Args:
        objective: model, loss, batches.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `Product`.

    Returns:
        The matrix as a function of a vector.

    Raises:
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import hessian
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, loss, [batch])
        >>> hessian(objective) @ {"weight": torch.ones(1, 2)}
        {'weight': tensor([[4., 1.]])}

    Source: Pearlmutter, Neural Computation 6 (1994).
    """
    check_objective(objective, params)
    build = partial(hessian_form, objective)
    return Product(objective, build, params=params, names=names, cache=cache)


def gauss_newton(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
) -> Product:
    """The generalized Gauss-Newton matrix J^T H J, positive semi-definite for convex criteria.

    J is the Jacobian of everything the model returns, H the Hessian of the loss in it.

    Args:
        objective: its loss must be a function of what the model returns.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `Product`.

    Returns:
        The matrix as a function of a vector; its first product raises LossError where the
        model computes the loss itself or the loss is linear in the outputs.

    Raises:
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.

    Source: Schraudolph, Neural Computation 14 (2002).
    """
    check_objective(objective, params)
    build = partial(gauss_newton_form, objective)
    return Product(
        objective, build, params=params, names=names, cache=cache, kind="gauss_newton"
    )


def fisher(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
    likelihood: str | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Product:
    """The Fisher matrix with labels drawn from the model; its mean is the Gauss-Newton matrix.

    Every product uses the same drawn labels. Each label is one term s s^T of the score s;
    targets that cross-entropy ignores are left out. A loss with weights of classes or labels
    is no negative log-likelihood, and is refused.

    Args:
        objective: the model must return one tensor of logits or predictions.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `Product`.
        likelihood: "categorical", "gaussian" (variance 1/2, which makes squared error the
            negative log-likelihood) or "bernoulli"; None reads it off the criterion.
        draws: labels drawn for each example.
        seed: what they are drawn from.

    Returns:
        The matrix as a function of a vector.

    Raises:
        ArgumentError: the likelihood is not recognized, or `draws` is below 1.
        UnknownNameError: an unknown likelihood, or a name that matches nothing.
        StructureError: names or shapes of `params` differ from those of the objective.

    Source: Martens, JMLR 21 (2020), sec. 5, arXiv:1412.1193.
    """
    check_objective(objective, params)
    check_at_least("draws", draws, 1)
    kind = likelihood_of(objective, likelihood)

    def build(leaves: Leaves, batch: Batch, index: int) -> tuple[Total, Form]:
        total, outputs = model_outputs(objective, batch)
        if len(outputs) != 1:
            raise LossError(
                "the Fisher matrix needs one tensor of outputs; the model gave "
                f"{len(outputs)}: use gauss_newton, which takes any."
            )
        drawn = generator(seed, "labels", index, device=outputs[0].device)
        mask = _counted(objective, batch) if kind == "categorical" else None
        middle = sampled_form(outputs[0].detach(), kind, draws, drawn, mask)
        return total, sandwich_form(leaves, outputs, middle, index)

    return Product(objective, build, params=params, names=names, cache=cache, kind="fisher")


def empirical_fisher(
    objective: Objective,
    params: Params | None = None,
    *,
    names: str | Iterable[str] | None = None,
    cache: bool | None = None,
) -> Product:
    """The mean of g g^T over examples, g the gradient of an example's own loss.

    It is neither the Fisher nor the Hessian (Kunstner et al. 2019); its top shows where
    gradients of examples agree. With weights of examples it is their weighted mean: the sum of
    (1 / w_i) s_i' s_i'^T by the sum of w_i, s_i' the gradient of a sum.

    Args:
        objective: its loss must give one number an example.
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        cache: see `Product`.

    Returns:
        The matrix as a function of a vector.

    Raises:
        LossError: the loss gives only means.
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.

    Source: Kunstner, Balles, Hennig, NeurIPS 2019, arXiv:1905.12558.
    """
    check_objective(objective, params)
    if objective.unit != "examples":
        raise LossError(
            "the empirical Fisher matrix needs the loss of every example; let `loss` return "
            "one number an example, shape (batch,)."
        )

    def build(leaves: Leaves, batch: Batch, index: int) -> tuple[Total, Form]:
        pairs = pairs_of(objective.measure(batch))
        total, weights = total_of(pairs, 1.0), pairs.weights.to(pairs.sums)
        shares = torch.where(weights > 0, 1 / (weights * total.scale), 0.0)
        form = sandwich_form(leaves, [pairs.sums], lambda given, _: [given[0] * shares], index)
        return total, form

    return Product(
        objective, build, params=params, names=names, cache=cache, kind="empirical_fisher"
    )


def _counted(objective: Objective, batch: Batch) -> Tensor | None:
    if not isinstance(objective.loss, Supervised):
        return None
    targets = batch[1]
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return None
    ignored = getattr(objective.loss.criterion, "ignore_index", -100)
    return (targets != ignored).unsqueeze(1)


def product_of(kind: str, objective: Objective, **options: Any) -> Product:
    """The matrix of a given kind."""
    makers: Mapping[str, Callable[..., Product]] = {
        "hessian": hessian,
        "gauss_newton": gauss_newton,
        "fisher": fisher,
        "empirical_fisher": empirical_fisher,
    }
    return makers[kind](objective, **options)
