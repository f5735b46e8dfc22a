"""Singular values of weights: ranks, spikes above noise, and whether tails are power laws."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import check_at_least, nearest
from lossatlas.errors import ArgumentError, FileError, NonFiniteError
from lossatlas.io.checkpoints import load_checkpoint
from lossatlas.io.records import record
from lossatlas.result import Estimate, Figure, Reference, Result, result, rows_figure
from lossatlas.rng import derive_seed
from lossatlas.text import count as counted
from lossatlas.text import number

Array = NDArray[np.float64]
Weights = nn.Module | Mapping[str, Tensor] | str | Path

# The largest eigenvalue of noise is below the edge so often: the quantile of Tracy and Widom's
# first distribution.
_NULL, _QUANTILE = 0.99, 2.0234
# A rank needs two rows and columns, a law so many eigenvalues, its tail so many of them
# and this share.
_NARROW, _FEW, _TAIL, _SHARE = 2, 50, 20, 0.1
# Where the tail may begin, and resampled spectra.
_STARTS = 40
_RESAMPLED = 100
# Share of a normal distribution within one standard deviation.
_CENTRAL = 0.6827
# Below this share of simulated spectra that fit worse, a power law is ruled out (Clauset).
_RULED_OUT = 0.1
# Eigenvalues below this share of the largest are zero up to rounding.
_ROUNDING = 1e-12
# Weights whose squares are far from the ends of float64.
_SQUARED = (1e-100, 1e100)
# Rows of a matrix that are squared at once.
_ROWS = 4096
_REFERENCES = (
    Reference(
        "power laws by maximum likelihood",
        "A. Clauset, C. R. Shalizi, M. E. J. Newman. Power-Law Distributions in Empirical "
        "Data. SIAM Review 51, 2009.",
        "https://arxiv.org/abs/0706.1062",
    ),
    Reference(
        "the largest eigenvalue of noise",
        "I. M. Johnstone. On the Distribution of the Largest Eigenvalue in Principal "
        "Components Analysis. Annals of Statistics 29, 2001.",
        "https://doi.org/10.1214/aos/1009210544",
    ),
    Reference(
        "spectra of trained weights",
        "C. H. Martin, M. W. Mahoney. Implicit Self-Regularization in Deep Neural Networks. "
        "JMLR 22, 2021.",
        "https://arxiv.org/abs/1810.01075",
    ),
)


@record
@dataclass(frozen=True)
class MatrixSpectrum:
    """The spectrum of one weight matrix, axes after the first taken as one.

    Attributes:
        name: of the parameter.
        shape: rows and columns.
        stable_rank: sum of squared singular values over the largest.
        effective_rank: exp of the entropy of the singular values as shares of their sum.
        norm: largest singular value.
        edge: largest singular value that noise of this shape and size has once in 100 matrices.
        spikes: singular values above it.
        exponent: of the tail of squared singular values, density ~ x^-exponent; its error is
            half of the range that holds 68 % of a bootstrap.
        tail: how many eigenvalues the exponent is of.
        p_value: share of spectra simulated from the law that fit it worse; NaN without one.
    """

    name: str
    shape: tuple[int, int]
    stable_rank: Estimate
    effective_rank: Estimate
    norm: Estimate
    edge: Estimate
    spikes: int
    exponent: Estimate
    tail: int
    p_value: float

    @property
    def is_power_law(self) -> bool | None:
        """Whether a power law is not ruled out; None where none could be fitted."""
        return None if math.isnan(self.p_value) else self.p_value >= _RULED_OUT


@result("weight_spectra", references=_REFERENCES)
class WeightSpectra(Result):
    """Spectra of all weight matrices.

    Attributes:
        matrices: one entry a matrix, in the order of the model.
        skipped: name of a parameter -> why it has no spectrum.
    """

    matrices: tuple[MatrixSpectrum, ...]
    skipped: Mapping[str, str]

    def estimates(self) -> tuple[Estimate, ...]:
        """Stable rank, effective rank, spikes and exponent of each matrix."""
        return tuple(e for k, m in enumerate(self.matrices) for e in _estimates_of(m, k > 0))

    def sentences(self) -> tuple[str, ...]:
        """How many matrices hold more than noise, and where power laws stand."""
        total = counted(len(self.matrices), "matrix", "matrices")
        sentences = [f"{total} looked at."]
        if self.matrices:
            above = sum(m.spikes > 0 for m in self.matrices)
            sentences.append(
                f"{counted(above, 'matrix', 'matrices')} of {len(self.matrices)} have singular "
                "values above the edge of noise of the same shape."
            )
        judged = [m for m in self.matrices if m.is_power_law is not None]
        if judged:
            out = sum(not m.is_power_law for m in judged)
            sentences.append(
                f"A power law of the tail is ruled out for {out} of {len(judged)} matrices "
                "that are large enough to tell (p < 0.1)."
            )
        return tuple(sentences)

    def figures(self) -> tuple[Figure, ...]:
        """Stable ranks and exponents, a row each."""
        if not self.matrices:
            return ()
        ranks = [replace(m.stable_rank, name=m.name) for m in self.matrices]
        laws = [replace(m.exponent, name=m.name) for m in self.matrices if m.tail]
        figures = [
            rows_figure("Stable rank", ranks, "sum of squares over the largest", log=True)
        ]
        if laws:
            caption = "Of the tail of squared singular values; see which fits are ruled out."
            figures.append(rows_figure("Exponents", laws, "exponent", caption=caption))
        return tuple(figures)


def _estimates_of(matrix: MatrixSpectrum, minor: bool) -> Iterator[Estimate]:
    name = matrix.name
    law = {None: "", True: "", False: "; a power law is ruled out"}[matrix.is_power_law]
    p_value = "" if math.isnan(matrix.p_value) else f"p = {number(matrix.p_value, 2)}{law}"
    spikes = Estimate(
        float(matrix.spikes),
        why_no_error="a count; noise alone has one once in 100 matrices",
    )
    rows = (
        (matrix.stable_rank, "stable rank", "sum of squares over the largest"),
        (matrix.effective_rank, "effective rank", "exp of the entropy of the singular values"),
        (spikes, "spikes", f"singular values above {number(matrix.edge.value, 4)}"),
        (matrix.exponent, "exponent", p_value),
    )
    for estimate, title, meaning in rows:
        yield replace(estimate, name=f"{name} {title}", meaning=meaning, is_minor=minor)


def weight_spectra(
    weights: Weights,
    *,
    names: str | Iterable[str] | None = None,
    resampled: int = _RESAMPLED,
    seed: int = 0,
) -> WeightSpectra:
    """Spectra of the weight matrices of a model or a checkpoint; no data are needed.

    A weight with more than two axes is read as (first axis, all others). The edge of noise is
    that of a Gaussian matrix of the same shape whose variance is taken from the median
    eigenvalue, which spikes do not move: with n >= p, mu = (sqrt(n - 1) + sqrt(p))^2 and
    s = (sqrt(n - 1) + sqrt(p)) (1 / sqrt(n - 1) + 1 / sqrt(p))^(1/3), its square is
    variance (mu + 2.02 s). The exponent of the tail is 1 + k / sum log(x_i / x_min), with
    x_min where the law fits best.

    Args:
        weights: a model, name -> tensor, or the path of a checkpoint. Of a safetensors file one
            tensor is held at a time.
        names: which parameters, one name or several; all by default.
        resampled: spectra drawn for the interval of an exponent, and for its test.
        seed: what they are drawn from.

    Returns:
        One entry a matrix with at least two rows and columns; why others have none.

    Raises:
        ArgumentError: weights of the wrong kind, or an unknown name.
        FileError: the file cannot be read.
        NonFiniteError: a weight is NaN or infinite; the message names the parameter.

    Examples:
        >>> import torch
        >>> from lossatlas.weights import weight_spectra
        >>> found = weight_spectra({"w": torch.diag(torch.tensor([2.0, 1.0, 1.0]))})
        >>> found.matrices[0].stable_rank.value
        1.5

    Source: Clauset, Shalizi, Newman, arXiv:0706.1062; Johnstone, Annals of Statistics 29
        (2001); Roy and Vetterli, EUSIPCO 2007 (effective rank).
    """
    check_at_least("resampled", resampled, 10)
    chosen = None if names is None else {names} if isinstance(names, str) else set(names)
    spectra: list[MatrixSpectrum] = []
    skipped: dict[str, str] = {}
    every: set[str] = set()
    for name, tensor in _tensors(weights):
        every.add(name)
        if chosen is not None and name not in chosen:
            continue
        why = _no_matrix(name, tensor)
        if why:
            skipped[name] = why
            continue
        spectra.append(_spectrum_of(name, tensor, resampled, derive_seed(seed, name)))
    missing = (chosen or set()) - every
    if missing:
        raise ArgumentError(
            f"`names`: there is no weight called '{min(missing)}'"
            f"{nearest(min(missing), every)}."
        )
    return WeightSpectra(tuple(spectra), skipped)


def _tensors(weights: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(weights, nn.Module):
        yield from ((n, p.detach()) for n, p in weights.named_parameters())
    elif isinstance(weights, str | Path):
        yield from _of_file(Path(weights))
    elif isinstance(weights, Mapping):
        for name, value in weights.items():
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise ArgumentError(f"`weights` must map names to tensors; got {kind}.")
            yield name, value.detach()
    else:
        raise ArgumentError(
            "`weights` must be a model, name -> tensor, or the path of a checkpoint; got "
            f"{type(weights).__name__}."
        )


def _of_file(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.suffix != ".safetensors" or not path.is_file():
        yield from load_checkpoint(path).items()
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        for name in names:
            # Opened anew, so that pages that were read are given back.
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
            yield name, tensor
            del tensor
    except (SafetensorError, OSError) as error:
        raise FileError(f"'{path}' is damaged or not safetensors ({error}).") from None


def _no_matrix(name: str, tensor: Tensor) -> str:
    if not tensor.is_floating_point():
        return "no real numbers"
    if tensor.ndim < 2:
        return "fewer than two axes"
    if not tensor.numel() or min(tensor.shape[0], tensor[0].numel()) < _NARROW:
        return "fewer than two rows or columns"
    if not all(bool(torch.isfinite(part).all()) for part in torch.split(tensor, _ROWS)):
        raise NonFiniteError(
            f"'{name}' holds NaN or infinite weights; it has no spectrum. Take a "
            "checkpoint from before the training diverged."
        )
    return "" if bool(tensor.any()) else "all weights are zero"


def _spectrum_of(name: str, tensor: Tensor, resampled: int, seed: int) -> MatrixSpectrum:
    matrix = tensor.flatten(1)
    rows, columns = matrix.shape
    values, unit = _eigenvalues(matrix)
    largest, total = float(values[-1]), float(values.sum())
    roots = np.sqrt(values)
    shares = roots[roots > 0] / roots.sum()
    entropy = -float((shares * np.log(shares)).sum())
    edge = noise_edge(values, max(rows, columns))
    law = _tail_law(values, resampled, seed)
    return MatrixSpectrum(
        name,
        (rows, columns),
        stable_rank=Estimate(total / largest, 0.0),
        effective_rank=Estimate(math.exp(entropy), 0.0),
        norm=Estimate(unit * math.sqrt(largest), 0.0),
        edge=Estimate(
            unit * math.sqrt(edge), why_no_error="its variance is that of the median"
        ),
        spikes=int((values > max(edge, _ROUNDING * largest)).sum()),
        exponent=law.exponent,
        tail=law.tail,
        p_value=law.p_value,
    )


def _eigenvalues(matrix: Tensor) -> tuple[Array, float]:
    # Squared singular values, ascending, from the smaller Gram matrix, some rows at a time; and
    # the unit of the singular values, without which squares of extreme weights leave float64.
    largest = max(float(part.abs().max()) for part in torch.split(matrix, _ROWS))
    unit = 1.0 if _SQUARED[0] < largest < _SQUARED[1] else largest
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for part in torch.split(tall, _ROWS):
        rows = part.to("cpu", torch.float64)
        rows = rows if unit == 1 else rows / unit
        gram.addmm_(rows.T, rows)
    return np.asarray(torch.linalg.eigvalsh(gram).clamp_(min=0).numpy()), unit


def noise_edge(values: Array, larger: int) -> float:
    """The largest eigenvalue that noise of the same shape and median has once in 100 times.

    Args:
        values: eigenvalues of the smaller Gram matrix.
        larger: the larger of rows and columns.

    Returns:
        The edge, in units of `values`.
    """
    first, second = math.sqrt(max(larger - 1, 1)), math.sqrt(len(values))
    spread = (first + second) * (1 / first + 1 / second) ** (1 / 3)
    top = ((first + second) ** 2 + _QUANTILE * spread) / larger
    edge, before = math.inf, math.nan
    # Spikes move the median a little: what is above the edge is left out, and so on.
    while edge != before:
        noise = values[values <= edge]
        scale = float(np.median(noise)) / _median_of_noise(len(noise) / larger)
        before, edge = edge, min(edge, scale * top)
    return edge


@lru_cache(maxsize=256)
def _median_of_noise(ratio: float) -> float:
    # Of Marchenko and Pastur's law with variance 1; angles make its ends smooth.
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    angles = (np.arange(20_000) + 0.5) * math.pi / 20_000
    values = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    density = np.sin(angles) ** 2 / values
    mass = np.cumsum(density)
    return float(np.interp(mass[-1] / 2, mass, values))


@dataclass(frozen=True)
class _Law:
    exponent: Estimate
    tail: int = 0
    p_value: float = math.nan


def _tail_law(values: Array, resampled: int, seed: int) -> _Law:
    positive = values[values > _ROUNDING * values[-1]]
    if len(positive) < _FEW:
        why = f"a law needs {_FEW} eigenvalues; there are {len(positive)}"
        return _Law(Estimate(math.nan, why_no_error=why))
    draws = np.random.default_rng(seed)
    exponent, start, distance = fit_tail(positive)
    if not math.isfinite(exponent):
        return _Law(Estimate(math.nan, why_no_error="eigenvalues are all equal"))
    again = [
        fit_tail(np.sort(draws.choice(positive, len(positive))))[0] for _ in range(resampled)
    ]
    body, tail = positive[positive < start], int((positive >= start).sum())
    worse = [
        fit_tail(_simulated(body, tail, (exponent, start), draws))[2] >= distance
        for _ in range(resampled)
    ]
    # Some resampled spectra begin their tail far away: a standard deviation is too large.
    low, high = np.quantile(again, (1 - _CENTRAL) / 2), np.quantile(again, (1 + _CENTRAL) / 2)
    return _Law(
        Estimate(exponent, float(high - low) / 2, samples=resampled),
        tail,
        float(np.mean(worse)),
    )


def fit_tail(values: Array) -> tuple[float, float, float]:
    """A power law of the tail by maximum likelihood, begun where it fits best.

    Args:
        values: positive, ascending, at least 20.

    Returns:
        Exponent, where the tail begins, and the Kolmogorov-Smirnov distance.
    """
    least = max(_TAIL, math.ceil(_SHARE * len(values)))
    places = np.unique(np.linspace(0, len(values) - least, _STARTS).astype(int))
    best = (math.nan, float(values[0]), math.inf)
    logs = np.log(values)
    for place in places:
        tail = logs[place:] - logs[place]
        mean = float(tail.mean())
        if mean <= 0:
            continue
        law = -np.expm1(-tail / mean)
        steps = np.arange(len(tail) + 1) / len(tail)
        distance = float(max((law - steps[:-1]).max(), (steps[1:] - law).max()))
        if distance < best[2]:
            best = (1 + 1 / mean, float(values[place]), distance)
    return best


def _simulated(
    body: Array, tail: int, law: tuple[float, float], draws: np.random.Generator
) -> Array:
    # What lies below the tail is drawn from the values themselves (Clauset et al., sec. 4.1).
    (exponent, start), total = law, len(body) + tail
    above = int(draws.binomial(total, tail / total))
    drawn = start * draws.random(above) ** (-1 / (exponent - 1))
    below = draws.choice(body, total - above) if len(body) else np.zeros(0)
    return np.sort(np.concatenate([below, drawn]))
