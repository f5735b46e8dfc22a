"""The probe: the losses at the points of a grid around the weights, without a trace."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_positive, check_tensors
from lossatlas.errors import ArgumentError, LossError
from lossatlas.guard import PreservedModules, preserved_rng
from lossatlas.objective import Batch, Supervised
from lossatlas.objective.batches import split
from lossatlas.objective.weighted import batch_mean
from lossatlas.result import Estimate, Result, result
from lossatlas.rng import derive_seed
from lossatlas.shards import is_sharded, own_piece, piece_of, reshard, whole
from lossatlas.text import count, number
from lossatlas.topology.filtration import graph
from lossatlas.topology.persistence import persistence

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeGrid:
    """Where a probe looks: the center, a ring of eight neighbors, and pairs farther out.

    Every point but the center has its mirror image among the points, so that slopes cancel from
    the mean exactly. The points are the same at every reading.

    Attributes:
        step: distance of the neighbors along each axis, in lengths of the weights' filters.
            Default 0.0171, that of topoadamw 0.1.0.
        span: the points farther out lie in [-span, span]^2. Default 0.12.
        pairs: how many pairs of them. Default 4.
        seed: of those points and of the directions.

    Raises:
        ArgumentError: numbers out of range.

    Examples:
        >>> ProbeGrid(pairs=2).points.shape
        (13, 2)
    """

    step: float = 2 * 0.12 / 14
    span: float = 0.12
    pairs: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("step", self.step)
        check_positive("span", self.span)
        check_at_least("pairs", self.pairs, 0)
        check_at_least("seed", self.seed, 0)

    @cached_property
    def points(self) -> Array:
        """Coordinates on the plane, shape (9 + 2 pairs, 2): center, ring, pairs.

        Mirror images follow each other from the second point on.
        """
        half = self.step * np.array([(1, 0), (1, 1), (0, 1), (-1, 1)], dtype=np.float64)
        drawn = np.random.default_rng(derive_seed(self.seed, "patch"))
        far = drawn.uniform(-self.span, self.span, (self.pairs, 2))
        sides = np.concatenate([half, far])
        mirrored = np.stack([sides, -sides], axis=1).reshape(-1, 2)
        return np.concatenate([np.zeros((1, 2)), mirrored])

    @property
    def ring(self) -> slice:
        """The neighbors among the points."""
        return slice(1, 9)

    @cached_property
    def edges(self) -> Any:
        """Pairs of points that touch: the triangulation of the grid, shape (edges, 2)."""
        from scipy.spatial import Delaunay

        triangles = Delaunay(self.points).simplices
        sides = np.concatenate(
            [triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]]
        )
        return np.unique(np.sort(sides, axis=1), axis=0)


@result("probe-reading")
class ProbeReading(Result):
    """The indicators of a probe with their standard errors.

    Attributes:
        loss: of the batch at the present weights, in units of the loss.
        sharpness: how much higher the neighbors are, on average: (mean - loss) / loss.
        variability: standard deviation of all probed losses over their mean.
        persistence: total length of the finite bars of degree 0, in units of the loss: how
            far the points are from one bowl.
        bars: how many of these bars are longer than two of their errors.

    Examples:
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> reading = read_probe(lambda: w.square().sum(), [w])
        >>> reading.loss.value, reading.bars
        (4.0, 0)
    """

    loss: Estimate
    sharpness: Estimate
    variability: Estimate
    persistence: Estimate
    bars: int

    @property
    def values(self) -> dict[str, float]:
        """The numbers and errors under the names that `Reading` has for them."""
        named = {e.name: e for e in self.estimates()}
        plain = {name: estimate.value for name, estimate in named.items()}
        errors = {f"{name}_error": estimate.stderr for name, estimate in named.items()}
        return plain | errors | {"bars": self.bars}

    def sentences(self) -> tuple[str, ...]:
        """How the loss around the weights differs from the loss at them."""
        bars = count(self.bars, "bar is", "bars are")
        return (
            f"The neighbors are {number(100 * self.sharpness.value, 3)} % higher than the loss "
            f"at the weights, {self.loss}.",
            f"{bars} longer than two standard errors.",
        )


def read_losses(grid: ProbeGrid, losses: Array) -> ProbeReading:
    """The indicators of the losses at the points of a grid."""
    means = losses.mean(1) if losses.ndim == 2 else losses
    nan = float("nan")
    if not np.isfinite(means).all():
        return _probe_reading((float(means[0]), nan, nan, nan), (nan,) * 4, 0)
    bars = persistence(graph(means, grid.edges)).bars()
    lengths = bars[:, 1] - bars[:, 0]
    if losses.ndim == 1 or losses.shape[1] < 2:
        errors, each = _jackknife(means), np.full(len(bars), np.inf)
    else:
        errors, each = _sampling(means, losses, bars)
    if not len(bars):
        # Where no bar was seen nothing is known of the bars of other samples.
        errors[3] = nan
    values = float(means[0]), _sharpness(means), _variability(means), float(lengths.sum())
    return _probe_reading(values, errors, int(np.count_nonzero(lengths > 2 * each)))


def _probe_reading(values: Sequence[float], errors: Iterable[float], bars: int) -> ProbeReading:
    names = ("loss", "sharpness", "variability", "persistence")
    why = "a single loss, or one that is not finite, has no standard error"
    parts = {
        name: Estimate(
            value, float(error), why_no_error=None if np.isfinite(error) else why, name=name
        )
        for name, value, error in zip(names, values, errors, strict=True)
    }
    return ProbeReading(**parts, bars=bars)


def _sharpness(means: Array) -> float:
    return float((means[1:9].mean() - means[0]) / (means[0] + 1e-8))


def _variability(means: Array) -> float:
    return float(means.std() / (means.mean() + 1e-8))


def _jackknife(means: Array) -> Array:
    count = (len(means) - 1) // 2
    statistics = []
    for pair in range(count):
        others = np.delete(means, [1 + 2 * pair, 2 + 2 * pair])
        ring = others[1 : 7 if pair < 4 else 9]
        sharp = (ring.mean() - others[0]) / (others[0] + 1e-8)
        statistics.append([sharp if pair < 4 else np.nan, _variability(others)])
    table = np.array(statistics)

    def error(column: Array) -> float:
        n = len(column)
        return float(np.sqrt((n - 1) / n * ((column - column.mean()) ** 2).sum()))

    return np.array([np.nan, error(table[:4, 0]), error(table[:, 1]), np.nan])


def _sampling(means: Array, losses: Array, pairs: Array) -> tuple[Array, Array]:
    # Each indicator's first-order response to one example's losses, then its spread.
    examples = losses.shape[1]
    center, mean, deviation = means[0] + 1e-8, means.mean() + 1e-8, means.std()
    sharp = (losses[1:9].mean(0) - losses[0]) / center
    sharp -= _sharpness(means) / center * losses[0]
    rough = np.zeros(examples)
    if deviation > 0:
        weights = (means - means.mean()) / (len(means) * deviation)
        rough = (weights @ losses - _variability(means) * losses.mean(0)) / mean
    # A bar ends and begins at points of the grid, whose losses its length is made of.
    births, deaths = (np.abs(means[:, None] - pairs[:, i]).argmin(0) for i in (0, 1))
    lengths = losses[deaths] - losses[births]
    responses = np.stack([losses[0], sharp, rough, lengths.sum(0)])
    errors = responses.std(1, ddof=1) / np.sqrt(examples)
    return errors, lengths.std(1, ddof=1) / np.sqrt(examples)


Closure = Callable[[], Tensor | float]


def read_probe(
    closure: Closure,
    weights: Iterable[Tensor],
    grid: ProbeGrid | None = None,
    *,
    model: nn.Module | None = None,
) -> ProbeReading:
    """Sample the loss at points around the present weights.

    The points lie on a plane of two random directions, drawn from its seed as signs and
    scaled to the size of each filter; vectors (biases, norm scales) stay still. All points
    see the same random numbers (dropout). Weights keep their storage and come back bit for
    bit, as do buffers, train/eval of all modules and the global random states. A cache of
    weights that autocast keeps is cleared.

    Args:
        closure: gives the loss at the present weights: a number, or one an example (then
            errors are those of sampling examples). Runs without gradients, in the modes that
            the modules are in.
        weights: what is moved; those that require no gradient stay.
        grid: where to look.
        model: what the closure runs; modules are found when they run by default. Needed only
            for a model compiled in place (`model.compile()`).

    Returns:
        Loss, sharpness, variability and persistence with their standard errors.

    Raises:
        ArgumentError: no closure, or no weights that move.
        LossError: the closure gives something else than losses.

    Examples:
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> round(read_probe(lambda: w.square().sum(), [w]).sharpness.value, 6)
        0.000441
    """
    losses = probe_losses(closure, weights, grid or ProbeGrid(), model=model)
    return read_losses(grid or ProbeGrid(), losses)


def probe_losses(
    closure: Closure,
    weights: Iterable[Tensor],
    grid: ProbeGrid,
    *,
    model: nn.Module | None = None,
) -> NDArray[np.float64]:
    """The losses at the points of a grid; see `read_probe`."""
    check_closure(closure)
    listed = check_tensors("weights", weights)
    moved = [w for w in listed if w.requires_grad and w.is_floating_point()]
    if not moved:
        raise ArgumentError("`weights` must hold a tensor that requires a gradient; got none.")
    sharded, matrices = any(map(is_sharded, moved)), [w for w in moved if w.ndim > 1]
    plane = [_direction(matrices, grid.seed, axis) for axis in (0, 1)]
    # Of weights that are spread over processes each moves its own pieces.
    places = [own_piece(w) for w in matrices]
    kept = [w.clone() for w in places]
    losses: list[Tensor] = []
    with torch.no_grad(), PreservedModules(model).watched():
        try:
            for number, (a, b) in enumerate(grid.points.tolist()):
                if number and places:
                    torch._foreach_copy_(places, kept)
                    torch._foreach_add_(places, plane[0], alpha=a)
                    torch._foreach_add_(places, plane[1], alpha=b)
                if sharded and model is not None:
                    reshard(model)
                losses.append(_loss(closure))
        finally:
            if places:
                torch._foreach_copy_(places, kept)
            if sharded and model is not None:
                reshard(model)
            torch.clear_autocast_cache()
    shapes = {tuple(value.shape) for value in losses}
    if len(shapes) > 1:
        raise LossError(f"`closure` must give losses of one shape; got {sorted(shapes)}.")
    return torch.stack(losses).cpu().numpy()


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

    Examples:
        >>> from lossatlas.objective import supervised
        >>> loss = supervised(nn.functional.mse_loss)
        >>> batch = torch.ones(8, 3), torch.ones(8, 2)
        >>> closure = sub_batch(nn.Linear(3, 2), loss, batch, examples=4)
        >>> closure().shape
        torch.Size([4])
    """
    first: list[Batch] = []

    def closure() -> Tensor:
        if not first:
            first.append(split(batch, examples)[0])
        (part,) = first
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
    for index, given in enumerate(weights):
        weight = whole(given.detach())
        flat = weight.float()
        # Random signs have the length of a filter once they have its root mean square.
        size = flat.square().mean(tuple(range(1, flat.ndim)), keepdim=True).sqrt()
        signs = _signs(weight, derive_seed(seed, "probe", axis, index))
        direction.append(piece_of(signs.mul_(size.to(signs)), given))
    return direction


def _signs(weight: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(weight.device).manual_seed(seed)
    bits = torch.randint(
        0, 2, weight.shape, generator=generator, device=weight.device, dtype=torch.int8
    )
    signs = torch.empty_like(weight, requires_grad=False)
    return signs.copy_(bits).mul_(2).sub_(1)
