"""Averages of the weights over a training: a cooled-down model without a cooldown."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from lossatlas.checks import check_at_least, check_callable, check_number, check_one_of
from lossatlas.errors import ArgumentError
from lossatlas.guard import preserved_modes
from lossatlas.objective import Batch
from lossatlas.objective.batches import check_walkable
from lossatlas.objective.names import check_initialized
from lossatlas.result import Estimate, Result, result
from lossatlas.shards import is_sharded, reshard
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.shards import is_finite, local, unwrapped
from lossatlas.steering.statistics import (
    Forward,
    check_statistics,
    preserved_statistics,
    reestimate,
    tracking_layers,
)
from lossatlas.text import number

ScoreMode = Literal["max", "min"]
MODES: tuple[str, ...] = get_args(ScoreMode)
_HALF = frozenset({torch.float16, torch.bfloat16})
# Updates that the window of an average holds at least before some of them are left out.
_PER_WINDOW = 64
# Weights that cost less to copy side by side than to look at one by one.
_FEW = 2**16
Score = Callable[[nn.Module], Any]


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


class WeightAverage:
    """Running averages of the weights of a model: copies of them, in float32 at least.

    Call `update()` after every `optimizer.step()`, or `follow(optimizer)` once. `swapped()`
    puts an average into the model for the length of a block, for evaluation and checkpoints.
    Weights that are not finite are left out with a warning. Sharded weights (FSDP2) are
    averaged shard by shard; make the average after sharding the model.

    Args:
        model: its trainable parameters are averaged, by reference.
        batches: what running statistics (of BatchNorm and its kin) are re-estimated on; see
            `swapped`. A list is tried at once. A model that has some and no batches gives a
            warning: `swapped` needs them.
        forward: forward(model, batch) for it. By default the model is called on a tensor, on
            the first entry of a tuple or list, or with the entries of a mapping.

    Attributes:
        model: without wrappers of torch.compile and DistributedDataParallel.
        params: the parameters, name -> tensor.
        count: updates taken in.
        skipped: updates left out because weights were not finite.

    Raises:
        ArgumentError: no module, one without trainable parameters, or batches that cannot be
            walked again or do not fit `forward`.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = EMA(model, decay=0.5)
        >>> for value in (1.0, 2.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update()
        >>> average.count
        2
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batches: Iterable[Batch] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self._start(model, 1, batches, forward)

    def _start(
        self,
        model: nn.Module,
        members: int,
        batches: Iterable[Batch] | None,
        forward: Forward | None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(
                f"`model` must be a torch.nn.Module; got {type(model).__name__}: give the "
                "model itself, its weights are found by name."
            )
        check_callable("forward", forward, optional=True)
        self.model = unwrapped(model)
        check_initialized(self.model)
        self.batches, self.forward = batches, forward
        check_statistics(self.model, batches, forward)
        self.params: dict[str, Tensor] = {
            name: p
            for name, p in self.model.named_parameters()
            if p.requires_grad and p.is_floating_point()
        }
        if not self.params:
            raise ArgumentError(
                f"`model` must have trainable parameters; {type(model).__name__} has none."
            )
        self._frozen = {n: p for n, p in self.model.named_parameters() if n not in self.params}
        self._means = [[_copied(p) for p in self.params.values()] for _ in range(members)]
        self._listed()
        self.count = self.skipped = 0
        self._chosen = 0
        self._inside = False

    @property
    def average(self) -> dict[str, Tensor]:
        """The average that `swapped` shows, name -> tensor."""
        return dict(zip(self.params, self._means[self._chosen], strict=True))

    @property
    def is_swapped(self) -> bool:
        """Whether the average is in the model at the moment."""
        return self._inside

    def shares(self, step: int) -> tuple[float, ...]:
        """What the newest weights weigh at an update, one number a member.

        Args:
            step: of the update, from 1.

        Returns:
            Shares in (0, 1].
        """
        raise NotImplementedError

    def update(self) -> None:
        """Take the present weights in.

        Raises:
            ArgumentError: the average is in the model at the moment, or the model's weights
                were replaced by others.
        """
        if not self._ready():
            return
        self.count += 1
        self._blend(zip(self._means, self.shares(self.count), strict=True))

    def follow(self, optimizer: torch.optim.Optimizer) -> Any:
        """Update after every step of an optimizer; steps that a GradScaler skips do not count.

        Args:
            optimizer: of the same weights.

        Returns:
            A handle; `.remove()` ends it.
        """
        return optimizer.register_step_post_hook(lambda *_: self.update())

    def _ready(self) -> bool:
        self._check_outside("update")
        if self._frozen:
            self._take_in_unfrozen()
        if self._means[0][0].device != self._list[0].device:
            self._means = [
                [m.to(p.device) for m, p in zip(means, self.params.values(), strict=True)]
                for means in self._means
            ]
        # A sum that overflows though its terms are finite is looked at again.
        if self._alike and math.isfinite(_sum(self._list, joined=self._small)):
            return True
        if is_finite(self._list, sharded=self._sharded, half=self._half):
            return True
        self.skipped += 1
        if self.skipped == 1:
            warnings.warn(
                "weights that are not finite are left out of the average, now and from now on; "
                "`skipped` counts them.",
                stacklevel=3,
            )
        return False

    def _listed(self) -> None:
        # What every update asks is asked once.
        self._list = list(self.params.values())
        self._sharded = any(map(is_sharded, self._list))
        self._half = any(p.dtype in _HALF for p in self._list)
        self._alike = not self._sharded and not self._half
        kinds = {(p.dtype, p.device) for p in self._list}
        numbers = sum(p.numel() for p in self._list)
        self._small = self._alike and len(kinds) == 1 and numbers <= _FEW

    def _blend(self, members: Iterable[tuple[list[Tensor], float]]) -> None:
        with torch.no_grad():
            for means, share in members:
                if self._alike:
                    torch._foreach_lerp_(means, self._list, share)
                    continue
                for mean, p in zip(means, self._list, strict=True):
                    ours = local(mean)
                    ours.lerp_(local(p).to(ours), share)

    def _take_in_unfrozen(self) -> None:
        # What was frozen until now was constant: its average starts at its present value.
        fresh = [n for n, p in self._frozen.items() if p.requires_grad]
        for name in fresh:
            self.params[name] = self._frozen.pop(name)
            for means in self._means:
                means.append(_copied(self.params[name]))
        if fresh:
            self._listed()

    @contextmanager
    def swapped(self, batches: Iterable[Batch] | None = None) -> Iterator[None]:
        """The average in place of the weights; both come back bit for bit.

        The mode of the model is left as it is: call `model.eval()` before you evaluate.

        Args:
            batches: what the model is run on to re-estimate the statistics of its BatchNorm
                layers, in place for the length of the block; those given at construction by
                default. Of batches without a length the first 1,000. With
                `torch.distributed`, every process gives its own, and the statistics are
                shared.

        Yields:
            Nothing.

        Raises:
            ArgumentError: the average is in the model already; the model has BatchNorm layers,
                and there are no batches; or its weights were replaced by others.
        """
        with self._shown(self._chosen, batches):
            yield

    @contextmanager
    def _shown(self, member: int, batches: Iterable[Batch] | None) -> Iterator[None]:
        self._check_outside("swapped")
        # FSDP2 keeps what an evaluation has gathered: those are not the weights.
        reshard(self.model)
        self._check_weights()
        data = self.batches if batches is None else batches
        layers = tracking_layers(self.model)
        if layers and data is None:
            raise ArgumentError(
                f"`batches` must be given: {type(self.model).__name__} has BatchNorm layers, "
                "whose statistics are not those of the averaged weights; a few batches of "
                "training data are enough. Nothing is lost: call it again with them."
            )
        params, means = list(self.params.values()), self._means[member]
        with torch.no_grad():
            before = _exchange(params, means)
        reshard(self.model)
        self._inside = True
        try:
            with preserved_statistics(layers.values()):
                if layers and data is not None:
                    reestimate(self.model, data, self.forward)
                yield
        finally:
            with torch.no_grad():
                _give_back(params, means, before)
            reshard(self.model)
            self._inside = False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            "count", "skipped", and "average": name -> tensor.
        """
        self._check_outside("state_dict")
        return {"count": self.count, "skipped": self.skipped, "average": self._named(0)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: weights of other names or shapes.
        """
        self._check_outside("load_state_dict")
        self._take_in_unfrozen()
        self._load(0, state_dict["average"])
        self.count, self.skipped = state_dict["count"], state_dict["skipped"]

    def _named(self, member: int) -> dict[str, Tensor]:
        return {n: m.clone() for n, m in zip(self.params, self._means[member], strict=True)}

    def _load(self, member: int, saved: Mapping[str, Tensor]) -> None:
        means = dict(zip(self.params, self._means[member], strict=True))
        ours = {name: tuple(mean.shape) for name, mean in means.items()}
        theirs = {name: tuple(value.shape) for name, value in saved.items()}
        if ours != theirs:
            odd = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
            raise ArgumentError(
                f"`state_dict` must be of the same weights; '{odd[0]}' is "
                f"{theirs.get(odd[0], 'missing')}, here {ours.get(odd[0], 'missing')}."
            )
        for name, mean in means.items():
            mean.copy_(saved[name])

    def _check_outside(self, call: str) -> None:
        if self._inside:
            raise ArgumentError(
                f"`{call}` must be called outside `swapped()`: the average is in the model."
            )

    def _check_weights(self) -> None:
        present = dict(self.model.named_parameters())
        lost = [name for name, p in self.params.items() if present.get(name) is not p]
        if lost:
            raise ArgumentError(
                f"the model's weights were replaced since the average was made ('{lost[0]}'): "
                "make it after the model is sharded, converted or moved."
            )


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
        return dict(zip(self.params, self._means[self._place(gamma)], strict=True))

    def _place(self, gamma: float) -> int:
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
        member = self._chosen if gamma is None else self._place(gamma)
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
        self._take_in_unfrozen()
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


class EMA(WeightAverage):
    """The exponential average, bias-corrected: it starts at the first weights.

    Args:
        model: its trainable parameters are averaged, by reference.
        decay: weight of the past, in [0, 1). Default 0.999.
        batches: see `WeightAverage`.
        forward: see `WeightAverage`.

    Raises:
        ArgumentError: a decay out of range, or no trainable weights.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = EMA(model, decay=0.5)
        >>> for value in (1.0, 4.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update()
        >>> average.average["weight"].item()
        3.0
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.999,
        *,
        batches: Iterable[Batch] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.decay = check_share("decay", decay)
        self._start(model, 1, batches, forward)

    def shares(self, step: int) -> tuple[float, ...]:
        """(1 - decay) / (1 - decay^step): the corrected weight.

        Args:
            step: of the update, from 1.

        Returns:
            One share.
        """
        return ((1 - self.decay) / (1 - self.decay**step),)


class LAWA(WeightAverage):
    """The mean of the latest weights, taken every so often: as many copies as it spans.

    Args:
        model: its trainable parameters are averaged, by reference.
        window: how many. Default 6.
        every: updates between them. Default 100.
        batches: see `WeightAverage`.
        forward: see `WeightAverage`.

    Raises:
        ArgumentError: numbers below 1, or no trainable weights.

    Source: Kaddour, 2022, arXiv:2209.14981.

    Examples:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = LAWA(model, window=2, every=1)
        >>> for value in (1.0, 2.0, 4.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update()
        >>> average.average["weight"].item()
        3.0
    """

    def __init__(
        self,
        model: nn.Module,
        window: int = 6,
        every: int = 100,
        *,
        batches: Iterable[Batch] | None = None,
        forward: Forward | None = None,
    ) -> None:
        check_at_least("window", window, 1)
        check_at_least("every", every, 1)
        self.window, self.every = window, every
        self._latest: list[list[Tensor]] = []
        self._start(model, 1, batches, forward)

    def update(self) -> None:
        """Take the present weights in, where it is time; the first ones at once."""
        self._check_outside("update")
        self.count += 1
        if (self._latest and self.count % self.every) or not self._ready():
            return
        fresh = [_copied(p) for p in self.params.values()]
        short = [[*kept, *fresh[len(kept) :]] for kept in self._latest]
        self._latest = [*short, fresh][-self.window :]
        with torch.no_grad():
            for index, mean in enumerate(self._means[0]):
                present = torch.stack([local(kept[index]) for kept in self._latest])
                local(mean).copy_(present.mean(0))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            "count", "skipped", "average", and "latest": mappings name -> tensor.
        """
        latest = [
            {n: w.clone() for n, w in zip(self.params, kept, strict=True)}
            for kept in self._latest
        ]
        return super().state_dict() | {"latest": latest}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state_dict: what `state_dict` gave.
        """
        super().load_state_dict(state_dict)
        self._latest = [
            [kept[name].clone() for name in self.params] for kept in state_dict["latest"]
        ]


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


@torch.no_grad()
def _sum(tensors: list[Tensor], *, joined: bool) -> float:
    if joined:
        return float(_flatten_dense_tensors(tensors).sum().item())  # type: ignore[no-untyped-call]
    sums = [t.sum() for t in tensors]
    return torch.stack([s.to(sums[0]) for s in sums]).sum().item()


def _copied(tensor: Tensor) -> Tensor:
    plain = tensor.detach()
    return plain.float() if plain.dtype in _HALF else plain.clone()


def _exchange(params: list[Tensor], means: list[Tensor]) -> list[Tensor | None]:
    """Put averages into the weights, and the weights where the averages were."""
    before: list[Tensor | None] = []
    for whole, average in zip(params, means, strict=True):
        p, mean = local(whole), local(average)
        raw = p.detach().clone()
        p.copy_(mean)
        if raw.dtype == mean.dtype:
            mean.copy_(raw)
            before.append(None)
        else:
            before.append(raw)
    return before


def _give_back(params: list[Tensor], means: list[Tensor], before: list[Tensor | None]) -> None:
    """Undo `_exchange`, bit for bit."""
    for whole, average, kept in zip(params, means, before, strict=True):
        p, mean = local(whole), local(average)
        if kept is not None:
            p.copy_(kept)
            continue
        raw = mean.clone()
        mean.copy_(p.detach())
        p.copy_(raw)
