"""Many small MLPs side by side: all seeds and settings of one method in one training.

Weights have a leading dimension of members, and the sum of the members' losses is what is
differentiated, so no member sees another. Penalties are those of the library, called once for
the seeds that share a setting.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.recipes import TrainingSetup
from lossatlas.rng import generator
from lossatlas.steering.penalties import cvp_gate, sasp_penalty, sbmp_penalty
from lossatlas.training import build_model

RATE, MOMENTUM = 0.05, 0.9
Weights = list[Tensor]
# (kind, number) of each part of a setting, as ("l2", 0.01).
Setting = dict[str, float]


def initial(problem: TrainingSetup, seeds: int, settings: int) -> Weights:
    """The starts of the seeds, repeated for every setting.

    Args:
        problem: names the model.
        seeds: how many.
        settings: how many.

    Returns:
        Weight and bias of each layer, shape (settings * seeds, ...).
    """
    models = [build_model(problem.model, problem.train, seed=seed) for seed in range(seeds)]
    pieces = zip(*([p.detach() for p in m.parameters()] for m in models), strict=True)
    return [torch.stack(list(piece)).repeat(settings, *[1] * piece[0].ndim) for piece in pieces]


def forward(weights: Weights, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of every member.

    Args:
        weights: as from `initial`.
        inputs: shape (members, batch, features).

    Returns:
        (logits, input of the last layer).
    """
    hidden = inputs
    for layer in range(0, len(weights), 2):
        features = hidden
        hidden = torch.baddbmm(weights[layer + 1][:, None], hidden, weights[layer].mT)
        if layer < len(weights) - 2:
            hidden = hidden.relu()
    return hidden, features


class Training:
    """The training of one method.

    Args:
        problem: data and model.
        settings: what each group of seeds does.
        seeds: in each group.
    """

    def __init__(self, problem: TrainingSetup, settings: Sequence[Setting], seeds: int) -> None:
        self.settings, self.seeds = settings, seeds
        self.members = len(settings) * seeds
        self.weights = initial(problem, seeds, len(settings))
        self.velocity = [torch.zeros_like(w) for w in self.weights]
        self.inputs = problem.train.inputs.flatten(1)
        self.targets = problem.train.targets
        self.batch = problem.batch_size
        self.noise = generator("noise of the training")

    def run(self, steps: int) -> Weights:
        """Train with momentum and a cosine.

        Args:
            steps: updates.

        Returns:
            The weights.
        """
        walk = self._walk(steps)
        for step, rows in enumerate(walk):
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            self._update(self.inputs[rows], self.targets[rows], RATE * share)
        return [w.detach() for w in self.weights]

    def _walk(self, steps: int) -> Iterator[Tensor]:
        """Rows of each batch, shape (members, batch): the same order under every setting."""
        orders = [generator("order", seed) for seed in range(self.seeds)]
        per_epoch = len(self.targets) // self.batch
        for step in range(steps):
            place = step % per_epoch
            if place == 0:
                epoch = torch.stack(
                    [torch.randperm(len(self.targets), generator=o) for o in orders]
                ).repeat(len(self.settings), 1)
            yield epoch[:, place * self.batch : (place + 1) * self.batch]

    def _update(self, inputs: Tensor, targets: Tensor, rate: float) -> None:
        inputs = self._disturbed(inputs)
        weights = [w.detach().requires_grad_() for w in self.weights]
        rho = self._each("sam")
        if rho.any():
            up = torch.autograd.grad(self._loss(weights, inputs, targets), weights)
            length = sum(g.flatten(1).square().sum(1) for g in up).sqrt() + 1e-12
            weights = [
                (w + _fit(rho / length, w) * g).detach().requires_grad_()
                for w, g in zip(weights, up, strict=True)
            ]
        grads = torch.autograd.grad(self._loss(weights, inputs, targets), weights)
        with torch.no_grad():
            self._step(list(grads), rate)

    def _step(self, grads: Weights, rate: float) -> None:
        decay, cautious = self._each("l2"), self._each("cwd")
        for w, g, v in zip(self.weights, grads, self.velocity, strict=True):
            moved = g + _fit(decay, w) * w
            for name, free in (("cvp", True), ("cvp-original", False)):
                lam = self._each(name)
                if lam.any():
                    moved = moved + _fit(lam, w) * _gates(w, g, free)
            v.mul_(MOMENTUM).add_(moved)
            taken = rate * _fit(cautious, w) * w * (w * v >= 0)
            w.sub_(rate * v + taken)

    def _loss(self, weights: Weights, inputs: Tensor, targets: Tensor) -> Tensor:
        logits, features = forward(weights, inputs)
        total = logits.new_zeros(())
        for number, setting in enumerate(self.settings):
            part = slice(number * self.seeds, (number + 1) * self.seeds)
            z, y = logits[part], targets[part]
            value = F.cross_entropy(
                z.flatten(0, 1), y.flatten(), label_smoothing=setting.get("smoothing", 0.0)
            )
            for kind, name in (("ggn", "sasp"), ("fisher", "sasp-fisher")):
                if name in setting:
                    value = value + setting[name] * sasp_penalty(
                        z, features[part], y, kind=kind
                    )
            if "sbmp" in setting:
                value = value + setting["sbmp"] * self._flips(weights, inputs, z, part, setting)
            # Means over the seeds: their sum is what leaves every seed its own gradient.
            total = total + self.seeds * value
        return total

    def _flips(
        self, weights: Weights, inputs: Tensor, clean: Tensor, part: slice, setting: Setting
    ) -> Tensor:
        own = [w[part] for w in weights]
        # An "example" of the penalty is a whole batch here: longer by the root of its length.
        length = setting["alpha"] * self.batch**0.5
        return sbmp_penalty(
            clean,
            lambda x: forward(own, x)[0],
            inputs[part],
            length,
            generator=self.noise,
        )

    def _disturbed(self, inputs: Tensor) -> Tensor:
        deviation = self._each("noise")
        if not deviation.any():
            return inputs
        drawn = torch.randn(inputs.shape, generator=self.noise)
        return inputs + _fit(deviation, inputs) * drawn

    def _each(self, name: str) -> Tensor:
        numbers = torch.tensor([setting.get(name, 0.0) for setting in self.settings])
        return numbers.repeat_interleave(self.seeds)


def each_member(weights: Weights, inputs: Tensor) -> Tensor:
    """Logits of every member on the same examples.

    Args:
        weights: of the members.
        inputs: shape (examples, ...).

    Returns:
        Shape (members, examples, classes).
    """
    flat = inputs.flatten(1).expand(len(weights[0]), -1, -1)
    with torch.no_grad():
        return forward(weights, flat)[0]


def _gates(weight: Tensor, grad: Tensor, scale_free: bool) -> Tensor:
    gate = partial(cvp_gate, mode="expansion", beta=50.0, scale_free=scale_free)
    return weight * torch.func.vmap(gate)(weight, grad)


def _fit(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (like.ndim - 1))
