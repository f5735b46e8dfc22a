"""Objective: the one thing that every instrument takes."""

import copy
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lossatlas.checks import check_one_of
from lossatlas.errors import ArgumentError, LossError
from lossatlas.linalg.params import Params, fingerprint
from lossatlas.objective.batches import Batch, check_batches
from lossatlas.objective.datafingerprint import DataFingerprint
from lossatlas.objective.determinism import validate_loss
from lossatlas.objective.lines import Lines
from lossatlas.objective.modes import MODES
from lossatlas.objective.moments import Moments
from lossatlas.objective.names import select
from lossatlas.objective.point import State
from lossatlas.objective.reach import check_reach
from lossatlas.objective.remedies import check_whole
from lossatlas.objective.selfcheck import Check, in_order, state_check
from lossatlas.objective.sizes import Size
from lossatlas.objective.slope import ensure_slope
from lossatlas.objective.stage import Loss, Stage
from lossatlas.objective.user_code import wrap_errors
from lossatlas.objective.weighted import Total, Weighted, influence, pairs_of
from lossatlas.result import Estimate

DERIVATIVES = ("autograd", "differences", "unchecked")
_DERIVATIVE = (
    "use operations that have it; a loss that holds gradients itself needs "
    "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around attention."
)
_NO_GRAPH = (
    "`loss` does not lead back to the parameters, so it has no gradient; return the "
    "tensor itself, neither detached nor turned into a number."
)


class Objective(Stage):
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
            (`list(loader)` keeps the batches in memory). Batches may be tensors in tuples,
            lists or mappings and are moved to the model's device.
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

    Raises:
        ModelError: no parameters, none that is trainable, or the loss does not move with them.
        ArgumentError: batches or params of the wrong form.
        DataError: no batches, an empty one, batches of unequal sizes that cannot be told
            (see `size`), or examples whose weights are all 0.
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
        mode: str = "eval",
        params: str | Iterable[str] | None = None,
        check: bool = True,
        size: Size | None = None,
        derivatives: str = "autograd",
    ) -> None:
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            inner = next((n for n in ("module_", "module", "model") if hasattr(model, n)), None)
            told = f": pass its .{inner}" if inner else ""
            raise ArgumentError(f"`model` must be a torch.nn.Module; got {kind}{told}.")
        check_whole(model)
        if not callable(loss):
            raise ArgumentError(f"`loss` must be callable; got {type(loss).__name__}.")
        check_one_of("mode", mode, MODES)
        if size is not None and not callable(size):
            raise ArgumentError(
                "`size` must be a function batch -> how many examples it holds; got "
                f"{type(size).__name__}."
            )
        super().__init__(
            model, loss, check_batches(batches), mode, tuple(select(model, params)), size=size
        )
        check_one_of("derivatives", derivatives, DERIVATIVES)
        self.derivatives, self.is_checked = derivatives, check
        self.checks: dict[str, Check] = {}
        # What the checks run on, and how it is rounded.
        self.few: tuple[Batch, float] | None = None
        self.kinds: set[torch.dtype] = set()
        self.lines: Lines | None = None
        self.unused: tuple[str, ...] = ()
        self.cut: tuple[str, ...] = ()
        look = validate_loss(self, twice=check)
        self._per_example, self._weighted = look.per_example, look.weighted
        self.notes: tuple[str, ...] = look.notes
        self.count = look.batches
        if check:
            found = check_reach(self)
            self.checks |= {"reach": found.check, "state": state_check(self)}
            self.unused, self.cut = found.unused, found.cut
        self._data = DataFingerprint()

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

    def part(
        self, batches: Iterable[Batch] | None = None, names: Iterable[str] | None = None
    ) -> "Objective":
        """The same loss over other batches, or fewer parameters; checks are not made again.

        Args:
            batches: all by default.
            names: which parameters move; all of this objective by default.

        Returns:
            An objective.
        """
        smaller = copy.copy(self)
        smaller._data = DataFingerprint()
        if batches is not None:
            smaller.batches, smaller.few = check_batches(batches), None
            smaller.count = None
        if names is not None:
            smaller.names = tuple(select(self.model, list(names)))
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
                in the place of the model's own.

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
        moments = Moments(1, 1 + len(metrics))

        def walk() -> None:
            for batch in self.each_batch():
                measured = self.measure_all(batch, metrics)
                moments.add_batch(measured, partial(self.size_of, batch), 0)

        with torch.no_grad():
            self.at(params, walk)
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
        with torch.no_grad():
            found = self.at(params, lambda: [self._pairs(b) for b in self.each_batch()])
        sums, weights = zip(*found, strict=True)
        return Weighted(torch.cat(sums), torch.cat(weights))

    def _pairs(self, batch: Batch) -> Weighted:
        pairs = pairs_of(self.measure(batch))
        return Weighted(pairs.sums.cpu().double(), pairs.weights.cpu().double())

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
        here = State(self.params) if params is None else self.split(params)
        leaves = {n: value.detach().requires_grad_() for n, value in here.params.items()}
        total = {name: _wide_zeros(value) for name, value in leaves.items()}

        def walk() -> list[tuple[float, bool]]:
            return [
                (found.weight, self._add_gradient(found, leaves, total))
                for found in map(self.total, self.each_batch())
            ]

        with torch.enable_grad():
            point = {**leaves, **here.buffers}
            weights, reached = zip(*self.at(point, walk), strict=True)
        if not any(reached) and not set(leaves) <= set(self.unused):
            raise LossError(_NO_GRAPH)
        weight = sum(weights)
        return {name: (value / weight).to(leaves[name].dtype) for name, value in total.items()}

    def _add_gradient(
        self, found: Total, leaves: dict[str, Tensor], total: dict[str, Tensor]
    ) -> bool:
        # Whether the loss of this batch depends on any leaf: it may be of other experts.
        mean = found.mean
        if not mean.requires_grad:
            return False
        with wrap_errors(f"the gradient of `loss`{_left(self.volatile.names)}", _DERIVATIVE):
            parts = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
        for name, part in zip(leaves, parts, strict=True):
            if part is not None:
                total[name].add_(part, alpha=found.scale)
        # Without checks it is not known which parameters are unused.
        return not self.is_checked or any(part is not None for part in parts)

    def fingerprint(self) -> tuple[str, str]:
        """Digests of the present weights (with buffers) and of the data.

        Returns:
            (model, data), 32 hexadecimal digits each.
        """
        state: Mapping[str, Tensor] = self.params | dict(self.model.named_buffers())
        return fingerprint(state), self._data.of(self.batches)


def _left(names: tuple[str, ...]) -> str:
    return f", which leaves something in '{names[0]}'," if names else ""


def _wide_zeros(value: Tensor) -> Tensor:
    # Sums over batches overflow half precision.
    return torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
