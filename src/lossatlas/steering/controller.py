"""LandscapeLR: reads the landscape, asks a policy, scales the rates that others schedule."""

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.io import Provenance
from lossatlas.result import Estimate
from lossatlas.steering.log import DecisionLog
from lossatlas.steering.measure import Instruments
from lossatlas.steering.policies import RegimePolicy
from lossatlas.steering.policies.growth import UNPROVEN_RAISE, VALID_RISES
from lossatlas.steering.probe import Closure, ProbeGrid, check_closure
from lossatlas.steering.rates import Rates, rates_of
from lossatlas.steering.reading import Policy
from lossatlas.steering.scale_controller import ScaleController

_STATE = 2
_FALLING = (
    "the schedule lowers its rate, and {} multiplies it, so the rate falls twice: leave the "
    "scheduler out (a constant rate with a `PolynomialAverage` needs none); in a Hugging Face "
    'Trainer, lr_scheduler_type="constant".'
)
_OVERFITS = (
    "the validation loss rises: the rate is halved for good. More steps will overfit more; "
    "`PolynomialAverage.best` chooses among averages on validation data."
)
_UNPROVEN = (
    "the rate grew to over 16 times its first value, and the training loss has not fallen: on "
    "a plateau, where transformers often begin, take GrowthPolicy(unproven_growth=4), or give "
    "a rate."
)
_ADAPTS = (
    "{} estimates its rate by itself, and {} would undo that: leave the controller out and "
    "read the weights through a `PolynomialAverage`."
)


class LandscapeLR(LRScheduler):
    """Scales the learning rates of an optimizer by what the loss landscape looks like.

    Call `step(closure)` after `optimizer.step()`. It is an `LRScheduler` to everybody who
    expects one; it multiplies the scheduler that it is given, so give it that one and step
    only this. An update that a GradScaler skips is no step. Under `torch.distributed` every
    rank takes rank 0's decision. A measurement that fails is logged, and training goes on.

    Args:
        optimizer: any; groups may be added later.
        policy: decides; `RegimePolicy()` by default.
        interval: steps between decisions, where the policy does not say. Default 50.
        max_interval: the steps between decisions double up to it while decisions keep their
            reason, and fall back to `interval` when one changes. None keeps them fixed.
        warmup: no decision up to this step. The policy's own by default (150).
        min_ratio: smallest scale, for all groups or one a group. The policy's own by default
            (0.2).
        max_ratio: greatest scale, likewise (1).
        scheduler: the scheduler whose rates are multiplied; stepped by this one.
        per_epoch: the scheduler is stepped by `step_scheduler`, not with every step.
        grid: where the probe looks; `ProbeGrid(seed=seed)` by default.
        model: what the closure runs; needed only where it was compiled in place.
        seed: of the probe's directions.
        dry_run: log what would be done, and leave the rates alone. Default False.

    Attributes:
        skipped: calls of `step` without an update.
        closure: used where `step` is called without one.

    Raises:
        ArgumentError: numbers out of range, bounds that do not match the groups, or a
            scheduler of another optimizer.

    Examples:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = torch.optim.SGD([w], lr=0.1)
        >>> controller = LandscapeLR(optimizer, interval=1, warmup=0)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     w.square().sum().backward()
        ...     optimizer.step()
        ...     controller.step(lambda: w.square().sum())
        >>> [record.reason for record in controller.log]
        ['flat, not yet confirmed', 'flat', 'flat']
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        policy: Policy | None = None,
        *,
        interval: int = 50,
        max_interval: int | None = None,
        warmup: int | None = None,
        min_ratio: float | Sequence[float] | None = None,
        max_ratio: float | Sequence[float] | None = None,
        scheduler: LRScheduler | None = None,
        per_epoch: bool = False,
        grid: ProbeGrid | None = None,
        model: nn.Module | None = None,
        seed: int = 0,
        dry_run: bool = False,
    ) -> None:
        check_at_least("interval", interval, 1)
        check_at_least("warmup", 0 if warmup is None else warmup, 0)
        check_pair(optimizer, scheduler)
        # The base class would write rates and patch the optimizer; nothing of it is wanted.
        self.optimizer, self.scheduler, self.per_epoch = optimizer, scheduler, per_epoch
        self.policy: Policy = RegimePolicy() if policy is None else policy
        self.interval, self.dry_run = interval, dry_run
        self.max_interval = interval if max_interval is None else max_interval
        check_at_least("max_interval", self.max_interval, interval)
        # Steps that the next decision keeps from the last one, and when that was.
        self._gap, self._decided = interval, 0
        check_growth(optimizer, self.policy)
        self._told = False
        self._falls = bool(getattr(self.policy, "replaces_schedule", False))
        self.warmup = self.policy.warmup if warmup is None else warmup
        low, high = self.policy.limits
        self._controller = ScaleController(
            self.policy,
            low if min_ratio is None else min_ratio,
            high if max_ratio is None else max_ratio,
            len(optimizer.param_groups),
            dry_run=dry_run,
        )
        self._rates = Rates(optimizer)
        self.base_lrs: list[float | Tensor] = list(self._rates.base)
        self._instruments = Instruments(
            optimizer, self.policy.needs, grid or ProbeGrid(seed=seed), model, seed
        )
        self.last_epoch, self._step_count, self.skipped, self._updates = 0, 1, 0, 0
        self.closure: Closure | None = None
        self._last_lr: list[float | Tensor] = list(rates_of(optimizer))
        attach(self.optimizer, self)

    def step(  # type: ignore[override]
        self,
        closure: Closure | None = None,
        *,
        loss: Tensor | float | None = None,
        metrics: Any = None,
        validation: Estimate | float | None = None,
        strict: bool = True,
    ) -> None:
        """Go one update on: step the scheduler, decide where it is time, write the rates.

        Args:
            closure: gives the loss at the present weights, a number or one an example; see
                `read_probe`. Called only where a decision is due and needs it.
            loss: of the batch just trained on, for policies that watch it.
            metrics: for a `ReduceLROnPlateau`.
            validation: the loss on validation examples, whenever it was measured;
                `GrowthPolicy` falls back where it rises.
            strict: False leaves a decision out where it needs a closure and has none.

        Raises:
            ArgumentError: a decision is due and needs a closure, and there is none; or the
                policy gives a scale that cannot be.
        """
        if closure is not None:
            check_closure(closure)
        if not self._updates:
            self.skipped += 1
            return
        closure = closure or self.closure
        ready = self._is_ready(closure, strict)
        self._updates = 0
        self.last_epoch += 1
        self._step_count += 1
        if not self.policy.before:
            self._instruments.settle(loss)
        if validation is not None:
            self._instruments.validate(validation)
        self._rates.refresh()
        if self.scheduler is not None and not self.per_epoch:
            self.step_scheduler(metrics)
        if ready and self.due():
            self._decide(closure)
        if self.due(ahead=1):
            self._instruments.prepare()
        self._write()

    def _is_ready(self, closure: Closure | None, strict: bool) -> bool:
        ready = closure is not None or not self._instruments.wants_closure
        if strict and not ready and self.due(ahead=1):
            raise ArgumentError(
                f"`closure` must be given at step {self.last_epoch + 1}, where "
                f"{type(self.policy).__name__} reads the loss: controller.step(closure), or "
                "set controller.closure."
            )
        return ready

    def step_scheduler(self, metrics: Any = None) -> None:
        """Step the wrapped scheduler on its own rates; for `per_epoch=True`.

        Args:
            metrics: for a `ReduceLROnPlateau`, which waits without it.
        """
        if self.scheduler is None:
            return
        self._rates.unscaled()
        before = self._rates.scheduled[0]
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        elif metrics is not None:
            self.scheduler.step(metrics)
        self._rates.refresh()
        if self._falls and self._rates.scheduled[0] < before:
            self._falls = False
            warnings.warn(_FALLING.format(type(self.policy).__name__), stacklevel=3)
        self._write()

    def observe(self, loss: Tensor | float) -> None:
        """Tell the loss of a batch before `optimizer.step()`.

        Policies that decide there need it; for others it is the `loss` of the next `step`.

        Args:
            loss: the mean of the batch, unscaled.
        """
        self._instruments.tell(loss, now=self.policy.before)

    def due(self, ahead: int = 0) -> bool:
        """Whether a decision falls on this step.

        Args:
            ahead: how many steps from now. Default 0.

        Returns:
            True after the warm-up, at every multiple of the interval.
        """
        step, every = self.last_epoch + ahead, self.policy.every or self.interval
        if self.policy.before or step <= self.warmup or step % every:
            return False
        return self._gap <= self.interval or step - self._decided >= self._gap

    @property
    def log(self) -> DecisionLog:
        """The decisions so far."""
        settings = {"policy": repr(self.policy), "interval": self.interval}
        made = Provenance(seed=self._instruments.seed, settings=settings)
        return DecisionLog(tuple(self._controller.records), made)

    @property
    def scales(self) -> list[float]:
        """What the scheduled rates are multiplied by, one number a group."""
        return list(self._controller.scales)

    def get_last_lr(self) -> list[float | Tensor]:
        """The rates of the next update.

        Returns:
            One a group.
        """
        return list(self._last_lr)

    def _decide(self, closure: Closure | None, *, apply: bool = True) -> None:
        # Without `apply` the policy takes the reading in, so that its averages are those of
        # the optimizer when the warm-up ends.
        controller = self._controller
        controller.extend(len(self._rates.scheduled))
        reading = self._instruments.attempt(
            self.last_epoch, closure, tuple(controller.proposed)
        )
        if isinstance(reading, str):
            controller.fail(self.last_epoch, reading, self._rates.scheduled)
            warnings.warn(f"a probe failed; training goes on: {reading}", stacklevel=4)
            return
        if self.dry_run:
            # Curvature was met at the plain rates; the rates in question are others.
            reading = replace(reading, edge=reading.edge * controller.proposed[0])
        if apply:
            controller.update(reading, self._rates.scheduled)
            self._pace()
        else:
            controller.learn(reading)

    def _pace(self) -> None:
        last = self._controller.records[-2:]
        if last[-1].reason == VALID_RISES:
            warnings.warn(_OVERFITS, stacklevel=5)
        if last[-1].reason == UNPROVEN_RAISE and not self._told:
            self._told = True
            warnings.warn(_UNPROVEN, stacklevel=5)
        agree = len(last) == 2 and last[0].reason == last[1].reason
        longer = min(2 * self._gap, self.max_interval)
        self._gap = longer if agree else self.interval
        self._decided = self.last_epoch

    def _write(self) -> None:
        self._controller.extend(len(self._rates.scheduled))
        self._last_lr = list(self._rates.write(self._controller.scales))

    def after_update(self) -> None:
        """An update was made; a `step` without one was skipped by a GradScaler."""
        self._updates += 1
        self._rates.refresh()
        self._instruments.track(self._rates.ratios())

    def before_update(self) -> None:
        """An update is about to be made: policies that go by its gradient decide now."""
        opening = self._instruments.opens and self.last_epoch == 0
        if not (self.policy.before or opening):
            return
        if not opening:
            self._instruments.check_observed()
        self._rates.unscaled()
        self._decide(None, apply=opening or self.last_epoch >= self.warmup)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on with the same bits.

        Returns:
            Plain values, and tensors where gradients are kept.
        """
        return {
            "format": _STATE,
            "step": self.last_epoch,
            "skipped": self.skipped,
            "gap": self._gap,
            "decided": self._decided,
            "controller": self._controller.state(),
            "rates": self._rates.state(),
            "instruments": self._instruments.state(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; load the optimizer's own state as well.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: the state of another policy or of other groups.
        """
        own = self.scheduler is not None
        if state_dict.get("format") != _STATE or (state_dict["scheduler"] is not None) != own:
            raise ArgumentError(
                "`state_dict` must be that of a LandscapeLR of this version, "
                f"{'with' if own else 'without'} a scheduler; build it as it was."
            )
        self._controller.load(state_dict["controller"])
        self._rates.load(state_dict["rates"], self._controller.scales)
        self._instruments.load(state_dict["instruments"])
        self.last_epoch, self.skipped = state_dict["step"], state_dict["skipped"]
        self._gap, self._decided = state_dict["gap"], state_dict["decided"]
        self._step_count = self.last_epoch + 1
        self.base_lrs = list(self._rates.base)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state_dict["scheduler"])
        self._last_lr = list(rates_of(self.optimizer))

    def __getstate__(self) -> dict[str, Any]:
        # A closure holds a batch and a model, and is given anew at every step.
        return {**self.__dict__, "closure": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        attach(self.optimizer, self)


class Steerer(Protocol):
    """What is told of updates."""

    def before_update(self) -> None:
        """An update is about to be made."""
        ...

    def after_update(self) -> None:
        """An update was made."""
        ...


def attach(optimizer: torch.optim.Optimizer, steerer: Steerer) -> None:
    """Tell somebody of every update of an optimizer, for as long as somebody else holds it."""
    reference = weakref.ref(steerer)

    def before(
        _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        present = reference()
        if present is None:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            present.before_update()
            return None
        wrapped = _telling(closure, present)
        if "closure" in kwargs:
            return args, kwargs | {"closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    def after(*_: Any) -> None:
        present = reference()
        if present is not None:
            present.after_update()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _telling(closure: Callable[[], Any], steerer: Steerer) -> Callable[[], Any]:
    pending = [steerer]

    def wrapped() -> Any:
        value = closure()
        if pending:
            pending.pop().before_update()
        return value

    return wrapped


def check_growth(optimizer: torch.optim.Optimizer, policy: Policy) -> None:
    """Warn where a policy estimates a rate that the optimizer estimates too."""
    # Prodigy and the D-Adaptation family keep their estimate as "d" of each group.
    if "distance" in policy.needs and any("d" in group for group in optimizer.param_groups):
        text = _ADAPTS.format(type(optimizer).__name__, type(policy).__name__)
        warnings.warn(text, stacklevel=4)


def check_pair(optimizer: Any, scheduler: Any) -> None:
    """Require an optimizer, and a scheduler of it or none."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(
            f"`optimizer` must be a torch.optim.Optimizer; got {type(optimizer).__name__}."
        )
    if scheduler is None:
        return
    if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
        raise ArgumentError(
            "`scheduler` must be an LRScheduler of the same optimizer; got "
            f"{type(scheduler).__name__}."
        )
