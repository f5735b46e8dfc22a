"""Zero-cost proxies that look at the network's function: SynFlow, NASWOT, jacov."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch

Array = NDArray[np.float64]
# Forward passes of each: a backward pass counts as two.
COST = {"SynFlow": 3.0, "NASWOT": 1.0, "jacov": 3.0}
_RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6)


def proxies(model: nn.Module, batch: Batch, params: Params) -> dict[str, float]:
    """Proxies of one initialization; NaN where the network or the data have no such number."""
    inputs = batch[0] if isinstance(batch, list | tuple) else None
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return dict.fromkeys(COST, np.nan)
    routes: dict[str, Callable[[nn.Module, Tensor, Params], float]] = {
        "SynFlow": _synflow,
        "NASWOT": _naswot,
        "jacov": _jacov,
    }
    with preserved_modes(model):
        model.eval()
        return {name: route(model, inputs, params) for name, route in routes.items()}


def _synflow(model: nn.Module, inputs: Tensor, params: Params) -> float:
    # Products of absolute weights overflow float32 in deep networks.
    leaves = {name: value.abs().double().requires_grad_() for name, value in params.items()}
    frozen = _rest(model, params)
    with torch.enable_grad():
        out = functional_call(
            model, leaves | frozen, (torch.ones_like(inputs[:1]).double(),), strict=False
        )
        found = torch.autograd.grad(
            out.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    parts = zip(leaves.values(), found, strict=True)
    total = sum(float((w.detach() * g).abs().sum()) for w, g in parts)
    return float(np.log(total)) if total > 0 else float("nan")


def _rest(model: nn.Module, params: Params) -> dict[str, Tensor]:
    others = (*model.named_parameters(), *model.named_buffers())
    return {
        name: value.detach().double() if value.is_floating_point() else value
        for name, value in others
        if name not in params
    }


def _naswot(model: nn.Module, inputs: Tensor, params: Params) -> float:
    codes: list[Tensor] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        codes.append((output > 0).flatten(1).float())

    layers = [m for m in model.modules() if isinstance(m, _RECTIFIERS)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            functional_call(model, dict(params), (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    if not codes:
        return float("nan")
    code = torch.cat(codes, 1)
    agreement = (code @ code.mT + (1 - code) @ (1 - code).mT).double()
    # More examples than units make the agreement singular; the unit keeps it a number.
    sign, value = torch.linalg.slogdet(agreement + torch.eye(len(code), dtype=torch.float64))
    return float(value) if float(sign) > 0 and bool(value.isfinite()) else float("nan")


def _jacov(model: nn.Module, inputs: Tensor, params: Params) -> float:
    # More examples than inputs make the correlations singular.
    leaf = inputs[: max(2, inputs[0].numel() // 2)].detach().clone().requires_grad_()
    with torch.enable_grad():
        total = functional_call(model, dict(params), (leaf,)).sum()
        rows = torch.autograd.grad(total, leaf)[0].flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()) or not bool(lengths.isfinite().all()):
        return float("nan")
    values = torch.linalg.eigvalsh((rows / lengths) @ (rows / lengths).mT).clamp_min(0) + 1e-5
    return float(-(values.log() + 1 / values).sum())
