"""Objective: the one thing that every instrument takes."""

import copy
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lossatlas.errors import DataError, LossError
from lossatlas.guard import preserved_rng
from lossatlas.linalg.params import Params, fingerprint
from lossatlas.memory import free_memory
from lossatlas.objective.arguments import Derivatives, check_arguments
from lossatlas.objective.batches import (
    Batch,
    Uploads,
    check_batches,
    map_tensors,
    tensors,
    to_device,
    walk_to_end,
)
from lossatlas.objective.datafingerprint import DataFingerprint
from lossatlas.objective.determinism import check_loss, validate_loss
from lossatlas.objective.forward_cache import forward_cache
from lossatlas.objective.gathered import (
    decide_gathering,
    gathers,
    is_compiled,
    watched_groups,
)
from lossatlas.objective.in_place import (
    WeightsInPlace,
    execution_device,
    gradient_in_place,
    is_collective,
)
from lossatlas.objective.lines import Lines
from lossatlas.objective.losses import Supervised, loss_remedy
from lossatlas.objective.modes import Mode, alone, evaluation_mode, recalibrate
from lossatlas.objective.names import select
from lossatlas.objective.placement import run_at, run_with_whole_weights
from lossatlas.objective.point import State, split_state
from lossatlas.objective.reach import check_reach
from lossatlas.objective.selfcheck import Check, in_order, state_check
from lossatlas.objective.shared import (
    Shared,
    check_same_data,
    checked_by_all,
    gather_pairs,
    merge,
    one_group,
    warn_alone,
)
from lossatlas.objective.sizes import Size, size_of
from lossatlas.objective.slope import ensure_slope
from lossatlas.objective.state import (
    Volatile,
    WriteGuard,
    modules_of_loss,
    preserved_state,
    shallow_copy,
)
from lossatlas.objective.sums import example_pairs, gradient_sums, loss_moments
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import (
    Measured,
    Total,
    Weighted,
    cut_off,
    influence,
    total_of,
)
from lossatlas.passes import monitored
from lossatlas.ranks import Ranks
from lossatlas.result import Estimate
from lossatlas.shards import reshard

Loss = Callable[[nn.Module, Batch], Measured]
T = TypeVar("T")
_NO_GRAPH = (
    "`loss` does not lead back to the parameters, so it has no gradient; return the "
    "tensor itself, neither detached nor turned into a number."
)


class Objective:
    """A pure function of the parameters: the mean loss of a model over batches.

    The model is never changed: parameters are swapped in for the length of a call, modes,
    buffers and the global random state come back as they were.

    Args:
        model: any module; its parameters are read live, not copied.
        loss: `loss(model, batch)` gives a number (the mean of the batch), a vector with one
            number an example, or `Weighted(sums, weights)` with one pair an example, whose
            value is sum(sums) / sum(weights); `supervised(criterion)` makes one for
            (input, target) batches.
        batches: a list of batches or a DataLoader; walked once for every evaluation
            (`list(loader)` keeps the batches in memory). Data without a length may hold up to
            1,000 batches; of a stream that never ends pass some,
            `list(itertools.islice(stream, 64))`. Batches may be tensors in tuples, lists or
            mappings and are moved to the model's device.
        mode: what normalization layers do. "eval": running statistics; "train": the batch's
            statistics, running ones untouched; "recalibrated": running statistics estimated
            anew at every point. Everything else (dropout) is always in eval mode.
        params: names or patterns of the parameters to move ("*lora_*", ["fc.weight"]);
            None moves all that require grad. Tied weights move together.
        check: walk the data a second time and require the two passes to agree; require that
            the loss moves with the parameters; compare gradients and curvature with
            differences before the first number that rests on them (`check` does all by hand).
        derivatives: "autograd"; "differences" takes products with the Hessian from central
            differences of gradients (for smooth losses whose second derivatives are wrong or
            missing); "unchecked" takes what autograd gives, without a look.
        size: batch -> how many examples it holds, which a batch mean is weighted by; only
            losses that return a number need it. None takes what the batch tells: packed
            sequences, nested tensors, graphs (`num_graphs`) and TensorDicts know it, otherwise
            it is the length of axis 0, where nothing in the batches speaks against that.
        group: a process group of `torch.distributed` (`torch.distributed.group.WORLD` for all
            processes): `batches` are the share of this process, which may be empty, and sums,
            weights and gradients are those of all shares, the same bits on every process. All
            processes must make the same calls. A model sharded by `fully_shard` has the group
            that it is sharded over by default.
        in_place: write points into the memory of the parameters, run the model as it is, and
            put the bits back, in the place of handing it other tensors. None does so where the
            model needs it: sharded (FSDP2, tensor parallel), offloaded by accelerate,
            Keras. Derivatives beyond gradients are then taken through whole weights where the
            model is sharded, or in its own parameters; by differences in compiled code.

    Raises:
        ModelError: no parameters, none that is trainable, or the loss does not move with them.
        ArgumentError: batches or params of the wrong form.
        DataError: no batches, an empty one, more than can be walked, batches of unequal sizes
            that cannot be told (see `size`), or examples whose weights are all 0.
        RankError: a process of the group failed, is gone, or holds another model.
        LossError: the loss returns something else than a number or one number an example.
        StochasticError: two passes differ; the message names dropout or shuffling.
        UnknownNameError: an unknown mode, parameter name or kind of derivatives.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> objective.value({"weight": torch.tensor([[1.0, 3.0]])})
        5.0
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Batch],
        *,
        mode: Mode = "eval",
        params: str | Iterable[str] | None = None,
        check: bool = True,
        size: Size | None = None,
        derivatives: Derivatives = "autograd",
        group: Any = None,
        in_place: bool | None = None,
    ) -> None:
        self.model, self.loss, self.mode, self.size = model, loss, mode, size
        self.derivatives = derivatives
        check_own = partial(check_arguments, self, params, in_place)
        self.names, self.placed = checked_by_all(model, group, check_own)
        ranks = one_group(model, group)
        self.shared = None if ranks is None else Shared(ranks, self, batches)
        self.batches = check_batches(batches) if self.shared is None else self.shared.own
        self.loss_modules = modules_of_loss(loss, model)
        self.volatile = Volatile()
        self.needs_gradients = False
        # How many batches a walk gives; None before the first.
        self.count: int | None = None
        self.guard: WriteGuard | None = None
        self._named = wrap_errors("`loss`", loss_remedy(loss))
        self.is_checked = check
        self._start_anew()
        self.forget_data()
        if self.shared is None:
            warn_alone(model)
            check_same_data(model, self.batches)
            self._look()
        else:
            self.shared.look()
        # Where all processes are: what later reads the decision may be one of them alone.
        decide_gathering(self)

    def _start_anew(self) -> None:
        # What the first walk and the checks find out.
        # Whether examples are known, and whether they have weights of their own.
        self._per_example = self._weighted = False
        self.checks: dict[str, Check] = {}
        # What the checks run on, and how it is rounded.
        self.few: tuple[Batch, float] | None = None
        self.kinds: set[torch.dtype] = set()
        # The first batch of all processes, and how many passes this one makes for the others.
        self.sample: Batch | None = None
        self.idle, self.idling = 0, False
        # Number of this process's first batch among those of all, in the order of their ranks.
        self.batches_before = 0
        self._uploads: Uploads | None = None
        self.collective_ranks: Ranks | None = None
        # Whose running statistics are averaged, where each sees a share of the data.
        self.statistics_ranks: Ranks | None = None
        self.lines: Lines | None = None
        self.unused: tuple[str, ...] = ()
        self.cut: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        # Seconds of a walk at construction, and the device that it was made on.
        self.walk_seconds: tuple[float, torch.device] | None = None

    def _look(self) -> None:
        # Walk the data, and check that the loss is a fixed function of what moves.
        look = validate_loss(self, twice=self.is_checked)
        self._per_example, self._weighted = look.per_example, look.weighted
        self.notes = look.notes
        self.count = look.batches
        self.walk_seconds = look.seconds, self.device
        if self.is_checked:
            reached = check_reach(self)
            self.checks |= {"reach": reached.check, "state": state_check(self)}
            self.unused, self.cut = reached.unused, reached.cut

    def forget_data(self) -> None:
        """Let the digest of the data be taken anew."""
        self._data = DataFingerprint()

    def somewhere(self, flag: bool) -> bool:
        """Whether something holds on any process whose passes this one must keep step with."""
        return (
            flag if self.collective_ranks is None else any(self.collective_ranks.gather(flag))
        )

    @property
    def local(self) -> "Objective":
        """The same objective over the batches of this process alone; itself without a group."""
        if self.shared is None:
            return self
        return self.shared.local

    @property
    def joins_statistics(self) -> bool:
        """Whether processes estimate statistics together, so that all must walk alike."""
        return self.mode == "recalibrated" and self.local.statistics_ranks is not None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes: the only one, or the first."""
        return self.shared is None or self.shared.ranks.rank == 0

    def together(self, call: Callable[[], T]) -> T:
        """Run a function on all processes that share the data; if one fails, all of them do."""
        return call() if self.shared is None else self.shared.ranks.together(call)

    @property
    def has_no_share(self) -> bool:
        """Whether this process is one of several and has no data."""
        return self.shared is not None and self.shared.empty

    @property
    def sampled(self) -> "Objective":
        """What this process looks at by itself: its share, or a batch of others without one."""
        if not self.has_no_share:
            return self.local
        return self.local.part([self.first_batch()])

    @property
    def ranks(self) -> Ranks | None:
        """The processes that the data are spread over."""
        return None if self.shared is None else self.shared.ranks

    @property
    def checked(self) -> tuple[str, ...]:
        """What was checked so far and how closely it agrees, a sentence each; see `check`."""
        if not self.is_checked:
            return ("nothing was checked (check=False)",)
        return tuple(map(str, in_order(self.checks)))

    @property
    def unit(self) -> str:
        """What the sampling error is over: "examples", or "batches" where only means exist."""
        return "examples" if self._per_example else "batches"

    @property
    def weighted(self) -> bool:
        """Whether examples have weights that differ, so that the value is a ratio of sums."""
        return self._weighted

    @property
    def by_differences(self) -> bool:
        """Whether products with the Hessian are differences of gradients."""
        if self.derivatives == "differences":
            return True
        if self.placed is None or gathers(self):
            return False
        return is_collective(self.model) or is_compiled(self.model)

    @property
    def own_leaves(self) -> dict[str, Tensor] | None:
        """The model's own parameters, where derivatives are taken in these; None elsewhere."""
        if self.placed is None or gathers(self):
            return None
        self.placed.check_gradients()
        return {name: slot.parameter for name, slot in self.placed.slots.items()}

    def part(
        self, batches: Iterable[Batch] | None = None, names: Iterable[str] | None = None
    ) -> "Objective":
        """The same loss over other batches, or fewer parameters; checks are not made again.

        Args:
            batches: all by default.
            names: which parameters move; all of this objective by default.

        Returns:
            An objective.

        Raises:
            RankError: processes that share the data were given different batches.
        """
        smaller = copy.copy(self)
        smaller.forget_data()
        if batches is not None:
            if self.shared is not None:
                # All processes have the same from now on, and each measures by itself.
                batches = self.shared.common(batches)
                smaller.shared, smaller.sample = None, None
            smaller.batches, smaller.few = check_batches(batches), None
            smaller._uploads = None
            smaller.count = smaller.walk_seconds = None
        if names is not None:
            smaller.names = tuple(select(self.model, list(names)))
            if self.placed is not None:
                smaller.placed = WeightsInPlace(self.model, smaller.names)
            if self.shared is not None:
                smaller.shared = self.shared.part(smaller)
            smaller.cut = tuple(name for name in self.cut if name in smaller.names)
            smaller.unused = tuple(name for name in self.unused if name in smaller.names)
        return smaller

    def value(self, params: Params | None = None) -> float:
        """The mean loss over all examples, accumulated in float64.

        Means of batches are weighted by their sizes; `Weighted` losses give
        sum(sums) / sum(weights).

        Args:
            params: where; the present weights by default. Names and shapes as in `.params`, or
                a full state dict of the model: its buffers (running statistics) are then used
                in the place of the model's own. Tensors of another device are sent.

        Returns:
            A plain number; NaN or inf where the loss is.

        Raises:
            StructureError: names or shapes differ from `.params`.
        """
        return self.evaluate(params).value

    def evaluate(self, params: Params | None = None) -> Estimate:
        """The mean loss with its standard error.

        Args:
            params: where; the present weights by default.

        Returns:
            Value, standard error and what it comes from.

        Raises:
            StructureError: names or shapes differ from `.params`.
        """
        return self.evaluate_all({}, params)["loss"]

    def evaluate_all(
        self, metrics: Mapping[str, Loss], params: Params | None = None
    ) -> dict[str, Estimate]:
        """The mean loss and some metrics, from one forward pass, with their standard errors.

        Args:
            metrics: name -> function of (model, batch), as a loss.
            params: where; the present weights by default.

        Returns:
            "loss" and the names of the metrics -> value and error.

        Raises:
            LossError: a metric gives neither a number nor one number an example.
            StructureError: names or shapes differ from `.params`.
        """
        if self.shared is None:
            moments = loss_moments(self, metrics, params)
        else:
            call = partial(loss_moments, self.shared.local, metrics, params)
            moments = merge(self.shared.ranks.share(call, at=params))
        return dict(zip(("loss", *metrics), moments.estimates(), strict=True))

    def example_losses(self, params: Params | None = None) -> Tensor:
        """The loss of every example.

        Where examples have weights, a loss of one of them is no sample of the value. What is
        given then is its influence, R + (s_i - R w_i) / mean(w): the plain mean is the value,
        and sd / sqrt(n) its standard error but for the correction for few unequal weights;
        see `example_pairs` for sums and weights themselves.

        Args:
            params: where; the present weights by default.

        Returns:
            float64, shape (examples,), in the order of the batches, on the CPU.

        Raises:
            LossError: the loss gives only means.
            StructureError: names or shapes differ from `.params`.
        """
        pairs = self.example_pairs(params)
        return influence(pairs) if self._weighted else pairs.sums

    def example_pairs(self, params: Params | None = None) -> Weighted:
        """Sum and weight of every example: the value is sum(sums) / sum(weights).

        Args:
            params: where; the present weights by default.

        Returns:
            float64, shapes (examples,), in the order of the batches, on the CPU; weights of 1
            where examples count alike.

        Raises:
            LossError: the loss gives only means.
            StructureError: names or shapes differ from `.params`.
        """
        if not self._per_example:
            raise LossError(
                "`loss` gives only the mean of a batch; let it return one number an example, "
                "shape (batch,), to see single examples."
            )
        if self.shared is None:
            return example_pairs(self, params)
        call = partial(example_pairs, self.shared.local, params)
        return gather_pairs(self.shared.ranks, call, at=params)

    def gradient(self, params: Params | None = None) -> dict[str, Tensor]:
        """The gradient of `value`; no `.grad` field is written.

        Args:
            params: where; the present weights by default.

        Returns:
            name -> tensor like the parameter; zero where the loss does not depend on it.

        Raises:
            LossError: the loss has no graph (it was detached, or computed outside torch), or
                one of its operations has no derivative.
            DerivativeError: a parameter moves the loss and gets no gradient.
            StructureError: names or shapes differ from `.params`.
        """
        ensure_slope(self)
        if self.placed is not None:
            return gradient_in_place(self, params)
        if self.shared is None:
            sums = gradient_sums(self, params)
        else:
            call = partial(gradient_sums, self.shared.local, params)
            sums = self.shared.gradient_sums(call, params)
        if not sums.reached and not set(sums.total) <= set(self.unused):
            raise LossError(_NO_GRAPH)
        point = self.params if params is None else params
        return {
            name: (value / sums.weight).to(point[name].dtype)
            for name, value in sums.total.items()
        }

    def fingerprint(self) -> tuple[str, str]:
        """Digests of the present weights (with buffers) and of the data.

        Returns:
            (model, data), 32 hexadecimal digits each.
        """
        buffers = dict(self.model.named_buffers())
        model = fingerprint(ChainMap(buffers, self.live))  # type: ignore[arg-type]
        data = self.local._data.of(self.local.batches)
        if self.shared is not None:
            data = self.shared.fingerprint(data)
        return model, data

    @property
    def live(self) -> Params:
        """The present weights, read when they are asked for."""
        return self.params if self.placed is None else self.placed

    @property
    def shapes(self) -> Params:
        """Tensors like the parameters; without numbers where points are written in place."""
        return self.params if self.placed is None else self.placed.shapes

    @property
    def params(self) -> dict[str, Tensor]:
        """The present weights, name -> detached view; copies if points are written in place."""
        if self.placed is not None:
            return dict(self.placed.items())
        every = dict(self.model.named_parameters())
        return {name: every[name].detach() for name in self.names}

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        device = next(self.model.parameters()).device
        return device if device.type != "meta" else torch.device(execution_device(self.model))

    @contextmanager
    def session(self) -> Iterator[None]:
        """Modes as the objective wants them; modes and random states come back afterwards."""
        modes = evaluation_mode(self.model, self.mode)
        with preserved_rng(), self.preserved(), modes, alone(self.model), self._uploaded():
            yield

    @contextmanager
    def _uploaded(self) -> Iterator[None]:
        # Batches of a list are the same at every walk: they are sent to the device once.
        before, device = self._uploads, self.device
        if before is None and isinstance(self.batches, list | tuple) and device.type != "cpu":
            self._uploads = Uploads(device, (free_memory(device) or 0) // 4)
        try:
            yield
        finally:
            self._uploads = before

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Keep what passes change: buffers and attributes of modules and of the loss."""
        if self.placed is not None:
            self.placed.check_group()
        # Sharded modules hold their gathered weights for a while: not when these are kept.
        reshard(self.model)
        with preserved_state(self.holders(), self.volatile):
            try:
                yield
            finally:
                reshard(self.model)

    def holders(self) -> list[object]:
        """What may change attributes of its own in a pass: modules, and the loss."""
        modules: list[object] = list(self.model.modules())
        for module in self.loss_modules:
            modules.extend(module.modules())
        if not isinstance(self.loss, nn.Module) and hasattr(self.loss, "__dict__"):
            modules.append(self.loss)
        return modules

    def swapped(self, params: Params, call: Callable[[], T]) -> T:
        """Run `call` while the model holds `params` and copies of its buffers."""
        return run_at(self, params, call)

    def monitored(self) -> AbstractContextManager[None]:
        """A block that all processes of a sharded model leave alike, or with an error."""
        return monitored(watched_groups(self.model) if is_collective(self.model) else [])

    def gathered(self, params: Params, call: Callable[[], T]) -> T:
        """The same as `swapped` for a sharded model, with whole weights on this process."""
        return run_with_whole_weights(self, params, call)

    def handed(self, batch: Batch) -> Batch:
        """What a loss or a metric is given: it may change containers, not the user's data."""
        if self.guard is not None:
            self.guard.watch_batch(batch)
        if self.volatile.batches:
            return map_tensors(torch.clone, batch)
        return shallow_copy(batch)

    def with_params(self, params: Params | None, call: Callable[[], T]) -> T:
        """Run `call` at a point, in a session, with statistics recalibrated where asked."""
        held = {} if params is None else self.split(params).whole

        def run() -> T:
            self.prepare()
            return call()

        with self.session():
            return self.swapped(held, run)

    def split(self, params: Params) -> State:
        """A point in two parts: the parameters that move, and the buffers that go with them."""
        return split_state(self.model, self.mode, self.shapes, params).fetched()

    def prepare(self) -> None:
        """Estimate running statistics anew at the weights swapped in, where the mode asks."""
        if self.mode == "recalibrated":
            local = self.local
            # A loss that takes derivatives takes them in this walk, too.
            needs = torch.set_grad_enabled(self.needs_gradients)
            with needs, preserved_state(self.holders(), self.volatile):
                recalibrate(self.model, local._walk, local.statistics_ranks)

    @property
    def are_at_hand(self) -> bool:
        """Whether a walk over the batches makes and sends nothing, and nobody waits for it."""
        held, cpu = type(self.batches) in {list, tuple}, torch.device("cpu")
        alone = self.shared is None and not self.idle and self.device == cpu
        return held and alone and all(v.device == cpu for v in tensors(self.batches))

    def iter_batches(self) -> Iterator[Batch]:
        """The batches on the model's device, one after another."""
        if self.shared is not None:
            # Each process is given those of all: of the first one, then of the next.
            yield from (to_device(batch, self.device) for batch in self.shared.every_batch())
            return
        device, count = self.device, 0
        for batch in walk_to_end(self.batches):
            sent = None if self._uploads is None else self._uploads(count, batch)
            count += 1
            yield to_device(batch, device) if sent is None else sent
        if self.count not in {None, count}:
            raise DataError(
                f"a walk over `batches` gave {count} of them, and the first walk {self.count}: "
                "they must be the same at every walk; pass list(batches)."
            )
        for _ in range(self.idle):
            # The others have more batches, and their passes need this process: what it gives
            # then does not count.
            self.idling = True
            try:
                yield self.first_batch()
            finally:
                self.idling = False

    def map_batches(self, read: Callable[[Batch], T]) -> list[T]:
        """Something of every batch, wherever it lives, outside a session."""
        if self.shared is not None:
            return [read(batch) for batch in self.shared.every_batch()]
        with preserved_rng():
            return [read(batch) for batch in walk_to_end(self.batches)]

    def first_batch(self) -> Batch:
        """The first batch, on the model's device; for a look before a walk."""
        if self.sample is not None:
            return to_device(self.sample, self.device)
        with preserved_rng():
            return next(self.iter_batches())

    def size_of(self, batch: Batch) -> float:
        """How many examples a batch holds: what a mean over it weighs."""
        return size_of(batch, self.size)

    def batch_loss(self, batch: Batch) -> Measured:
        """The loss of one batch at the weights swapped in."""
        if self.needs_gradients and not torch.is_grad_enabled():
            with torch.enable_grad():
                measured: Measured = cut_off(self._measured(batch))
                return measured
        return self._measured(batch)

    def _measured(self, batch: Batch) -> Measured:
        loss, given = self.loss, None
        with self._named:
            if self._per_example and isinstance(loss, Supervised):
                each = loss.pairs if self._weighted else loss.per_example
                given = each(self.model, self.handed(batch))
            given = loss(self.model, self.handed(batch)) if given is None else given
        return check_loss(given, batch)

    def total(self, batch: Batch) -> Total:
        """The loss of one batch as a sum with its graph, and the weight that divides it."""
        measured = self.batch_loss(batch)
        mean = isinstance(measured, Tensor) and measured.ndim == 0
        return total_of(measured, self.size_of(batch) if mean else 1.0)

    def measure_all(self, batch: Batch, metrics: Mapping[str, Loss]) -> list[Measured]:
        """Loss and some metrics of one batch at the weights swapped in, from one forward."""
        if not metrics:
            return [self.batch_loss(batch)]
        with forward_cache(self.model):
            # The loss first: a metric may change what it is handed.
            loss = self.batch_loss(batch)
            given = []
            for name, metric in metrics.items():
                with wrap_errors(f"metric '{name}'", "it is called as metric(model, batch)."):
                    given.append(metric(self.model, self.handed(batch)))
            return [loss, *(check_loss(value, batch) for value in given)]

    def _walk(self) -> None:
        for batch in self.iter_batches():
            with self._named, torch.set_grad_enabled(self.needs_gradients):
                self.loss(self.model, self.handed(batch))
