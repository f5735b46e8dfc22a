"""The exponential average of the weights, and the mean of the latest ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least
from lossatlas.objective import Batch
from lossatlas.steering.penalties.terms import check_share
from lossatlas.steering.shards import local
from lossatlas.steering.statistics import (
    Forward,
)
from lossatlas.steering.weight_average import WeightAverage, float_copy


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
        fresh = [float_copy(p) for p in self.params.values()]
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
        # A state may have been read on another device than that of the weights.
        self._latest = [
            [kept[name].to(p.device).clone() for name, p in self.params.items()]
            for kept in state_dict["latest"]
        ]
