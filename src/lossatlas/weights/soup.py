"""Soups: the plain average of checkpoints, beside the best single one."""

from collections.abc import Mapping, Sequence
from dataclasses import field

from torch import Tensor

from lossatlas.curvature.memory_plan import require_memory
from lossatlas.errors import ArgumentError
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate, quantity, result
from lossatlas.text import count, listed
from lossatlas.weights.merge import MODEL_SOUPS
from lossatlas.weights.network_checks import checkpoint_names
from lossatlas.weights.network_result import NetworkResult, complete_state
from lossatlas.weights.paired import PairedLosses
from lossatlas.weights.statistics import (
    loss_anew,
    mean_network,
    statistics_notes,
    whole_networks,
)
from lossatlas.weights.verdicts import difference_text, is_same, reasoned, verdict

# Members that a sentence names.
_SHOWN = 6


@result("soup", references=(MODEL_SOUPS,))
class Soup(NetworkResult):
    """An average of checkpoints.

    Attributes:
        params: the weights, with buffers and running statistics that belong to them.
        kept: which checkpoints it is the mean of, by number from 1.
        loss: its loss on the data that chose it.
        against: "best single" and "all" -> difference of losses with the paired error.
        notes: which running statistics were used.
        tied: second names of tied tensors -> the name in `params`.
        names: what each checkpoint is called, those that were left out too.
        best_single: number, from 1, of the checkpoint with the lowest loss.
    """

    params: Mapping[str, Tensor]
    kept: tuple[int, ...]
    loss: Estimate = quantity("loss")
    against: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    best_single: int = 0

    def estimates(self) -> tuple[Estimate, ...]:
        """The loss and the paired differences.

        Returns:
            Three estimates; two where the average is that of all checkpoints.
        """
        # Of a mean of all, the difference to the mean of all says nothing.
        shown = {n: e for n, e in self.against.items() if n != "all" or not is_same(e)}
        return (
            self.loss,
            *(reasoned(e, f"average minus {n}") for n, e in shown.items()),
        )

    def sentences(self) -> tuple[str, ...]:
        """What the average is made of, and whether it helped.

        Returns:
            One sentence, and which running statistics were used.
        """
        gap = self.against["best single"]
        best = f", {self._called(self.best_single)}" if self.best_single else ""
        return (
            f"The loss of the mean of {count(len(self.kept), 'checkpoint')} "
            f"({self._members()}) is {verdict(gap)} the best single one{best}"
            f"{difference_text(gap)}.",
            *self.notes,
        )

    def _members(self) -> str:
        shown = [self._called(k) for k in self.kept[:_SHOWN]]
        others = len(self.kept) - len(shown)
        return listed([*shown, *([count(others, "other")] if others else [])])

    def _called(self, number: int) -> str:
        return self.names[number - 1] if self.names else str(number)


def soup(
    objective: Objective,
    *checkpoints: Params,
    greedy: bool = False,
    names: Sequence[str] | None = None,
) -> Soup:
    """Average checkpoints of one model.

    Args:
        objective: model, loss and held-out data.
        *checkpoints: two or more points of parameter space.
        greedy: take checkpoints in the order of their losses, and keep one only if the loss of
            the average does not rise; False averages all. A greedy soup is chosen on the data
            it is measured on: its loss is a little too good.
        names: what each is called; by default the name of its file, or "checkpoint 1" and so
            on.

    Returns:
        The average, with differences to the best checkpoint and to the mean of all.

    Raises:
        ArgumentError: fewer than two checkpoints, or `names` are not one a checkpoint.
        NonFiniteError: a checkpoint is not finite.
        StructureError: names or shapes differ.

    Source: Wortsman et al., arXiv:2203.05482.

    Examples:
        >>> import torch, lossatlas as la
        >>> from torch.nn import functional as F
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = torch.ones(9, 1), torch.ones(9, 1)
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> points = [{"weight": torch.tensor([[w]])} for w in (0.5, 1.5, 9.0)]
        >>> soup(objective, *points, greedy=True).kept
        (1, 2)
    """
    require_memory(objective, "soup")
    if len(checkpoints) < 2:
        raise ArgumentError(
            f"`checkpoints` must be two or more; got {len(checkpoints)}; pass "
            "soup(objective, a, b)."
        )
    labels = checkpoint_names(checkpoints, names)
    named = {f"checkpoint {k}": point for k, point in enumerate(checkpoints, 1)}
    states = [*whole_networks(objective, named).values()]
    judged = PairedLosses(objective)
    single = [judged.sums(state.whole) for state in states]
    order = sorted(range(len(states)), key=lambda k: single[k].sum())
    members, sums = list(range(len(states))), judged.sums(mean_network(states))
    everything = sums
    if greedy:
        members, sums = [order[0]], single[order[0]]
        for k in order[1:]:
            trial = judged.sums(mean_network([states[j] for j in (*members, k)]))
            if trial.sum() <= sums.sum():
                members, sums = [*members, k], trial
    mean = mean_network([states[k] for k in members])
    params, tied = complete_state(objective, mean, checkpoints[members[0]])
    notes = statistics_notes(objective, states, "their mean")
    return Soup(
        params=params,
        kept=tuple(sorted(k + 1 for k in members)),
        loss=judged.mean(sums, "loss", "loss"),
        against={
            "best single": judged.difference(sums, single[order[0]]),
            "all": judged.difference(sums, everything),
        },
        notes=(*notes, *loss_anew(objective, mean, "the loss of the mean")),
        tied=tied,
        names=tuple(labels),
        best_single=order[0] + 1,
    )
