"""Symmetries of any model: changes of the weights that change no loss.

Hidden units may be renumbered, heads exchanged, and a space that meets only linear maps may be
rotated. Which ones is read off one real forward pass, and proven by another.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from lossatlas.errors import StructureError, SymmetryError
from lossatlas.io.records import record
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Figure, Reference, Result, chart_of, quantity, result
from lossatlas.rng import generator
from lossatlas.text import count
from lossatlas.weights.axes import Axis, leaves, settle
from lossatlas.weights.axis_rules import rule_of
from lossatlas.weights.places import Place, slabs, walk, within
from lossatlas.weights.trace import AxisTrace, plain_operations

_GIT_REBASIN = Reference(
    "permutation symmetries",
    "S. K. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation "
    "Symmetries. ICLR 2023.",
    "https://arxiv.org/abs/2209.04836",
)


@record
@dataclass(frozen=True)
class Group:
    """Indices that may be permuted (or rotated) together wherever they occur.

    Attributes:
        size: how many indices.
        kind: "permutation", or "orthogonal" where any rotation of them keeps the function.
        places: the parts of tensors that it acts on.
        within: (number of the outer group, its index) where it exists once for each index of
            another group, as the width of every head; None otherwise.
    """

    size: int
    kind: str
    places: tuple[Place, ...]
    within: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.kind} of {self.size}: " + "; ".join(map(str, self.places))


@record
@dataclass(frozen=True, eq=False)
class Move:
    """What one group does.

    Attributes:
        group: its number in `Symmetries.groups`.
        map: a permutation, int64 of shape (size,): new index i holds old index map[i]; or an
            orthogonal matrix, float64 of shape (size, size).
    """

    group: int
    map: Tensor


Element = tuple[Move, ...]
Change = tuple[Place, Tensor]


@result("symmetries", references=(_GIT_REBASIN,))
class Symmetries(Result):
    """The symmetries of an objective.

    Attributes:
        groups: outer groups come after those within them.
        held: (parameter, axis, why it may not move).
        unknown: operation without a rule -> how often it ran; what it touched is held.
        error: largest change of a loss under a random element of all groups.
        loss: the largest loss that was compared.
        tied: further names of tied weights -> the name that places use.
        moved: share of the entries of all parameters that some group acts on.
    """

    groups: tuple[Group, ...]
    held: tuple[tuple[str, int, str], ...]
    unknown: Mapping[str, int]
    error: float = quantity("loss")
    loss: float = quantity("loss")
    moved: float = quantity("")
    tied: Mapping[str, str] = field(default_factory=dict)

    def random(self, seed: int = 0) -> Element:
        """A random element: one move a group.

        Args:
            seed: of the draw.

        Returns:
            The moves, in the order in which `apply` makes them.
        """
        draw = generator(seed, "symmetries")
        return tuple(Move(k, _random_map(group, draw)) for k, group in enumerate(self.groups))

    def apply(self, params: Params, element: Sequence[Move]) -> dict[str, Tensor]:
        """Other weights of the same function.

        Args:
            params: name -> tensor; the parameters of the objective, or a full state dict, whose
                running statistics then move along. Not changed. Moments of an optimizer by
                name of the parameter move in the same way; squared ones under permutations
                alone.
            element: from `random`, or of an alignment.

        Returns:
            New tensors. Permutations keep every bit; rotations are made in float64 and rounded
            to the dtype of the tensor.

        Raises:
            StructureError: a tensor that a group acts on is missing, or has another shape.
        """
        changes = self.changes(element, params)
        moved = {name: acted(value, changes.get(name, ())) for name, value in params.items()}
        for name, known in self.tied.items():
            if name in moved and known in moved:
                moved[name] = moved[known]
        return moved

    def changes(self, element: Sequence[Move], params: Params) -> dict[str, list[Change]]:
        """What an element does to each tensor, in order; tensors that stay are left out."""
        by_name: dict[str, list[Change]] = {}
        for move in element:
            for place in self._acting(move.group, params):
                by_name.setdefault(place.tensor, []).append((place, move.map))
        return by_name

    def _acting(self, group: int, params: Params) -> list[Place]:
        # Statistics may be left out, parameters may not.
        places = self.groups[group].places
        missing = [p.tensor for p in places if p.tensor not in params]
        lost = [name for name in missing if name not in self._statistics]
        if lost:
            raise StructureError(
                f"`params` has no '{lost[0]}', which group {group} acts on; pass all "
                "parameters of the objective, or a full state dict."
            )
        return [place for place in places if place.tensor in params]

    @cached_property
    def _statistics(self) -> set[str]:
        known = {place.tensor for group in self.groups for place in group.places}
        return {name for name in known if name.rpartition(".")[2].startswith("running_")}

    def estimates(self) -> tuple[Estimate, ...]:
        """Numbers of groups, share of moved entries, and the error of the proof.

        Returns:
            Four estimates, all exact but for rounding.
        """
        kinds = [group.kind for group in self.groups]
        meaning = "under a random element of all groups, on two batches"
        return (
            Estimate(kinds.count("permutation"), 0.0, name="permutation groups"),
            Estimate(kinds.count("orthogonal"), 0.0, name="orthogonal groups"),
            Estimate(self.moved, 0.0, name="share of entries that move"),
            Estimate(
                self.error, 0.0, name="largest change of a loss", unit="loss", meaning=meaning
            ),
        )

    def figures(self) -> tuple[Figure, ...]:
        """The largest groups, permutations and rotations apart.

        Returns:
            One figure; none where there is no group.
        """
        from lossatlas.plots.rows import MAX_ROWS, Dots, rows_chart

        shown = sorted(self.groups, key=lambda group: -group.size)[:MAX_ROWS]
        if not shown:
            return ()
        series = [
            Dots(kind, np.array([g.size if g.kind == kind else math.nan for g in shown]))
            for kind in dict.fromkeys(g.kind for g in shown)
        ]
        names = [str(g.places[0].tensor) for g in shown]
        title, axis = "Groups of symmetries", "indices that move together"
        chart = partial(rows_chart, names, series, title, axis, log=True)
        caption = "Each row is a group, named by the first tensor that it acts on."
        return (chart_of("groups", title, chart, caption=caption, alt=self.sentences()[0]),)

    def sentences(self) -> tuple[str, ...]:
        """What may move, what may not and why.

        Returns:
            Two or three sentences.
        """
        groups = count(len(self.groups), "group")
        said = [
            f"{groups} of symmetries act on {self.moved:.1%} of the weights; a random element "
            f"of all of them changes no loss by more than {self.error:.1g} of {self.loss:.3g}."
        ]
        if self.unknown:
            names = ", ".join(self.unknown)
            said.append(
                f"What these operations touch is held, as no rule covers them: {names}."
            )
        return tuple(said)


def symmetries(objective: Objective, *, verify: bool = True, seed: int = 0) -> Symmetries:
    """Find the permutation and rotation symmetries of any model.

    The axes of all tensors are followed through the operations of one forward pass; a group is
    a set of axes that the operations tie together. Nothing is assumed about modules. A random
    element of all groups is then applied to a copy: no loss may change by more than 1e-5 of the
    largest.

    Args:
        objective: model, loss and batches; the first batch is traced, the second one proves.
        verify: prove it; False gives what the trace says.
        seed: of the random element of the proof.

    Returns:
        Groups with the places they act on, and what is held with the reasons.

    Raises:
        SymmetryError: a random element changes a loss; the message names the group.

    Source: groups as in Ainsworth et al., arXiv:2209.04836; the search is our own.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> layers = torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)
        >>> batch = torch.eye(2), torch.ones(2, 1)
        >>> objective = la.Objective(
        ...     torch.nn.Sequential(*layers), la.supervised(F.mse_loss), [batch]
        ... )
        >>> print(symmetries(objective).groups[0])
        permutation of 5: 0.weight, axis 0; 0.bias, axis 0; 2.weight, axis 1
    """
    return find(objective, verify=verify, seed=seed)[0]


def find(
    objective: Objective, *, verify: bool = True, seed: int = 0
) -> tuple[Symmetries, dict[int, list[Place]]]:
    """The symmetries, and for each group the places of its units among the activations."""
    # The trace, which holds all activations of a batch, is gone before the proof.
    symmetries, activations = _read(objective, _traced(objective))
    return _verified(objective, symmetries, seed) if verify else symmetries, activations


def _read(objective: Objective, trace: AxisTrace) -> tuple[Symmetries, dict[int, list[Place]]]:
    groups, activations = _groups(trace)
    symmetries = Symmetries(
        groups=groups,
        held=_held(trace),
        unknown=dict(trace.unknown),
        error=0.0,
        loss=0.0,
        moved=_share(groups, objective.params),
        tied=_tied(objective.model),
    )
    return symmetries, activations


def _traced(objective: Objective) -> AxisTrace:
    params, batch = objective.params, objective.first_batch()

    def run() -> AxisTrace:
        fixed = _fixed(objective.model, params)
        trace = AxisTrace({**params, **fixed}, _statistics(objective.model), rule_of)
        for tensor in fixed.values():
            trace.hold_all(tensor, "not a parameter of the objective")
        with plain_operations(objective.model), trace:
            measured = objective.batch_loss(batch)
        for value in _leaf_tensors(measured):
            trace.hold_all(value, "the loss")
        return trace

    with torch.no_grad():
        trace = objective.with_params(params, run)
    for labels in trace.everything():
        for axis in labels:
            settle(axis)
    trace.finish()
    return trace


def _tied(model: torch.nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    every = [(n, first.setdefault(id(v), n)) for n, v in _entries(model)]
    return {name: known for name, known in every if name != known}


def _entries(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False)]


def _leaf_tensors(measured: object) -> Iterable[Tensor]:
    parts = (getattr(measured, "sums", measured), getattr(measured, "weights", None))
    return [part for part in parts if isinstance(part, Tensor)]


def _fixed(model: torch.nn.Module, params: Params) -> dict[str, Tensor]:
    moving = {id(value) for value in params.values()}
    entries = {
        qualified_name(path, key): value
        for path, module in model.named_modules()
        for key, value in module._parameters.items()
        if value is not None
    }
    return {name: value for name, value in entries.items() if id(value) not in moving}


def _statistics(model: torch.nn.Module) -> dict[str, Tensor]:
    return dict(model.named_buffers())


Places = dict[Axis, list[Place]]


def _groups(trace: AxisTrace) -> tuple[tuple[Group, ...], dict[int, list[Place]]]:
    places = _places(trace)
    active = _activations(trace)
    outer = _outer_axes(trace, places)
    order = [axis for axis in places if axis in outer] + [a for a in places if a not in outer]
    numbers = _numbers(order, outer)
    groups: list[Group] = []
    activations: dict[int, list[Place]] = {}
    for axis in order:
        kind = "permutation" if axis.bent else "orthogonal"
        if axis not in outer:
            activations[len(groups)] = active.get(axis, [])
            groups.append(Group(axis.size, kind, tuple(places[axis])))
            continue
        over = outer[axis]
        for index in range(over.size):
            inside = _inside(places[axis], places[over], index)
            activations[len(groups)] = _inside(
                active.get(axis, []), active.get(over, []), index
            )
            groups.append(Group(axis.size, kind, tuple(inside), (numbers[over], index)))
    return tuple(groups), activations


def _places(trace: AxisTrace) -> Places:
    places: Places = {}
    seen: set[int] = set()
    for name, tensor in {**trace.params, **trace.buffers}.items():
        # A tied weight is one tensor with two names; it moves once.
        if id(tensor) not in seen and tensor.is_floating_point():
            seen.add(id(tensor))
            for k, label in enumerate(trace.labels(tensor)):
                for leaf, steps in walk(label):
                    places.setdefault(leaf, []).append(Place(name, k, steps))
    return places


def _activations(trace: AxisTrace) -> Places:
    # Every free axis of what is contracted: a head is found in the same tensor as its width.
    places: Places = {}
    for tensor in dict.fromkeys(tensor for tensor, _ in trace.contracted):
        number, output = trace.made[id(tensor)]
        for k, label in enumerate(trace.labels(tensor)):
            for leaf, steps in walk(label):
                places.setdefault(leaf, []).append(Place(f"{number}:{output}", k, steps))
    return places


def _numbers(order: list[Axis], outer: Mapping[Axis, Axis]) -> dict[Axis, int]:
    numbers, position = {}, 0
    for axis in order:
        numbers[axis] = position
        position += outer[axis].size if axis in outer else 1
    return numbers


def _outer_axes(trace: AxisTrace, places: Places) -> dict[Axis, Axis]:
    # An axis that occurs only beside another may move differently for each index of that one.
    mates: dict[Axis, set[Axis]] = {}
    for labels in trace.everything():
        free = {leaf for label in labels for leaf in leaves(label) if leaf in places}
        for leaf in free:
            mates[leaf] = mates[leaf] & free if leaf in mates else set(free)
    outer = {}
    for axis in places:
        for other in mates.get(axis, set()) - {axis}:
            one_way = axis not in mates.get(other, set())
            if one_way and _inside(places[axis], places[other], 0):
                outer[axis] = other
                break
    # Only one level: what lies within an axis that lies within another moves with the latter.
    return {axis: over for axis, over in outer.items() if over not in outer}


def _inside(inner: list[Place], outer: list[Place], index: int) -> list[Place]:
    places = []
    for place in inner:
        joint = [w for o in outer if (w := within(place, o, index)) is not None]
        if not joint:
            return []
        places.append(joint[0])
    return places


def _held(trace: AxisTrace) -> tuple[tuple[str, int, str], ...]:
    return tuple(
        (name, k, axis.root().why_held or "its parts are held")
        for name, tensor in trace.params.items()
        for k, axis in enumerate(trace.labels(tensor))
        if axis.is_held
    )


def _share(groups: Iterable[Group], params: Params) -> float:
    touched = {place.tensor for group in groups for place in group.places}
    total = sum(value.numel() for value in params.values())
    return sum(params[name].numel() for name in touched if name in params) / max(total, 1)


def _random_map(group: Group, draw: torch.Generator) -> Tensor:
    if group.kind == "permutation":
        return torch.randperm(group.size, generator=draw)
    square = torch.randn(group.size, group.size, generator=draw, dtype=torch.float64)
    rotation: Tensor = torch.linalg.qr(square)[0]
    return rotation


def acted(tensor: Tensor, changes: Iterable[Change]) -> Tensor:
    """A copy of a tensor with moves made at some of its places."""
    moved = tensor.detach().clone()
    for place, change in changes:
        view, axis = place.locate(moved)
        for slab in slabs(view, axis):
            _act(slab, axis, change.to(slab.device))
    return moved


def _act(view: Tensor, axis: int, change: Tensor) -> None:
    if change.ndim == 1:
        view.copy_(view.index_select(axis, change))
        return
    rows = view.movedim(axis, 0)
    turned = torch.tensordot(change, rows.double(), dims=1)
    rows.copy_(turned.to(view.dtype))


def _verified(objective: Objective, symmetries: Symmetries, seed: int) -> Symmetries:
    proof = _Proof(objective)
    element = symmetries.random(seed)
    error = proof.change(symmetries, element)
    if not error <= proof.tolerance:
        guilty = _bisected(proof, symmetries, element)
        raise SymmetryError(
            f"a random element of the symmetries changes a loss by {error:.2g} (allowed: "
            f"{proof.tolerance:.2g}); the first group that does so is "
            f"{symmetries.groups[guilty]}. The model computes something that the trace does "
            "not see; leave these parameters out (`params=`)."
        )
    return replace(symmetries, error=error, loss=proof.largest)


class _Proof:
    """Losses of up to two batches at other weights, compared with those at the present ones."""

    def __init__(self, objective: Objective) -> None:
        batches = []
        for batch in objective.iter_batches():
            batches.append(batch)
            if len(batches) == 2:
                break
        self._few = objective.part(batches)
        buffers = {n: b for n, b in objective.model.named_buffers() if b.is_floating_point()}
        self._state = {**objective.params, **buffers}
        self._before = self._losses(objective.params)
        self.largest = float(self._before.abs().max())
        widest = max((torch.finfo(v.dtype).eps for v in objective.params.values()), default=0.0)
        self.tolerance = max(1e-5, 100 * widest) * max(self.largest, 1e-30)

    def _losses(self, params: Params) -> Tensor:
        if self._few.unit == "examples":
            return self._few.example_losses(params)
        parts = [self._few.part([batch]) for batch in self._few.iter_batches()]
        return torch.tensor([part.value(params) for part in parts], dtype=torch.float64)

    def change(self, symmetries: Symmetries, element: Sequence[Move]) -> float:
        """The largest change of a loss; infinite where one is not finite."""
        moved = symmetries.apply(self._state, element)
        held = {
            n: v
            for n, v in moved.items()
            if n in self._few.params or n in symmetries._statistics
        }
        change = float((self._losses(held) - self._before).abs().max())
        return math.inf if math.isnan(change) else change


def _bisected(proof: _Proof, symmetries: Symmetries, element: Element) -> int:
    low, high = 0, len(element)
    while high - low > 1:
        middle = (low + high) // 2
        guilty = not proof.change(symmetries, element[:middle]) <= proof.tolerance
        low, high = (low, middle) if guilty else (middle, high)
    return low
