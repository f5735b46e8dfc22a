"""Learning-rate schedules as plain arrays: one rate an update.

`rates[t - 1]` is the rate of update t. A linear warm-up of w updates ends with the peak at
update w. Decays run over s in (0, 1]: the last update has the rate min_ratio * peak. Words and
defaults are those of `lossatlas.steering.schedules`, whose schedulers set the same rates.
"""

import copy
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas import cooldown
from lossatlas.arrays import as_float_array
from lossatlas.checks import (
    check_at_least,
    check_number,
    check_one_of,
    check_positive,
    is_number,
)
from lossatlas.cooldown import CooldownShape, cooldown_length
from lossatlas.errors import ArgumentError, DataError
from lossatlas.text import count, number

Floats = NDArray[np.float64]

SHAPES, SHAPE_NAMES = cooldown.SHAPES, cooldown.SHAPE_NAMES
# Shapes that people let fall over a whole run; the others are cooldowns after a held rate.
WHOLE_RUN: tuple[CooldownShape, ...] = ("linear", "cosine")
LONGEST = 10**8  # updates: 0.8 GB of rates; more is a count of tokens or a time of day


def check_length(argument: str, updates: float, label: str = "") -> None:
    """Require that a schedule of so many updates fits in memory."""
    if updates > LONGEST:
        # A whole number in Python can be longer than any float.
        shown = f"{updates:.3g}" if updates < 1e300 else "1e+300 or more"
        raise DataError(
            f"`{argument}`{label} counts {shown} updates, more than {LONGEST:.0e}: "
            "tokens or a time of day? Steps are updates; give tokens as `tokens`."
        )


def ramp(warmup: int, peak: float) -> Floats:
    """A linear warm-up from zero.

    Args:
        warmup: number of updates.
        peak: the rate at their end.

    Returns:
        (warmup,) rates.

    Raises:
        ArgumentError: a number out of range.

    Examples:
        >>> ramp(4, 1.0)
        array([0.25, 0.5 , 0.75, 1.  ])
    """
    check_at_least("warmup", warmup, 0)
    check_length("warmup", warmup)
    check_number("peak", peak, 0)
    # The share first: the last rate is the peak exactly.
    return peak * (np.arange(1, warmup + 1) / max(warmup, 1))


def constant(steps: int, peak: float, warmup: int = 0) -> Floats:
    """A constant rate after a linear warm-up.

    Args:
        steps: number of updates, warm-up included.
        peak: the rate.
        warmup: length of the warm-up. Default 0.

    Returns:
        (steps,) rates.

    Raises:
        ArgumentError: a number out of range.

    Examples:
        >>> constant(4, 1.0, warmup=2)
        array([0.5, 1. , 1. , 1. ])
    """
    return _with_warmup(np.full(check_plan(steps, peak, warmup), float(peak)), peak, warmup)


def cosine(steps: int, peak: float, min_ratio: float = 0.0, warmup: int = 0) -> Floats:
    """Half a cosine from the peak to the last rate.

    Args:
        steps: number of updates, warm-up included.
        peak: the highest rate.
        min_ratio: the last rate as a share of the peak. Default 0.
        warmup: length of the warm-up. Default 0.

    Returns:
        (steps,) rates.

    Raises:
        ArgumentError: a number out of range.

    Examples:
        >>> cosine(4, 1.0, min_ratio=0.5).round(3)
        array([0.927, 0.75 , 0.573, 0.5  ])
    """
    body = check_plan(steps, peak, warmup, min_ratio)
    return _with_warmup(_decay(body, peak, min_ratio, "cosine"), peak, warmup)


def wsd(
    steps: int,
    peak: float,
    decay: float = 0.1,
    shape: CooldownShape = "sqrt",
    *,
    min_ratio: float = 0.0,
    warmup: int = 0,
) -> Floats:
    """Warm-up, stable, decay: constant, then a cooldown at the end.

    Args:
        steps: number of updates, warm-up included.
        peak: the stable rate.
        decay: length of the cooldown: a share of the steps after the warm-up up to 1.0, which
            is all of them, else a number of updates. Default 0.1.
        shape: one of `SHAPE_NAMES`. "sqrt" is 1 - sqrt(s), "power" (1 - s)^1.5,
            "lowered-linear" falls to 0.7 at once, with "inverse" 1 / rate grows linearly.
            Default "sqrt".
        min_ratio: the last rate as a share of the peak, in [0, 1]; "exponential" and "inverse"
            need it above zero. Default 0.
        warmup: length of the warm-up. Default 0.

    Returns:
        (steps,) rates.

    Raises:
        ArgumentError: a number out of range.
        UnknownNameError: no such shape.

    Examples:
        >>> wsd(10, 1.0, decay=4, shape="linear")
        array([1.  , 1.  , 1.  , 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    check_one_of("shape", shape, SHAPE_NAMES)
    body = check_plan(steps, peak, warmup, min_ratio)
    length = _length("decay", decay, body)
    stable = np.full(body - length, float(peak))
    return _with_warmup(
        np.concatenate([stable, _decay(length, peak, min_ratio, shape)]), peak, warmup
    )


def wsd_s(
    steps: int,
    peak: float,
    checkpoints: Sequence[int],
    decay: float = 0.1,
    shape: CooldownShape = "inverse",
    *,
    min_ratio: float = 0.1,
    warmup: int = 0,
) -> Floats:
    """WSD-S: decay before every checkpoint, then go on at the peak from the decayed weights.

    Args:
        steps: number of updates, warm-up included.
        peak: the stable rate.
        checkpoints: updates after which the rate has decayed; the last update is one more.
        decay: length of each cooldown: a share of its period up to 1.0, else updates. Default
            0.1.
        shape: as for `wsd`; "inverse" is the paper's. Default "inverse".
        min_ratio: the last rate of each cooldown as a share of the peak. Default 0.1.
        warmup: length of the warm-up. Default 0.

    Returns:
        (steps,) rates.

    Raises:
        ArgumentError: a number out of range, or checkpoints that do not increase.
        UnknownNameError: no such shape.

    Source: Wen et al., ICLR 2025, arXiv:2410.05192.

    Examples:
        >>> wsd_s(6, 1.0, [3], decay=2, shape="linear", min_ratio=0.0)
        array([1. , 0.5, 0. , 1. , 0.5, 0. ])
    """
    check_plan(steps, peak, warmup, min_ratio)
    check_one_of("shape", shape, SHAPE_NAMES)
    wanted = as_float_array("checkpoints", checkpoints)
    if wanted.ndim != 1 or (wanted % 1 != 0).any():
        raise ArgumentError(f"`checkpoints` must be whole numbers; got {checkpoints!r}.")
    stops = [*(int(c) for c in wanted if c < steps), steps]
    if any(b <= a for a, b in zip([warmup, *stops], stops, strict=False)):
        raise ArgumentError(
            f"`checkpoints` must increase and lie after the warm-up ({warmup}); got {stops}."
        )
    parts = [ramp(warmup, peak)]
    for first, last in zip([warmup, *stops], stops, strict=False):
        length = min(cooldown_length("decay", decay, last - first), last - first)
        parts += [
            np.full(last - first - length, float(peak)),
            _decay(length, peak, min_ratio, shape),
        ]
    return np.concatenate(parts)


def from_torch(scheduler: Any, steps: int, group: int = 0) -> Floats:
    """The rates that a torch scheduler would set, without touching it or its optimizer.

    Works on a copy that is stepped `steps` times; any scheduler that needs no metric serves
    (LambdaLR and so all of Hugging Face's, OneCycleLR, SequentialLR, ...).

    Args:
        scheduler: a `torch.optim.lr_scheduler.LRScheduler`, fresh or under way.
        steps: how many updates from here.
        group: which parameter group. Default 0.

    Returns:
        (steps,) rates: the present one first.

    Raises:
        ArgumentError: not a scheduler, or one that needs a metric.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> from_torch(torch.optim.lr_scheduler.StepLR(optimizer, 2), 5)
        array([1.  , 1.  , 0.1 , 0.1 , 0.01])
    """
    check_at_least("steps", steps, 1)
    check_length("steps", steps)
    optimizer = getattr(scheduler, "optimizer", None)
    if optimizer is None or type(scheduler).__name__ == "ReduceLROnPlateau":
        raise ArgumentError(
            f"`scheduler` must be a torch scheduler that steps without a metric; "
            f"got {type(scheduler).__name__}; give the rates as an array instead."
        )
    check_at_least("group", group, 0)
    if group >= len(optimizer.param_groups):
        raise ArgumentError(
            f"`group` must be below the {len(optimizer.param_groups)} groups; got {group}."
        )
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    step = SimpleNamespace(_wrapped_by_lr_sched=True)
    stand_in = SimpleNamespace(
        param_groups=copy.deepcopy(groups), step=step, _opt_called=True,
        defaults=dict(getattr(optimizer, "defaults", {})),
    )  # fmt: skip
    # The copy is tied to the stand-in, so neither weights nor the real rates are touched.
    twin = copy.deepcopy(scheduler, {id(optimizer): stand_in})
    rates = np.empty(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t in range(steps):
            rates[t] = float(stand_in.param_groups[group]["lr"])
            if t + 1 < steps:
                twin.step()
    return rates


def warmup_length(lr: Floats) -> int:
    """The warm-up: updates before the opening rise reaches its top."""
    rates = _one_row(lr)
    falls = np.flatnonzero(np.diff(rates) < 0)
    rise = rates[: falls[0] + 1] if falls.size else rates
    return int(np.argmax(rise))


def is_monotone(lr: Floats) -> bool:
    """Whether the rates never rise after the warm-up."""
    rates = _one_row(lr)
    return not (np.diff(rates[warmup_length(rates) :]) > 0).any()


def _one_row(lr: ArrayLike) -> Floats:
    values = as_float_array("lr", lr)
    if values.ndim != 1 or not values.size:
        raise DataError(f"`lr` must have one dimension and a value; got {values.shape}.")
    return values


def check_plan(steps: int, peak: float, warmup: int, min_ratio: float = 0.0) -> int:
    """Require the numbers of a schedule to be possible."""
    check_at_least("steps", steps, 2)
    check_length("steps", steps)
    check_at_least("warmup", warmup, 0)
    check_positive("peak", peak)
    if not is_number(min_ratio) or not 0 <= min_ratio <= 1:
        raise ArgumentError(
            f"`min_ratio` must lie in [0, 1], a share of the peak; got {min_ratio!r}."
        )
    if warmup >= steps:
        raise ArgumentError(f"`warmup` must be shorter than `steps` = {steps}; got {warmup}.")
    return steps - warmup


def _length(argument: str, decay: float, body: int) -> int:
    length = cooldown_length(argument, decay, body)
    if length > body:
        raise ArgumentError(
            f"`{argument}` must not be longer than the {body} steps after the warm-up; "
            f"got {length}."
        )
    return length


_ROUNDING = 1e-9  # share of the peak by which rates that are meant to be it differ


def in_words(lr: ArrayLike) -> str:
    """A schedule as people say it.

    Args:
        lr: (T,) rates.

    Returns:
        Text, as in "the rate 0.1 held for 180 updates, then linear to 0 over 20 updates".

    Examples:
        >>> in_words(wsd(10, 0.1, decay=4, shape="linear"))
        'the rate 0.1 held for 6 updates, then linear to 0 over 4 updates'
    """
    rates = _one_row(lr)
    top = warmup_length(rates)
    peak, last = number(float(rates[top])), number(float(rates[-1]))
    if not is_monotone(rates):
        low, high = number(float(rates.min())), number(float(rates.max()))
        return f"rates between {low} and {high} over {count(rates.size, 'update')}"
    # The last update of a warm-up has the peak.
    warmup = top + 1 if top else 0
    said = [f"a warm-up of {count(warmup, 'update')} to {peak}"] if warmup else []
    length = int(np.sum(rates[warmup:] < rates[top] * (1 - _ROUNDING)))
    held = rates.size - warmup - length
    said += [f"the rate {peak} held for {count(held, 'update')}"] if held else []
    if held == 1 and not warmup and length:
        # A fall from the start: its first rate lies below the peak that it falls from.
        name, start = _whole_fall(rates)
        return f"{name} from {number(start)} to {last} over {count(rates.size, 'update')}"
    if length:
        fall = f"{_shape_of(rates[-length:] / rates[top])} to {last}"
        said.append(f"{fall} over {count(length, 'update')}")
    return ", then ".join(said)


def _whole_fall(rates: Floats) -> tuple[str, float]:
    # The shape of a fall, and the peak that it begins from.
    progress, last = np.arange(1, rates.size + 1) / rates.size, float(rates[-1])
    for shape, factor in SHAPES.items() if rates.size > 2 else ():
        factors = factor(progress)
        peak = last + float((rates[0] - last) / factors[0])
        if np.allclose(rates, last + (peak - last) * factors, atol=1e-6 * peak):
            return shape, peak
    return "down", float(rates[0])


def _shape_of(factors: Floats) -> str:
    # Of a fall; two points fit any shape.
    progress, last = np.arange(1, factors.size + 1) / factors.size, float(factors[-1])
    for shape in SHAPE_NAMES if factors.size > 2 else ():
        if shape not in SHAPES and last <= 0:
            continue
        if np.allclose(factors, cooldown.cooldown_factor(shape, progress, last), atol=1e-6):
            return shape
    return "down"


def _decay(length: int, peak: float, min_ratio: float, shape: CooldownShape) -> Floats:
    return peak * cooldown.cooldown_factor(shape, np.arange(1, length + 1) / length, min_ratio)


def _with_warmup(body: Floats, peak: float, warmup: int) -> Floats:
    return np.concatenate([ramp(warmup, peak), body])
