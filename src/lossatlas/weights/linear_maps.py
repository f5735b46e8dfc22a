"""Linear maps of a forward pass: what enters and leaves every matrix of weights.

The graph that autograd keeps says which operations multiply by a parameter, whatever module
they come from. The steps of recurrent layers are seen one by one, at the pre-activations of
their gates, where they run as plain operations.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.curvature.forms import model_outputs
from lossatlas.curvature.matrices import (
    Likelihood,
    counted_labels,
    likelihood_of,
    sampled_scores,
)
from lossatlas.errors import LossError
from lossatlas.objective import Objective
from lossatlas.objective.recurrent import unfused_recurrent_layers
from lossatlas.rng import generator
from lossatlas.weights.trace import plain_operations

Leaves = Mapping[str, Tensor]
# Numbers of inputs that are unfolded at once.
_ROOM = 2**24
_TURNS = {"TBackward0": 1, "ToCopyBackward0": 0, "AliasBackward0": 0}
# Operation -> place of the matrix among its arguments.
_PLACES = {
    "MmBackward0": (1, 0),
    "AddmmBackward0": (2, 1),
    "ConvolutionBackward0": (1,),
    "EmbeddingBackward0": (0,),
}


@dataclass(frozen=True, eq=False)
class Use:
    """One operation that multiplies by a parameter.

    Attributes:
        name: of the parameter.
        node: of the graph.
        kind: "linear", "convolution", "transposed convolution" or "embedding".
        is_transposed: whether the parameter holds one row an input, not one row an output.
        is_left: whether it stands on the left, so that columns are mapped.
        is_tied: whether the parameter is both a table and a matrix in this pass.
    """

    name: str
    node: Any
    kind: str
    is_transposed: bool = False
    is_left: bool = False
    is_tied: bool = False

    def rows(self, slopes: Tensor) -> Iterator["Rows"]:
        """Inputs and slopes of the loss in the outputs, one row each, in float64."""
        if self.kind == "embedding":
            yield Rows(self.node._saved_indices.flatten(), slopes.flatten(0, -2).double())
        elif self.kind == "convolution":
            yield from self._unfolded(slopes)
        elif self.kind == "transposed convolution":
            yield from self._folded(slopes)
        elif self.is_left:
            yield Rows(self.node._saved_mat2.T.double(), slopes.T.double())
        else:
            is_plain = self.node.name() == "MmBackward0"
            inputs = self.node._saved_self if is_plain else self.node._saved_mat1
            yield Rows(inputs.double(), slopes.double())

    def _unfolded(self, slopes: Tensor) -> Iterator["Rows"]:
        """One row an output position; of a grouped convolution, one for each group of it."""
        x, groups = self.node._saved_input, self.node._saved_groups
        length = slopes[0, 0].numel() * x.shape[1] * math.prod(self._kernel)
        for part, slope in _pieces(length, x, slopes):
            patches = F.unfold(_flat(part), self._kernel, *self._options).mT.flatten(0, 1)
            given = slope.flatten(2).mT.flatten(0, 1).double()
            width, count = patches.shape[1] // groups, given.shape[1] // groups
            for k in range(groups):
                place = slice(k * count, (k + 1) * count)
                inputs = patches[:, k * width : (k + 1) * width].double()
                yield Rows(inputs, given[:, place], place)

    def _folded(self, slopes: Tensor) -> Iterator["Rows"]:
        """One row an input position, which gives a whole patch of outputs."""
        x = self.node._saved_input
        length = x[0, 0].numel() * slopes.shape[1] * math.prod(self._kernel)
        for part, slope in _pieces(length, x, slopes):
            patches = F.unfold(_flat(slope), self._kernel, *self._options).mT
            inputs = part.flatten(2).mT.flatten(0, 1)
            # What padding of the output adds has no input.
            given = patches[:, : part[0, 0].numel()].flatten(0, 1)
            yield Rows(inputs.double(), given.double())

    @property
    def _kernel(self) -> tuple[int, int]:
        return _two(tuple(self.node._saved_weight.shape[2:]), 1)

    @property
    def _options(self) -> list[tuple[int, int]]:
        names = ("dilation", "padding", "stride")
        missing = (1, 0, 1)
        return [
            _two(getattr(self.node, f"_saved_{name}"), rest)
            for name, rest in zip(names, missing, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one use.

    Attributes:
        inputs: float64, shape (rows, inputs); of an embedding the numbers of its rows, int64 of
            shape (rows,).
        slopes: of the loss in the outputs, float64, shape (rows, outputs in `place`).
        place: which outputs these are; all of them by default.
    """

    inputs: Tensor
    slopes: Tensor
    place: slice = field(default_factory=lambda: slice(None))


def _pieces(length: int, x: Tensor, slopes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, _ROOM // max(length, 1))
    return zip(torch.split(x, step), torch.split(slopes, step), strict=True)


def _flat(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x[:, :, None]


def _two(sizes: Sequence[int], missing: int) -> tuple[int, int]:
    """Sizes of two axes; a convolution along one has a first axis of length 1."""
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (missing, sizes[0])


def _uses(outputs: Tensor, leaves: Leaves) -> tuple[list[Use], dict[str, str]]:
    """Uses of the parameters in a graph, and why other uses are none."""
    names = {id(value): name for name, value in leaves.items()}
    uses, left_out = [], {}
    for node in _nodes(outputs.grad_fn):
        for place in _PLACES.get(node.name(), ()):
            name, turns = _parameter(node.next_functions[place][0], names)
            if name is None:
                continue
            is_left = place < max(_PLACES[node.name()])
            use, why = _use(node, name, turns, is_left=is_left)
            if use is not None:
                uses.append(use)
            else:
                left_out[name] = why
    return _with_ties(uses), left_out


def _with_ties(uses: list[Use]) -> list[Use]:
    """Say of which parameters tables and matrices are one."""
    tables = {use.name for use in uses if use.kind == "embedding"}
    matrices = {use.name for use in uses if use.kind == "linear" and not use.is_transposed}
    return [replace(use, is_tied=use.name in tables & matrices) for use in uses]


def _use(node: Any, name: str, turns: int, *, is_left: bool) -> tuple[Use | None, str]:
    kind = node.name()
    if kind == "EmbeddingBackward0":
        return Use(name, node, "embedding", is_transposed=True), ""
    if kind != "ConvolutionBackward0":
        return Use(name, node, "linear", turns % 2 == int(is_left), is_left), ""
    if node._saved_input.ndim > 4:
        return None, "a convolution over three axes has no Kronecker factors here"
    if not node._saved_transposed:
        return Use(name, node, "convolution"), ""
    if node._saved_groups != 1:
        return None, "a transposed convolution in groups has no Kronecker factors here"
    return Use(name, node, "transposed convolution", is_transposed=True), ""


def _nodes(start: Any) -> Iterator[Any]:
    seen, waiting = set(), [start]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [after for after, _ in node.next_functions]


def _parameter(node: Any, names: Mapping[int, str]) -> tuple[str | None, int]:
    turns = 0
    while node is not None and node.name() in _TURNS:
        turns += _TURNS[node.name()]
        node = node.next_functions[0][0]
    variable = getattr(node, "variable", None)
    return names.get(id(variable)), turns


Visit = Callable[[Use, Tensor], None]


@dataclass(frozen=True, eq=False)
class Look:
    """One backward pass of sampled labels.

    Attributes:
        uses: of the parameters, in the pass.
        left_out: parameter -> why a use of it is no linear map.
        gradient: name -> slope of the sum over labels, None where there is none.
        labels: how many labels count.
        examples: length of the first axis of what the model gave.
        is_first: whether it is the first pass of its batch.
    """

    uses: list[Use]
    left_out: dict[str, str]
    gradient: dict[str, Tensor | None]
    labels: int
    examples: int
    is_first: bool


@dataclass(frozen=True, eq=False)
class Sampling:
    """How labels are drawn from the model.

    Attributes:
        likelihood: see `curvature.fisher`.
        draws: labels drawn for each example.
        seed: what they are drawn from; the same labels as `fisher` draws.
    """

    likelihood: str
    draws: int
    seed: int


def sampling(
    objective: Objective, likelihood: Likelihood | None, draws: int, seed: int
) -> Sampling:
    """Draw labels from the distribution that the loss belongs to."""
    return Sampling(likelihood_of(objective, likelihood), draws, seed)


def each_pass(
    objective: Objective, leaves: Leaves, sampled: Sampling, visit: Visit
) -> Iterator[Look]:
    """Backward passes of sampled labels, batch by batch; within a session at the leaves."""
    for index, batch in enumerate(objective.iter_batches()):
        outputs = outputs_of(objective, batch, sampled)
        scores, labels = scores_of(objective, batch, outputs, sampled, index)
        uses, left_out = _uses(outputs, leaves)
        for draw, score in enumerate(scores):
            gradient = pulled(outputs, leaves, score, uses, visit)
            yield Look(uses, left_out, gradient, labels, len(outputs), draw == 0)


def outputs_of(objective: Objective, batch: Any, sampled: Sampling) -> Tensor:
    """The one tensor that the model gives for a batch, with its graph; classes on axis 1."""
    with plain_operations(objective.model), unfused_recurrent_layers(objective.model):
        _, outputs = model_outputs(objective, batch)
    if len(outputs) != 1:
        raise LossError(
            "Kronecker factors need one tensor of outputs, from which labels are drawn; the "
            f"model gave {len(outputs)}: write a module that returns the logits alone."
        )
    return (
        _classes_first(outputs[0], batch) if sampled.likelihood == "categorical" else outputs[0]
    )


def _classes_first(outputs: Tensor, batch: Any) -> Tensor:
    # Language models give classes last, one row a token: labels have the other axes.
    targets = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    if not isinstance(targets, Tensor) or targets.is_floating_point() or outputs.ndim < 3:
        return outputs
    shape = tuple(outputs.shape)
    is_last = shape[:-1] == tuple(targets.shape) and (shape[0], *shape[2:]) != shape[:-1]
    return outputs.movedim(-1, 1) if is_last else outputs


def scores_of(
    objective: Objective, batch: Any, outputs: Tensor, sampled: Sampling, index: int
) -> tuple[list[Tensor], int]:
    """Slopes of sampled labels in the outputs, and how many labels count."""
    categorical = sampled.likelihood == "categorical"
    mask = counted_labels(objective, batch) if categorical else None
    drawn = generator(sampled.seed, "labels", index, device=outputs.device)
    return sampled_scores(outputs.detach(), sampled.likelihood, sampled.draws, drawn, mask)


def pulled(
    outputs: Tensor, leaves: Leaves, score: Tensor, uses: Sequence[Use], visit: Visit
) -> dict[str, Tensor | None]:
    """Slopes in the leaves; every use is visited with the slope in what it gave."""

    def watch(use: Use) -> Callable[[tuple[Tensor | None, ...]], None]:
        def note(slopes: tuple[Tensor | None, ...]) -> None:
            if slopes[0] is not None:
                with torch.no_grad():
                    visit(use, slopes[0])

        return note

    handles = [use.node.register_prehook(watch(use)) for use in uses]
    try:
        parts = torch.autograd.grad(
            outputs, list(leaves.values()), score, retain_graph=True, allow_unused=True
        )
    finally:
        for handle in handles:
            handle.remove()
    return dict(zip(leaves, parts, strict=True))
