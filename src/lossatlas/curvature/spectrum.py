"""Both ends of a curvature spectrum with error bounds, its density, and spectra of parts."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.algebra.estimators import Estimate
from lossatlas.algebra.extremes import converge
from lossatlas.algebra.krylov import Ritz, krylov_bytes
from lossatlas.algebra.params import Params
from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.curvature.density import Density, quadrature
from lossatlas.curvature.grouped import (
    GroupRequest,
    GroupSpectrum,
    group_spectra,
    saddle_ratio,
)
from lossatlas.curvature.groups import Labels
from lossatlas.curvature.matrix import Product
from lossatlas.curvature.products import KINDS, product_of
from lossatlas.curvature.trace import random_run
from lossatlas.curvature.trees import Stored, part
from lossatlas.errors import ArgumentError
from lossatlas.objective import Objective
from lossatlas.store import Provenance, kind

Array = NDArray[np.float64]

# An outlier stands above the rest by at least this factor.
_STANDS_OUT = 1.5


@part
@kind("spectrum")
@dataclass(frozen=True)
class Spectrum(Stored):
    """The ends of a curvature spectrum, and what lies between.

    Attributes:
        top: largest eigenvalues, descending; loss per squared weight.
        bottom: smallest eigenvalues, ascending.
        top_bounds: error bound of each of `top`, same units.
        bottom_bounds: error bound of each of `bottom`.
        products: all products with the matrix, those of the density included.
        reached: whether every residual is within the tolerance (top: relative to the
            eigenvalue; bottom: relative to the largest absolute one).
        density: quadrature nodes and weights; None where it was not asked for.
        groups: a line for each layer or class; empty where not asked for.
        vectors: eigenvectors of `top`, then of `bottom`, each name -> tensor of length 1;
            empty where not asked for.
        parameters: the size of the matrix.
        memory: bytes that the Krylov basis could take at most.
        provenance: settings, seed, versions, fingerprints.
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

    @property
    def bounds(self) -> Array:
        """The error bounds of `top`, then of `bottom`."""
        return np.concatenate([self.top_bounds, self.bottom_bounds])

    @property
    def saddle_ratio(self) -> float:
        """|smallest| / largest where the smallest is negative, otherwise 0; NaN if unknown."""
        if not len(self.top) or not len(self.bottom):
            return float("nan")
        return saddle_ratio(float(self.top[0]), float(self.bottom[0]))

    @property
    def outliers(self) -> int | None:
        """How many eigenvalues stand above the bulk: those before the largest relative gap.

        None where fewer than three of `top` are positive beyond their bounds. 0 where no gap
        is a factor of 1.5. Ask for about twice as many as there are classes.
        """
        known = self.top[self.top > self.top_bounds]
        if len(known) < 3:
            return None
        ratios = known[:-1] / known[1:]
        return int(ratios.argmax()) + 1 if ratios.max() >= _STANDS_OUT else 0

    @property
    def negative_mass(self) -> Estimate | None:
        """Share of negative eigenvalues in the sum of |eigenvalue|; None without a density."""
        return None if self.density is None else self.density.negative_mass


def spectrum(
    objective: Objective,
    top: int = 10,
    bottom: int = 2,
    density: bool = True,
    tolerance: float = 1e-3,
    *,
    seed: int = 0,
    by: str | None = None,
    curvature: str = "hessian",
    params: Params | None = None,
    names: str | Iterable[str] | None = None,
    labels: Labels | None = None,
    probes: int = 3,
    steps: int = 40,
    limit: int = 300,
    vectors: bool = False,
    least: int = 5,
) -> Spectrum:
    """The largest and smallest eigenvalues in one Krylov run, each with its error bound.

    The run stops when the residuals are within the tolerance and is the first probe of the
    density. Bounds are of the eigenvalues found: one that occurs several times, or lies very
    close to another, may be given once (see `lossatlas.algebra.extremes.converge`).

    Args:
        objective: model, loss, batches.
        top: how many of the largest.
        bottom: how many of the smallest.
        density: estimate the density of all eigenvalues from random probes.
        tolerance: residual wanted, relative to the eigenvalue (top) or to the largest absolute
            eigenvalue (bottom); between 0.01 and the noise of products, eps^(2/3).
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

    Returns:
        The spectrum.

    Raises:
        ArgumentError: a number of the wrong kind, more eigenvalues than parameters, a basis
            larger than the memory, or classes with mode="train".
        UnknownNameError: an unknown kind of curvature, group or parameter.
        LossError: the loss is not twice differentiable; the message names the operation.
        NonFiniteError: the gradient or a product is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.

    Example:
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
    _check_numbers(top, bottom, tolerance, probes=probes, steps=steps, limit=limit)
    check_one_of("curvature", curvature, KINDS)
    matrix = product_of(curvature, objective, params=params, names=names)
    memory, fitting = _memory(matrix, top, bottom, limit)
    over = list(matrix.params)
    request = GroupRequest(by, curvature, params, over, labels, tolerance, limit, least, seed)
    ends: dict[str, Any] = {
        "top": top,
        "bottom": bottom,
        "tolerance": tolerance,
        "limit": fitting,
    }
    # The basis goes when the ends are known: the density has one of its own.
    ritz, reached, kept = _ends(matrix, seed, keep=vectors, **ends)
    found = None
    if density:
        found = quadrature(
            matrix.flat, matrix.zeros(), probes=probes, steps=steps, seed=seed, first=[ritz]
        )
    groups = group_spectra(objective, request)
    asked: dict[str, Any] = {"top": top, "bottom": bottom, "tolerance": tolerance, "by": by}
    asked |= {"curvature": curvature, "names": names, "limit": limit, "density": density}
    asked |= {"probes": probes, "steps": steps}
    return Spectrum(
        top=ritz.values[::-1][:top].copy(),
        bottom=ritz.values[:bottom].copy(),
        top_bounds=ritz.bounds[::-1][:top].copy(),
        bottom_bounds=ritz.bounds[:bottom].copy(),
        products=matrix.count + sum(line.products for line in groups),
        reached=reached and len(ritz.values) >= max(top, bottom),
        density=found,
        groups=groups,
        vectors=kept,
        parameters=matrix.size,
        memory=memory,
        provenance=_provenance(objective, seed, asked),
    )


def _check_numbers(top: Any, bottom: Any, tolerance: Any, **counts: Any) -> None:
    check_at_least("top", top, 0)
    check_at_least("bottom", bottom, 0)
    if top + bottom == 0:
        raise ArgumentError("`top` and `bottom` are both 0; ask for at least one eigenvalue.")
    check_positive("tolerance", tolerance)
    for name, count in counts.items():
        check_at_least(name, count, 1)


def _provenance(objective: Objective, seed: int, asked: dict[str, Any]) -> Provenance:
    names = asked["names"]
    plain = names if names is None or isinstance(names, str) else list(names)
    model, data = objective.fingerprint()
    return Provenance(seed, asked | {"names": plain, "mode": objective.mode}, model, data)


def spectrum_memory(objective: Objective, limit: int = 300) -> int:
    """What `spectrum` may take beyond model and graph: one Krylov basis and two copies.

    Args:
        objective: what would be measured.
        limit: as for `spectrum`; the basis grows with the products really taken.

    Returns:
        Bytes.
    """
    sizes = [value.numel() for value in objective.params.values()]
    kinds = [value.dtype for value in objective.params.values()]
    dtype = torch.float32
    for each in kinds:
        dtype = torch.promote_types(dtype, each)
    return krylov_bytes(sum(sizes), min(limit, sum(sizes)), dtype)


def _memory(matrix: Product, top: int, bottom: int, limit: int) -> tuple[int, int]:
    for name, count in (("top", top), ("bottom", bottom)):
        if count > matrix.size:
            raise ArgumentError(
                f"`{name}` must be at most the number of parameters, {matrix.size}; "
                f"got {count}."
            )
    fitting = min(limit, matrix.size)
    least = krylov_bytes(matrix.size, min(top + bottom, matrix.size), matrix.dtype)
    free = _free_bytes(matrix.device)
    if free is None:
        return krylov_bytes(matrix.size, fitting, matrix.dtype), fitting
    if least > free:
        raise ArgumentError(
            f"{top + bottom} eigenvalues of {matrix.size} parameters need a basis of "
            f"{least / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; take fewer, or a "
            "part of the parameters with `names`."
        )
    while fitting > top + bottom and krylov_bytes(matrix.size, fitting, matrix.dtype) > free:
        fitting -= 1
    return krylov_bytes(matrix.size, fitting, matrix.dtype), fitting


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _ends(
    matrix: Product, seed: int, *, keep: bool, top: int, bottom: int, **stop: Any
) -> tuple[Ritz, bool, tuple[dict[str, torch.Tensor], ...]]:
    lanczos = random_run(matrix, seed)
    ritz, reached = converge(lanczos, top=top, bottom=bottom, **stop)
    if not keep:
        return ritz, reached, ()
    upper = ritz.vectors[:, ::-1][:, :top]
    lower = ritz.vectors[:, :bottom]
    rows = lanczos.basis.combine(np.concatenate([upper, lower], axis=1))
    return ritz, reached, tuple(matrix.unflatten(row / row.norm()) for row in rows)
