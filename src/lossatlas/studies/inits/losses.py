"""True losses of many networks on one batch, thousands at a time."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lossatlas.errors import AtlasError
from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch, Supervised
from lossatlas.objective.batches import tensors
from lossatlas.objective.weighted import batch_mean
from lossatlas.studies.inits.chains import Chain, read_chain
from lossatlas.training.criteria import Criterion, Loss
from lossatlas.training.members import vmapped_losses

# (weights stacked along axis 0) -> shape (members,).
Many = Callable[[Params], Tensor]
TOLERANCE = 1e-5
# Activations of the members that are computed side by side stay in the second-level cache.
_CACHE = 512 << 10
_MOST = 256


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
            found = [self._measure(dict(zip(weights, g, strict=True))) for g in groups]
        return torch.cat(found)

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
        whole = Measured(self.model, self.loss)
        return batch_mean(functional_call(whole, named, (self.batch,)))

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


class Measured(nn.Module):
    """A network with its loss, as one module: batch -> loss.

    Args:
        model: the network.
        loss: loss(model, batch).
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.training = model.training

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch.

        Args:
            batch: what the loss takes.

        Returns:
            What it gives.
        """
        return self.loss(self.model, batch)


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
