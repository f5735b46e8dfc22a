"""The site of a survey: what instruments may look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch.optim import Optimizer

from lossatlas.curvature import Spectrum, spectrum
from lossatlas.linalg.params import Params, size
from lossatlas.objective import Objective
from lossatlas.surveys.head import Head, read_head
from lossatlas.surveys.instrument_result import InstrumentResult

Parts = dict[str, Callable[[], Any]]


@dataclass(eq=False)
class Context:
    """Everything that an instrument of a survey is given.

    Attributes:
        objective: model, loss, batches, at the weights that are surveyed.
        seed: of all random draws.
        lr: the learning rate to judge, or None.
        optimizer: the optimizer that leads on from here, or None.
        checkpoints: points of the training that led here, in order.
        findings: what was found before, by the name of the instrument.
    """

    objective: Objective
    seed: int = 0
    lr: float | None = None
    optimizer: Optimizer | None = None
    checkpoints: Sequence[Params] = ()
    findings: Mapping[str, InstrumentResult] = field(default_factory=dict)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Both ends of the Hessian's spectrum with its density, measured once."""
        known = self.findings.get("curvature")
        if known is not None and "spectrum" in known.results:
            before: Spectrum = known.results["spectrum"]
            return before
        most = size(self.objective.params)
        return spectrum(self.objective, min(10, most), min(2, most), seed=self.seed)

    @cached_property
    def head(self) -> Head:
        """The classifier and what it is given, at the weights."""
        return read_head(self.objective)
