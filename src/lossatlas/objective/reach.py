"""Does the loss read the parameters that are swapped in, and does a gradient reach each?"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lossatlas.errors import AtlasError, ModelError
from lossatlas.guard import preserved_rng
from lossatlas.linalg.params import Params
from lossatlas.objective.batches import Batch, tensors
from lossatlas.objective.firstlook import perturbed, same_value
from lossatlas.objective.graph import leaves_behind
from lossatlas.objective.in_place import reached_in_place
from lossatlas.objective.lines import noted_kinds
from lossatlas.objective.remedies import PLAIN_CONTAINERS, in_plain_containers, unmoved_remedy
from lossatlas.objective.selfcheck import FAILED, PASSED, STALE, UNKNOWN, Check, more
from lossatlas.objective.user_code import wrap_errors

if TYPE_CHECKING:
    from lossatlas.objective.objective import Objective

# What parameters of a loss are called here; no parameter has a colon in its name.
_LOSS = "loss: "
# Batches that are looked at for parameters that the first one does not reach.
_BATCHES = 3


@dataclass(frozen=True)
class Reach:
    """How the loss depends on the parameters that move.

    Attributes:
        check: the verdict.
        unused: parameters that change nothing in the batches that were looked at.
        cut: parameters that change the loss and get no gradient, although others do.
    """

    check: Check
    unused: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def check_reach(objective: "Objective") -> Reach:
    """Require that the loss reads the parameters that are swapped in, and no others."""
    why = "the loss has no gradient"
    with preserved_rng():
        for index, batch in enumerate(objective.iter_batches()):
            try:
                moved, own = _gradients_of_both(objective, batch)
            except ModelError:
                raise
            except (MemoryError, RuntimeError, AtlasError) as error:
                # Maps need no gradient: where none can be had, values tell.
                why = f"no gradient could be taken ({type(error).__name__})"
                break
            if own and not moved and own[0].startswith(_LOSS):
                raise ModelError(_nothing_moves(objective))
            if own:
                raise ModelError(_reads_its_own(objective, own))
            if moved:
                silent = [name for name in objective.names if name not in moved]
                return _sorted_out(objective, index, silent)
        return _reach_of_values(objective, why)


def _all_move(objective: "Objective") -> bool:
    every = {n for n, value in objective.model.named_parameters() if value.requires_grad}
    return every <= set(objective.names)


def _check_listed(objective: "Objective", mean: Tensor, own: Iterable[Tensor]) -> None:
    # Parameters that the graph leads to and that no module lists, where all are to move.
    if not _all_move(objective):
        return
    listed = {id(v) for module in objective.loss_modules for v in module.parameters()}
    # A pass may put new parameters in the place of its own.
    listed |= {id(value) for value in (*own, *objective.model.parameters())}
    strangers = {
        id(leaf): leaf
        for leaf in leaves_behind([mean])
        if isinstance(leaf, nn.Parameter) and id(leaf) not in listed
    }
    if not strangers:
        return
    places = in_plain_containers(objective.model).items()
    names = [name for name, value in places if id(value) in strangers]
    names += [f"one of shape {tuple(v.shape)}" for v in strangers.values()][len(names) :]
    raise ModelError(
        f"the loss depends on parameters that are not among the model's ('{names[0]}'"
        f"{more(names)}), so they would not move: {PLAIN_CONTAINERS}; or freeze them with "
        "requires_grad_(False) to measure the others alone."
    )


def _of_the_loss(objective: "Objective") -> dict[str, Tensor]:
    # Parameters that the loss holds (prototypes, a temperature), where all are to move.
    if not _all_move(objective):
        return {}
    return {
        f"{_LOSS}{type(module).__name__}.{name}": value
        for module in objective.loss_modules
        for name, value in module.named_parameters()
        if value.requires_grad
    }


def _reads_its_own(objective: "Objective", own: Sequence[str]) -> str:
    held = [name.removeprefix(_LOSS) for name in own if name.startswith(_LOSS)]
    if held:
        return (
            f"the loss has parameters of its own ('{held[0]}'{more(held)}) that would not "
            "move; let one module hold the model and the loss's module, and be the model; or "
            "freeze them with requires_grad_(False) to measure the model's weights alone."
        )
    return (
        f"the loss reads parameters of the model itself ('{own[0]}'{more(own)}), past those "
        "that are put into the model in their place, so part of them never moves: "
        f"{unmoved_remedy(objective.model, own)}"
    )


def _gradients_of_both(objective: "Objective", batch: Batch) -> tuple[set[str], list[str]]:
    # Names that get a gradient where they are swapped in, and where they are the model's own.
    if objective.placed is not None:
        return reached_in_place(objective, batch), []
    leaves = {name: value.requires_grad_() for name, value in objective.params.items()}
    every = dict(objective.model.named_parameters())
    own: dict[str, Tensor] = {n: every[n] for n in objective.names if every[n].requires_grad}
    own |= _of_the_loss(objective)

    def gradients() -> tuple[set[str], list[str]]:
        mean = objective.total(batch).mean
        if not mean.requires_grad:
            return set(), []
        _check_listed(objective, mean, every.values())
        points = [*leaves.values(), *own.values()]
        with wrap_errors("the gradient of `loss`", "look at its backward pass."):
            parts = torch.autograd.grad(mean, points, allow_unused=True)
        first = {n for n, part in zip(leaves, parts, strict=False) if part is not None}
        rest = parts[len(leaves) :]
        return first, [n for n, part in zip(own, rest, strict=True) if part is not None]

    with noted_kinds(objective.kinds), torch.enable_grad(), objective.session():
        return objective.swapped(leaves, gradients)


def _reach_of_values(objective: "Objective", why: str) -> Reach:
    are_finite = True
    shared = [objective.first_batch()] if objective.collective_ranks is not None else None
    for batch in shared or objective.iter_batches():
        values = _Values(objective, batch)
        are_finite &= math.isfinite(values.base)
        if math.isfinite(values.base) and values.move(objective.names, outputs=True):
            sentence = f"{why}; it moves with the parameters"
            return Reach(Check("reach", PASSED, sentence=sentence))
    if are_finite:
        raise ModelError(_nothing_moves(objective))
    return Reach(Check("reach", UNKNOWN, sentence=f"{why}, and the loss is not finite"))


def _sorted_out(objective: "Objective", first: int, silent: Sequence[str]) -> Reach:
    # What got no gradient in one batch: reached by others (experts), cut off, or unused.
    if not silent:
        return Reach(Check("reach", PASSED, sentence="every parameter gets a gradient"))
    looked = list(islice(objective.iter_batches(), first, first + _BATCHES))
    for batch in looked[1:]:
        reached, _ = _gradients_of_both(objective, batch)
        silent = [name for name in silent if name not in reached]
    off: list[str] = []
    # Decisions on values must be the same on all processes that keep step.
    seen = looked if objective.collective_ranks is None else [objective.first_batch()]
    for batch in seen if silent else ():
        values = _Values(objective, batch)
        if math.isfinite(values.base):
            off += values.movers([name for name in silent if name not in off])
    unused = tuple(name for name in silent if name not in off)
    if off:
        sentence = f"'{off[0]}'{more(off)} moves the loss and gets no gradient"
        return Reach(Check("reach", FAILED, sentence=sentence), unused, tuple(off))
    used = len(objective.names) - len(unused)
    sentence = f"{used} of {len(objective.names)} parameters move the loss"
    if unused:
        sentence += f"; '{unused[0]}'{more(unused)} is {STALE}"
    return Reach(Check("reach", PASSED, sentence=sentence), unused)


def _nothing_moves(objective: "Objective") -> str:
    first = objective.names[0]
    return (
        f"the loss stays the same to the bit when '{first}'{more(objective.names)} move, so "
        f"nothing can be measured: {unmoved_remedy(objective.model, objective.names)}"
    )


class _Values:
    """Values of the loss of one batch with some parameters perturbed."""

    def __init__(self, objective: "Objective", batch: Batch) -> None:
        self._objective, self._batch = objective, batch
        self.base, self._outputs = self._at({})

    def move(self, names: Sequence[str], *, outputs: bool = False) -> bool:
        """Whether the loss moves with any of these: by a little, or by a lot."""
        for scale in (0.3, 3.0):
            value, given = self._perturbed(names, scale)
            moved = not same_value(value, self.base)
            if moved or (outputs and not same_value(given, self._outputs)):
                return True
        return False

    def movers(self, names: Sequence[str]) -> list[str]:
        """Those of these that move the loss, by halving."""
        if not names or not self.move(names):
            return []
        if len(names) == 1:
            return list(names)
        half = len(names) // 2
        return self.movers(names[:half]) + self.movers(names[half:])

    def _perturbed(self, names: Sequence[str], scale: float) -> tuple[float, float]:
        present = self._objective.live
        return self._at({name: perturbed(name, present[name], scale) for name in names})

    def _at(self, params: Params) -> tuple[float, float]:
        # The loss, and a sum over what the model returns.
        objective, total = self._objective, 0.0

        def note(_model: nn.Module, _inputs: object, output: object) -> None:
            nonlocal total
            total += sum(float(v.detach().double().abs().sum()) for v in tensors(output))

        handle = objective.model.register_forward_hook(note)
        try:
            with torch.no_grad(), objective.session():
                mean = objective.swapped(params, lambda: objective.total(self._batch).mean)
        finally:
            handle.remove()
        return float(mean.detach()), total
