"""What a spectrum takes of the memory, said beforehand."""

import torch

from lossatlas.checks import check_at_least
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.matrix import Product
from lossatlas.errors import ArgumentError
from lossatlas.linalg.krylov import krylov_bytes
from lossatlas.memory import free_memory
from lossatlas.objective import Objective


def spectrum_memory(objective: Objective, limit: int = 300) -> int:
    """What `spectrum` may take beyond model and graph: one Krylov basis and two copies.

    Args:
        objective: what would be measured.
        limit: as for `spectrum`; the basis grows with the products really taken.

    Returns:
        Bytes.
    """
    check_objective(objective)
    check_at_least("limit", limit, 1)
    sizes = [value.numel() for value in objective.params.values()]
    kinds = [value.dtype for value in objective.params.values()]
    dtype = torch.float32
    for each in kinds:
        dtype = torch.promote_types(dtype, each)
    return krylov_bytes(sum(sizes), min(limit, sum(sizes)), dtype)


def memory_note(fitting: int, wanted: int) -> str:
    """Whether the memory cut a run short."""
    if fitting >= wanted:
        return ""
    return f"the memory that was free holds the basis of {fitting} of {wanted} products"


def fitting_steps(matrix: Product, top: int, bottom: int, limit: int) -> tuple[int, int]:
    """Check that the eigenvalues asked for can be held, and how long a run can be."""
    for name, count in (("top", top), ("bottom", bottom)):
        if count > matrix.size:
            raise ArgumentError(
                f"`{name}` must be at most the number of parameters, {matrix.size}; "
                f"got {count}."
            )
    fitting = min(limit, matrix.size)
    least = krylov_bytes(matrix.size, min(top + bottom, matrix.size), matrix.dtype)
    free = free_memory(matrix.device)
    if free is None:
        return krylov_bytes(matrix.size, fitting, matrix.dtype), fitting
    if least > free:
        raise ArgumentError(
            f"{top + bottom} eigenvalues of {matrix.size} parameters need a basis of "
            f"{least / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free; take fewer, or a "
            "part of the parameters with `names`."
        )
    while fitting > top + bottom and krylov_bytes(matrix.size, fitting, matrix.dtype) > free:
        fitting -= 1
    return krylov_bytes(matrix.size, fitting, matrix.dtype), fitting
