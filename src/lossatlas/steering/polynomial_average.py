"""Polynomial-decay averages: a bank of windows that grow with the training."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_callable, check_number, check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes
from lossatlas.objective import Batch
from lossatlas.objective.batches import check_walkable
from lossatlas.result import Estimate, Result, result
from lossatlas.steering.statistics import Forward
from lossatlas.steering.weight_average import WeightAverage
from lossatlas.text import number

Score = Callable[[nn.Module], Any]
ScoreMode = Literal["max", "min"]
MODES: tuple[str, ...] = get_args(ScoreMode)
# Updates that the window of an average holds at least before some of them are left out.
_PER_WINDOW = 64


@result("average-choice")
class AverageChoice(Result):
    """Which average of a bank scores best: highest, or lowest with mode="min".

    Attributes:
        gamma: of the best average.
        scores: one a member of the bank, named after its gamma.

    Examples:
        >>> import torch
        >>> average = PolynomialAverage(torch.nn.Linear(1, 1), gamma=(4, 16))
        >>> average.update()
        >>> average.best(lambda model: float(model.weight.abs()), mode="min").gamma
        4.0
    """

    gamma: float
    scores: tuple[Estimate, ...]

    def estimates(self) -> tuple[Estimate, ...]:
        """The scores of all members."""
        return self.scores

    def sentences(self) -> tuple[str, ...]:
        """Which member was chosen, and whether for a high score or a low one."""
        each = ", ".join(f"{s.name} {s}" for s in self.scores)
        values = [s.value for s in self.scores if math.isfinite(s.value)]
        chosen = next(s.value for s in self.scores if s.name == _named_gamma(self.gamma))
        side = "highest" if chosen >= max(values, default=chosen) else "lowest"
        return (f"The average with gamma {number(self.gamma)} scores {side} ({each}).",)


class PolynomialAverage(WeightAverage):
    """Polynomial-decay averages: the newest weights weigh (gamma + 1) / (t + gamma).

    The window grows with time: it spans about the last 1 / gamma of the training, whatever
    that is, so one run can be read at every horizon. Several gammas make a bank of averages;
    `best` chooses one on validation data, and `swapped` shows it from then on. Once a window is
    long, not every update is looked at: each member takes in 64 a window, which is every update
    up to update 128 (gamma + 1), and each stands for those since the last one.

    Args:
        model: its trainable parameters are averaged, by reference.
        gamma: one number or several. 0 is the plain mean of all; the larger, the shorter the
            window; infinity is the weights themselves. Default (4, 16, 64): three copies.
        every: updates between two that count; `count` is then of these. Default None: as above.
        batches: what the statistics of BatchNorm layers are re-estimated on; see `swapped`.
        forward: forward(model, batch) for it; see `WeightAverage`.

    Attributes:
        gammas: in growing order.
        gamma: of the average that `swapped` shows: what `best` chose, else the middle one.

    Raises:
        ArgumentError: a negative gamma, one twice, or no trainable weights.

    Source: Sandler et al., 2023, arXiv:2301.02312; polynomial-decay averaging of Shamir and
        Zhang, ICML 2013.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = PolynomialAverage(model, gamma=0)
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update()
        >>> with average.swapped():
        ...     model.weight.item()
        3.0
    """

    def __init__(
        self,
        model: nn.Module,
        gamma: float | Sequence[float] = (4.0, 16.0, 64.0),
        *,
        every: int | None = None,
        batches: Iterable[Batch] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.gammas = _gammas(gamma)
        check_at_least("every", 1 if every is None else every, 1)
        self.every, self._waited = every, 0
        # The update that each member took in last.
        self._taken = [0] * len(self.gammas)
        self._start(model, len(self.gammas), batches, forward)
        self._chosen = len(self.gammas) // 2

    @property
    def gamma(self) -> float:
        """The gamma of the average that `swapped` shows."""
        return self.gammas[self._chosen]

    def at(self, gamma: float) -> dict[str, Tensor]:
        """The average with one gamma.

        Args:
            gamma: one of `gammas`.

        Returns:
            name -> tensor.

        Raises:
            ArgumentError: a gamma that the bank does not have.
        """
        return dict(zip(self.params, self._means[self._index_of(gamma)], strict=True))

    def _index_of(self, gamma: float) -> int:
        if gamma not in self.gammas:
            raise ArgumentError(f"`gamma` must be one of {list(self.gammas)}; got {gamma!r}.")
        return self.gammas.index(gamma)

    def shares(self, step: int) -> tuple[float, ...]:
        """(gamma + 1) / (step + gamma), one number a member.

        Args:
            step: of the update, from 1.

        Returns:
            Shares in (0, 1].
        """
        return tuple(1.0 if math.isinf(g) else (g + 1) / (step + g) for g in self.gammas)

    def update(self) -> None:
        """Take the present weights in, where it is their turn; the first ones at once."""
        self._waited += 1
        if self.count and self._waited < (self.every or 1):
            return
        self._waited, step = 0, self.count + 1
        due = [i for i in range(len(self.gammas)) if self._is_due(i, step)]
        if due and not self._ready():
            return
        self.count = step
        shares = [since(self.gammas[i], self._taken[i], step) for i in due]
        self._blend(zip([self._means[i] for i in due], shares, strict=True))
        for member in due:
            self._taken[member] = step

    def _is_due(self, member: int, step: int) -> bool:
        if self.every is not None or math.isinf(self.gammas[member]):
            return True
        window = step / (self.gammas[member] + 1)
        return step - self._taken[member] >= int(window / _PER_WINDOW)

    def best(
        self, score: Score, batches: Iterable[Batch] | None = None, *, mode: ScoreMode = "max"
    ) -> AverageChoice:
        """Score every member of the bank and choose one for `swapped`.

        It takes the highest score; for a loss give `mode="min"`.

        Args:
            score: score(model) -> a number or an `Estimate`, on data that were not trained on;
                the model is in eval mode.
            batches: as for `swapped`.
            mode: "max" where a higher score is better (accuracy), "min" where a lower one is
                (loss). Default "max".

        Returns:
            The choice, with all scores.

        Raises:
            ArgumentError: no score is finite; or as for `swapped`.
            UnknownNameError: an unknown mode.
        """
        check_callable("score", score)
        check_one_of("mode", mode, MODES)
        if batches is not None:
            check_walkable(batches)
        scores = []
        for member, gamma in enumerate(self.gammas):
            with self._shown(member, batches), torch.no_grad(), _evaluated(self.model):
                scores.append(_scored(score(self.model), gamma))
        sign = 1 if mode == "max" else -1
        ranked = [sign * s.value if math.isfinite(s.value) else -math.inf for s in scores]
        if max(ranked) == -math.inf:
            raise ArgumentError("`score` must give a finite number for some average; got none.")
        self._chosen = ranked.index(max(ranked))
        return AverageChoice(gamma=self.gamma, scores=tuple(scores))

    @contextmanager
    def swapped(
        self, batches: Iterable[Batch] | None = None, *, gamma: float | None = None
    ) -> Iterator[None]:
        """An average in place of the weights; both come back bit for bit.

        The mode of the model is left as it is: call `model.eval()` before you evaluate.

        Args:
            batches: as for `WeightAverage.swapped`.
            gamma: of the average; the chosen one by default.

        Yields:
            Nothing.

        Raises:
            ArgumentError: as for `WeightAverage.swapped`; or a gamma that the bank does not
                have.
        """
        member = self._chosen if gamma is None else self._index_of(gamma)
        with self._shown(member, batches):
            yield

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            "count", "skipped", "waited", "taken", "gamma" (the chosen one), and "averages":
            gamma as text -> name -> tensor.
        """
        self._check_outside("state_dict")
        return {
            "count": self.count,
            "skipped": self.skipped,
            "waited": self._waited,
            "taken": list(self._taken),
            "gamma": self.gamma,
            "averages": {f"{g:g}": self._named(i) for i, g in enumerate(self.gammas)},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: weights of other names or shapes, or other gammas.
        """
        self._check_outside("load_state_dict")
        self._add_unfrozen()
        ours, theirs = [f"{g:g}" for g in self.gammas], list(state_dict["averages"])
        if ours != theirs:
            raise ArgumentError(
                f"`state_dict` must be of a bank with gamma {', '.join(ours)}; got "
                f"{', '.join(theirs)}: build it as it was."
            )
        for member, name in enumerate(ours):
            self._load(member, state_dict["averages"][name])
        self.count, self.skipped = state_dict["count"], state_dict["skipped"]
        self._waited, self._taken = state_dict["waited"], list(state_dict["taken"])
        self._chosen = self.gammas.index(state_dict["gamma"])


def since(gamma: float, taken: int, step: int) -> float:
    """The share of the updates after `taken` up to `step`: 1 - prod (t - 1) / (t + gamma)."""
    if math.isinf(gamma) or not taken:
        return 1.0
    if step == taken + 1:
        return (gamma + 1) / (step + gamma)
    logs = math.lgamma(step) - math.lgamma(taken)
    logs += math.lgamma(taken + 1 + gamma) - math.lgamma(step + 1 + gamma)
    return -math.expm1(logs)


def _gammas(gamma: float | Sequence[float]) -> tuple[float, ...]:
    several = tuple(gamma) if isinstance(gamma, Sequence) else (gamma,)
    for value in several:
        if value != math.inf:
            check_number("gamma", value, 0)
    if not several or len(set(several)) < len(several):
        raise ArgumentError(
            f"`gamma` must be numbers that differ, at least one; got {gamma!r}."
        )
    return tuple(sorted(map(float, several)))


def _named_gamma(gamma: float) -> str:
    return f"gamma {number(gamma)}"


def _scored(value: Any, gamma: float) -> Estimate:
    name = _named_gamma(gamma)
    if isinstance(value, Estimate):
        return Estimate(value.value, value.stderr, why_no_error=value.why_no_error, name=name)
    return Estimate(float(value), math.nan, why_no_error="`score` gave one number", name=name)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    with preserved_modes(model):
        model.eval()
        yield
