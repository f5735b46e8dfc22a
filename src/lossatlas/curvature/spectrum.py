"""Both ends of a curvature spectrum with error bounds, its density, and spectra of parts."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.checks import check_at_least, check_flag, check_one_of, check_positive
from lossatlas.curvature.arguments import check_count, check_objective
from lossatlas.curvature.density import Density, density_of
from lossatlas.curvature.eigenvalues import eigenvalue_estimate
from lossatlas.curvature.extreme_eigenvalues import ExtremeEigenvalues, extreme_eigenvalues
from lossatlas.curvature.group_data import Labels
from lossatlas.curvature.groups import (
    GroupBy,
    GroupRequest,
    GroupSpectra,
    GroupSpectrum,
    group_spectra,
)
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.krylov_memory import BasisKind, KrylovRequest, plan_krylov
from lossatlas.curvature.matrices import KINDS, MatrixKind, product_of
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.saddles import saddle_range, saddle_ratio
from lossatlas.curvature.selfcheck import CheckedResult, ensure_curvature, says_checks
from lossatlas.curvature.trace import trace
from lossatlas.errors import ArgumentError
from lossatlas.io import Provenance
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.lines import coarse_rounding
from lossatlas.result import Estimate, Figure, Reference, chart_of, result
from lossatlas.text import number, with_error

Array = NDArray[np.float64]

# An outlier stands above the rest by at least this factor.
_STANDS_OUT = 1.5
# Below this share of the largest eigenvalue a negative one is called slight.
SLIGHT_SADDLE = 0.05
# A bound below this share of an eigenvalue changes no digit that an answer shows.
_SHOWN = 2e-4
# Products for the trace in a survey: where large eigenvalues of both signs cancel, as before
# training, more of them buy little, and the error says what is known.
_SURVEY_TRACE = 300
_MEANINGS = {
    "largest eigenvalue": "the sharpest direction",
    "smallest eigenvalue": "below zero where the loss falls on both sides",
}
_REFERENCE = Reference(
    "extreme eigenvalues and density",
    "B. Ghorbani, S. Krishnan, Y. Xiao. An Investigation into Neural Net Optimization via "
    "Hessian Eigenvalue Density. ICML 2019.",
    "https://arxiv.org/abs/1901.10159",
)


@result("spectrum", references=(_REFERENCE,))
class Spectrum(CheckedResult):
    """The ends of a curvature spectrum, and what lies between.

    Attributes:
        top: largest eigenvalues, descending; loss per squared weight.
        bottom: smallest eigenvalues, ascending.
        top_bounds: error bound of each of `top`, same units.
        bottom_bounds: error bound of each of `bottom`.
        products: all products with the matrix, those of the density included.
        reached: whether every bound is within the tolerance (top: relative to the eigenvalue;
            bottom: relative to the largest absolute one), or within eps^(2/3) of the largest
            absolute one, beyond which products are noise. It says nothing of signs: a bottom
            within the tolerance of zero may have either (`saddle_ratio` is then NaN).
        density: quadrature nodes and weights; None where it was not asked for.
        groups: a line for each layer or class; empty where not asked for.
        vectors: eigenvectors of `top`, then of `bottom`, each name -> tensor of length 1;
            empty where not asked for.
        parameters: the size of the matrix.
        memory: bytes that the Krylov basis could take at most.
        provenance: settings, seed, versions, fingerprints.
        note: what else to know (memory for fewer products than asked, products that are not
            symmetric); often empty.
        top_reached: the same for `top` alone; None where it is not known.
        bottom_reached: the same for `bottom` alone.
    """

    top: Array
    bottom: Array
    top_bounds: Array
    bottom_bounds: Array
    products: int
    reached: bool
    density: Density | None
    groups: tuple[GroupSpectrum, ...]
    vectors: tuple[dict[str, torch.Tensor], ...]
    parameters: int
    memory: int
    provenance: Provenance
    note: str = ""
    top_reached: bool | None = None
    bottom_reached: bool | None = None

    @property
    def bounds(self) -> Array:
        """The error bounds of `top`, then of `bottom`."""
        return np.concatenate([self.top_bounds, self.bottom_bounds])

    @property
    def saddle_ratio(self) -> float:
        """|smallest| / largest where the smallest is negative, otherwise 0.

        NaN where it is unknown: an end was not asked for, or the error bound of one is larger
        than itself, so that its sign is unknown.
        """
        return saddle_ratio(*self._ends)

    @property
    def saddle_range(self) -> tuple[float, float]:
        """(low, high) of the saddle ratio as the bounds of both ends leave it.

        An eigenvalue below the lowest that was found is not in it (see `spectrum`).
        """
        return saddle_range(*self._ends)

    @property
    def _ends(self) -> tuple[float, ...]:
        ends = (self.top, self.bottom, self.top_bounds, self.bottom_bounds)
        return tuple(float(end[0]) if len(end) else math.nan for end in ends)

    @property
    def outliers(self) -> int | None:
        """How many eigenvalues stand above the bulk: those before the last wide gap.

        A gap is the ratio of neighbors; it is wide where its logarithm is at least half that
        of the widest, since outliers have gaps among themselves. None where fewer than three
        of `top` are positive beyond their bounds. 0 where no gap is a factor of 1.5. Ask for
        about twice as many as there are classes.
        """
        positive = self.top[self.top > self.top_bounds]
        if len(positive) < 3:
            return None
        ratios = positive[:-1] / positive[1:]
        wide = np.flatnonzero(ratios >= max(_STANDS_OUT, ratios.max() ** 0.5))
        return int(wide[-1]) + 1 if len(wide) else 0

    @property
    def negative_mass(self) -> Estimate | None:
        """Share of negative eigenvalues in the sum of |eigenvalue|; None without a density."""
        return None if self.density is None else self.density.negative_mass

    def estimates(self) -> tuple[Estimate, ...]:
        """The eigenvalues with their bounds, the negative mass, and the numbers of groups."""
        estimates = [
            *_end_estimates("largest eigenvalue", self.top, self.top_bounds),
            *_end_estimates("smallest eigenvalue", self.bottom, self.bottom_bounds),
        ]
        mass = self.negative_mass
        if mass is not None:
            meaning = "share of negative eigenvalues in the sum of sizes"
            estimates.append(
                replace(mass, name="negative mass", meaning=meaning, is_minor=True)
            )
        return (*estimates, *(self._groups.estimates() if self.groups else ()))

    @property
    def _groups(self) -> GroupSpectra:
        by = cast("GroupBy", self.provenance.settings.get("by", "layer"))
        return GroupSpectra(by, self.groups)

    def answer(self) -> tuple[str, str]:
        """The largest eigenvalue, and whether the loss curves downhill anywhere.

        Returns:
            The answer, and "sure" where both are known beyond their bounds, otherwise "".
        """
        start = "not known"
        if len(self.top):
            value, bound = float(self.top[0]), float(self.top_bounds[0])
            is_exact = bound < _SHOWN * abs(value)
            shown = number(value) if is_exact else with_error(value, bound)
            start = f"curvature up to {shown}"
        if not len(self.bottom):
            return start, ""
        lowest, bound = float(self.bottom[0]), float(self.bottom_bounds[0])
        if abs(lowest) <= bound or math.isnan(lowest + bound):
            return f"{start}; nowhere downhill beyond the error", ""
        if lowest > 0:
            return f"{start}; nowhere downhill", "sure"
        slightly = "slightly " if self.saddle_ratio < SLIGHT_SADDLE else ""
        return f"{start}; {slightly}downhill somewhere ({number(lowest, 2)})", "sure"

    def sentences(self) -> tuple[str, ...]:
        """Saddle or bowl, outliers, and whether the tolerance was reached."""
        sentences = [self._saddle_sentence()]
        if self.outliers:
            sentences.append(self._outlier_sentence(self.outliers))
        if not self.reached:
            why = f": {self.note}" if self.note else ""
            sentences.append(
                f"The {self._missed} eigenvalues did not reach the tolerance{why}; their "
                "bounds say what is known."
            )
        return (*sentences, *(self._groups.sentences() if self.groups else ()))

    def _outlier_sentence(self, outliers: int) -> str:
        gap = number(float(self.top[outliers - 1] / self.top[outliers]), 2)
        start = "1 eigenvalue is an outlier: it is"
        if outliers > 1:
            start = f"{outliers} eigenvalues are outliers: the last of them is"
        return (
            f"{start} {gap} times the next one, the last wide gap among the {len(self.top)} "
            "largest, which were computed."
        )

    @property
    def _missed(self) -> str:
        if self.top_reached:
            return "lowest"
        return "largest" if self.bottom_reached else "largest and lowest"

    def _saddle_sentence(self) -> str:
        if not len(self.bottom):
            return "The lowest eigenvalue was not requested."
        lowest, bound = float(self.bottom[0]), float(self.bottom_bounds[0])
        ratio, high = self.saddle_ratio, self.saddle_range[1]
        if math.isnan(ratio):
            share = ""
            if math.isfinite(high):
                share = f", at most {number(high, 2)} times the largest"
            return (
                "Whether the loss curves downhill in some direction is not known: the lowest "
                f"eigenvalue found is {with_error(lowest, bound)} (error bound{share})."
            )
        if lowest >= 0:
            return "No direction curves downhill: the lowest eigenvalue found is not negative."
        if math.isinf(ratio):
            return "No direction curves uphill: the weights are at a maximum."
        how = "slightly downhill" if ratio < SLIGHT_SADDLE else "downhill"
        return (
            f"Some direction curves {how}: the lowest eigenvalue is negative, "
            f"{number(ratio, 2)} times the largest in size."
        )

    def figures(self) -> tuple[Figure, ...]:
        """The density with the extreme eigenvalues; the ends of each group."""
        from lossatlas.plots.spectra import spectrum_chart

        empty = np.zeros(0)
        density = self.density
        grid = empty if density is None else density.grid
        heights, errors = (empty, empty) if density is None else density.on(grid)
        chart = partial(
            spectrum_chart,
            np.concatenate([self.bottom, self.top]),
            np.concatenate([self.bottom_bounds, self.top_bounds]),
            grid,
            heights,
            errors,
        )
        caption = (
            "How many directions have which curvature, on a logarithmic scale; dots are the "
            "extreme eigenvalues, found one by one. The bulk near zero is flat; narrow peaks "
            "to the right are single eigenvalues. How many are outliers, separated from the "
            "rest by a wide gap, is said beside the picture."
        )
        alt = "Density of the eigenvalues of the Hessian with its extremes marked."
        if density is None:
            caption, alt = "Dots are eigenvalues.", "The extreme eigenvalues of the Hessian."
        about: dict[str, Any] = {"caption": caption, "alt": alt, "wide": True}
        groups = self._groups.figures() if self.groups else ()
        whole = chart_of("spectrum", "Spectrum", chart, **about)
        # A few extreme eigenvalues alone say less than the groups that were asked for.
        return (whole, *groups) if density is not None else (*groups, whole)


def _end_estimates(name: str, values: Array, bounds: Array) -> Iterator[Estimate]:
    for index, (value, bound) in enumerate(zip(values, bounds, strict=True)):
        if not np.isfinite(value):
            continue
        label = f"{name}, {index + 1} of {len(values)}" if index else name
        yield eigenvalue_estimate(
            float(value), float(bound), label, _MEANINGS[name], is_minor=index > 0
        )


@instrument(
    "curvature",
    title="Curvature",
    question="How sharp is the loss at my weights, and does it curve downhill anywhere?",
    group="curvature",
    cost="100 to 200 products; up to 460 where the trace is small beside its parts",
    needs="two derivatives",
    references=(_REFERENCE,),
    headline="sharpest curvature",
    place=1,
)
def survey_curvature(context: Context) -> Parts:
    """Extreme eigenvalues, density and trace of the Hessian."""
    objective, seed = context.objective, context.seed
    return {
        "spectrum": lambda: context.spectrum,
        "trace": lambda: trace(objective, seed=seed, limit=_SURVEY_TRACE),
    }


@says_checks
def spectrum(
    objective: Objective,
    top: int = 10,
    bottom: int = 2,
    density: bool = True,
    tolerance: float = 1e-3,
    *,
    seed: int = 0,
    by: GroupBy | None = None,
    curvature: MatrixKind = "hessian",
    params: Params | None = None,
    names: str | Iterable[str] | None = None,
    labels: Labels | None = None,
    probes: int = 3,
    steps: int = 40,
    limit: int = 300,
    vectors: bool = False,
    least: int = 5,
    rows: int | None = None,
    basis: BasisKind = "auto",
) -> Spectrum:
    """The largest and smallest eigenvalues in one Krylov run, each with its error bound.

    The run stops when the residuals are within the tolerance and is the first probe of the
    density. Bounds are of the eigenvalues found: one that occurs several times, or lies very
    close to another, may be given once (see `lossatlas.linalg.extremes.converge`).

    Args:
        objective: model, loss, batches.
        top: how many of the largest.
        bottom: how many of the smallest.
        density: estimate the density of all eigenvalues from random probes.
        tolerance: bound wanted, relative to the eigenvalue (top) or to the largest absolute
            eigenvalue (bottom). At least as loose as the noise of products, eps^(2/3) of the
            largest (2.4e-5 in float32), at most 0.01.
        seed: what random starts are drawn from.
        by: "layer" adds a line for each layer, "class" one for each class of examples.
        curvature: "hessian", "gauss_newton", "fisher" or "empirical_fisher".
        params: where; the present weights by default.
        names: names or patterns of the parameters it is over; all of the objective by default.
        labels: batch -> one whole number an example, for by="class"; targets by default.
        probes: random starts of the density.
        steps: products for each further start.
        limit: products at most for the eigenvalues; `reached` says whether they sufficed.
        vectors: keep the eigenvectors.
        least: groups with fewer examples are noted as small.
        rows: size of the projected matrix at which the run restarts, with the eigenvectors
            found so far and a few more: what the basis may take of the memory is one vector
            more. By default 8 more than twice the eigenvalues, more where the basis is below
            16 MiB in float32, and fewer where it would take more than half of the memory that
            is free, down to one vector for each eigenvalue and four more.
        basis: how the basis is kept. "device": as products are. "host": in the memory of the
            host, fetched block by block. "half": in bfloat16, half of float32; bounds are then
            residuals of exact products with the vectors that were found, and do not fall
            below about 0.3 % of the largest eigenvalue. "auto": the first of them that fits.

    Returns:
        The spectrum.

    Raises:
        ArgumentError: a number of the wrong kind, more eigenvalues than parameters, a basis
            larger than the memory, or classes with mode="train".
        UnknownNameError: an unknown kind of curvature, basis, group or parameter.
        LossError: the loss is not twice differentiable; the message names the operation.
        NonFiniteError: the gradient or a product is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import spectrum
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(model, loss, [batch])
        >>> spectrum(objective, top=2, bottom=1).top.round(4)
        array([4., 1.])

    Source: Lanczos 1950; bounds: Parlett, The Symmetric Eigenvalue Problem, ch. 11; density:
        Ubaru, Chen, Saad 2017; classes: Rangwani et al., NeurIPS 2022, arXiv:2212.13827.
    """
    check_objective(objective, params)
    check_flag("density", density)
    check_flag("vectors", vectors)
    _check_numbers(top, bottom, tolerance, probes=probes, steps=steps, limit=limit)
    check_one_of("curvature", curvature, KINDS)
    plan = plan_krylov(objective, KrylovRequest(top + bottom, limit, rows, basis), names)
    _check_size(plan.size, top=top, bottom=bottom)
    if curvature == "hessian":
        # Before weights are copied, because a check holds several copies itself.
        ensure_curvature(objective, curvature)
    matrix = product_of(curvature, objective, params=params, names=names)
    over = list(matrix.params)
    request = GroupRequest(by, curvature, params, over, labels, tolerance, limit, least, seed)
    ends = extreme_eigenvalues(
        matrix, plan, top, bottom, tolerance=tolerance, limit=limit, seed=seed
    )
    density_estimate = _density(matrix, ends, probes, steps, seed) if density else None
    groups = group_spectra(objective, request)
    settings: dict[str, Any] = {"top": top, "bottom": bottom, "tolerance": tolerance, "by": by}
    settings |= {"curvature": curvature, "names": names, "limit": limit, "density": density}
    settings |= {"probes": probes, "steps": steps, "rows": rows, "basis": basis}
    bounds, rounding = ends.bounds(matrix), coarse_rounding(objective) * ends.largest_size
    return Spectrum(
        top=ends.ritz.values[ends.top],
        bottom=ends.ritz.values[ends.bottom],
        top_bounds=np.array([bounds[index] + rounding for index in ends.top]),
        bottom_bounds=np.array([bounds[index] + rounding for index in ends.bottom]),
        products=matrix.count + sum(group.products for group in groups),
        reached=ends.reached,
        density=density_estimate,
        groups=groups,
        vectors=ends.vectors(matrix) if vectors else (),
        parameters=matrix.size,
        memory=plan.memory,
        provenance=_provenance(objective, seed, settings),
        note="; ".join(filter(None, (plan.note, ends.note))),
        top_reached=ends.top_reached,
        bottom_reached=ends.bottom_reached,
    )


def _check_numbers(top: Any, bottom: Any, tolerance: Any, **counts: Any) -> None:
    check_at_least("top", top, 0)
    check_at_least("bottom", bottom, 0)
    if top + bottom == 0:
        raise ArgumentError("`top` and `bottom` are both 0; ask for at least one eigenvalue.")
    check_positive("tolerance", tolerance)
    for name, value in counts.items():
        check_count(name, value, 1)


def _provenance(objective: Objective, seed: int, settings: dict[str, Any]) -> Provenance:
    names = settings["names"]
    plain = names if names is None or isinstance(names, str) else list(names)
    model, data = objective.fingerprint()
    return Provenance(seed, settings | {"names": plain, "mode": objective.mode}, model, data)


def _check_size(size: int, **counts: int) -> None:
    for name, count in counts.items():
        if count > size:
            raise ArgumentError(
                f"`{name}` must be at most the number of parameters, {size}; got {count}."
            )


def _density(
    matrix: CurvatureOperator, ends: ExtremeEigenvalues, probes: int, steps: int, seed: int
) -> Density:
    return density_of(
        matrix.flat,
        ends.first,
        ends.converged,
        ends.basis if ends.reached else None,
        products=ends.products,
        probes=probes,
        steps=steps,
        seed=seed,
        like=matrix.zeros(),
    )
