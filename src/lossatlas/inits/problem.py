"""What a study is about: a network, its data, and the batch of its landscapes."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from lossatlas.errors import ArgumentError
from lossatlas.inits.candidates import Candidate, Initializer, trainable
from lossatlas.inits.losses import TrueLosses
from lossatlas.inits.settings import InitsSettings
from lossatlas.linalg.params import fingerprint
from lossatlas.objective import Batch, Objective
from lossatlas.training.criteria import Loss, as_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.devices import chosen_device
from lossatlas.training.models import build_model, normalization_of
from lossatlas.training.seeding import epoch_order


@dataclass(frozen=True)
class Problem:
    """A network and its data.

    Attributes:
        model: the architecture; its weights do not count.
        train: what is trained on.
        test: what labels are read on.
        loss: loss(model, batch).
        probe: the fixed batch out of `train` on which landscapes are measured.
        build: seed -> a new network with the initial weights that it gives itself.
    """

    model: nn.Module
    train: Dataset
    test: Dataset
    loss: Loss
    probe: Batch
    build: Callable[[int], nn.Module]

    @property
    def initializer(self) -> Initializer:
        """Makes the parameters of candidates."""
        return Initializer(self.model, self.loss, self.probe, self.build)

    def weights(self, candidate: Candidate) -> dict[str, Tensor]:
        """The network at a candidate's start.

        Args:
            candidate: the recipe.

        Returns:
            Its `state_dict`: parameters drawn, buffers and frozen parameters as in `model`.

        Raises:
            AtlasError: as for `Initializer.draw`.
        """
        # Copied into parameters, so that tied ones stay equal under all their names.
        model = deepcopy(self.model)
        drawn, moved = self.initializer.draw(candidate), trainable(model)
        with torch.no_grad():
            for name, value in drawn.items():
                moved[name].copy_(value)
        return dict(model.state_dict())

    def true_losses(self) -> TrueLosses:
        """The loss of the probe at many points at once.

        Returns:
            A function of stacked parameters.
        """
        return TrueLosses(self.model, self.loss, self.probe)

    def objective(self) -> Objective:
        """The landscape: the mean loss of the probe, in eval mode.

        Returns:
            The objective.
        """
        return Objective(self.model, self.loss, [self.probe], mode="eval")

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all examples."""
        parts = {"train": self.train, "test": self.test}
        tensors = {f"{name}.inputs": part.inputs for name, part in parts.items()}
        return fingerprint(tensors | {f"{n}.targets": p.targets for n, p in parts.items()})


def load_problem(settings: InitsSettings) -> Problem:
    """Load the data, split them, and build the network."""
    device = chosen_device(settings.device)
    data = load_dataset(
        settings.data, examples=settings.examples, normalize=normalization_of(settings.model)
    )
    data = data.pick(epoch_order(settings.seed, 0, len(data)))
    size = round(settings.test * len(data)) if settings.test < 1 else int(settings.test)
    if not 0 < size < len(data) or settings.probe > len(data) - size:
        raise ArgumentError(
            f"`test` ({settings.test:g}) and `probe` ({settings.probe}) must leave something "
            f"of {len(data)} examples; give a smaller test set or probe."
        )
    train, test = (part.to(device) for part in (data.skip(size), data.take(size)))

    def build(seed: int) -> nn.Module:
        return build_model(settings.model, data, seed=seed)

    problem = Problem(
        build(settings.seed).to(device).eval(),
        train,
        test,
        as_loss(settings.loss, data.task),
        cast(Batch, train.batches(settings.probe)[0]),
        build,
    )
    # A network that does not fit its data or its loss is named here, before hours of training.
    problem.objective()
    return problem
