"""The probe: the losses at the points of a patch around the weights, without a trace."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.errors import ArgumentError, LossError
from lossatlas.guard import preserved_rng
from lossatlas.objective import Batch, Supervised
from lossatlas.objective.batches import split
from lossatlas.objective.weighted import batch_mean
from lossatlas.rng import derive_seed
from lossatlas.steering.preserved_modules import PreservedModules
from lossatlas.steering.probe_grid import PatchReading, ProbeGrid, read_patch

Closure = Callable[[], Tensor | float]


def read_probe(
    closure: Closure,
    weights: Iterable[Tensor],
    patch: ProbeGrid | None = None,
    *,
    model: nn.Module | None = None,
) -> PatchReading:
    """Sample a patch of the loss around the present weights.

    The patch lies on a plane of two random directions, drawn from its seed as signs and
    scaled to the size of each filter; vectors (biases, norm scales) stay still. All points
    see the same random numbers (dropout). Weights keep their storage and come back bit for
    bit, as do buffers, train/eval of all modules and the global random states. A cache of
    weights that autocast keeps is cleared.

    Args:
        closure: gives the loss at the present weights: a number, or one an example (then
            errors are those of sampling examples). Runs without gradients, in the modes that
            the modules are in.
        weights: what is moved; those that require no gradient stay.
        patch: where to look.
        model: what the closure runs; modules are found when they run by default. Needed only
            for a model compiled in place (`model.compile()`).

    Returns:
        Loss, sharpness, variability and persistence with their standard errors.

    Raises:
        ArgumentError: no closure, or no weights that move.
        LossError: the closure gives something else than losses.
    """
    losses = probe_losses(closure, weights, patch or ProbeGrid(), model=model)
    return read_patch(patch or ProbeGrid(), losses)


def probe_losses(
    closure: Closure,
    weights: Iterable[Tensor],
    patch: ProbeGrid,
    *,
    model: nn.Module | None = None,
) -> NDArray[np.float64]:
    """The losses at the points of a patch; see `read_probe`."""
    check_closure(closure)
    moved = [w for w in weights if w.requires_grad and w.is_floating_point()]
    if not moved:
        raise ArgumentError("`weights` must hold a tensor that requires a gradient; got none.")
    places = [w for w in moved if w.ndim > 1]
    plane = [_direction(places, patch.seed, axis) for axis in (0, 1)]
    kept = [w.detach().clone() for w in places]
    found: list[Tensor] = []
    with torch.no_grad(), PreservedModules(model).watched():
        try:
            for number, (a, b) in enumerate(patch.points.tolist()):
                if number and places:
                    torch._foreach_copy_(places, kept)
                    torch._foreach_add_(places, plane[0], alpha=a)
                    torch._foreach_add_(places, plane[1], alpha=b)
                found.append(_loss(closure))
        finally:
            if places:
                torch._foreach_copy_(places, kept)
            torch.clear_autocast_cache()
    shapes = {tuple(value.shape) for value in found}
    if len(shapes) > 1:
        raise LossError(f"`closure` must give losses of one shape; got {sorted(shapes)}.")
    return torch.stack(found).cpu().numpy()


def check_closure(closure: Any) -> None:
    """Require something that can be called."""
    if not callable(closure):
        raise ArgumentError(
            "`closure` must be a function without arguments that gives the loss at the present "
            f"weights; got {type(closure).__name__}."
        )


def sub_batch(
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], Tensor],
    batch: Batch,
    examples: int = 24,
) -> Closure:
    """A closure on the first examples of a batch: a probe costs as much as its closure.

    Args:
        model: called by the loss.
        loss: loss(model, batch); with `supervised(...)` the losses of examples are known.
        batch: any structure.
        examples: at most so many. Default 24.

    Returns:
        A closure for `read_probe` and `LandscapeLR.step`.
    """

    def closure() -> Tensor:
        part = split(batch, examples)[0]
        pairs = loss.pairs(model, part) if isinstance(loss, Supervised) else None
        if pairs is not None and bool((pairs.weights == pairs.weights[0]).all()):
            return pairs.sums / pairs.weights.to(pairs.sums)
        return batch_mean(loss(model, part))

    return closure


def _loss(closure: Closure) -> Tensor:
    # Autocast would go on with the casts of weights that have moved since.
    torch.clear_autocast_cache()
    with preserved_rng():
        value = closure()
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LossError(
            f"`closure` must give a number or one number an example; got {error}."
        ) from None
    if tensor.ndim > 1 or tensor.numel() == 0 or tensor.is_complex():
        raise LossError(
            "`closure` must give a number or one number an example; got shape "
            f"{tuple(tensor.shape)} of {tensor.dtype}."
        )
    return tensor.detach().double()


def _direction(weights: list[Tensor], seed: int, axis: int) -> list[Tensor]:
    direction = []
    for index, weight in enumerate(weights):
        flat = weight.detach().float()
        # Random signs have the length of a filter once they have its root mean square.
        size = flat.square().mean(tuple(range(1, flat.ndim)), keepdim=True).sqrt()
        signs = _signs(weight, derive_seed(seed, "probe", axis, index))
        direction.append(signs.mul_(size.to(signs)))
    return direction


def _signs(weight: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(weight.device).manual_seed(seed)
    bits = torch.randint(
        0, 2, weight.shape, generator=generator, device=weight.device, dtype=torch.int8
    )
    signs = torch.empty_like(weight, requires_grad=False)
    return signs.copy_(bits).mul_(2).sub_(1)
