"""Whether a parametrization transfers across widths (muP): sizes against width, a verdict."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lossatlas.checks import (
    check_at_least,
    check_callable,
    check_flag,
    check_fraction,
    check_list,
    check_positive,
)
from lossatlas.curvature import Stability, edge_of_stability
from lossatlas.errors import ArgumentError, AtlasError, ModelError, NonFiniteError
from lossatlas.guard import preserved_rng
from lossatlas.io.records import record
from lossatlas.linalg.params import qualified_name
from lossatlas.objective import Objective, Weighted
from lossatlas.objective.weighted import Measured
from lossatlas.result import Estimate, Figure, Reference, Result, quantity, result, rows_figure
from lossatlas.text import as_sentence
from lossatlas.text import count as counted

Array = NDArray[np.float64]
Factory = Callable[[int, int], tuple[Objective, Optimizer]]
# (quantity, width, seed) -> size.
_Sizes = dict[tuple[str, str], dict[tuple[int, int], float]]

START, UPDATE, SHARPNESS = "at the start", "update", "sharpness"
_WHOLE = "model"
# Products for the largest eigenvalue, and its tolerance.
_PRODUCTS, _CLOSE = 60, 0.02
_REFERENCES = (
    Reference(
        "maximal update parametrization",
        "G. Yang, E. J. Hu, I. Babuschkin et al. Tensor Programs V: Tuning Large Neural "
        "Networks via Zero-Shot Hyperparameter Transfer. NeurIPS 2021.",
        "https://arxiv.org/abs/2203.03466",
    ),
    Reference(
        "sharpness across widths",
        "L. Noci, A. Meterez, T. Hofmann, A. Orvieto. Super Consistency of Neural Network "
        "Landscapes and Learning Rate Transfer. NeurIPS 2024.",
        "https://arxiv.org/abs/2402.17457",
    ),
)


@record
@dataclass(frozen=True)
class Scaling:
    """How a size of one parameter, of attention scores or of the curvature goes with the width.

    Attributes:
        name: of the parameter; of the module for attention scores; "model" for the sharpness.
        kind: "input" (only outputs grow), "hidden", "readout" (only inputs grow), "vector" (a
            bias or gain that grows), "fixed", "attention" or "model".
        quantity: "at the start", "update" or "sharpness".
        slope: of log size against log width.
        low: lowest slope that the parametrization promises.
        high: highest.
        sizes: mean size at each width.
        breaks: whether the interval of the slope lies outside of what is promised.
    """

    name: str
    kind: str
    quantity: str
    slope: Estimate
    low: float
    high: float
    sizes: Array
    breaks: bool


@result("transfer_check", references=_REFERENCES)
class TransferCheck(Result):
    """Whether activations and their updates keep their size as the width grows.

    Attributes:
        scalings: one entry a parameter and quantity, in the order of the model.
        widths: that were compared.
        seeds: networks of each width.
        steps: of training.
        skipped: name -> why it has no slope.
        notes: what else to know, as memory that ran out.
    """

    scalings: tuple[Scaling, ...]
    widths: Array = quantity("units")
    seeds: int
    steps: int
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing breaks the promise, the sharpness included."""
        return not any(s.breaks for s in self.scalings)

    @property
    def broken(self) -> tuple[str, ...]:
        """Parameters, or modules with attention, that break the promise."""
        layers = (s for s in self.scalings if s.quantity != SHARPNESS)
        return tuple(dict.fromkeys(s.name for s in layers if s.breaks))

    @property
    def sharpness(self) -> Scaling | None:
        """How the largest curvature, in units of the steps, goes with the width."""
        return next((s for s in self.scalings if s.quantity == SHARPNESS), None)

    def estimates(self) -> tuple[Estimate, ...]:
        """The slope of each size."""
        return tuple(
            replace(
                s.slope,
                name=f"{s.name} {s.quantity}",
                meaning=f"slope of log size against log width ({s.kind}); {_promise(s)}",
                is_minor=not s.breaks,
            )
            for s in self.scalings
        )

    def sentences(self) -> tuple[str, ...]:
        """The verdict, and what breaks it."""
        span = f"from width {self.widths.min():g} to {self.widths.max():g}"
        left: tuple[str, ...] = ()
        if self.skipped:
            some = counted(len(self.skipped), "size", "sizes")
            left = (f"{some} could not be judged; `skipped` says why.",)
        left += tuple(map(as_sentence, self.notes))
        if self.passed:
            return (f"Sizes and updates keep what muP promises {span}.", *left)
        breaks = [
            f"{_subject(s)} goes as width^{s.slope.value:.2f}; {_promise(s)}."
            for s in self.scalings
            if s.breaks
        ]
        return (
            f"The parametrization is not muP {span}: learning rates do not transfer.",
            *breaks,
            *left,
        )

    def figures(self) -> tuple[Figure, ...]:
        """The slopes, a row each."""
        figures = []
        titles = "Slopes of updates", "Slopes at the start", "Slope of the sharpness"
        for name, title in zip((UPDATE, START, SHARPNESS), titles, strict=True):
            rows = [replace(s.slope, name=s.name) for s in self.scalings if s.quantity == name]
            if rows:
                axis = "slope of log size against log width"
                figures.append(rows_figure(title, rows, axis, caption="muP promises 0."))
        return tuple(figures)


def _subject(scaling: Scaling) -> str:
    if scaling.quantity == SHARPNESS:
        return "The sharpness in units of the steps"
    return f"{scaling.name} ({scaling.kind}): its size {scaling.quantity}"


def _promise(scaling: Scaling) -> str:
    if math.isinf(scaling.low):
        return f"at most {scaling.high:g} is promised"
    return f"{scaling.low:g} to {scaling.high:g} is promised"


def transfer_check(
    factory: Factory,
    widths: Sequence[int] = (32, 64, 128, 256),
    *,
    steps: int = 4,
    seeds: int = 3,
    tolerance: float = 0.2,
    level: float = 0.95,
    sharpness: bool = True,
) -> TransferCheck:
    """Check that a network and its optimizer are in the maximal update parametrization.

    Each parameter is looked at alone, on the inputs x that its module gets: at the start by the
    size of what it makes of them, rms(W x) / rms(x), after some steps by what its own change
    does, rms((W_t - W_0) x) / rms(x). Over widths both keep their size in muP (slope 0 of log
    size against log width); only what a readout does at the start may shrink. So a mistake in
    one layer is not blamed on those behind it. Scores of attention (`softmax` or
    `scaled_dot_product_attention` where head sizes grow) may shrink at the start, and their
    change keeps its size. So does the sharpness after the steps, the largest eigenvalue of the
    Hessian in units of the optimizer's own steps (`edge_of_stability`).

    Args:
        factory: (width, seed) -> (objective, optimizer), a fresh network each; the same data
            for all.
        widths: at least three, ascending.
        steps: of training before updates are measured.
        seeds: networks of each width.
        tolerance: slopes so far from the promise are within it.
        level: of the intervals of slopes (their errors allow for a scatter that changes with
            the width); one breaks the promise where its interval lies outside.
        sharpness: measure the sharpness too, some 10 to 20 products a network; an optimizer
            whose steps are not known has a reason in `skipped`.

    Returns:
        Slopes with their errors and the verdict; `.passed` and `.broken` are for tests.

    Raises:
        ArgumentError: fewer than three widths, or a factory that returns something else.
        ModelError: no parameter grows with the width, or none moves.
        NonFiniteError: a training diverges, or weights are not finite at the start.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> from lossatlas.recipes.transfer import transfer_check
        >>> batch = (torch.ones(4, 3), torch.ones(4, 1))
        >>> def factory(width, seed):
        ...     layers = torch.nn.Linear(3, width), torch.nn.Linear(width, 1)
        ...     model = torch.nn.Sequential(*layers)
        ...     optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        ...     return la.Objective(model, la.supervised(F.mse_loss), [batch]), optimizer
        >>> transfer_check(factory, widths=(16, 32, 64), steps=1).broken
        ('1.weight',)

    Source: Yang et al., arXiv:2203.03466, app. D.1 (coordinate checking) and table 8; Noci et
        al., arXiv:2402.17457 (sharpness).
    """
    check_callable("factory", factory)
    check_list("widths", widths, "whole numbers")
    check_at_least("steps", steps, 1)
    check_at_least("seeds", seeds, 1)
    check_positive("tolerance", tolerance)
    check_fraction("level", level)
    check_flag("sharpness", sharpness)
    order = sorted(set(widths))
    if len(order) < 3:
        raise ArgumentError(f"`widths` must hold at least three; got {list(widths)}.")
    for width in order:
        check_at_least("widths", width, 1)
    with preserved_rng():
        sizes, kinds, skipped, notes = _collected(factory, order, seeds, steps, sharpness)
    _check_moves(sizes)
    checks = []
    for (name, what), table in sizes.items():
        if f"{name} {what}" in skipped:
            continue
        judged = _judged(table, order, level)
        if isinstance(judged, str):
            skipped[f"{name} {what}"] = judged
            continue
        slope, (low, high), means = judged
        kind = _WHOLE if what == SHARPNESS else kinds.get(name, "attention")
        first, last = _promised(kind, what, tolerance)
        breaks = bool(low > last or high < first)
        checks.append(Scaling(name, kind, what, slope, first, last, means, breaks))
    return TransferCheck(
        tuple(checks), np.array(order, dtype=float), seeds, steps, skipped, notes
    )


def _collected(
    factory: Factory, widths: list[int], seeds: int, steps: int, sharpness: bool
) -> tuple[_Sizes, dict[str, str], dict[str, str], tuple[str, ...]]:
    sizes: _Sizes = {}
    notes: list[str] = []
    skipped: dict[str, str] = {}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for width in widths:
        for seed in range(seeds):
            network = _network(factory, width, seed)
            for name, shape in _shapes(network[0].model) if seed == 0 else ():
                shapes.setdefault(name, []).append(shape)
            for key, size in _measured(*network, steps).items():
                sizes.setdefault(key, {})[width, seed] = size
            if sharpness:
                key = (_WHOLE, SHARPNESS)
                value = _sharpest(*network, seed)
                if isinstance(value, str):
                    skipped[" ".join(key)] = value
                    continue
                sizes.setdefault(key, {})[width, seed] = max(value.sharpness, 0.0)
                if value.note:
                    notes.append(f"sharpness at width {width}, seed {seed}: {value.note}")
    return sizes, _kinds(shapes, len(widths)), skipped, tuple(notes)


def _check_moves(sizes: _Sizes) -> None:
    updates = [table for (_, what), table in sizes.items() if what == UPDATE]
    if not any(size for table in updates for size in table.values()):
        raise ModelError(
            "no parameter moves; `factory` must give the optimizer the parameters of the "
            "objective's own model, a learning rate above zero, and weights whose gradient is "
            "not zero."
        )


def _sharpest(objective: Objective, optimizer: Optimizer, seed: int) -> Stability | str:
    # The sharpness, or why it is not known.
    options: Any = {"tolerance": _CLOSE, "limit": _PRODUCTS, "seed": seed}
    try:
        return edge_of_stability(objective, optimizer, **options)
    except AtlasError as error:
        return str(error)


def _shapes(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    # Outputs first, as in linear maps; an embedding has them last.
    for path, module in model.named_modules():
        for key, value in module.named_parameters(path, recurse=False):
            shape = tuple(value.shape)
            yield key, shape[::-1] if isinstance(module, nn.Embedding) else shape


def _promised(kind: str, what: str, tolerance: float) -> tuple[float, float]:
    free = kind in {"readout", "attention"} and what == START
    return (-math.inf if free else -tolerance), tolerance


def _network(factory: Factory, width: int, seed: int) -> tuple[Objective, Optimizer]:
    made = factory(width, seed)
    fits = isinstance(made, tuple) and len(made) == 2
    if not (fits and isinstance(made[0], Objective) and isinstance(made[1], Optimizer)):
        raise ArgumentError(
            "`factory` must return (Objective, optimizer) for (width, seed); got "
            f"{type(made).__name__}."
        )
    return made


def _kinds(shapes: Mapping[str, list[tuple[int, ...]]], count: int) -> dict[str, str]:
    kinds = {name: _kind(sizes) for name, sizes in shapes.items() if len(sizes) == count}
    if all(kind == "fixed" for kind in kinds.values()):
        raise ModelError(
            "no parameter grows with the width; `factory` must build a network of that width."
        )
    return kinds


def _kind(shapes: list[tuple[int, ...]]) -> str:
    first, last = shapes[0], shapes[-1]
    grows = [a != b for a, b in zip(first, last, strict=True)]
    if not any(grows):
        return "fixed"
    if len(grows) < 2:
        return "vector"
    out, into = grows[0], any(grows[1:])
    return "hidden" if out and into else "input" if out else "readout"


def _judged(
    table: Mapping[tuple[int, int], float], widths: list[int], level: float
) -> str | tuple[Estimate, tuple[float, float], Array]:
    values = [(w, size) for (w, _), size in table.items()]
    if any(not math.isfinite(size) for _, size in values):
        raise NonFiniteError("a training diverges; take a smaller learning rate.")
    if any(size == 0 for _, size in values):
        return "it is zero"
    if len({w for w, _ in values}) < len(widths):
        return "not there at every width"
    x, y = np.log(np.array(values, dtype=float)).T
    away = x - x.mean()
    slope = float((away * y).sum() / (away**2).sum())
    left = y - y.mean() - slope * away
    degrees, squares = len(x) - 2, float((away**2).sum())
    # Networks of one width may scatter more than those of another (errors of kind HC3).
    leverage = 1 / len(x) + away**2 / squares
    error = math.sqrt(float(((away * left / (1 - leverage)) ** 2).sum())) / squares
    reach = float(scipy.stats.t.ppf(0.5 + level / 2, degrees)) * error
    means = np.array([np.mean([s for v, s in values if v == w]) for w in widths])
    estimate = Estimate(slope, error, samples=degrees + 1, sample_unit="networks")
    return estimate, (slope - reach, slope + reach), means


def _measured(
    objective: Objective, optimizer: Optimizer, steps: int
) -> dict[tuple[str, str], float]:
    """Sizes at the start, of updates after some steps, of one network."""
    model = objective.model
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for name, value in start.items():
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"'{name}' holds NaN or infinite weights at the start.")
    batches = objective.map_batches(lambda batch: batch)
    first = objective.first_batch()
    scales, scores = _looked(objective, first, start, at_start=True)
    for step in range(steps):
        optimizer.zero_grad()
        loss = _mean(objective.loss(model, objective.handed(batches[step % len(batches)])))
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(f"a training diverges at step {step + 1}.")
        torch.autograd.backward(loss)
        optimizer.step()
    moved, after = _looked(objective, first, start, at_start=False)
    sizes = {(n, START): s for n, s in scales.items()}
    sizes |= {(n, UPDATE): s for n, s in moved.items()}
    for name, before in scores.items():
        if name in after:
            sizes[name, START] = _size(before)
            sizes[name, UPDATE] = _size(after[name] - before)
    return sizes


def _mean(loss: Measured) -> Tensor:
    return loss.sums.sum() / loss.weights.sum() if isinstance(loss, Weighted) else loss.mean()


def _looked(
    objective: Objective, batch: Any, start: Mapping[str, Tensor], *, at_start: bool
) -> tuple[dict[str, float], dict[str, Tensor]]:
    model, sizes, watch = objective.model, dict[str, float](), _Scores()
    was = model.training
    model.eval()
    with torch.no_grad(), _hooked(model, start, sizes, watch, at_start=at_start), watch:
        objective.loss(model, objective.handed(batch))
    model.train(was)
    return sizes, watch.found


@contextmanager
def _hooked(
    model: nn.Module,
    start: Mapping[str, Tensor],
    sizes: dict[str, float],
    watch: "_Scores",
    *,
    at_start: bool,
) -> Iterator[None]:
    own = {path: dict(m.named_parameters(recurse=False)) for path, m in model.named_modules()}

    def hook(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            watch.path.pop()
            for key in own[path]:
                name = qualified_name(path, key)
                if name not in sizes and args and torch.is_tensor(args[0]):
                    kept = None if at_start else start[name]
                    sizes[name] = _own_size(module, args, key, kept)

        return note

    handles = []
    for path, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(lambda m, a, path=path: watch.path.append(path))
        )
        handles.append(module.register_forward_hook(hook(path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _own_size(
    module: nn.Module, args: tuple[Any, ...], key: str, start: Tensor | None
) -> float:
    # What one parameter makes of the inputs at the start; what its change makes of them later.
    held = {n: p.detach() for n, p in module.named_parameters(recurse=False)}
    without = torch.zeros_like(held[key]) if start is None else start
    forward = _Bare(module)
    outputs = [
        torch.func.functional_call(forward, {f"inner.{n}": v for n, v in point.items()}, args)
        for point in (held, held | {key: without})
    ]
    first, second = (o[0] if isinstance(o, tuple) else o for o in outputs)
    inputs = args[0]
    size = _size(inputs) if inputs.is_floating_point() and held[key].ndim > 1 else 1.0
    return _size(first - second) / size if size else 0.0


class _Bare(nn.Module):
    # A module without its hooks.
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.inner.forward(*args)


def _size(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())


class _Scores(TorchFunctionMode):
    """Scores of attention by the module that takes their softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}
        self.path: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = f"{self.path[-1] if self.path else 'model'} (attention)"
        if func is F.scaled_dot_product_attention and name not in self.found:
            query, key = args[0], args[1]
            scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
            self.found[name] = (query @ key.mT * scale).detach()
        softmax = {F.softmax, torch.softmax, Tensor.softmax}
        if func in softmax and name not in self.found and args[0].ndim >= 3:
            self.found[name] = args[0].detach().masked_fill(torch.isinf(args[0]), 0.0)
        return func(*args, **kwargs)
