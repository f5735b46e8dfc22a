"""Objective: the one thing that every instrument takes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from lossatlas.algebra.params import Params, fingerprint
from lossatlas.checks import check_one_of, check_same_structure
from lossatlas.errors import ArgumentError, LossError
from lossatlas.guard import preserved_rng
from lossatlas.objective.batches import (
    Batch,
    batch_size,
    check_batches,
    data_fingerprint,
    to_device,
)
from lossatlas.objective.determinism import check_loss, look_at_loss
from lossatlas.objective.losses import Supervised
from lossatlas.objective.modes import MODES, evaluation_mode, recalibrate
from lossatlas.objective.moments import Evaluation, Moments, add_losses
from lossatlas.objective.names import select

Loss = Callable[[nn.Module, Batch], Tensor]
T = TypeVar("T")


class Objective:
    """A pure function of the parameters: the mean loss of a model over batches.

    The model is never changed: parameters are swapped in for the length of a call, modes,
    buffers and the global random state come back as they were.

    Args:
        model: any module; its parameters are read live, not copied.
        loss: `loss(model, batch)` gives a number (the mean of the batch) or a vector with one
            number an example; `supervised(criterion)` makes one for (input, target) batches.
        batches: a list of batches or a DataLoader; walked once for every evaluation
            (`list(loader)` keeps the batches in memory). Batches may be tensors in tuples,
            lists or mappings and are moved to the model's device.
        mode: what normalisation layers do. "eval": running statistics; "train": the batch's
            statistics, running ones untouched; "recalibrated": running statistics estimated
            anew at every point. Everything else (dropout) is always in eval mode.
        params: names or patterns of the parameters to move ("*lora_*", ["fc.weight"]);
            None moves all that require grad. Tied weights move together.
        check: walk the data a second time and require the two passes to agree.

    Raises:
        ModelError: no parameters, or none that is trainable.
        ArgumentError: batches or params of the wrong form.
        DataError: no batches, or an empty one.
        LossError: the loss returns something else than a number or one number an example.
        StochasticError: two passes differ; the message names dropout or shuffling.
        UnknownNameError: an unknown mode or parameter name.

    Example:
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
        mode: str = "eval",
        params: str | Iterable[str] | None = None,
        check: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise ArgumentError(f"`model` must be a torch.nn.Module; got {kind}.")
        if not callable(loss):
            raise ArgumentError(f"`loss` must be callable; got {type(loss).__name__}.")
        check_one_of("mode", mode, MODES)
        self.model, self.loss, self.mode = model, loss, mode
        self.batches = check_batches(batches)
        self.names = tuple(select(model, params))
        self._harness = _Harness(model, loss)
        self._per_example = look_at_loss(self, twice=check)

    @property
    def params(self) -> dict[str, Tensor]:
        """The present weights, name -> detached view; not copied."""
        every = dict(self.model.named_parameters())
        return {name: every[name].detach() for name in self.names}

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.model.parameters()).device

    @property
    def unit(self) -> str:
        """What the sampling error is over: "examples", or "batches" where only means exist."""
        return "examples" if self._per_example else "batches"

    def value(self, params: Params | None = None) -> float:
        """The mean loss, weighted by batch size, accumulated in float64.

        Args:
            params: where; the present weights by default. Names and shapes as in `.params`.

        Returns:
            A plain number; NaN or inf where the loss is.

        Raises:
            StructureError: names or shapes differ from `.params`.
        """
        return self.evaluate(params).value

    def evaluate(self, params: Params | None = None) -> Evaluation:
        """The mean loss with its standard error.

        Args:
            params: where; the present weights by default.

        Returns:
            Value, standard error and what it comes from.

        Raises:
            StructureError: names or shapes differ from `.params`.
        """
        moments = Moments()

        def walk() -> None:
            for batch in self.each_batch():
                losses = self.measure(batch)
                add_losses(moments, losses, batch_size(batch), per_example=losses.ndim > 0)

        with torch.no_grad():
            self.at(params, walk)
        return Evaluation(
            float(moments.mean()[0, 0]), float(moments.stderr()[0, 0]), moments.count, self.unit
        )

    def example_losses(self, params: Params | None = None) -> Tensor:
        """The loss of every example.

        Args:
            params: where; the present weights by default.

        Returns:
            float64, shape (examples,), in the order of the batches, on the CPU.

        Raises:
            LossError: the loss gives only means.
            StructureError: names or shapes differ from `.params`.
        """
        if not self._per_example:
            raise LossError(
                "`loss` gives only the mean of a batch; let it return one number an example, "
                "shape (batch,), to see single examples."
            )
        with torch.no_grad():
            losses = self.at(params, lambda: [self.measure(b).cpu() for b in self.each_batch()])
        return torch.cat(losses).double()

    def gradient(self, params: Params | None = None) -> dict[str, Tensor]:
        """The gradient of `value`; no `.grad` field is written.

        Args:
            params: where; the present weights by default.

        Returns:
            name -> tensor like the parameter; zero where the loss does not depend on it.

        Raises:
            StructureError: names or shapes differ from `.params`.
        """
        here = self.params if params is None else params
        leaves = {name: here[name].detach().requires_grad_() for name in self.names}
        total = {name: torch.zeros_like(value) for name, value in leaves.items()}
        weight = 0

        def walk() -> None:
            nonlocal weight
            for batch in self.each_batch():
                size = batch_size(batch)
                mean = self.measure(batch).mean()
                parts = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
                for name, part in zip(leaves, parts, strict=True):
                    if part is not None:
                        total[name].add_(part, alpha=size)
                weight += size

        with torch.enable_grad():
            self.at(leaves, walk)
        return {name: value / weight for name, value in total.items()}

    # What engines and instruments build on.

    @contextmanager
    def session(self) -> Iterator[None]:
        """Modes as the objective wants them; modes and random states come back afterwards.

        Yields:
            Nothing.
        """
        with preserved_rng(), evaluation_mode(self.model, self.mode):
            yield

    def swapped(self, params: Params, call: Callable[[], T]) -> T:
        """Run `call` while the model holds `params` and copies of its buffers.

        Args:
            params: a subset of the names in `.params`; kept, not copied.
            call: runs the model, usually through `measure`.

        Returns:
            What `call` returns.
        """
        weights = {f"model.{name}": value for name, value in params.items()}
        copies = {name: value.clone() for name, value in self._harness.named_buffers()}
        return cast(T, torch.func.functional_call(self._harness, weights | copies, (call,)))

    def at(self, params: Params | None, call: Callable[[], T]) -> T:
        """Run `call` at a point, in a session, with statistics recalibrated where asked.

        Args:
            params: the point; the present weights by default.
            call: runs the model, usually through `measure`.

        Returns:
            What `call` returns.
        """
        if params is not None:
            check_same_structure(params=params, objective=self.params)

        def run() -> T:
            self.prepare()
            return call()

        with self.session():
            return self.swapped({} if params is None else params, run)

    def prepare(self) -> None:
        """Estimate running statistics anew at the weights swapped in, where the mode asks."""
        if self.mode == "recalibrated":
            with torch.no_grad():
                recalibrate(self.model, self._walk)

    def each_batch(self) -> Iterator[Batch]:
        """The batches on the model's device, one after another.

        Yields:
            Each batch.
        """
        for batch in self.batches:
            yield to_device(batch, self.device)

    def measure(self, batch: Batch) -> Tensor:
        """The loss of one batch at the weights swapped in.

        Args:
            batch: on the model's device.

        Returns:
            Shape (batch,) where examples are known, otherwise a scalar.

        Raises:
            LossError: neither a number nor one number an example.
        """
        loss = self.loss
        vector = (
            loss.per_example(self.model, batch)
            if self._per_example and isinstance(loss, Supervised)
            else None
        )
        return check_loss(loss(self.model, batch) if vector is None else vector, batch)

    def fingerprint(self) -> tuple[str, str]:
        """Digests of the present weights (with buffers) and of the data.

        Returns:
            (model, data), 32 hexadecimal digits each.
        """
        state: Mapping[str, Tensor] = self.params | dict(self.model.named_buffers())
        return fingerprint(state), data_fingerprint(self.batches)

    def _walk(self) -> None:
        for batch in self.each_batch():
            self.loss(self.model, batch)


class _Harness(nn.Module):
    """Model and loss as one module, so that `functional_call` swaps in both and runs a call."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, call: Callable[[], T]) -> T:
        return call()
