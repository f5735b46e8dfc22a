"""Which of several checkpoints: held-out losses compared on the same examples."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_flag, check_fraction
from lossatlas.curvature import spectrum
from lossatlas.errors import AtlasError, StructureError
from lossatlas.io import Checkpoint
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Figure, Result, quantity, result, rows_figure
from lossatlas.weights.align import check_finite
from lossatlas.weights.paired import PairedLosses, halfway

Array = NDArray[np.float64]


@result("choice")
class Choice(Result):
    """Checkpoints beside each other on held-out data.

    Attributes:
        names: of the candidates: checkpoints in their order, then means of neighbors.
        checkpoints: how many of them are checkpoints.
        losses: held-out loss of each.
        behind: loss of each minus that of the best, with the paired error; 0 for the best.
        equal: names of those that cannot be told from the best; the best is among them.
        sharpness: largest eigenvalue of the Hessian at each checkpoint; empty if not asked for.
        gains: loss of the mean of two neighbors minus that of the better of both.
        level: confidence with which the true best is in `equal`.
        notes: what a reader should know.
    """

    names: tuple[str, ...]
    checkpoints: int
    losses: tuple[Estimate, ...] = quantity("loss")
    behind: tuple[Estimate, ...] = quantity("loss")
    equal: tuple[str, ...]
    sharpness: tuple[Estimate, ...] = quantity("loss / weight²")
    gains: tuple[Estimate, ...] = quantity("loss")
    level: float
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The candidate with the lowest held-out loss."""
        values = [loss.value for loss in self.losses]
        return self.names[int(np.nanargmin(values))]

    def estimates(self) -> tuple[Estimate, ...]:
        """Loss of each candidate, how far it is behind, and its sharpness."""
        chosen = f"the lowest of {len(self.names)} is a little too low"
        found = [
            replace(e, name=f"loss of {n}", meaning=chosen if n == self.best else "")
            for n, e in zip(self.names, self.losses, strict=True)
        ]
        found += [
            replace(e, name=f"{n} behind {self.best}", unit="loss", is_minor=True)
            for n, e in zip(self.names, self.behind, strict=True)
            if n != self.best
        ]
        found += [
            replace(e, name=f"sharpness of {n}", unit="loss / weight²", is_minor=True)
            for n, e in zip(self.names, self.sharpness, strict=False)
        ]
        return tuple(found)

    def sentences(self) -> tuple[str, ...]:
        """The best, those that may be as good, and whether averaging helps."""
        others = [name for name in self.equal if name != self.best]
        level = f"{100 * self.level:g} %"
        start = f"{self.best} has the lowest held-out loss".capitalize()
        if others:
            start += f"; {', '.join(others)} cannot be told from it ({level})."
        else:
            start += f", below all others by more than the error ({level})."
        return (start, *self._averaged(), *self._flattest(), *self.notes)

    def _averaged(self) -> tuple[str, ...]:
        sure = sum(e.interval()[1] < 0 for e in self.gains)
        if not self.gains:
            return ()
        return (
            f"{sure} of {len(self.gains)} means of neighbors are better than both of them.",
        )

    def _flattest(self) -> tuple[str, ...]:
        pairs = zip(self.names, self.sharpness, strict=False)
        known = {n: e.value for n, e in pairs if n in self.equal and math.isfinite(e.value)}
        if len(known) < 2:
            return ()
        return (f"The flattest of those is {min(known, key=lambda name: known[name])}.",)

    def figures(self) -> tuple[Figure, ...]:
        """Losses behind the best, losses, and sharpness along the checkpoints."""
        behind = [replace(e, name=n) for n, e in zip(self.names, self.behind, strict=True)]
        losses = [replace(e, name=n) for n, e in zip(self.names, self.losses, strict=True)]
        caption = "Errors are paired: all candidates are judged on the same examples."
        found = [
            rows_figure("Behind the best", behind, "loss minus the best", caption=caption),
            rows_figure("Held-out loss", losses, "loss"),
        ]
        if self.sharpness:
            pairs = zip(self.names, self.sharpness, strict=False)
            sharp = [replace(e, name=n) for n, e in pairs]
            found.append(rows_figure("Sharpness", sharp, "largest eigenvalue (loss / weight²)"))
        return tuple(found)


def choose(
    objective: Objective,
    *checkpoints: Params,
    averages: bool = True,
    sharpness: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> Choice:
    """Compare checkpoints on held-out data and say which cannot be told from the best.

    A candidate is out where its loss is above that of the best by more than the paired error
    at confidence 1 - (1 - level) / (candidates - 1) (Bonferroni): the true best is kept with
    probability `level` at least.

    Args:
        objective: model, loss and data that none of them was trained on.
        *checkpoints: weights, in the order of the training.
        averages: judge the mean of each two neighbors too.
        sharpness: measure the largest eigenvalue of the Hessian at each.
        level: confidence of the set.
        seed: of the Krylov runs.

    Returns:
        Losses, paired differences, and the set of candidates that may be best.

    Raises:
        ArgumentError: `level` is no share.
        StructureError: no checkpoint, or names or shapes differ from those of the objective.
        NonFiniteError: a checkpoint holds NaN or infinite weights.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import choose
        >>> from torch.nn import functional as F
        >>> batch, model = (torch.ones(9, 1), torch.ones(9, 1)), torch.nn.Linear(1, 1, False)
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> points = ({"weight": torch.tensor([[w]])} for w in (0.0, 0.9))
        >>> choose(objective, *points, sharpness=False).best
        'checkpoint 2'

    Source: Hsu, Annals of Statistics 9 (1981) (comparisons with the best).
    """
    check_fraction("level", level)
    check_flag("averages", averages)
    check_flag("sharpness", sharpness)
    names, points = _checked(objective, checkpoints)
    count = len(points)
    pairs = range(count - 1) if averages else range(0)
    judged = PairedLosses(objective)
    sums = [judged.sums(point) for point in points]
    sums += [judged.sums(halfway(points[k], points[k + 1])) for k in pairs]
    names += [f"mean of {names[k]} and {names[k + 1]}" for k in pairs]
    losses = tuple(judged.mean(each) for each in sums)
    best = int(np.nanargmin([_height(loss) for loss in losses]))
    behind = tuple(_behind(judged, each, sums[best], k == best) for k, each in enumerate(sums))
    share = 1 - (1 - level) / max(len(sums) - 1, 1)
    equal = tuple(
        name
        for name, far in zip(names, behind, strict=True)
        if not far.interval(share)[0] > 0 and _height(far) < math.inf
    )
    gains = tuple(
        judged.mean(sums[count + k] - min(sums[k], sums[k + 1], key=np.sum)) for k in pairs
    )
    sharp = tuple(_sharpness(objective, p, seed) for p in points) if sharpness else ()
    notes = _notes(objective, averages)
    return Choice(tuple(names), count, losses, behind, equal, sharp, gains, level, notes)


def _checked(
    objective: Objective, checkpoints: Sequence[Params]
) -> tuple[list[str], list[Params]]:
    if not checkpoints:
        raise StructureError(
            "`checkpoints` must hold at least one; pass choose(objective, a, b)."
        )
    names = []
    for number, point in enumerate(checkpoints, 1):
        name = point.path.name if isinstance(point, Checkpoint) else f"checkpoint {number}"
        names.append(name if name not in names else f"{name} ({number})")
        check_finite(names[-1], objective.split(point).params)
    return names, [objective.split(point).whole for point in checkpoints]


def _height(loss: Estimate) -> float:
    return loss.value if math.isfinite(loss.value) else math.inf


def _behind(judged: PairedLosses, sums: Array, best: Array, is_best: bool) -> Estimate:
    return Estimate(0.0, 0.0) if is_best else judged.mean(sums - best)


def _sharpness(objective: Objective, point: Params, seed: int) -> Estimate:
    try:
        found = spectrum(objective, 1, 0, False, 0.01, params=point, seed=seed)
    except AtlasError as error:
        return Estimate(math.nan, why_no_error=str(error))
    return Estimate(float(found.top[0]), bound=float(found.top_bounds[0]))


def _notes(objective: Objective, averages: bool) -> tuple[str, ...]:
    kept = any(name.endswith("running_var") for name, _ in objective.model.named_buffers())
    if not (averages and kept and objective.mode == "eval"):
        return ()
    return (
        "Means of neighbors run with averaged running statistics; mode='recalibrated' "
        "estimates them anew.",
    )
