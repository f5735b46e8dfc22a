"""Candidates: recipes of initializations, and how they become parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lossatlas.checks import check_one_of, nearest
from lossatlas.errors import ArgumentError, UnknownNameError
from lossatlas.guard import preserved_modes
from lossatlas.inits.schemes import INTERPOLATION, OWN, SCHEMES, Layer, find_layers
from lossatlas.io.records import record
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Batch
from lossatlas.rng import generator
from lossatlas.training.criteria import Loss
from lossatlas.training.members import WithLoss


@record
@dataclass(frozen=True)
class Candidate:
    """The recipe of one initialization: enough to make its parameters again.

    Attributes:
        scheme: one of `schemes.SCHEMES`, "own", or "interpolation".
        scale: what the weights of the scheme are multiplied by.
        seed: of the draw.
        noise: standard deviation of what is added to every coordinate, biases too; 0 adds
            nothing.
        parents: of an interpolation: the recipes that are mixed, with weights drawn evenly
            from the simplex by `seed`.
    """

    scheme: str
    scale: float = 1.0
    seed: int = 0
    noise: float = 0.0
    parents: tuple["Candidate", ...] = ()

    def __str__(self) -> str:
        name = "own initialization" if self.scheme == "own" else self.scheme
        scale = "" if self.scale == 1 else f" times {self.scale:.3g}"
        return f"{name}{scale}, seed {self.seed}"


class Initializer:
    """Makes the parameters of candidates: the same recipe gives the same bits.

    The weights of dense layers, convolutions and attention projections follow the scheme, their
    biases are zero; every other parameter (norm layers, embeddings) stays as in `model`. The
    scheme "own" takes everything from `build` and multiplies the weights by the scale.

    Args:
        model: the architecture; not changed.
        loss: loss(model, batch), for the scheme "lsuv".
        probe: the batch that the scheme "lsuv" looks at.
        build: seed -> a model with initial weights of its own, for the scheme "own".
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None = None,
        probe: Batch | None = None,
        build: Callable[[int], nn.Module] | None = None,
    ) -> None:
        self.model, self.loss, self.probe, self.build = model, loss, probe, build
        self.like = {n: p.detach().clone() for n, p in trainable(model).items()}
        self._layers: tuple[Layer, ...] | None = None

    def draw(self, candidate: Candidate) -> dict[str, Tensor]:
        """The parameters of one candidate.

        Args:
            candidate: the recipe.

        Returns:
            name -> tensor, on the model's device.

        Raises:
            UnknownNameError: an unknown scheme (with the nearest).
            ModelError: the network has no layers that the scheme supports.
            ArgumentError: the scheme lacks what it needs.
        """
        return {name: value[0] for name, value in self.stack([candidate]).items()}

    def stack(self, candidates: Sequence[Candidate]) -> dict[str, Tensor]:
        """The parameters of several candidates; parents that they share are drawn once.

        Args:
            candidates: the recipes.

        Returns:
            name -> tensor of shape (candidates, ...), on the model's device.

        Raises:
            AtlasError: as for `draw`.
        """
        rows = torch.empty(len(candidates), sum(v.numel() for v in self.like.values()))
        parents: dict[Candidate, Tensor] = {}
        for row, candidate in zip(rows, candidates, strict=True):
            row.copy_(self._flat(candidate, parents))
        pieces = torch.split(rows, [v.numel() for v in self.like.values()], dim=1)
        named = zip(self.like.items(), pieces, strict=True)
        return {n: p.reshape(-1, *value.shape).to(value) for (n, value), p in named}

    def rows(self, candidates: Sequence[Candidate]) -> Tensor:
        """The parameters of several candidates as flat rows, for predictors.

        Args:
            candidates: the recipes.

        Returns:
            Shape (candidates, parameters), in the order of `like`.

        Raises:
            AtlasError: as for `draw`.
        """
        stacked = self.stack(candidates)
        return torch.cat([value.flatten(1) for value in stacked.values()], dim=1)

    def _flat(self, candidate: Candidate, parents: dict[Candidate, Tensor]) -> Tensor:
        random = generator("inits", candidate.scheme, candidate.seed)
        if candidate.scheme == INTERPOLATION:
            flat = self._mixed(candidate, random, parents)
        else:
            flat = self._scheme(candidate, random)
        if candidate.noise:
            flat.add_(torch.randn(len(flat), generator=random), alpha=candidate.noise)
        return flat

    def _mixed(
        self, candidate: Candidate, random: torch.Generator, parents: dict[Candidate, Tensor]
    ) -> Tensor:
        if not candidate.parents:
            raise ArgumentError('an "interpolation" needs `parents`; give two or more recipes.')
        # Gaps between ordered draws are even on the simplex, as a flat Dirichlet is.
        cuts = torch.rand(len(candidate.parents) - 1, generator=random).sort().values
        shares = torch.diff(torch.cat([torch.zeros(1), cuts, torch.ones(1)])).tolist()
        total = torch.zeros(sum(v.numel() for v in self.like.values()))
        for share, parent in zip(shares, candidate.parents, strict=True):
            if parent not in parents:
                parents[parent] = self._flat(parent, parents)
            total.add_(parents[parent], alpha=share)
        return total

    def _scheme(self, candidate: Candidate, random: torch.Generator) -> Tensor:
        if candidate.scheme == OWN:
            return _joined(self._own(candidate))
        known = (*SCHEMES, OWN)
        if candidate.scheme not in SCHEMES:
            raise UnknownNameError(
                f"`scheme` must be one of {', '.join(map(repr, known))}; got "
                f"{candidate.scheme!r}{nearest(candidate.scheme, known)}."
            )
        draw, layers = SCHEMES[candidate.scheme], self._known_layers()
        drawn = {layer.name: draw(layer, random) for layer in layers}
        biases = {_bias(name) for name in drawn} & self.like.keys()
        drawn |= {name: torch.zeros(self.like[name].shape) for name in biases}
        values = {name: drawn.get(name, value.cpu()) for name, value in self.like.items()}
        lengths = self._unit_lengths(values) if candidate.scheme == "lsuv" else {}
        for layer in layers:
            factor = candidate.scale * lengths.get(layer.name, 1.0)
            values[layer.name] = values[layer.name] * factor
        return _joined(values)

    def _own(self, candidate: Candidate) -> dict[str, Tensor]:
        if self.build is None:
            raise ArgumentError(
                'the scheme "own" needs `build`, a function of the seed that gives a model.'
            )
        values = {
            n: p.detach().cpu().clone()
            for n, p in trainable(self.build(candidate.seed)).items()
        }
        if candidate.scale != 1.0:
            for layer in self._known_layers():
                values[layer.name] *= candidate.scale
        return {name: values[name] for name in self.like}

    def _known_layers(self) -> tuple[Layer, ...]:
        if self._layers is None:
            self._layers = find_layers(self.model)
        return self._layers

    def _unit_lengths(self, values: Params) -> dict[str, float]:
        # Biases are zero, so an output is proportional to its weights: one pass, in which each
        # layer hands on what it would give after the correction, finds all factors.
        if self.probe is None or self.loss is None:
            raise ArgumentError('the scheme "lsuv" needs `loss` and `probe`, a batch to see.')
        factors: dict[str, float] = {}

        def correct(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
            def hook(_: nn.Module, _inputs: object, output: Tensor) -> Tensor:
                if name not in factors:
                    spread = float(output.std())
                    factors[name] = 1 / spread if spread > 0 else 1.0
                return output * factors[name]

            return hook

        owners = [layer.name.rpartition(".")[0] for layer in self._known_layers()]
        handles = [
            self.model.get_submodule(owner).register_forward_hook(
                correct(qualified_name(owner, "weight"))
            )
            for owner in owners
            if not owner.endswith("in_proj_weight")
        ]
        try:
            with torch.no_grad(), preserved_modes(self.model):
                self.model.eval()
                placed = {f"model.{n}": v.to(self.like[n]) for n, v in values.items()}
                functional_call(WithLoss(self.model, self.loss), placed, (self.probe,))
        finally:
            for handle in handles:
                handle.remove()
        return factors


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a training moves."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_schemes(schemes: Sequence[str]) -> None:
    """Require schemes that are known."""
    if not schemes:
        raise ArgumentError(f"`schemes` must name at least one of {', '.join(SCHEMES)}.")
    for scheme in schemes:
        check_one_of("scheme", scheme, (*SCHEMES, OWN))


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _joined(values: Params) -> Tensor:
    return torch.cat([value.reshape(-1).float() for value in values.values()])
