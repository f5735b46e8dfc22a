"""How a Krylov basis is kept: its rows, their type and place, from what memory is free."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.operators import CurvatureOperator, matching
from lossatlas.errors import ArgumentError
from lossatlas.linalg.extremes import default_rows, least_rows
from lossatlas.linalg.krylov import Storage, krylov_bytes
from lossatlas.memory import free_memory
from lossatlas.objective import Objective
from lossatlas.objective.gathered import sharding_groups
from lossatlas.objective.shared import ran_out_somewhere
from lossatlas.text import byte_size

BasisKind = Literal["auto", "device", "host", "half"]
BASES = get_args(BasisKind)
# What a basis may take of the memory that is free, unless it goes no smaller.
_SHARE = 0.5
RAN_OUT = "memory ran out, and the run went on with a smaller basis"
_NOTES = {
    "device": "",
    "host": "the basis is kept in the memory of the host",
    "half": "the basis is kept in bfloat16: residuals below about 0.3 % of the largest "
    "eigenvalue are not reached, and bounds are those of exact products",
}


@dataclass(frozen=True)
class KrylovPlan:
    """How the basis of a run is kept.

    Attributes:
        storage: as for `Lanczos`.
        memory: bytes that basis and vectors take at most.
        size: length of the vectors.
        note: what memory made of the request; often empty.
    """

    storage: Storage
    memory: int
    size: int
    note: str = ""

    @property
    def rounds(self) -> bool:
        """Whether rows are rounded, so that bounds of the recurrence do not hold."""
        return self.storage.dtype is not None


@dataclass(frozen=True)
class KrylovRequest:
    """What a run is for.

    Attributes:
        wanted: eigenvalues.
        limit: products at most.
        rows: size of the projected matrix at which it restarts; chosen where None.
        basis: one of `BASES`.
    """

    wanted: int
    limit: int
    rows: int | None = None
    basis: BasisKind = "auto"

    def check(self) -> None:
        """Require a known way to keep a basis, and rows that go forward."""
        check_one_of("basis", self.basis, BASES)
        if self.rows is not None:
            check_at_least("rows", self.rows, self.wanted + 2)

    def plan(
        self,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        free: Callable[[torch.device], int | None] = free_memory,
    ) -> KrylovPlan:
        """How the basis is kept.

        Args:
            size: length of the vectors.
            dtype: their type.
            device: where they are.
            free: device -> bytes that may be taken.

        Returns:
            The first way that fits.

        Raises:
            ArgumentError: no way to keep it fits.
        """
        most = min(self.limit, size)
        target = min(self.rows or default_rows(size, self.wanted), most)
        least = min(least_rows(self.wanted), target)
        kinds = ["device", *(["host"] if device.type != "cpu" else []), "half"]
        for kind in kinds if self.basis == "auto" else [self.basis]:
            storage = _KINDS[kind]

            def taken(rows: int, storage: Storage = storage) -> int:
                return krylov_bytes(size, rows, dtype, replace(storage, rows=rows))

            room = free(storage.device or device)
            rows = _fitting(taken, target, least, room)
            if rows:
                fitting = replace(storage, rows=None if rows >= most else rows)
                note = "" if kind == self.basis else _NOTES[kind]
                memory = krylov_bytes(size, rows, dtype, fitting)
                return KrylovPlan(fitting, memory, size, note)
        raise ArgumentError(
            f"{self.wanted} eigenvalues of {size} parameters need a basis of at least "
            f"{byte_size(taken(least))}, and {byte_size(room or 0)} are free; take fewer, or a "
            "part of the parameters with `names`."
        )


_KINDS = {
    "device": Storage(),
    "host": Storage(device=torch.device("cpu")),
    "half": Storage(dtype=torch.bfloat16),
}


def _fitting(taken: Callable[[int], int], target: int, least: int, free: int | None) -> int:
    # The largest number of rows that fits; 0 where none does.
    if free is None:
        return target
    for rows in range(target, least, -1):
        if taken(rows) <= _SHARE * free:
            return rows
    return least if taken(least) <= free else 0


def plan_krylov(
    objective: Objective, request: KrylovRequest, names: str | Iterable[str] | None = None
) -> KrylovPlan:
    """How the basis of a run is kept, from shapes alone; the same on all processes."""
    request.check()
    dtype, size, shapes = torch.float32, 0, objective.shapes
    for name in matching(objective.names, names):
        dtype = torch.promote_types(dtype, shapes[name].dtype)
        size += shapes[name].numel()
    plan = request.plan(size, dtype, objective.device, partial(free_together, objective))
    return replace(plan, storage=_in_step(objective, plan.storage))


def _in_step(objective: Objective, storage: Storage) -> Storage:
    # Processes that work together have the same basis.
    ran_out = partial(ran_out_somewhere, objective.model, objective.ranks)
    return replace(storage, ran_out=ran_out)


def free_together(objective: Objective, device: torch.device) -> int | None:
    """The least that is free on processes that work together."""
    free, ranks = free_memory(device), objective.ranks
    for group in sharding_groups(objective.model) if ranks is None else [ranks]:
        free = min((each for each in group.gather(free) if each is not None), default=None)
    return free


def probing_storage(matrix: CurvatureOperator, rows: int, vectors: int = 3) -> Storage:
    """A basis beside random probes: of so many rows, or as many as half of the memory holds.

    Args:
        matrix: what is probed.
        rows: of the projected matrix at most; 0 for probes alone.
        vectors: that are held beside the basis.

    Returns:
        How the basis is kept; it has one row more.

    Raises:
        ArgumentError: not even the vectors fit.
    """
    free = partial(free_together, matrix.objective)
    fitting = probing_rows(
        matrix.size, matrix.dtype, matrix.device, rows, vectors=vectors, free=free
    )
    return _in_step(matrix.objective, Storage(rows=fitting))


def probing_rows(
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    rows: int,
    *,
    vectors: int = 3,
    free: Callable[[torch.device], int | None] = free_memory,
) -> int:
    """How many rows of a basis there are beside random probes; see `probing_storage`."""
    room, most, each = free(device), min(rows, size), size * dtype.itemsize
    if room is None:
        return most
    least = (vectors + 1) * each
    if least > room:
        raise ArgumentError(
            f"random probes of {size} parameters need {byte_size(least)}, and "
            f"{byte_size(room)} are free; take a part of the parameters with `names`."
        )
    return max(0, min(most, int(_SHARE * room / each) - vectors - 1))


def spectrum_memory(
    objective: Objective,
    limit: int = 300,
    *,
    top: int = 10,
    bottom: int = 2,
    rows: int | None = None,
    basis: BasisKind = "auto",
) -> int:
    """What `spectrum` may take beyond model and graph: one Krylov basis and two vectors.

    Nothing is computed: the answer is from the sizes of the parameters and the memory that is
    free.

    Args:
        objective: what would be measured.
        limit: as for `spectrum`.
        top: as for `spectrum`.
        bottom: as for `spectrum`.
        rows: as for `spectrum`.
        basis: as for `spectrum`.

    Returns:
        Bytes.

    Raises:
        ArgumentError: a number of the wrong kind, or a basis that does not fit.
        UnknownNameError: an unknown way to keep a basis.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import spectrum_memory
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> spectrum_memory(la.Objective(torch.nn.Linear(2, 1), loss, [batch])) > 0
        True
    """
    check_objective(objective)
    check_at_least("limit", limit, 1)
    check_at_least("top", top, 0)
    check_at_least("bottom", bottom, 0)
    request = KrylovRequest(top + bottom, limit, rows, basis)
    request.check()
    return plan_krylov(objective, request).memory
