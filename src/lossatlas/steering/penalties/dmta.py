"""DMTA: gradients that keep to the direction they have had for long."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_tensors
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share, check_weight

Vector = Tensor | Sequence[Tensor]


def dmta_penalty(g: Vector, mbar: Vector, eps: float = 1e-3) -> Tensor:
    """One minus the cosine between a gradient and a slow average of gradients.

    The length of `g` is rounded off below `eps` times that of `mbar`, so that the penalty and
    its gradient stay finite where `g` vanishes.

    Args:
        g: the gradient, one tensor or one a parameter, with its graph (`create_graph=True`).
        mbar: the average, of the same shapes; no gradient goes through it.
        eps: share of the length of `mbar` below which a gradient counts as none. Default 1e-3.

    Returns:
        A scalar in [0, 2]; 1 without gradient where `mbar` is zero.

    Raises:
        ArgumentError: other shapes, or `eps` not above zero.

    Source: Topological Loss Engineering, doi:10.5281/zenodo.20497841; rounding ours.

    Examples:
        >>> dmta_penalty(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()
        1.0
    """
    if check_weight("eps", eps) == 0:
        raise ArgumentError("`eps` must be a number > 0; got 0.")
    eps = check_weight("eps", eps)
    first, second = _parts(g), _parts(mbar)
    if [p.shape for p in first] != [p.shape for p in second]:
        raise ArgumentError(
            "`g` and `mbar` must have the same shapes; got "
            f"{[tuple(p.shape) for p in first]} and {[tuple(p.shape) for p in second]}."
        )
    fixed = [p.detach() for p in second]
    inner = torch.stack([(a * b).sum() for a, b in zip(first, fixed, strict=True)]).sum()
    square = torch.stack([a.square().sum() for a in first]).sum()
    length = torch.stack([b.square().sum() for b in fixed]).sum()
    has_direction = length > 0
    product = torch.where(has_direction, (square + eps**2 * length) * length, 1.0)
    return 1 - torch.where(has_direction, inner, 0.0) / product.sqrt()


class DMTATracker(nn.Module):
    """The slow average of gradients, bias-corrected, in the shape of the parameters.

    Args:
        params: the parameters; only their shapes are kept. A whole number makes one flat
            vector of that length.
        mu: decay of the average, in [0, 1). Default 0.9999.
        weight: of the penalty, >= 0. Default 1e-2.

    Raises:
        ArgumentError: no parameters, or numbers out of range.

    Examples:
        >>> w = torch.ones(2)
        >>> tracker = DMTATracker([w], mu=0.9)
        >>> tracker.update([torch.tensor([1.0, 0.0])])
        >>> tracker.averages[0]
        tensor([1., 0.])
    """

    count: Tensor

    def __init__(
        self, params: Iterable[Tensor] | int, mu: float = 0.9999, weight: float = 1e-2
    ) -> None:
        super().__init__()
        self.mu, self.weight = check_share("mu", mu), check_weight("weight", weight)
        if isinstance(params, int):
            check_at_least("params", params, 1)
            shapes = [torch.empty(params)]
        else:
            shapes = check_tensors("params", params)
        if not shapes:
            raise ArgumentError("`params` must hold at least one tensor; got none.")
        for index, p in enumerate(shapes):
            self.register_buffer(f"average_{index}", torch.zeros_like(p, requires_grad=False))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def averages(self) -> list[Tensor]:
        """The bias-corrected average.

        Returns:
            One tensor a parameter; zeros before the first update.
        """
        share = 1 - self.mu ** int(self.count)
        return [average / share if share else average for average in self._averages]

    @property
    def _averages(self) -> list[Tensor]:
        return [buffer for name, buffer in self.named_buffers() if name != "count"]

    def update(self, grads: Vector) -> None:
        """Take a gradient in.

        Args:
            grads: one tensor a parameter; its graph is left alone.

        Raises:
            ArgumentError: other shapes.
        """
        averages, fresh = self._averages, _parts(grads)
        if [p.shape for p in fresh] != [p.shape for p in averages]:
            raise ArgumentError(
                f"`grads` must be shaped {[tuple(p.shape) for p in averages]}; got "
                f"{[tuple(p.shape) for p in fresh]}."
            )
        for average, grad in zip(averages, fresh, strict=True):
            average.mul_(self.mu).add_(grad.detach(), alpha=1 - self.mu)
        self.count += 1

    def penalty(self, grads: Vector) -> Tensor:
        """`weight` times `dmta_penalty` of a gradient and the average.

        Args:
            grads: one tensor a parameter, with its graph.

        Returns:
            A scalar; `weight` before the first update.
        """
        return self.weight * dmta_penalty(grads, self.averages)


def _parts(vector: Vector) -> list[Tensor]:
    return [vector] if isinstance(vector, Tensor) else list(vector)
