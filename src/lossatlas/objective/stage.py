"""Stage: a model on which other weights can be put for the length of a call."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from lossatlas.errors import DataError
from lossatlas.guard import preserved_rng
from lossatlas.linalg.params import Params
from lossatlas.objective.batches import Batch, map_tensors, to_device
from lossatlas.objective.determinism import check_loss
from lossatlas.objective.forward_cache import forward_cache
from lossatlas.objective.losses import Supervised, loss_remedy
from lossatlas.objective.modes import evaluation_mode, recalibrate
from lossatlas.objective.point import State, split_state
from lossatlas.objective.sizes import Size, size_of
from lossatlas.objective.state import (
    Volatile,
    WriteGuard,
    modules_of_loss,
    preserved_state,
    shallow_copy,
)
from lossatlas.objective.swap import swapped_in
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import Measured, Total, cut_off, total_of

Loss = Callable[[nn.Module, Batch], Measured]
T = TypeVar("T")


class Stage:
    """What engines and instruments build on; users take `Objective`, which validates.

    Args:
        model: any module; never changed.
        loss: a function of (model, batch).
        batches: can be walked again and again.
        mode: see `Objective`.
        names: the parameters that move.
        size: batch -> how many examples it holds; None for what the batch tells.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Batch],
        mode: str,
        names: tuple[str, ...],
        *,
        size: Size | None = None,
    ) -> None:
        self.model, self.loss, self.batches = model, loss, batches
        self.mode, self.names, self.size = mode, names, size
        # Whether examples are known, and whether they have weights of their own.
        self._per_example = self._weighted = False
        self.loss_modules = modules_of_loss(loss, model)
        self.volatile = Volatile()
        self.needs_gradients = False
        # How many batches a walk gives; None before the first.
        self.count: int | None = None
        self.guard: WriteGuard | None = None
        self._named = wrap_errors("`loss`", loss_remedy(loss))

    @property
    def params(self) -> dict[str, Tensor]:
        """The present weights, name -> detached view; not copied."""
        every = dict(self.model.named_parameters())
        return {name: every[name].detach() for name in self.names}

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.model.parameters()).device

    @contextmanager
    def session(self) -> Iterator[None]:
        """Modes as the objective wants them; modes and random states come back afterwards."""
        kept = preserved_state(self.holders(), self.volatile)
        with preserved_rng(), kept, evaluation_mode(self.model, self.mode):
            yield

    def holders(self) -> list[object]:
        """What may change attributes of its own in a pass: modules, and the loss."""
        found: list[object] = list(self.model.modules())
        for module in self.loss_modules:
            found.extend(module.modules())
        if not isinstance(self.loss, nn.Module) and hasattr(self.loss, "__dict__"):
            found.append(self.loss)
        return found

    def swapped(self, params: Params, call: Callable[[], T]) -> T:
        """Run `call` while the model holds `params` and copies of its buffers."""
        if self.needs_gradients:
            # The loss takes derivatives, maybe in the parameters.
            params = {
                n: v if v.requires_grad else v.detach().requires_grad_()
                for n, v in params.items()
            }
        if self.volatile.tensors:
            # The forward pass writes into them (`max_norm`), and they are the user's.
            params = {
                n: v.clone() if n in self.volatile.tensors else v for n, v in params.items()
            }
        with swapped_in(self.model, params, self.loss_modules):
            if not self.volatile.matters:
                return call()
            with preserved_state(self.holders(), self.volatile):
                return call()

    def handed(self, batch: Batch) -> Batch:
        """What a loss or a metric is given: it may change containers, not the user's data."""
        if self.guard is not None:
            self.guard.watch_batch(batch)
        if self.volatile.batches:
            return map_tensors(torch.clone, batch)
        return shallow_copy(batch)

    def at(self, params: Params | None, call: Callable[[], T]) -> T:
        """Run `call` at a point, in a session, with statistics recalibrated where asked."""
        held = {} if params is None else self.split(params).whole

        def run() -> T:
            self.prepare()
            return call()

        with self.session():
            return self.swapped(held, run)

    def split(self, params: Params) -> State:
        """A point in two parts: the parameters that move, and the buffers that go with them."""
        return split_state(self.model, self.mode, self.params, params)

    def prepare(self) -> None:
        """Estimate running statistics anew at the weights swapped in, where the mode asks."""
        if self.mode == "recalibrated":
            with torch.no_grad(), preserved_state(self.holders(), self.volatile):
                recalibrate(self.model, self._walk)

    def each_batch(self) -> Iterator[Batch]:
        """The batches on the model's device, one after another."""
        device, count = self.device, 0
        for batch in self.batches:
            count += 1
            yield to_device(batch, device)
        if self.count not in {None, count}:
            raise DataError(
                f"a walk over `batches` gave {count} of them, and the first walk {self.count}: "
                "they must be the same at every walk; pass list(batches)."
            )

    def gathered(self, read: Callable[[Batch], T]) -> list[T]:
        """Something of every batch, wherever it lives, outside a session."""
        with preserved_rng():
            return [read(batch) for batch in self.batches]

    def first_batch(self) -> Batch:
        """The first batch, on the model's device; for a look before a walk."""
        with preserved_rng():
            return next(self.each_batch())

    def size_of(self, batch: Batch) -> float:
        """How many examples a batch holds: what a mean over it weighs."""
        return size_of(batch, self.size)

    def measure(self, batch: Batch) -> Measured:
        """The loss of one batch at the weights swapped in."""
        if self.needs_gradients and not torch.is_grad_enabled():
            with torch.enable_grad():
                found: Measured = cut_off(self._measured(batch))
                return found
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
        measured = self.measure(batch)
        mean = isinstance(measured, Tensor) and measured.ndim == 0
        return total_of(measured, self.size_of(batch) if mean else 1.0)

    def measure_all(self, batch: Batch, metrics: Mapping[str, Loss]) -> list[Measured]:
        """Loss and some metrics of one batch at the weights swapped in, from one forward."""
        if not metrics:
            return [self.measure(batch)]
        with forward_cache(self.model):
            # The loss first: a metric may change what it is handed.
            loss = self.measure(batch)
            given = []
            for name, metric in metrics.items():
                with wrap_errors(f"metric '{name}'", "it is called as metric(model, batch)."):
                    given.append(metric(self.model, self.handed(batch)))
            return [loss, *(check_loss(value, batch) for value in given)]

    def _walk(self) -> None:
        for batch in self.each_batch():
            with self._named, torch.set_grad_enabled(self.needs_gradients):
                self.loss(self.model, self.handed(batch))
