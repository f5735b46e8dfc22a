"""Policies: pure rules from readings to scales of the learning rate, and their registry."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lossatlas.checks import check_at_least, check_number, check_one_of, check_positive
from lossatlas.cooldown import SHAPE_NAMES, CooldownShape, cooldown_factor
from lossatlas.errors import ArgumentError
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.reading import Decision, Policy, Reading, State

COMPATIBLE = ("0.1.0",)


@dataclass(frozen=True)
class RegimePolicy:
    """Scale by what the loss around the weights looks like.

    | regime | sharpness | variability | factor |
    |---|---|---|---|
    | flat | < 0.1 | < 0.3 | 1.15 |
    | very sharp | > 0.5 | | 0.80 |
    | moderately sharp | > 0.2 | | 0.95 |
    | rough | | > 0.5 | 0.85 |
    | neutral | | | 1.00 |

    The first that fits counts. Whatever it says, a loss above twice its moving average (as it
    was before this reading) or one that is not finite brakes by 0.80.

    Attributes:
        compat: "0.1.0" takes the decisions of topoadamw 0.1.0 on the same readings: rough
            before moderately sharp, a brake on the average with this loss already in it, no
            hysteresis, and a loss that is not finite disables the brake for good.
        hysteresis: a factor counts when the same regime was read this often in a row; brakes
            count at once. 1 is none. Default 2. Without `compat` only.
        brake: multiple of the average. Default 2.
        smoothing: weight of a new loss in the average. Default 0.2.

    Raises:
        ArgumentError: numbers out of range.
        UnknownNameError: an unknown `compat`.

    Source: topoadamw 0.1.0 (README, table of regimes).

    Examples:
        >>> from lossatlas.steering import replay
        >>> flat = [Reading(step, loss=1.0, sharpness=0.0, variability=0.1) for step in (1, 2)]
        >>> [decision.factor for decision in replay(RegimePolicy(), flat)]
        [1.0, 1.15]
    """

    compat: str | None = None
    hysteresis: int = 2
    brake: float = 2.0
    smoothing: float = 0.2

    needs = frozenset({"probe"})
    every = None
    before = False
    limits = (0.2, 1.0)
    warmup = 150

    def __post_init__(self) -> None:
        if self.compat is not None:
            check_one_of("compat", self.compat, COMPATIBLE)
        check_at_least("hysteresis", self.hysteresis, 1)

    def start(self) -> State:
        """The memory before the first reading."""
        return {"average": None, "regime": "", "count": 0}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The factor of the regime."""
        return self._compatible(state, reading) if self.compat else self._ours(state, reading)

    def _ours(self, state: State, reading: Reading) -> tuple[State, Decision]:
        average = state["average"]
        if not math.isfinite(reading.loss):
            return dict(state), Decision(0.80, "loss not finite: brake")
        fresh = (
            reading.loss
            if average is None
            else (1 - self.smoothing) * average + self.smoothing * reading.loss
        )
        if average is not None and average > 0 and reading.loss > self.brake * average:
            return {"average": fresh, "regime": "brake", "count": 1}, Decision(
                0.80, f"loss above {self.brake:g} x its average: brake"
            )
        regime, factor = _regime(reading)
        count = state["count"] + 1 if regime == state["regime"] else 1
        after = {"average": fresh, "regime": regime, "count": count}
        if count < self.hysteresis:
            return after, Decision(1.0, f"{regime}, not yet confirmed")
        return after, Decision(factor, regime)

    def _compatible(self, state: State, reading: Reading) -> tuple[State, Decision]:
        factor, reason = _compatible_factor(reading.sharpness, reading.variability)
        average = state["average"]
        # The sums are written as the original writes them: other orders round differently.
        fresh = reading.loss if average is None else 0.2 * reading.loss + 0.8 * average
        if reading.loss > fresh * 2.0:
            factor, reason = 0.8, "brake"
        # 0.95 passes the original's test |factor - 1| > 0.05 by rounding alone.
        applied = factor if abs(factor - 1.0) > 0.05 else 1.0
        return dict(state) | {"average": fresh}, Decision(applied, reason)


def _regime(reading: Reading) -> tuple[str, float]:
    s, v = reading.sharpness, reading.variability
    if reading.loss <= 0 or not (math.isfinite(s) and math.isfinite(v)):
        # Both indicators are relative to the loss; at or below zero they say nothing.
        return "no relative reading", 1.0
    if s < 0.1 and v < 0.3:
        return "flat", 1.15
    if s > 0.5:
        return "very sharp", 0.80
    if s > 0.2:
        return "moderately sharp", 0.95
    return ("rough", 0.85) if v > 0.5 else ("neutral", 1.0)


def _compatible_factor(s: float, v: float) -> tuple[float, str]:
    if s < 0.1 and v < 0.3:
        return 1.15, "flat"
    if s > 0.5:
        return 0.80, "very sharp"
    if v > 0.5:
        return 0.85, "rough"
    return (0.95, "moderately sharp") if s > 0.2 else (1.0, "neutral")


# Validation losses in a row above the lowest one that count as overfitting, and what is said.
_RISES = 2
VALID_RISES = "validation loss rises: fall back"
# Share of the first loss by which it has to fall, and what is said until then.
_FALL = 0.02
_UNPROVEN = "hold: the loss has not fallen"
# Multiple of the first scale, and updates, from which on this is worth a warning.
_FAR, _LONG = 16.0, 64
UNPROVEN_RAISE = "raise, though the loss has not fallen"


@dataclass(frozen=True)
class GrowthPolicy:
    """Raise the rate while steps lead somewhere, fall back when the loss certainly rises.

    Steps that agree take the weights far for their length; steps that cancel do not. Of a
    walk of independent steps (with momentum beta) the distance from the start is the root of
    the sum of squared steps times (1 + beta) / (1 - beta). The scale is `scale` times the
    distance over that root, with steps measured at scale 1: where steps agree it grows
    from decision to decision, where they cancel it stays or falls. The base rate drops out.
    Meant to be read through a `PolynomialAverage`: the weights themselves bounce.

    Attributes:
        scale: greater is faster. Default 2.
        sgd_factor: share of the scale for optimizers whose steps are as long as the gradients
            (SGD); at the full scale they run off before the loss shows it. Default 0.4.
        initial_step: length of the first step over that of the weights. Default 1e-2.
        growth: most by which the scale grows at one decision. Default 1.5.
        unproven_growth: most by which it grows over the first scale before the training loss
            has certainly fallen. Default infinite. Small transformers often begin on a plateau,
            where the rate climbs though steps lead nowhere yet: take 4 there. Not used where no
            loss is told.
        tolerance: rise of the average training loss over its lowest, relative, that halves
            the scale for good. Default 0.3.
        spike: multiple of the average that does so at once, where the mean of a few batches
            is above it by two of its standard errors. Default 2.
        patience: decisions that the average spans, and between two falls. Default 8.
        every: steps between decisions. Default 4.
        valid_tolerance: rise of the validation loss over its lowest, relative, that counts as
            overfitting; two in a row halve the scale for good. Default 0.01. Needs
            `controller.step(..., validation=)`.

    Raises:
        ArgumentError: numbers not above zero.

    Source: ours; distance over gradients as in DoG, Ivgi et al., ICML 2023, arXiv:2302.12022,
        with the steps that the optimizer really makes instead of gradients.

    Examples:
        >>> from lossatlas.steering import replay
        >>> first = Reading(0, size=10.0, step_length=0.5)
        >>> replay(GrowthPolicy(), [first])[0].factor
        0.2
    """

    scale: float = 2.0
    sgd_factor: float = 0.4
    initial_step: float = 1e-2
    growth: float = 1.5
    unproven_growth: float = math.inf
    tolerance: float = 0.3
    spike: float = 2.0
    patience: int = 8
    every: int | None = 4
    valid_tolerance: float = 0.01

    needs = frozenset({"distance"})
    before = False
    limits = (0.0, math.inf)
    warmup = 0
    replaces_schedule = True

    def __post_init__(self) -> None:
        for name in ("scale", "sgd_factor", "initial_step", "growth", "tolerance", "spike"):
            check_positive(name, getattr(self, name))
        if self.unproven_growth != math.inf:
            check_number("unproven_growth", self.unproven_growth, 1)
        check_number("valid_tolerance", self.valid_tolerance, 0)
        check_at_least("patience", self.patience, 1)

    def start(self) -> State:
        """The memory before the first reading."""
        empty = {"average": None, "lowest": None, "wait": 0, "valid": None, "rises": 0}
        return {"ceiling": math.inf, "first": None, "opening": None} | empty

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The scale of the next steps."""
        if reading.step == 0:
            scale = (
                self.initial_step * reading.size / reading.step_length
                if reading.step_length > 0
                else 1.0
            )
            scale = scale or 1.0
            after = dict(state) | {"opening": scale}
            return after, Decision(scale, "initial step", absolute=True)
        present = reading.scale[0]
        after = self._remembered(state, reading) | self._validated(state, reading)
        after |= self._proven(after, reading)
        overfits = after["rises"] >= _RISES
        trouble = VALID_RISES if overfits else self._trouble(state, reading)
        if overfits:
            after["rises"] = 0
        if trouble and (overfits or state["wait"] == 0):
            after |= {"ceiling": present / 2, "wait": self.patience}
            return after, Decision(present / 2, trouble, absolute=True)
        walk = reading.step_length * math.sqrt((1 + reading.momentum) / (1 - reading.momentum))
        scale = self.scale if reading.normalized else self.sgd_factor * self.scale
        wanted = scale * reading.distance / walk if walk > 0 else present
        scale = min(wanted, self.growth * present, state["ceiling"])
        opening = after.get("opening")
        if opening is not None and scale > self.unproven_growth * opening:
            return after, Decision(self.unproven_growth * opening, _UNPROVEN, absolute=True)
        reason = "raise" if scale > present else "lower"
        if opening is not None and scale > max(present, _FAR * opening):
            reason = UNPROVEN_RAISE if reading.step >= _LONG else reason
        return after, Decision(scale, reason, absolute=True)

    def _proven(self, state: State, reading: Reading) -> dict[str, Any]:
        # The first scale is forgotten where no loss is told, or once it has certainly fallen.
        average, first = state["average"], state.get("first")
        if average is None:
            return {} if reading.train_count else {"opening": None}
        if first is None:
            error = reading.train_error if math.isfinite(reading.train_error) else 0.0
            return {"first": [average, error]}
        level, error = first
        fell = average < level - 3 * error - _FALL * abs(level)
        return {"opening": None} if fell else {}

    def _validated(self, state: State, reading: Reading) -> dict[str, Any]:
        loss, lowest = reading.valid_loss, state["valid"]
        if not math.isfinite(loss):
            return {}
        if lowest is None or loss < lowest:
            return {"valid": loss, "rises": 0}
        risen = loss > lowest + self.valid_tolerance * abs(lowest)
        return {"rises": state["rises"] + 1 if risen else 0}

    def _trouble(self, state: State, reading: Reading) -> str:
        average, lowest = state["average"], state["lowest"]
        if not reading.train_count:
            return ""
        if not math.isfinite(reading.train_loss):
            return "loss not finite: fall back"
        if average is None:
            return ""
        error = reading.train_error if math.isfinite(reading.train_error) else 0.0
        if average > 0 and reading.train_loss - 2 * error > self.spike * average:
            return "loss leaps: fall back"
        rise = self.tolerance * abs(lowest)
        return "loss rises: fall back" if average > lowest + rise else ""

    def _remembered(self, state: State, reading: Reading) -> dict[str, Any]:
        after = dict(state) | {"wait": max(state["wait"] - 1, 0)}
        if not reading.train_count or not math.isfinite(reading.train_loss):
            return after
        before = state["average"]
        if before is None:
            return after | {"average": reading.train_loss, "lowest": reading.train_loss}
        average = before + (reading.train_loss - before) / self.patience
        # The lowest loss is forgotten slowly: what was reached once may have been luck.
        lowest = min(average, state["lowest"] + 0.02 * (average - state["lowest"]))
        return after | {"average": average, "lowest": lowest}


@dataclass(frozen=True)
class EdgePolicy:
    """Cut the rate where it times the largest eigenvalue passes a bound, and let it recover.

    Attributes:
        share: of the bound of stability 2 (1 + beta) / (1 - beta) that is used. Default 0.9.
        recovery: the most by which a scale grows at one decision. Default 1.5.

    Raises:
        ArgumentError: numbers not above zero.

    Source: bound: Cohen et al., ICLR 2021, arXiv:2103.00065 (momentum), and 2022,
        arXiv:2207.14484 (Adam: of the preconditioned Hessian).

    Examples:
        >>> from lossatlas.steering import replay
        >>> replay(EdgePolicy(), [Reading(1, edge=3.6, edge_error=0.0)])[0].factor
        0.5
    """

    share: float = 0.9
    recovery: float = 1.5

    needs = frozenset({"edge"})
    every = None
    before = False
    limits = (0.0, 1.0)
    warmup = 10

    def __post_init__(self) -> None:
        check_positive("share", self.share)
        check_positive("recovery", self.recovery)

    def start(self) -> State:
        """The memory before the first reading."""
        return {}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The factor that brings rate times curvature to the bound, where it is above."""
        if not math.isfinite(reading.edge):
            return {}, Decision(1.0, "no curvature read")
        limit = self.share * 2 * (1 + reading.momentum) / (1 - reading.momentum)
        upper = reading.edge + (reading.edge_error if reading.edge_error >= 0 else 0.0)
        room = limit / upper if upper > 0 else math.inf
        if room < 1:
            return {}, Decision(room, f"rate x curvature {reading.edge:.3g} > {limit:.3g}")
        return {}, Decision(min(room, self.recovery), "below the edge")


@dataclass(frozen=True)
class MoMoPolicy:
    """Truncated model-based rates for SGD with momentum and for Adam.

    The mean of the loss's past linearizations, cut off at the lowest loss that can be, is a
    model of the loss along the update. The step goes to where this model reaches the bound,
    at most as far as the scheduled rate goes: scale = min(1, gap / slope), where gap is the
    height of the model over the bound and slope its decrease along one full update, decay
    included. One scale for all groups, whatever their rates.

    Attributes:
        lower_bound: of the loss. Default 0.
        estimate_bound: raise the bound while training where the loss cannot reach it. Default
            False.

    Raises:
        ArgumentError: a bound that is not finite.

    Source: Schaipp et al., ICML 2024, arXiv:2305.07583, sec. 3 and 4. Their decay is a
        division, w / (1 + lr lam); here it is that of torch, part of the update.

    Examples:
        >>> from lossatlas.steering import replay
        >>> model = {"loss": 1.0, "gradient": 0.0, "average": 0.0, "slope": 4.0}
        >>> model |= {"beta": 0.0, "corrected": 1.0}
        >>> replay(MoMoPolicy(), [Reading(1, model=model)])[0].factor
        0.25
    """

    lower_bound: float = 0.0
    estimate_bound: bool = False

    needs = frozenset({"model"})
    every = 1
    before = True
    limits = (0.0, 1.0)
    warmup = 0

    def __post_init__(self) -> None:
        check_number("lower_bound", self.lower_bound)

    def start(self) -> State:
        """The memory before the first reading."""
        return {"loss": 0.0, "inner": 0.0, "bound": float(self.lower_bound), "count": 0}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The scale of this update."""
        m = reading.model
        if not all(math.isfinite(value) for value in m.values()):
            return dict(state), Decision(1.0, "loss or gradient not finite", absolute=True)
        count, corrected = state["count"] + 1, bool(m["corrected"])
        keep = m["beta"] if corrected or count > 1 else 0.0
        loss = keep * state["loss"] + (1 - keep) * m["loss"]
        inner = keep * state["inner"] + (1 - keep) * m["gradient"]
        rho = 1 - m["beta"] ** count if corrected else 1.0
        height, bound = loss + m["average"] - inner, state["bound"]
        if self.estimate_bound and height < rho * bound:
            bound = max(height / (2 * rho), self.lower_bound)
        gap = max(height - rho * bound, 0.0)
        scale = min(1.0, gap / m["slope"]) if m["slope"] > 0 else 1.0
        if self.estimate_bound:
            bound = max((height - 0.5 * scale * m["slope"]) / rho, self.lower_bound)
        after = {"loss": loss, "inner": inner, "bound": bound, "count": count}
        reason = "rate of the model" if scale < 1 else "scheduled rate"
        return after, Decision(scale, reason, absolute=True)


# Above this ratio of variance to squared mean the ratio itself is not resolved.
_MAX_NOISE = 1e6
_UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class NoisePolicy:
    """Rates of groups (layers, see `layer_groups`) by the noise of their gradients.

    The least noisy group keeps its rate; the others get sqrt(a / max a) of theirs, with
    a = alpha / sqrt(alpha^2 + noise) and noise = E[variance] / E[squared mean]. The two
    estimates are averaged over readings before they are divided: one inner product below zero,
    which is common in small batches, then fades like every other reading.

    Attributes:
        alpha: noise (variance over squared mean) at which it begins to count. Default 1.
        smoothing: weight of the past in both averages. Default 0.9.
        every: steps between readings; each takes the gradients of two updates in a row.
            Default 10.

    Raises:
        ArgumentError: numbers out of range.

    Source: the form of LANTON, arXiv:2510.14009, with noise relative to the gradient, since
        adaptive optimizers divide its units out. The paper's norms are those of Muon.

    Examples:
        >>> from lossatlas.steering import replay
        >>> noise = ((0.0, 1.0), (3.0, 1.0))
        >>> replay(NoisePolicy(), [Reading(10, noise=noise)])[0].factor
        (1.0, 0.7071067811865476)
    """

    alpha: float = 1.0
    smoothing: float = 0.9
    every: int | None = 10

    needs = frozenset({"noise"})
    before = False
    limits = (0.0, 1.0)
    warmup = 0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)
        check_share("smoothing", self.smoothing)
        if self.every is not None and self.every < 2:
            raise ArgumentError(f"`every` must be at least 2; got {self.every!r}.")

    def start(self) -> State:
        """The memory before the first reading."""
        return {"noise": []}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """One scale a group."""
        before = [tuple(pair) for pair in state["noise"]]
        before += [_UNKNOWN] * (len(reading.noise) - len(before))
        after = [self._averaged(o, n) for o, n in zip(before, reading.noise, strict=True)]
        if not after:
            return {"noise": []}, Decision(1.0, "no noise read", absolute=True)
        shares = [self._share(*pair) for pair in after]
        largest = max(shares)
        scales = tuple(math.sqrt(share / largest) for share in shares)
        memory = {"noise": [list(pair) for pair in after]}
        return memory, Decision(scales, "noise of groups", absolute=True)

    def _averaged(self, old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
        if not all(map(math.isfinite, new)):
            return old[0], old[1]
        if not all(map(math.isfinite, old)):
            return new[0], new[1]
        keep = self.smoothing
        return keep * old[0] + (1 - keep) * new[0], keep * old[1] + (1 - keep) * new[1]

    def _share(self, variance: float, squared_mean: float) -> float:
        # A group whose noise is not known, or that has no gradient at all, keeps its rate.
        if not math.isfinite(variance) or variance == squared_mean == 0:
            return 1.0
        limit = variance / _MAX_NOISE
        noise = variance / squared_mean if squared_mean > limit else _MAX_NOISE
        return self.alpha / math.sqrt(self.alpha**2 + noise)


# Windows kept; beyond that neighbors are merged in pairs, so that memory stays bounded.
_MOST = 128


@dataclass(frozen=True)
class PlateauCooldown:
    """Hold the rate until the training loss no longer certainly falls, then cool down.

    Progress is the fall of the mean loss from the last but one share of the steps so far to
    the last one; both windows grow with time, so nothing is measured in steps. It is certain
    by as much as it exceeds two of its standard errors.

    Attributes:
        threshold: certain progress, relative to the loss, below which it counts as ended.
            Default 0.01.
        window: share of the steps so far that each of the two windows spans. Default 0.2.
        decay: length of the cooldown, as a share of the steps before it. Default 0.25.
        shape: of the cooldown, see `lossatlas.cooldown`. Default "sqrt".
        min_ratio: scale at its end; the controller's own bounds it. Default 0.
        min_decisions: decisions before the first cooldown. Default 10.

    Raises:
        ArgumentError: numbers out of range.
        UnknownNameError: an unknown shape.

    Examples:
        >>> from lossatlas.steering import replay
        >>> flat = {"train_loss": 1.0, "train_error": 0.0, "train_count": 1}
        >>> seen = [Reading(step, **flat) for step in range(1, 12)]
        >>> replay(PlateauCooldown(), seen)[-1].reason
        'cooldown'
    """

    threshold: float = 0.01
    window: float = 0.2
    decay: float = 0.25
    shape: CooldownShape = "sqrt"
    min_ratio: float = 0.0
    min_decisions: int = 10

    needs = frozenset[str]()
    every = None
    before = False
    limits = (0.0, 1.0)
    warmup = 0
    replaces_schedule = True

    def __post_init__(self) -> None:
        check_share("window", self.window)
        check_positive("window", self.window)
        check_positive("decay", self.decay)
        check_share("min_ratio", self.min_ratio)
        check_one_of("shape", self.shape, SHAPE_NAMES)
        check_at_least("min_decisions", self.min_decisions, 2)

    def start(self) -> State:
        """The memory before the first reading."""
        return {"windows": [], "began": None}

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """Hold, or the scale of the cooldown."""
        windows = _with(state["windows"], reading)
        began = state["began"]
        if began is None and self._ended(windows, reading.step):
            began = reading.step
        after = {"windows": windows if began is None else [], "began": began}
        if began is None:
            return after, Decision(1.0, "progress", absolute=True)
        share = min((reading.step - began) / max(self.decay * began, 1), 1.0)
        scale = cooldown_factor(self.shape, share, self.min_ratio)
        return after, Decision(scale, "cooldown" if share < 1 else "cooled down", absolute=True)

    def _ended(self, windows: list[list[float]], step: int) -> bool:
        if len(windows) < self.min_decisions:
            return False
        late = _mean([w for w in windows if w[0] > step * (1 - self.window)])
        early = _mean(
            [
                w
                for w in windows
                if step * (1 - 2 * self.window) < w[0] <= step * (1 - self.window)
            ]
        )
        if late is None or early is None:
            return False
        certain = early[0] - late[0] - 2 * math.hypot(early[1], late[1])
        return certain < self.threshold * abs(early[0])


def _with(windows: Any, reading: Reading) -> list[list[float]]:
    # Each window: last step, mean, standard error, batches.
    kept = [list(w) for w in windows]
    if reading.train_count and math.isfinite(reading.train_loss):
        error = reading.train_error if math.isfinite(reading.train_error) else 0.0
        kept.append([reading.step, reading.train_loss, error, reading.train_count])
    if len(kept) <= _MOST:
        return kept
    pairs = zip(kept[::2], kept[1::2], strict=False)
    merged = [[b[0], *_known([a, b]), a[3] + b[3]] for a, b in pairs]
    return merged + kept[2 * len(merged) :]


def _known(windows: list[list[float]]) -> tuple[float, float]:
    total = sum(w[3] for w in windows)
    mean = sum(w[1] * w[3] for w in windows) / total
    error = math.sqrt(sum((w[2] * w[3]) ** 2 for w in windows)) / total
    return mean, error


def _mean(windows: list[list[float]]) -> tuple[float, float] | None:
    return _known(windows) if windows else None


#: Name in recipes and on the command line -> what makes the policy with its defaults.
POLICIES: dict[str, Callable[[], Policy]] = {
    "regime": RegimePolicy,
    "compat": lambda: RegimePolicy(compat="0.1.0"),
    "growth": GrowthPolicy,
    "momo": MoMoPolicy,
    "edge": EdgePolicy,
    "group-noise": NoisePolicy,
    "cooldown": PlateauCooldown,
}
