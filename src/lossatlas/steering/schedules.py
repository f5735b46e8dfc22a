"""Schedules that people ask for, as LRSchedulers: WSD, WSD-S, and a cooldown on demand."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.optim.lr_scheduler import LRScheduler

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.cooldown import SHAPE_NAMES, CooldownShape, cooldown_factor, cooldown_length
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share


class WSD(LRScheduler):
    """Warm up, stay, cool down.

    The warm-up of w updates is linear and reaches the base rate with update w; the last update
    of a cooldown has the last rate. Words and defaults are those of
    `lossatlas.forecast.schedules.wsd`, which gives the same rates as an array. Without `steps`
    the rate stays until `cool_down` is called, so that the horizon can be chosen late.

    Args:
        optimizer: any.
        steps: updates of the whole training, warm-up included; None stays.
        warmup: updates of the warm-up. Default 0.
        decay: length of the cooldown: a share of the steps after the warm-up up to 1.0, which
            is all of them, else updates. Default 0.1.
        shape: see `lossatlas.cooldown`. Default "sqrt".
        min_ratio: the last rate as a share of the base rate. Default 0.
        last_epoch: as for every scheduler.

    Raises:
        ArgumentError: numbers out of range, or phases longer than the training.
        UnknownNameError: an unknown shape.

    Source: Hu et al., arXiv:2404.06395; shapes: Haegele et al., arXiv:2405.18392.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WSD(optimizer, 10, warmup=2, decay=4, shape="linear")
        >>> [schedule.share(step) for step in range(10)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps: int | None = None,
        *,
        warmup: int = 0,
        decay: float = 0.1,
        shape: CooldownShape = "sqrt",
        min_ratio: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        check_at_least("warmup", warmup, 0)
        check_one_of("shape", shape, SHAPE_NAMES)
        self.warmup, self.shape = warmup, shape
        self.min_ratio = check_share("min_ratio", min_ratio)
        self.start: int | None = None
        self.length = 0
        if steps is not None:
            check_at_least("steps", steps, 1)
            self.length = cooldown_length("decay", decay, max(steps - warmup, 1))
            self.start = steps - self.length
            if self.start < warmup:
                raise ArgumentError(
                    f"`warmup` and `decay` must fit into {steps} steps; got {warmup} and "
                    f"{self.length}."
                )
        _check_resumed(optimizer, last_epoch)
        super().__init__(optimizer, last_epoch)

    def cool_down(self, steps: int) -> None:
        """Begin the cooldown with the next update, from the rate of that update.

        During the warm-up the rate goes down from where it is; it never rises first.

        Args:
            steps: its length in updates.

        Raises:
            ArgumentError: below 1, or it has begun.
        """
        check_at_least("steps", steps, 1)
        if self.start is not None and self.last_epoch >= self.start:
            raise ArgumentError("the cooldown has begun; `cool_down` must be called once.")
        self.start, self.length = self.last_epoch, steps
        # The rate of the next update is set already; it is the first of the cooldown.
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def share(self, step: int) -> float:
        """The share of the base rate at an update."""
        if self.start is None or step < self.start:
            return self._before_cooldown(step)
        progress = (step - self.start + 1) / self.length
        peak = self._before_cooldown(self.start)
        if peak <= self.min_ratio:
            return peak
        return peak * cooldown_factor(self.shape, progress, self.min_ratio / peak)

    def _before_cooldown(self, step: int) -> float:
        return min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rates of the next update."""
        return [base * self.share(self.last_epoch) for base in self.base_lrs]


class WSDS(LRScheduler):
    """WSD-S: cool down at every horizon, go on from there at the full rate.

    One run gives a cooled model at each of `checkpoints`, without going back to the weights
    before a cooldown.

    Args:
        optimizer: any.
        checkpoints: updates after which the rate has been cooled, increasing; the last one
            ends the training.
        warmup: updates of the warm-up. Default 0.
        decay: length of each cooldown: a share of its period up to 1.0, else updates.
            Default 0.1.
        shape: see `lossatlas.cooldown`; "inverse" is the paper's. Default "inverse".
        min_ratio: the last rate of each as a share of the base rate. Default 0.1.
        last_epoch: as for every scheduler.

    Raises:
        ArgumentError: numbers out of range, or checkpoints that do not increase.
        UnknownNameError: an unknown shape.

    Source: Wen et al., ICLR 2025, arXiv:2410.05192.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WSDS(optimizer, [3, 6], decay=2, shape="linear", min_ratio=0.0)
        >>> [schedule.share(step) for step in range(6)]
        [1.0, 0.5, 0.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        checkpoints: Sequence[int],
        *,
        warmup: int = 0,
        decay: float = 0.1,
        shape: CooldownShape = "inverse",
        min_ratio: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        check_at_least("warmup", warmup, 0)
        check_one_of("shape", shape, SHAPE_NAMES)
        self.warmup, self.shape = warmup, shape
        self.min_ratio = check_share("min_ratio", min_ratio)
        self.checkpoints = [warmup, *checkpoints]
        for before, after in pairwise(self.checkpoints):
            if after <= before:
                raise ArgumentError(
                    f"`checkpoints` must increase and lie after the warm-up ({warmup}); got "
                    f"{list(checkpoints)}."
                )
        self.decay = decay
        cooldown_length("decay", decay, 1)
        _check_resumed(optimizer, last_epoch)
        super().__init__(optimizer, last_epoch)

    def share(self, step: int) -> float:
        """The share of the base rate at an update; 1 after the last end."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        for before, after in pairwise(self.checkpoints):
            if step < after:
                length = min(
                    cooldown_length("decay", self.decay, after - before), after - before
                )
                progress = (step - (after - length) + 1) / length
                return (
                    cooldown_factor(self.shape, progress, self.min_ratio)
                    if progress > 0
                    else 1.0
                )
        return 1.0

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rates of the next update."""
        return [base * self.share(self.last_epoch) for base in self.base_lrs]


def _check_resumed(optimizer: torch.optim.Optimizer, last_epoch: int) -> None:
    is_fresh = any("initial_lr" not in group for group in optimizer.param_groups)
    if last_epoch != -1 and is_fresh:
        raise ArgumentError(
            "`last_epoch` must be -1 for an optimizer that no schedule has set; got "
            f"{last_epoch!r}: load the state of the optimizer first."
        )
