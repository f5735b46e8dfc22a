"""Data that are spread over processes: shares that may be empty, and what all of them give."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from lossatlas.errors import ArgumentError, DataError, RankError, RankWarning
from lossatlas.guard import preserved_rng
from lossatlas.linalg.params import fingerprint
from lossatlas.objective.batches import (
    Batch,
    check_batches,
    map_tensors,
    tensors,
    walk_to_end,
)
from lossatlas.objective.gathered import agreed, sharding_groups, watched_groups
from lossatlas.objective.in_place import is_collective
from lossatlas.objective.selfcheck import FAILED
from lossatlas.objective.standard_errors import Moments
from lossatlas.objective.sums import GradientSums
from lossatlas.objective.weighted import Weighted
from lossatlas.ranks import Ranks, is_initialized, own_rank, world_size
from lossatlas.shards import fsdp_modules, groups_of, meshes_of
from lossatlas.tracebacks import reason_of

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

T = TypeVar("T")
_ALONE = (
    "there are {} processes, and this objective has no `group=`: its numbers are those of the "
    "data of this process alone. Pass group=torch.distributed.group.WORLD for those of all."
)


def checked_by_all(model: object, group: Any, check: Callable[[], T]) -> T:
    """Look at what is this process's own; all that would wait for it are told an error."""
    groups = [] if group is None else [Ranks(group)]
    if isinstance(model, nn.Module) and is_initialized() and is_collective(model):
        groups += sharding_groups(model)
    results: list[T] = []
    error: Exception | None = None
    try:
        results.append(check())
    except Exception as failure:
        error = failure
    # First all are told, then all stop: those of one group may be waited for in another.
    told = agreed(groups, "" if error is None else f"rank {own_rank()}: {reason_of(error)}")
    if error is not None:
        raise error
    if told:
        raise RankError(
            f"another process of the group cannot be measured ({told}); mend it there."
        )
    return results[0]


def ran_out_somewhere(model: nn.Module, ranks: Ranks | None, here: bool) -> bool:
    """Whether memory ran out on any process, so all try less; RankError in compiled shards."""
    groups = [] if ranks is None else [ranks]
    if is_initialized() and is_collective(model):
        if here and not watched_groups(model):
            raise RankError(
                "memory ran out on a process of a compiled sharded model, whose passes need "
                "all of them, so none of them can try less; start all anew, with less at once "
                "(rows=, smaller batches) or resume=."
            )
        groups = sharding_groups(model) + groups
    for group in groups:
        here = any(group.gather(here))
    return here


def one_group(model: nn.Module, group: Any) -> Ranks | None:
    """The processes that the data are spread over; None where it is this one alone."""
    if group is None and not fsdp_modules(model):
        return None
    ranks = Ranks(group if group is not None else _group_of(model))
    return ranks if ranks.size > 1 else None


def _group_of(model: nn.Module) -> Any:
    # What `fully_shard` shards over, and averages gradients over.
    meshes = meshes_of(model)
    if not meshes or meshes[0].ndim > 1:
        raise ArgumentError(
            "`group` must be given for a model that is sharded over a mesh of several "
            "dimensions: the group of the dimension that the data are spread over, as in "
            "mesh['data'].get_group()."
        )
    return groups_of(meshes)[0]


def warn_alone(model: nn.Module) -> None:
    """Say that a number is of one share, where there are other processes."""
    if world_size() > 1 and not is_collective(model):
        warnings.warn(_ALONE.format(world_size()), RankWarning, stacklevel=4)


class Shared:
    """The processes of an objective, and its share of the data.

    Args:
        ranks: the processes.
        objective: to which all of this belongs.
        batches: of this process; may be empty.
    """

    def __init__(self, ranks: Ranks, objective: "Objective", batches: Iterable[Batch]) -> None:
        self.ranks, self._whole = ranks, objective
        self.collective = is_collective(objective.model)
        self.empty = ranks.together(partial(_is_empty, batches))
        self.own: Iterable[Batch] = [] if self.empty else batches
        if objective.mode == "recalibrated" and self.collective:
            raise ArgumentError(
                '`mode="recalibrated"` does not serve sharded models: processes that run out '
                "of batches make passes that would count as statistics; use "
                'mode="eval" or "train", or measure a whole copy.'
            )
        self._local: Objective | None = None

    @property
    def local(self) -> "Objective":
        """The objective over this share; passes of a sharded model stay in step."""
        assert self._local is not None
        return self._local

    def look(self) -> None:
        """What construction looks at, on every process, and agreed on afterwards."""
        ranks, whole = self.ranks, self._whole
        held = [rank for rank, empty in enumerate(ranks.gather(self.empty)) if not empty]
        if not held:
            raise DataError(
                "no process of the group has a batch; give at least one of them data."
            )
        first = ranks.share(lambda: self._first() if ranks.rank == held[0] else None)
        whole.sample = first[held[0]]
        self._check_models(held)
        ranks.passes_send = self.collective
        watched = watched_groups(whole.model)
        ranks.monitored_groups = [*watched, ranks.group] if watched else []
        local = self._make_local()
        if self.empty and not self.collective:
            local.batches = [whole.sample]
        ranks.together(local._look)
        self._agree(local, held)
        self._local = self._make_local()
        self._local.count = None if self.empty else local.count
        counts = ranks.gather(0 if self.empty else local.count or 0)
        self._local.batches_before = sum(counts[: ranks.rank])
        # Only from now on: looks at the data differ between processes.
        self._local.statistics_ranks = ranks

    def _make_local(self) -> "Objective":
        local = copy.copy(self._whole)
        local.shared, local.batches = None, self.own
        local.forget_data()
        if self.collective:
            count = self.ranks.together(lambda: sum(1 for _ in _walk(self.own)))
            local.idle = max(self.ranks.gather(count)) - count
            local.collective_ranks = self.ranks
        return local

    def every_batch(self) -> Iterator[Batch]:
        """All batches of all processes, each sent by the one that holds it."""
        for rank in range(self.ranks.size):
            own = iter(_walk(self.own)) if self.ranks.rank == rank else iter(())
            while True:
                batch = self.ranks.share(lambda own=own: _on_host(next(own, None)))[rank]  # type: ignore[misc]
                if batch is None:
                    break
                yield batch

    def common(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Batches that all processes were given alike."""
        first = next(iter(_walk(batches)), None) if isinstance(batches, list | tuple) else None
        digest = fingerprint({str(k): v for k, v in enumerate(tensors(first))})
        self.ranks.check_same(
            "the batches of a part", digest, "give all processes the same ones"
        )
        return batches

    def part(self, whole: "Objective") -> "Shared":
        """The same for an objective with fewer parameters."""
        smaller = copy.copy(self)
        smaller._whole, smaller._local = whole, copy.copy(whole)
        local = smaller._local
        local.shared, local.batches, local.count = None, self.own, self.local.count
        local.idle, local.collective_ranks = self.local.idle, self.local.collective_ranks
        local.statistics_ranks = self.local.statistics_ranks
        local.batches_before = self.local.batches_before
        local.forget_data()
        return smaller

    def _first(self) -> Batch:
        # On the processor: it goes to other processes.
        return map_tensors(lambda value: value.cpu(), next(islice(_walk(self.own), 1)))

    def _check_models(self, held: list[int]) -> None:
        whole, ranks = self._whole, self.ranks
        shapes = [(n, tuple(v.shape), str(v.dtype)) for n, v in whole.shapes.items()]
        remedy = "build the same model with the same params= on all of them"
        ranks.check_same("the parameters that move", shapes, remedy)
        if not self.collective:
            state = {**whole.params, **dict(whole.model.named_buffers())}
            digest = ranks.together(lambda: fingerprint(state))
            remedy = "load the same weights on all, or broadcast those of rank 0"
            ranks.check_same("the weights", digest, remedy)
        settings = (whole.mode, whole.derivatives, whole.is_checked)
        ranks.check_same("mode, derivatives or check", settings, "pass the same on all")
        kinds = ranks.share(lambda: None if self.empty else _kind(self._first()))
        for rank in held:
            if kinds[rank] != kinds[held[0]]:
                raise RankError(
                    f"the batches of rank {rank} are of another kind than those of rank "
                    f"{held[0]} ({kinds[rank]} and {kinds[held[0]]}); give all of them shares "
                    "of the same data."
                )

    def _agree(self, local: "Objective", held: list[int]) -> None:
        whole = self._whole
        mine = (local._per_example, local._weighted, local.notes, local.unused, local.cut)
        every = [self.ranks.gather(mine)[rank] for rank in held]
        if len({each for each, *_ in every}) > 1:
            raise RankError(
                "the loss gives one number an example on some processes and a mean on others; "
                "let it return the same on all of them."
            )
        whole._per_example, whole._weighted = every[0][0], any(each[1] for each in every)
        whole.notes = tuple(dict.fromkeys(note for each in every for note in each[2]))
        silent = set.intersection(*(set(each[3]) for each in every))
        whole.unused = tuple(name for name in whole.names if name in silent)
        broken = set().union(*(each[4] for each in every))
        whole.cut = tuple(name for name in whole.names if name in broken)
        whole.volatile, whole.kinds = local.volatile, local.kinds
        whole.walk_seconds = local.walk_seconds
        whole.needs_gradients = any(self.ranks.gather(local.needs_gradients))
        checks = self.ranks.gather(dict(local.checks))
        failed = [each for each in checks for check in each.values() if check.status == FAILED]
        whole.checks |= (failed or checks)[0]

    def gradient_sums(
        self,
        call: Callable[[], GradientSums],
        at: Mapping[str, Tensor] | None = None,
    ) -> GradientSums:
        """Sums of gradients over all processes."""
        totals: list[dict[str, Tensor]] = []

        def run() -> tuple[float, bool]:
            sums = call()
            totals.append(sums.total)
            return sums.weight, sums.reached

        shares = self.ranks.share(run, at)
        self.ranks.add(*totals[0].values())
        weight = sum(weight for weight, _ in shares)
        return GradientSums(totals[0], weight, any(reached for _, reached in shares))

    def fingerprint(self, data: str) -> str:
        """A digest of all shares, in the order of the processes."""
        digests = self.ranks.gather(data)
        return fingerprint({d: torch.zeros(0) for d in dict.fromkeys(digests)})


def _is_empty(batches: Iterable[Batch]) -> bool:
    # A loader over an empty data set has a length as well.
    given: object = batches
    if isinstance(given, Sized) and not isinstance(given, Tensor | Mapping) and not len(given):
        return True
    check_batches(batches)
    return False


def _walk(batches: Iterable[Batch]) -> Iterable[Batch]:
    with preserved_rng():
        yield from walk_to_end(batches)


def _on_host(batch: Batch) -> Batch:
    return None if batch is None else map_tensors(lambda value: value.cpu(), batch)


def _kind(batch: Batch) -> str:
    return ", ".join(
        f"{str(value.dtype).removeprefix('torch.')}[{value.ndim}]" for value in tensors(batch)
    )


def merge(parts: list[Moments]) -> Moments:
    """The sums of all processes."""
    first, *others = parts
    for other in others:
        first.merge(other)
    return first


def gather_pairs(
    ranks: Ranks, call: Callable[[], Weighted], at: Mapping[str, Tensor] | None = None
) -> Weighted:
    """Sums and weights of the examples of all processes, in the order of their ranks."""
    sums, weights = zip(*ranks.share(call, at), strict=True)
    return Weighted(torch.cat(sums), torch.cat(weights))


def check_same_data(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Require that processes that hold pieces of one layer are given the same batches."""
    meshes = meshes_of(model)
    if not (is_initialized() and meshes) or meshes[0].ndim > 1 or meshes[0].size() == 1:
        return
    first = dict(enumerate(tensors(next(iter(_walk(batches))))))
    digest = fingerprint({str(k): value for k, value in first.items() if not value.is_nested})
    Ranks(*groups_of(meshes[:1])).check_same(
        "the first batches",
        digest,
        "the layers of this model are spread over these processes, so all take the same data",
    )
