"""What a controller sees, and what a policy answers: plain numbers, nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError
from lossatlas.result import Estimate, Result, result

# A policy's memory: plain numbers by name, so that it is saved, replayed and compared.
State = Mapping[str, Any]
NAN = math.nan


@result("steering-reading")
class Reading(Result):
    """Measurements at one step. What was not measured is NaN.

    Attributes:
        step: updates done so far.
        loss: of the probe's batch at the present weights, in units of the loss.
        loss_error: its standard error over examples.
        sharpness: how much higher the neighbors are, on average: (mean - loss) / loss.
        sharpness_error: its standard error.
        variability: standard deviation of all probed losses over their mean.
        variability_error: its standard error.
        persistence: total length of the finite bars of degree 0 of the probed points, in units
            of the loss: how far it is from one bowl.
        persistence_error: its standard error; NaN where it is unknown, as where
            there is no bar.
        bars: how many of these bars are longer than two of their errors.
        edge: rate times the largest eigenvalue of the (preconditioned) Hessian; descent on a
            quadratic is stable below 2, with momentum beta below 2 (1 + beta) / (1 - beta).
        edge_error: bound on its error.
        train_loss: mean loss of the training batches since the last decision.
        train_error: its standard error over these batches.
        train_count: how many there were.
        valid_loss: on validation examples, where it was told since the last decision.
        valid_error: its standard error.
        momentum: the optimizer's, 0 where it has none.
        normalized: whether the optimizer divides gradients by their size, as Adam does.
        noise: of each group, an estimate of the variance of its gradient and one of the
            squared length of its mean (which may be negative: average before dividing).
        model: for model-based rates, name -> number (see `MoMoPolicy`).
        size: length of all weights before the first step.
        distance: the greatest of the weights from their start so far.
        step_length: root of the sum of squared steps, each divided by its scale; at step 0 the
            length of the first one to come.
        scale: what the rates are multiplied by at present, one number a group.

    Examples:
        >>> Reading(5, loss=2.0, loss_error=0.1).sentences()
        ('Step 5: loss 2.00 ± 0.10.',)
    """

    step: int
    loss: float = NAN
    loss_error: float = NAN
    sharpness: float = NAN
    sharpness_error: float = NAN
    variability: float = NAN
    variability_error: float = NAN
    persistence: float = NAN
    persistence_error: float = NAN
    bars: int = 0
    edge: float = NAN
    edge_error: float = NAN
    train_loss: float = NAN
    train_error: float = NAN
    train_count: int = 0
    valid_loss: float = NAN
    valid_error: float = NAN
    momentum: float = 0.0
    normalized: bool = False
    noise: tuple[tuple[float, float], ...] = ()
    model: Mapping[str, float] = field(default_factory=dict)
    size: float = NAN
    distance: float = NAN
    step_length: float = NAN
    scale: tuple[float, ...] = ()

    def estimates(self) -> tuple[Estimate, ...]:
        """What was measured, with its errors."""
        out = []
        for name, error in _MEASURED.items():
            value, stderr = getattr(self, name), getattr(self, error)
            if math.isfinite(value):
                why = None if math.isfinite(stderr) else "a single loss has no standard error"
                out.append(Estimate(value, stderr, why_no_error=why, name=name))
        return tuple(replace(e, name=e.name.replace("_", " ")) for e in out)

    def sentences(self) -> tuple[str, ...]:
        """What was measured, in one sentence."""
        parts = [f"{e.name} {e}" for e in self.estimates()]
        seen = ", ".join(parts) or "nothing was measured"
        return (f"Step {self.step:,}: {seen}.",)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Reading":
        """A reading from its fields by name; lists, as JSON has them, become tuples.

        Args:
            plain: field -> value, as `dataclasses.asdict` gives it.

        Returns:
            An equal reading.
        """
        pairs = tuple((float(a), float(b)) for a, b in plain["noise"])
        return cls(**(dict(plain) | {"noise": pairs, "scale": tuple(plain["scale"])}))


def known_error(stderr: float) -> float:
    """A standard error, 0 where it is not known."""
    return stderr if math.isfinite(stderr) else 0.0


_MEASURED = {
    "loss": "loss_error", "sharpness": "sharpness_error", "variability": "variability_error",
    "persistence": "persistence_error", "edge": "edge_error", "train_loss": "train_error",
    "valid_loss": "valid_error",
}  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What a policy wants.

    Attributes:
        factor: one number for all groups, or one a group; >= 0.
        reason: a few words.
        absolute: whether `factor` is the new scale itself; otherwise the scale is multiplied
            by it.

    Examples:
        >>> Decision(0.5, "too sharp").factors(2)
        (0.5, 0.5)
    """

    factor: float | tuple[float, ...] = 1.0
    reason: str = "neutral"
    absolute: bool = False

    def factors(self, groups: int) -> tuple[float, ...]:
        """One factor a group.

        Args:
            groups: how many there are.

        Returns:
            Shape (groups,).

        Raises:
            ArgumentError: another number of factors, or one that is not a finite number >= 0.
        """
        alone = is_number(self.factor)
        several = (self.factor,) * groups if alone else tuple(self.factor)  # type: ignore[arg-type]
        if len(several) != groups:
            raise ArgumentError(
                f"a policy must give one factor, or one for each of {groups} groups; got "
                f"{len(several)}."
            )
        for value in several:
            if not is_number(value) or not math.isfinite(float(value)) or float(value) < 0:  # type: ignore[arg-type]
                raise ArgumentError(
                    f"a policy must give factors that are finite numbers >= 0; got {value!r} "
                    f"({self.reason!r})."
                )
        return tuple(float(value) for value in several)  # type: ignore[arg-type]


class Policy(Protocol):
    """Readings in, decisions out, and nothing else: no clock, no tensors, no randomness.

    Attributes:
        needs: what is to be measured, of "probe", "edge", "noise", "model", "distance".
        every: steps between decisions; None leaves it to the controller's `interval`.
        before: whether it decides before each update (on its gradient) instead of after.
        limits: smallest and greatest scale, where the controller is given none.
        warmup: steps without a decision, where the controller is given none. A policy that
            needs "distance" is also asked once before the first update, at step 0.

    Examples:
        >>> from lossatlas.steering import EdgePolicy
        >>> policy: Policy = EdgePolicy()
        >>> sorted(policy.needs), policy.limits
        (['edge'], (0.0, 1.0))
    """

    @property
    def needs(self) -> frozenset[str]:
        """What is to be measured."""
        ...

    @property
    def every(self) -> int | None:
        """Steps between decisions, or None."""
        ...

    @property
    def before(self) -> bool:
        """Whether it decides before the update."""
        ...

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and greatest scale."""
        ...

    @property
    def warmup(self) -> int:
        """Steps without a decision."""
        ...

    def start(self) -> State:
        """The memory before the first reading."""
        ...

    def decide(self, state: State, reading: Reading) -> tuple[State, Decision]:
        """The memory after a reading, and what to do.

        Args:
            state: what the last call gave; not modified.
            reading: what was measured.

        Returns:
            (state, decision): both depend on the arguments and the policy's settings only.
        """
        ...
