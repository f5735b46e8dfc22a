"""Losses of many networks of one architecture on their batches, in one pass."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Supervised
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import batch_mean
from lossatlas.training.criteria import Criterion, Loss

# (weights, buffers, batch) -> shape (members,); weights and buffers are stacked along axis 0.
Losses = Callable[[Params, Params, Batch], Tensor]
_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Identity)


def member_losses(model: nn.Module, loss: Loss, *, shared: bool) -> Losses:
    """Return a function that computes the mean loss of each member."""
    if (
        is_dense(model)
        and isinstance(loss, Supervised)
        and isinstance(loss.criterion, Criterion)
    ):
        losses = _dense_losses(cast(nn.Sequential, model), loss.criterion, shared=shared)
    else:
        losses = vmapped_losses(model, loss, shared=shared)

    def named(weights: Params, buffers: Params, batch: Batch) -> Tensor:
        with wrap_errors("`loss`", "check that model, loss and data match."):
            return losses(weights, buffers, batch)

    return named


def is_dense(model: nn.Module) -> bool:
    """Whether a model is a plain chain of dense layers and activations."""
    supported = (nn.Linear, *_ELEMENTWISE)
    return (
        type(model) is nn.Sequential
        and all(type(layer) in supported or _flattens(layer) for layer in model)
        and all(value.requires_grad for value in model.parameters())
        and len(list(model.parameters(recurse=True))) == len(model.state_dict())
    )


def vmapped_losses(model: nn.Module, loss: Loss, *, shared: bool) -> Losses:
    """The losses of any module through `torch.func.vmap`."""
    whole = WithLoss(model, loss)

    def one(weights: Params, buffers: Params, batch: Batch) -> Any:
        named = {f"model.{name}": value for name, value in (weights | buffers).items()}  # type: ignore[operator]
        return functional_call(whole, named, (batch,))

    every = vmap(one, in_dims=(0, 0, None if shared else 0), randomness="different")

    def losses(weights: Params, buffers: Params, batch: Batch) -> Tensor:
        # The fused attention of the CPU has no rule for vmap.
        with sdpa_kernel(SDPBackend.MATH):
            return cast(Tensor, every(dict(weights), dict(buffers), batch))

    return losses


class WithLoss(nn.Module):
    """A network with its loss, as one module: batch -> mean loss."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.training = model.training

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        value = self.loss(self.model, batch)
        return batch_mean(value)


def _dense_losses(model: nn.Sequential, criterion: Criterion, *, shared: bool) -> Losses:
    def losses(weights: Params, buffers: Params, batch: Batch) -> Tensor:
        members = len(next(iter(weights.values())))
        inputs, targets = (
            (part.expand(members, *part.shape) if shared else part) for part in batch
        )
        hidden = inputs
        for name, layer in model.named_children():
            hidden = _layer(name, layer, hidden, weights)
        examples = criterion.per_example(hidden.flatten(0, 1), targets.flatten(0, 1))
        return examples.view(members, -1).mean(1)

    return losses


def _layer(name: str, layer: nn.Module, hidden: Tensor, weights: Params) -> Tensor:
    if isinstance(layer, nn.Flatten):
        return hidden.flatten(2)
    if not isinstance(layer, nn.Linear):
        return cast(Tensor, layer(hidden))
    weight = weights[f"{name}.weight"].mT
    if layer.bias is None:
        return torch.bmm(hidden, weight)
    return torch.baddbmm(weights[f"{name}.bias"].unsqueeze(1), hidden, weight)


def _flattens(layer: nn.Module) -> bool:
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
