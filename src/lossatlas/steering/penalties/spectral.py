"""Spectral regularization: keeps the largest singular value of every layer near its start."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ModelError
from lossatlas.guard import preserved_modes
from lossatlas.linalg.params import qualified_name
from lossatlas.objective.names import check_initialized
from lossatlas.rng import generator
from lossatlas.steering.penalties.terms import check_weight

_CONVS = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_RECURRENT = (nn.RNNBase, nn.modules.rnn.RNNCellBase)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class _Weight:
    """A tensor of a layer: its name, what it is ("matrix", "bias", "gain", "" for other)."""

    name: str
    module: nn.Module
    attribute: str
    role: str

    def read(self) -> Tensor:
        """The tensor that the layer computes with, with its graph."""
        for hook in self.module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == self.attribute:
                computed: Tensor = hook.compute_weight(self.module)
                return computed
        if not parametrize.is_parametrized(self.module, self.attribute):
            plain: Tensor = getattr(self.module, self.attribute)
            return plain
        # In train mode some parametrizations write buffers of their own whenever they are read.
        with preserved_modes(self.module):
            self.module.eval()
            effective: Tensor = getattr(self.module, self.attribute)
            return effective

    def matrices(self) -> Tensor:
        """The weight as matrices, shape (blocks, rows, columns)."""
        weight, module = self.read(), self.module
        if isinstance(module, _TRANSPOSED):
            # (in, out / groups, kernel) -> (groups, out / groups, in / groups * kernel)
            inputs, outputs = weight.shape[:2]
            each = weight.reshape(module.groups, inputs // module.groups, outputs, -1)
            return each.transpose(1, 2).flatten(2)
        blocks = _blocks(module, self.attribute)
        return weight.reshape(blocks, len(weight) // blocks, -1)


def _blocks(module: nn.Module, attribute: str) -> int:
    if attribute == "in_proj_weight":
        return 3
    if isinstance(module, _RECURRENT) and not attribute.startswith("weight_hr"):
        # Gates are stacked along the rows, each as tall as the hidden state.
        hidden = module.hidden_size
        return int(getattr(module, attribute).shape[0]) // int(hidden)
    return int(module.groups) if isinstance(module, _CONVS) else 1


class SpectralRegularizer(nn.Module):
    """The sum over layers of (sigma^k - target^k)^2 + |bias|^(2k), times `weight`.

    The largest singular value comes from power iteration that goes on from step to step; its
    vectors are buffers, so a resumed run goes on with the same bits. Convolutions, transposed
    ones too, are matrices (out, in * kernel), one a group; fused query-key-value weights of
    attention are three matrices, the gates of an LSTM four, of a GRU three. Of a parametrized
    weight (`weight_norm`, say) the effective weight counts. Gains of norm layers are drawn to
    1, their biases to 0. Embeddings, weights tied to them and parameters of other kinds of
    layers are left out.

    Args:
        model: its weights are found by the kind of layer; kept by reference.
        weight: of the penalty, >= 0. Default 1e-3.
        power: k. Default 2.
        target: what sigma is drawn to, from both sides. Default 1.
        iterations: power iterations a call. Default 1.
        exclude: names of parameters that are left out.
        seed: of the start vectors.

    Attributes:
        left_out: names of trainable parameters that the penalty does not reach.

    Raises:
        ArgumentError: numbers out of range.
        ModelError: nothing to regularize.

    Source: Lewandowski et al., ICLR 2025, arXiv:2406.06811.

    Examples:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.eye_(layer.weight)
        >>> SpectralRegularizer(layer, iterations=20)().item() < 1e-6
        True
    """

    def __init__(
        self,
        model: nn.Module,
        weight: float = 1e-3,
        *,
        power: float = 2.0,
        target: float = 1.0,
        iterations: int = 1,
        exclude: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("power", power)
        check_positive("target", target)
        check_at_least("iterations", iterations, 1)
        self.weight, self.power = check_weight("weight", weight), float(power)
        self.target, self.iterations = float(target), iterations
        check_initialized(model)
        every = list(_weights(model))
        excluded = set(exclude)
        named = [part for part in every if part.name not in excluded and part.role]
        if not named:
            raise ModelError(
                f"{type(model).__name__} has no layers to regularize (linear, convolution, "
                "recurrent, attention or norm layers that are not excluded)."
            )
        self.left_out = tuple(w.name for w in every if not w.role or w.name in excluded)
        # Plain lists keep the model's parameters out of this module's own.
        self._gains = [w for w in named if w.role == "gain"]
        self._matrices = [w for w in named if w.role == "matrix"]
        self._biases = [w for w in named if w.role == "bias"]
        for index, part in enumerate(self._matrices):
            matrix = part.matrices()
            for side, length in (("left", matrix.shape[1]), ("right", matrix.shape[2])):
                drawn = generator(seed, "spectral", part.name, side)
                start = torch.randn(len(matrix), length, 1, generator=drawn).to(matrix.device)
                self.register_buffer(f"{side}_{index}", start / start.norm(dim=1, keepdim=True))

    def forward(self) -> Tensor:
        """The weighted penalty at the present weights; the vectors move on by one call.

        Returns:
            A scalar in float32 at least, with gradient.
        """
        sigmas = self.singular_values()
        total: Tensor = ((sigmas**self.power - self.target**self.power) ** 2).sum()
        for bias in self._biases:
            total = total + _squared_length(bias.read()) ** self.power
        for gain in self._gains:
            total = total + (gain.read().to(total) - 1).square().sum()
        return self.weight * total

    def singular_values(self) -> Tensor:
        """The largest singular value of each matrix as power iteration knows it.

        Returns:
            Shape (matrices,), with gradient u v^T; from below, nearer with every call.
        """
        values = [torch.zeros(0, device=self._device())]
        for index, part in enumerate(self._matrices):
            matrix = part.matrices()
            matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
            left, right = self._iterate(index, matrix.detach())
            values.append((left.mT @ matrix @ right).flatten())
        return torch.cat(values)

    def _iterate(self, index: int, matrix: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (self.get_buffer(f"{side}_{index}") for side in ("left", "right"))
        with torch.no_grad():
            for _ in range(self.iterations):
                right.copy_(_turned(matrix.mT @ left.to(matrix), right))
                left.copy_(_turned(matrix @ right.to(matrix), left))
        # Copies, because the next call writes the buffers while this graph may still be alive.
        return left.to(matrix, copy=True), right.to(matrix, copy=True)

    def _device(self) -> torch.device:
        return (self._matrices + self._biases + self._gains)[0].read().device


def _turned(image: Tensor, before: Tensor) -> Tensor:
    length = image.norm(dim=1, keepdim=True)
    # A zero matrix sends every vector to zero; keep the old one until there is a new one.
    return torch.where(length > 0, image / length, before.to(image))


def _squared_length(bias: Tensor) -> Tensor:
    wide = bias if bias.dtype == torch.float64 else bias.float()
    return wide.square().sum()


def _weights(model: nn.Module) -> Iterator[_Weight]:
    # Every trainable weight once, by its first place; an embedding's wherever it is used.
    weights: dict[tuple[int, ...], _Weight] = {}
    for prefix, module in model.named_modules():
        if ".parametrizations." in f".{prefix}.":
            continue
        for attribute, sources in _tensors(module):
            name = qualified_name(prefix, attribute)
            key = tuple(map(id, sources))
            weight = _Weight(name, module, attribute, _role(module, attribute))
            if key not in weights or isinstance(module, _EMBEDDINGS):
                weights[key] = weight
    yield from weights.values()


def _tensors(module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    # What a layer computes with, and the trainable parameters that it comes from.
    if parametrize.is_parametrized(module):
        for attribute, parts in module.parametrizations.items():  # type: ignore[union-attr, operator]
            yield from _trainable(attribute, parts.parameters())
    own = dict(module.named_parameters(recurse=False))
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            parts = [own.pop(f"{hook.name}_{end}") for end in ("g", "v")]
            yield from _trainable(hook.name, parts)
    for attribute, parameter in own.items():
        yield from _trainable(attribute, [parameter])


def _trainable(
    attribute: str, parts: Iterable[nn.Parameter]
) -> Iterator[tuple[str, list[nn.Parameter]]]:
    trainable = [part for part in parts if part.requires_grad]
    if trainable:
        yield attribute, trainable


def _role(module: nn.Module, attribute: str) -> str:
    if isinstance(module, _NORMS):
        return "bias" if "bias" in attribute else "gain"
    layers = (nn.Linear, _CONVS, nn.MultiheadAttention, *_RECURRENT)
    if not isinstance(module, layers):
        return ""
    return "bias" if "bias" in attribute else "matrix"
