"""All penalties in one loss: what is switched on is there, or it is an error."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.cvp import GateMode, cvp_penalty
from lossatlas.steering.penalties.dmta import DMTATracker, dmta_penalty
from lossatlas.steering.penalties.sasp import KINDS, SaspKind, sasp_penalty
from lossatlas.steering.penalties.sbmp import sbmp_penalty
from lossatlas.steering.penalties.terms import check_weight
from lossatlas.topology.losses import persistence_penalty, signature_loss
from lossatlas.topology.torch_layers import grid_bars

# Term -> the inputs that it cannot do without.
NEEDS: dict[str, tuple[str, ...]] = {
    "sasp": ("logits", "features"),
    "cvp": ("params",),
    "sbmp": ("clean_logits", "model_fn", "embeddings"),
    "dmta": ("dmta_grad_vector", "dmta_tracker"),
    "signature": ("clouds",),
    "persistence": ("field",),
}


class TopologicalLoss(nn.Module):
    """A loss plus any of the penalties, each with its weight, warm-up and log.

    Args:
        sasp_weight: weight of `sasp_penalty`.
        cvp_weight: weight of `cvp_penalty`.
        sbmp_weight: weight of `sbmp_penalty`.
        dmta_weight: weight of `dmta_penalty` (the tracker's own `weight` plays no part).
        signature_weight: weight of `signature_loss`: features keep the distances that make
            the components of their inputs.
        persistence_weight: weight of `persistence_penalty`: all but the deepest basin of a
            field (losses on a plane of weights, say) are filled.
        sasp_kind: "ggn" or "fisher".
        sasp_include_bias: whether the head has a bias.
        cvp_mode: "cautious" or "expansion".
        cvp_beta: steepness of CVP's gate.
        sbmp_alpha: length of SBMP's move.
        sbmp_symmetric: average both directions of its divergence.
        warmup: calls in training mode over which a weight grows linearly to its value: one
            number for all, or term -> number. Default 0.

    Attributes:
        components: of the last call, "base" and every term that is on, detached, unweighted.
        weights: of the last call, term -> weight with its warm-up.

    Raises:
        ArgumentError: a negative weight.
        UnknownNameError: an unknown kind, mode or term.

    Examples:
        >>> loss = TopologicalLoss(sasp_weight=0.1)
        >>> logits, features = torch.zeros(4, 2), torch.ones(4, 3)
        >>> loss(torch.tensor(1.0), logits=logits, features=features).item()
        1.2000000476837158
    """

    calls: Tensor

    def __init__(
        self,
        sasp_weight: float = 0.0,
        cvp_weight: float = 0.0,
        sbmp_weight: float = 0.0,
        dmta_weight: float = 0.0,
        *,
        signature_weight: float = 0.0,
        persistence_weight: float = 0.0,
        sasp_kind: SaspKind = "ggn",
        sasp_include_bias: bool = True,
        cvp_mode: GateMode = "cautious",
        cvp_beta: float = 50.0,
        sbmp_alpha: float = 5.0,
        sbmp_symmetric: bool = True,
        warmup: int | Mapping[str, int] = 0,
    ) -> None:
        super().__init__()
        check_one_of("sasp_kind", sasp_kind, KINDS)
        given = {
            "sasp": sasp_weight,
            "cvp": cvp_weight,
            "sbmp": sbmp_weight,
            "dmta": dmta_weight,
            "signature": signature_weight,
            "persistence": persistence_weight,
        }
        self.full_weights = {
            term: check_weight(f"{term}_weight", v) for term, v in given.items()
        }
        self.warmup = _warmups(warmup)
        self.sasp_kind, self.sasp_include_bias = sasp_kind, sasp_include_bias
        self.cvp_mode, self.cvp_beta = cvp_mode, cvp_beta
        self.sbmp_alpha, self.sbmp_symmetric = sbmp_alpha, sbmp_symmetric
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.components: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def forward(
        self,
        base_loss: Tensor,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        params: Iterable[Tensor] | None = None,
        grads: Sequence[Tensor | None] | None = None,
        clean_logits: Tensor | None = None,
        model_fn: Callable[[Tensor], Tensor] | None = None,
        embeddings: Tensor | None = None,
        generator: torch.Generator | None = None,
        dmta_grad_vector: Tensor | Sequence[Tensor] | None = None,
        dmta_tracker: DMTATracker | None = None,
        clouds: tuple[Tensor, Tensor] | None = None,
        field: Tensor | None = None,
        return_components: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss with its penalties.

        Args:
            base_loss: a scalar.
            logits: for SASP.
            features: for SASP.
            targets: for SASP.
            mask: for SASP and SBMP.
            params: for CVP.
            grads: for CVP; by default `.grad` of the parameters.
            clean_logits: for SBMP; `logits` by default.
            model_fn: for SBMP.
            embeddings: for SBMP.
            generator: for SBMP.
            dmta_grad_vector: for DMTA.
            dmta_tracker: for DMTA.
            clouds: for the signature: two (points, ...) tensors of the same examples.
            field: for persistence: a grid of losses, with gradient.
            return_components: also give the components. Default False.

        Returns:
            A scalar, or (scalar, components).

        Raises:
            ArgumentError: a term is switched on without its inputs; a loss that is no scalar.
        """
        if base_loss.ndim:
            raise ArgumentError(
                f"`base_loss` must be a scalar; got shape {tuple(base_loss.shape)}: reduce it."
            )
        given: dict[str, Any] = {
            "logits": logits,
            "features": features,
            "targets": targets,
            "mask": mask,
            "params": params,
            "grads": grads,
            "clean_logits": logits if clean_logits is None else clean_logits,
            "model_fn": model_fn,
            "embeddings": embeddings,
            "generator": generator,
            "dmta_grad_vector": dmta_grad_vector,
            "dmta_tracker": dmta_tracker,
            "clouds": clouds,
            "field": field,
        }
        active = [term for term, weight in self.full_weights.items() if weight > 0]
        for term in active:
            _check_given(term, given)
        values = {term: cast(Tensor, getattr(self, f"_{term}")(given)) for term in active}
        self.weights = {term: self.full_weights[term] * self._progress(term) for term in active}
        self.calls += int(self.training)
        total = base_loss
        for term, value in values.items():
            total = total + self.weights[term] * value
        self.components = {"base": base_loss.detach()}
        self.components |= {term: value.detach() for term, value in values.items()}
        return (total, self.components) if return_components else total

    def _progress(self, term: str) -> float:
        length = self.warmup[term]
        return min((int(self.calls) + 1) / length, 1.0) if length else 1.0

    def _sasp(self, given: dict[str, Any]) -> Tensor:
        return sasp_penalty(
            given["logits"],
            given["features"],
            given["targets"],
            kind=self.sasp_kind,
            include_bias=self.sasp_include_bias,
            mask=given["mask"],
        )

    def _cvp(self, given: dict[str, Any]) -> Tensor:
        return cvp_penalty(given["params"], given["grads"], self.cvp_beta, mode=self.cvp_mode)

    def _sbmp(self, given: dict[str, Any]) -> Tensor:
        return sbmp_penalty(
            given["clean_logits"],
            given["model_fn"],
            given["embeddings"],
            self.sbmp_alpha,
            self.sbmp_symmetric,
            mask=given["mask"],
            generator=given["generator"],
        )

    def _dmta(self, given: dict[str, Any]) -> Tensor:
        return dmta_penalty(given["dmta_grad_vector"], given["dmta_tracker"].averages)

    def _signature(self, given: dict[str, Any]) -> Tensor:
        first, second = given["clouds"]
        return signature_loss(first.flatten(1), second.flatten(1)) / len(first)

    def _persistence(self, given: dict[str, Any]) -> Tensor:
        return persistence_penalty(grid_bars(given["field"]))


def _check_given(term: str, given: Mapping[str, Any]) -> None:
    missing = [name for name in NEEDS[term] if given[name] is None]
    if missing:
        raise ArgumentError(
            f"`{term}_weight` is above zero, so {' and '.join(f'`{m}`' for m in missing)} must "
            f"be given; pass them, or set `{term}_weight=0`."
        )


def _warmups(warmup: int | Mapping[str, int]) -> dict[str, int]:
    named = dict.fromkeys(NEEDS, warmup) if isinstance(warmup, int) else dict(warmup)
    for term, length in named.items():
        check_one_of("warmup", term, NEEDS)
        check_at_least(f"warmup of {term}", length, 0)
    return dict.fromkeys(NEEDS, 0) | named
