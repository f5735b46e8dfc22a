"""The averages of the weights that a run is read by."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from lossatlas.checks import check_one_of
from lossatlas.objective import Batch
from lossatlas.steering.polynomial_average import PolynomialAverage
from lossatlas.steering.simple_averages import EMA

# Name -> gamma of a polynomial average.
GAMMAS = {"average": 16.0, "average-0": 0.0, "average-4": 4.0, "average-64": 64.0}
# The members of the bank; the best of them is chosen on validation.
BANK = ("average", "average-4", "average-64")
# What can be read beside the weights themselves ("raw").
AVERAGES = (*GAMMAS, "ema", "bank")


class Averages:
    """The averages of one training.

    Args:
        model: what is trained.
        names: of `AVERAGES`; "average" is always there.
        wide: the mean of all weights belongs to the bank, too.

    Attributes:
        names: what is read, "bank" last.
        banked: the members of the bank.
        bank: the polynomial averages.
        updates_itself: somebody else updates the bank.

    Raises:
        UnknownNameError: an unknown name.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], *, wide: bool = False) -> None:
        for name in names:
            check_one_of("averages", name, AVERAGES)
        self.banked = (*BANK, "average-0") if wide else BANK
        members = self.banked if "bank" in names else ()
        wanted = dict.fromkeys(("average", *names, *members))
        banked = wanted.pop("bank", 0) is None
        self.names = (*wanted, *(("bank",) if banked else ()))
        with warnings.catch_warnings():
            # Batches for their statistics come with `swapped`.
            warnings.filterwarnings("ignore", ".*running statistics")
            self.bank = PolynomialAverage(model, [GAMMAS[n] for n in wanted if n in GAMMAS])
            self.ema = EMA(model, 0.99) if "ema" in wanted else None
        self.updates_itself = False

    def update(self) -> None:
        """Take the present weights in."""
        with warnings.catch_warnings():
            # A run that diverges is reported as one.
            warnings.filterwarnings("ignore", "weights that are not finite")
            if not self.updates_itself:
                self.bank.update()
            if self.ema is not None:
                self.ema.update()

    @contextmanager
    def swapped(self, name: str, batches: Iterable[Batch]) -> Iterator[None]:
        """An average in the model; not "bank", which is one of the others."""
        if name == "ema" and self.ema is not None:
            with self.ema.swapped(batches):
                yield
        else:
            with self.bank.swapped(batches, gamma=GAMMAS[name]):
                yield


def named(gamma: float) -> str:
    """The name of the average with a gamma."""
    return next(name for name, value in GAMMAS.items() if value == gamma)
