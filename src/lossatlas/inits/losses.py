"""True losses of many networks on one batch, thousands at a time.

A chain of layers is computed for many networks in few large products. Members stand side by
side: those of a dense layer in one batched product, those of a convolution as groups of one
convolution with channels last. All members read the same data, so the first layer is one
product with all their weights.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lossatlas.errors import AtlasError
from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Supervised
from lossatlas.objective.batches import tensors
from lossatlas.training.criteria import Criterion, Loss
from lossatlas.training.members import WithLoss, vmapped_losses

# (weights stacked along axis 0) -> shape (members,).
Many = Callable[[Params], Tensor]
TOLERANCE = 1e-5
# Activations of the members that are computed side by side stay in the second-level cache.
_CACHE = 512 << 10
_MOST = 256
_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid)
_IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_WIDE = 4


@dataclass(frozen=True)
class Chain:
    """Layers that follow one another.

    Attributes:
        layers: (name, module) each; activations that commute with pooling stand after it.
        dense: whether there are no convolutions.
    """

    layers: tuple[tuple[str, nn.Module], ...]
    dense: bool

    def sizes(self, example: Tensor, examples: int, cache: int) -> tuple[int, int]:
        """How many members and examples to compute side by side."""
        widest, value = 1, example
        for _, layer in self.layers:
            value = layer(value)
            if not isinstance(layer, nn.Flatten):
                widest = max(widest, value.nbytes)
        if self.dense:
            return max(1, min(64, cache // (widest * examples))), examples
        return _WIDE, max(1, min(examples, _WIDE * cache // (_WIDE * widest)))

    def prepared(self, inputs: Tensor) -> Tensor:
        """Examples laid out as the first layer likes them."""
        if self.dense:
            return inputs.flatten(1).T.contiguous()
        return inputs.contiguous(memory_format=torch.channels_last)

    def outputs(self, pieces: Sequence[Tensor], weights: Params) -> Tensor:
        """What all members give for all examples."""
        return torch.cat([self._one(piece, weights) for piece in pieces], dim=2)

    def _one(self, value: Tensor, weights: Params) -> Tensor:
        members = len(next(iter(weights.values())))
        flat, first = self.dense, True
        for name, layer in self.layers:
            if isinstance(layer, nn.Flatten):
                if not flat:
                    value, flat = _flattened(value, members), True
            elif isinstance(layer, nn.Linear):
                value = _product(name, value, weights, first=first and self.dense)
                first = False
            elif isinstance(layer, nn.Conv2d):
                value = _convolved(name, layer, value, weights, first=first)
                first = False
            elif isinstance(layer, nn.BatchNorm2d):
                value = _normalized(name, layer, value, weights, members)
            elif isinstance(layer, nn.ReLU):
                # The data themselves must stay as they are.
                value = value.relu() if first else value.relu_()
            else:
                value = layer(value)
        return value


def read_chain(model: nn.Module) -> Chain | None:
    """A network as a chain of layers that can be computed side by side."""
    if type(model) is not nn.Sequential or not _all_trained(model):
        return None
    layers = [(n, layer) for n, layer in model.named_children() if not isinstance(layer, _IDLE)]
    if not all(_known(layer) for _, layer in layers):
        return None
    kinds = [type(layer) for _, layer in layers]
    weighted = [kind for kind in kinds if kind in {nn.Linear, nn.Conv2d}]
    dense = nn.Conv2d not in weighted
    starts = nn.Linear if dense else nn.Conv2d
    if not weighted or weighted[0] is not starts or weighted != sorted(weighted, key=_order):
        return None
    return Chain(tuple(_pooled_first(layers)), dense)


def _all_trained(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    shared = len(dict(model.named_parameters(remove_duplicate=False))) != len(parameters)
    return all(p.requires_grad for p in parameters) and not shared


def _order(kind: type) -> int:
    return 0 if kind is nn.Conv2d else 1


def _known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros"
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats
    return type(layer) in {nn.Linear, *_ELEMENTWISE, *_POOLS}


def _pooled_first(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    # The largest of rectified values is the rectified largest: a quarter of the work.
    ordered = list(layers)
    for index in range(len(ordered) - 1):
        layer, after = ordered[index][1], ordered[index + 1][1]
        if isinstance(layer, nn.ReLU) and isinstance(after, nn.MaxPool2d):
            ordered[index], ordered[index + 1] = ordered[index + 1], ordered[index]
    return ordered


def _flattened(value: Tensor, members: int) -> Tensor:
    examples = len(value)
    each = value.reshape(examples, members, math.prod(value.shape[1:]) // members)
    return each.permute(1, 2, 0)


def _product(name: str, value: Tensor, weights: Params, *, first: bool) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    if first:
        members, outputs, inputs = weight.shape
        product = weight.reshape(members * outputs, inputs) @ value
        if bias is not None:
            product += bias.reshape(-1, 1)
        return product.view(members, outputs, -1)
    if bias is None:
        return torch.bmm(weight, value)
    return torch.baddbmm(bias.unsqueeze(2), weight, value)


def _convolved(
    name: str, layer: nn.Conv2d, value: Tensor, weights: Params, *, first: bool
) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    members = len(weight)
    # Before the first layer there is one picture for all; groups of its own need copies.
    shared = first and layer.groups == 1
    if first and not shared:
        value = value.repeat(1, members, 1, 1)
    flat = weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(
        value,
        flat,
        None if bias is None else bias.flatten(),
        layer.stride,
        layer.padding,
        layer.dilation,
        1 if shared else members * layer.groups,
    )


def _normalized(
    name: str, layer: nn.BatchNorm2d, value: Tensor, weights: Params, members: int
) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    return F.batch_norm(
        value,
        mean.repeat(members),
        variance.repeat(members),
        weights[f"{name}.weight"].flatten(),
        weights[f"{name}.bias"].flatten(),
        eps=layer.eps,
    )


class TrueLosses:
    """The mean loss of a batch at many points of parameter space, in eval mode.

    Chains of dense layers, convolutions, pooling and activations are computed as few large
    products (the first layer reads the same data for all members, so it is one); every other
    network goes through `torch.func.vmap`, and what vmap cannot serve through a plain loop. A
    fast way is taken only if it agrees with the plain loop on the first members.

    Args:
        model: the architecture; not changed.
        loss: loss(model, batch), a number or one number an example.
        batch: on the model's device.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch) -> None:
        self.model, self.loss, self.batch = model, loss, batch
        self.engine = ""
        self._many: Many | None = None
        self._together = _MOST

    def __call__(self, weights: Params) -> Tensor:
        """The losses of all members."""
        with torch.no_grad(), preserved_modes(self.model):
            self.model.eval()
            if self._many is None:
                self._choose({name: value[:2] for name, value in weights.items()})
            groups = zip(
                *(torch.split(v, self._together) for v in weights.values()), strict=True
            )
            losses = [self._measure(dict(zip(weights, g, strict=True))) for g in groups]
        return torch.cat(losses)

    def _measure(self, weights: Params) -> Tensor:
        assert self._many is not None
        return self._many(weights).double().cpu()

    def _choose(self, few: Params) -> None:
        slow = self._one_by_one(few).double()
        ways = [("chain", self._chained()), ("vmap", self._vmapped())]
        self.engine, self._many, self._together = "plain", self._one_by_one, 1
        for name, (way, together) in (w for w in ways if w[1] is not None):
            if way is not None and _agrees(way, few, slow):
                self.engine, self._many, self._together = name, way, together
                return

    def _one_by_one(self, weights: Params) -> Tensor:
        members = len(next(iter(weights.values())))
        return torch.stack(
            [self._one({n: v[index] for n, v in weights.items()}) for index in range(members)]
        )

    def _one(self, weights: Params) -> Tensor:
        named = {f"model.{name}": value for name, value in weights.items()}
        loss: Tensor = functional_call(WithLoss(self.model, self.loss), named, (self.batch,))
        return loss

    def _chained(self) -> tuple[Many | None, int]:
        chain = read_chain(self.model)
        criterion = self.loss.criterion if isinstance(self.loss, Supervised) else None
        if chain is None or not isinstance(criterion, Criterion):
            return None, 1
        inputs, targets = self.batch
        if inputs.is_cuda:
            return _chain_losses(chain, criterion, inputs, targets, len(inputs)), _MOST
        together, piece = chain.sizes(inputs[:1], len(inputs), _CACHE)
        return _chain_losses(chain, criterion, inputs, targets, piece), together

    def _vmapped(self) -> tuple[Many | None, int]:
        every = vmapped_losses(self.model, self.loss, shared=True)
        buffers = dict(self.model.named_buffers())

        def many(weights: Params) -> Tensor:
            members = len(next(iter(weights.values())))
            stacked = {n: b.expand(members, *b.shape) for n, b in buffers.items()}
            return every(weights, stacked, self.batch)

        bytes_each = sum(value.nbytes for value in tensors(self.batch))
        return many, max(1, min(_MOST, (64 << 20) // max(1, 16 * bytes_each)))


def _chain_losses(
    chain: Chain, criterion: Criterion, inputs: Tensor, targets: Tensor, piece: int
) -> Many:
    pieces = [chain.prepared(part) for part in torch.split(inputs, piece)]

    def many(weights: Params) -> Tensor:
        # Shape (members, outputs, examples): the classes stand where sums over them are fast.
        outputs = chain.outputs(pieces, weights)
        members, _, examples = outputs.shape
        if criterion.name == "cross_entropy":
            every = targets.expand(members, examples)
            losses = nn.functional.cross_entropy(outputs, every, reduction="none")
            return losses.mean(1)
        flat = outputs.mT.reshape(members * examples, -1)
        repeated = targets.expand(members, *targets.shape).flatten(0, 1)
        return criterion.per_example(flat, repeated).view(members, -1).mean(1)

    return many


def _agrees(way: Many, few: Params, slow: Tensor) -> bool:
    try:
        fast = way(few).double()
    except (AtlasError, RuntimeError, ValueError, TypeError, AttributeError, LookupError):
        # Whatever a network does that the fast way does not know shows here, once: the slow
        # way has been there without a fault.
        return False
    return torch.allclose(fast, slow, rtol=TOLERANCE, atol=1e-7, equal_nan=True)
