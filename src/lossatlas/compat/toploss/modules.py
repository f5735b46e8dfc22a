"""The modules of toploss 0.1.0."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.compat.toploss.functional import cvp_penalty, sasp_penalty_closed_form
from lossatlas.steering import penalties as ours
from lossatlas.steering.penalties.terms import check_weight


class SASPLoss(nn.Module):
    """`rho` times `sasp_penalty_closed_form`.

    Args:
        rho: weight. Default 1e-2.
        include_bias: whether the head has a bias. Default True.
    """

    def __init__(self, rho: float = 1e-2, include_bias: bool = True) -> None:
        super().__init__()
        self.rho, self.include_bias = check_weight("rho", rho), include_bias

    def forward(self, logits: Tensor, features: Tensor, targets: Tensor) -> Tensor:
        """The weighted penalty.

        Args:
            logits: as in `sasp_penalty_closed_form`.
            features: likewise.
            targets: likewise.

        Returns:
            A scalar.
        """
        return self.rho * sasp_penalty_closed_form(logits, features, targets, self.include_bias)


class CVPRegularizer(nn.Module):
    """`lam` times `cvp_penalty`.

    Args:
        lam: weight. Default 1e-2.
        beta: steepness of the gate. Default 50.
    """

    def __init__(self, lam: float = 1e-2, beta: float = 50.0) -> None:
        super().__init__()
        self.lam, self.beta = check_weight("lam", lam), beta

    def forward(
        self, params: Sequence[Tensor], grads: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """The weighted penalty.

        Args:
            params: as in `cvp_penalty`.
            grads: likewise.

        Returns:
            A scalar.
        """
        return self.lam * cvp_penalty(params, grads, self.beta)


class SBMPLoss(ours.SBMPLoss):
    """`SBMPLoss` of lossatlas, whose `weight` is called `lam`.

    Args:
        lam: weight. Default 1.
        alpha: length of the move. Default 5.
        symmetric_kl: average both directions. Default True.
    """

    def __init__(self, lam: float = 1.0, alpha: float = 5.0, symmetric_kl: bool = True) -> None:
        super().__init__(lam, alpha, symmetric_kl)
        self.lam = lam


class DMTATracker(ours.DMTATracker):
    """`DMTATracker` of lossatlas over one flat vector; its `weight` is called `lam`.

    Args:
        dim: length of the vector.
        mu: decay of the average. Default 0.9999.
        lam: weight. Default 1e-2.
    """

    def __init__(self, dim: int, mu: float = 0.9999, lam: float = 1e-2) -> None:
        super().__init__(dim, mu, lam)
        self.lam = lam

    @property
    def ema(self) -> Tensor:
        """The average, bias-corrected: the first update is the first gradient, as there."""
        return self.averages[0]


class NGERWeighter(ours.NGERWeighter):
    """`NGERWeighter` of lossatlas: a task that improves keeps its weight.

    Args:
        num_tasks: how many.
        gamma: as in `nger_weights`. Default 1.
        window: steps over which losses are smoothed. Default 200.
        eps: as in `nger_weights`. Default 1e-6.
    """

    def __init__(
        self, num_tasks: int, gamma: float = 1.0, window: int = 200, eps: float = 1e-6
    ) -> None:
        super().__init__(num_tasks, gamma, window, eps)

    def forward(self, task_losses: Any, ntk_proxies: Any = None) -> Tensor:  # type: ignore[override]
        """The weights of this step.

        Args:
            task_losses: one a task: a tensor, or scalars in a list.
            ntk_proxies: likewise.

        Returns:
            Shape (tasks,), sums to 1.
        """
        given = None if ntk_proxies is None else _stacked(ntk_proxies)
        return super().forward(_stacked(task_losses), given)


class TopologicalLoss(ours.TopologicalLoss):
    """`TopologicalLoss` of lossatlas by the original's keywords.

    Args:
        lambda_sasp: weight of SASP.
        lambda_cvp: weight of CVP.
        lambda_sbmp: weight of SBMP.
        lambda_dmta: weight of DMTA.
        sasp_include_bias: whether the head has a bias. Default True.
        cvp_beta: steepness of the gate. Default 50.
        sbmp_alpha: length of the move. Default 5.
    """

    def __init__(
        self,
        lambda_sasp: float = 0.0,
        lambda_cvp: float = 0.0,
        lambda_sbmp: float = 0.0,
        lambda_dmta: float = 0.0,
        sasp_include_bias: bool = True,
        cvp_beta: float = 50.0,
        sbmp_alpha: float = 5.0,
    ) -> None:
        super().__init__(
            lambda_sasp,
            lambda_cvp,
            lambda_sbmp,
            lambda_dmta,
            sasp_kind="fisher",
            sasp_include_bias=sasp_include_bias,
            cvp_mode="expansion",
            cvp_beta=cvp_beta,
            sbmp_alpha=sbmp_alpha,
        )

    def _cvp(self, given: dict[str, Any]) -> Tensor:
        return cvp_penalty(given["params"], given["grads"], self.cvp_beta)


def _stacked(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.stack([torch.as_tensor(v) for v in values])
