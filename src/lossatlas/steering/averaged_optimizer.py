"""The recipe: an optimizer, its rate and averages of the weights, as one object."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.objective import Batch
from lossatlas.result import Estimate
from lossatlas.steering.controller import LandscapeLR
from lossatlas.steering.policies import GrowthPolicy
from lossatlas.steering.polynomial_average import (
    AverageChoice,
    PolynomialAverage,
    Score,
    ScoreMode,
)
from lossatlas.steering.schedules import WSD
from lossatlas.steering.statistics import Forward
from lossatlas.steering.updates import CautiousUpdates, InterpolatedGradients
from lossatlas.training.optimizers import build_optimizer

# Gamma of the averages, and of those where gradients are taken towards one of them.
GAMMAS = (4.0, 16.0, 64.0)
WIDE = (0.0, *GAMMAS)


class AveragedOptimizer:
    """An optimizer with its rate and a bank of averages; `recipe` makes it.

    Use it like an optimizer: `zero_grad()`, `step()`. Then `best(score)` and `swapped()`.

    Args:
        optimizer: moves the weights.
        average: of the same weights; updated after every step of the optimizer, so steps that a
            GradScaler skips do not count.
        scheduler: steps the rate; a `LandscapeLR` is told the loss.
        interpolated: where gradients are taken between weights and average; it updates the
            average then.

    Attributes:
        optimizer: the torch optimizer, for a GradScaler, a scheduler of your own or a trainer.
        average: the `PolynomialAverage`.
        scheduler: the warm-up, or the `LandscapeLR`.
        interpolated: as given.

    Examples:
        >>> model = nn.Linear(3, 1)
        >>> training = recipe(model, optimizer="adamw")
        >>> for step in range(4):
        ...     training.zero_grad()
        ...     loss = model(torch.ones(2, 3)).square().mean()
        ...     loss.backward()
        ...     training.step(loss)
        >>> training.average.count
        4
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        average: PolynomialAverage,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        interpolated: InterpolatedGradients | None = None,
    ) -> None:
        self.optimizer, self.average, self.scheduler = optimizer, average, scheduler
        self.interpolated = interpolated
        self._updates = 0
        optimizer.register_step_post_hook(self._take_in)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients.

        Args:
            set_to_none: as for every optimizer.
        """
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        closure: Callable[[], Any] | None = None,
        scaler: Any = None,
        validation: Estimate | float | None = None,
    ) -> None:
        """One update: of the weights, of the averages, of the rate.

        Args:
            loss: of the batch, unscaled; without a rate given, the rate falls back where it
                rises.
            closure: as for every optimizer.
            scaler: a `torch.amp.GradScaler`, whose `step` and `update` are called.
            validation: the loss on validation examples, whenever it was measured.
        """
        before = self._updates
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        elif closure is not None:
            self.optimizer.step(closure)
        else:
            self.optimizer.step()
        if isinstance(self.scheduler, LandscapeLR):
            self.scheduler.step(loss=loss, validation=validation)
        elif self._updates > before:
            self.scheduler.step()

    def _take_in(self, *_: Any) -> None:
        self._updates += 1
        if self.interpolated is None:
            self.average.update()

    def best(
        self, score: Score, batches: Iterable[Batch] | None = None, *, mode: ScoreMode = "max"
    ) -> AverageChoice:
        """`PolynomialAverage.best`: choose among the averages on validation data.

        It takes the highest score; for a loss give `mode="min"`.

        Args:
            score: score(model) -> a number.
            batches: for the statistics of BatchNorm layers.
            mode: "max" where a higher score is better, "min" where a lower one is. Default
                "max".

        Returns:
            The choice.
        """
        return self.average.best(score, batches, mode=mode)

    def swapped(self, batches: Iterable[Batch] | None = None) -> AbstractContextManager[None]:
        """`PolynomialAverage.swapped`: the chosen average in the model.

        The mode of the model is left as it is: call `model.eval()` before you evaluate.

        Args:
            batches: for the statistics of BatchNorm layers.

        Returns:
            A context.
        """
        return self.average.swapped(batches)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's own state.

        Returns:
            "optimizer", "average", "scheduler", and "interpolated" where it is used.
        """
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state; load the model's own first.

        Args:
            state_dict: what `state_dict` gave.

        Raises:
            ArgumentError: the state of a recipe with other parts.
        """
        for name, part in self._parts().items():
            if name not in state_dict:
                raise ArgumentError(
                    f"`state_dict` must hold '{name}'; got {', '.join(state_dict)}: make the "
                    "recipe with the settings that it was saved with."
                )
            part.load_state_dict(state_dict[name])

    def _parts(self) -> dict[str, Any]:
        names = ("optimizer", "average", "scheduler", "interpolated")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def recipe(
    model: nn.Module,
    optimizer: str | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer] = "adamw",
    *,
    lr: float | None = None,
    policy: GrowthPolicy | None = None,
    warmup: int = 100,
    gamma: float | Sequence[float] | None = None,
    every: int | None = None,
    cautious: bool = False,
    interpolated: bool | None = None,
    batches: Iterable[Batch] | None = None,
    forward: Forward | None = None,
) -> AveragedOptimizer:
    """A training that needs no horizon, and no rate either: an optimizer with averages.

    With a rate it stays constant after the warm-up; without one `GrowthPolicy` finds it from
    the distance that the steps cover. The weights bounce, their averages do not: evaluate and
    save in `swapped()`, at any time.

    Args:
        model: what is trained. Make the recipe after the model is sharded or moved.
        optimizer: "adamw", "adam", "sgd", a callable that makes one, or an optimizer.
        lr: the rate. None leaves it to `GrowthPolicy`, or, for an optimizer that was given, is
            that of the optimizer.
        policy: finds the rate where none is given; `GrowthPolicy()` by default.
        warmup: updates of linear warm-up, where there is a rate. Default 100.
        gamma: of the averages; see `PolynomialAverage`. Default (4, 16, 64), and 0 where
            gradients are interpolated.
        every: updates between two that the averages take in; see `PolynomialAverage`. Default
            None: all in the beginning, 64 a window later.
        cautious: leave out coordinates that go against the gradient (`CautiousUpdates`).
            Default False.
        interpolated: take gradients between the weights and their average
            (`InterpolatedGradients`), which replaces momentum: optimizers by
            name have none. Read the weights in `swapped()` only. Default None: for "adamw" and
            "adam", where it is measured to be better; False for others.
        batches: for the statistics of BatchNorm layers, some batches of training data. A model
            with such layers and no batches gives a warning: `best` and `swapped` need them.
        forward: forward(model, batch) for them; see `WeightAverage`.

    Returns:
        An `AveragedOptimizer`: `.step()`, `.best(score)`, `.swapped()`, `.state_dict()`.

    Raises:
        ArgumentError: numbers out of range, a policy beside a rate, a model without trainable
            parameters, or batches that do not fit `forward`.
        UnknownNameError: an unknown optimizer.

    Source: Sandler et al., 2023, arXiv:2301.11312 (average); `GrowthPolicy` is ours. What it is
        worth is measured in docs/studies/recipe.

    Examples:
        >>> training = recipe(nn.Linear(3, 1), optimizer="sgd", lr=0.1, warmup=2)
        >>> training.optimizer.param_groups[0]["lr"]
        0.05
    """
    check_at_least("warmup", warmup, 0)
    if lr is not None:
        check_positive("lr", lr)
    if interpolated is None:
        interpolated = isinstance(optimizer, str) and optimizer in {"adamw", "adam"}
    gammas = (WIDE if interpolated else GAMMAS) if gamma is None else gamma
    average = PolynomialAverage(model, gammas, every=every, batches=batches, forward=forward)
    given = isinstance(optimizer, torch.optim.Optimizer)
    if policy is not None and (given or lr is not None):
        raise ArgumentError(
            "`policy` must be None where there is a rate: it finds one; leave `lr` out, and "
            "name the optimizer."
        )
    made = (
        optimizer
        if isinstance(optimizer, torch.optim.Optimizer)
        else build_optimizer(optimizer, average.params.values(), lr)
    )
    if given and lr is not None:
        for group in made.param_groups:
            group["lr"] = group["initial_lr"] = lr
    if interpolated and isinstance(optimizer, str):
        without_momentum(made)
    if cautious:
        CautiousUpdates(made)
    grows = lr is None and not given
    # The policy follows the optimizer's own weights, so it is told of updates first.
    rate = LandscapeLR(made, policy or GrowthPolicy()) if grows else WSD(made, warmup=warmup)
    between = InterpolatedGradients(made, average) if interpolated else None
    return AveragedOptimizer(made, average, rate, between)


def without_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Take the momentum out of an optimizer that has not moved yet."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (0.0, group["betas"][1])
        if "momentum" in group:
            group["momentum"] = 0.0
