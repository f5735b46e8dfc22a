"""Spectral regularisation: keeps the largest singular value of every layer near its start."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ModelError
from lossatlas.rng import generator
from lossatlas.steering.penalties.terms import check_weight

MATRICES = ("matrix", "fused")


class SpectralRegulariser(nn.Module):
    """The sum over layers of (sigma^k - target^k)^2 + |bias|^(2k), times `lam`.

    The largest singular value comes from power iteration that goes on from step to step; its
    vectors are buffers, so a resumed run goes on with the same bits. Weights of convolutions
    are seen as (out, in * kernel); fused query-key-value weights of attention as three
    matrices. Embeddings are left out. Gains of norm layers are drawn to 1, their biases to 0.

    Args:
        model: its weights are found by the kind of layer; kept by reference.
        lam: weight of the penalty, >= 0. Default 1e-3.
        power: k. Default 2.
        target: what sigma is drawn to, from both sides. Default 1.
        iterations: power iterations a call. Default 1.
        exclude: names of parameters that are left out.
        seed: of the start vectors.

    Raises:
        ArgumentError: numbers out of range.
        ModelError: nothing to regularise.

    Source: Lewandowski et al., ICLR 2025, arXiv:2406.06811.
    """

    def __init__(
        self,
        model: nn.Module,
        lam: float = 1e-3,
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
        self.lam, self.power = check_weight("lam", lam), float(power)
        self.target, self.iterations = float(target), iterations
        left_out = set(exclude)
        named = [(n, p, m) for n, p, m in _weights(model) if n not in left_out]
        if not named:
            raise ModelError(
                f"{type(model).__name__} has no layers to regularise (linear, convolution, "
                "attention or norm layers that are not excluded)."
            )
        # A plain tuple keeps the model's parameters out of this module's own.
        self._gains = [p for _, p, m in named if m == "gain"]
        self._matrices = [(n, p, m) for n, p, m in named if p.ndim > 1 and m in MATRICES]
        self._biases = [p for _, p, m in named if m == "bias" or (p.ndim == 1 and m != "gain")]
        for index, (name, weight, kind) in enumerate(self._matrices):
            blocks, rows, columns = _blocks(weight, kind).shape
            for side, length in (("left", rows), ("right", columns)):
                drawn = generator(seed, "spectral", name, side)
                start = torch.randn(blocks, length, 1, generator=drawn).to(weight.device)
                self.register_buffer(f"{side}_{index}", start / start.norm(dim=1, keepdim=True))

    def forward(self) -> Tensor:
        """The weighted penalty at the present weights; the vectors move on by one call.

        Returns:
            A scalar in float32 at least, with gradient.
        """
        sigmas = self.singular_values()
        total: Tensor = ((sigmas**self.power - self.target**self.power) ** 2).sum()
        for bias in self._biases:
            total = total + _length(bias) ** self.power
        for gain in self._gains:
            total = total + (gain.to(total) - 1).square().sum()
        return self.lam * total

    def singular_values(self) -> Tensor:
        """The largest singular value of each matrix as power iteration knows it.

        Returns:
            Shape (matrices,), with gradient u v^T; from below, nearer with every call.
        """
        found = [torch.zeros(0, device=self._device())]
        for index, (_, weight, kind) in enumerate(self._matrices):
            matrix = _blocks(weight, kind)
            matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
            left, right = self._iterate(index, matrix.detach())
            found.append((left.mT @ matrix @ right).flatten())
        return torch.cat(found)

    def _iterate(self, index: int, matrix: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (self.get_buffer(f"{side}_{index}") for side in ("left", "right"))
        with torch.no_grad():
            for _ in range(self.iterations):
                right.copy_(_turned(matrix.mT @ left.to(matrix), right))
                left.copy_(_turned(matrix @ right.to(matrix), left))
        # Copies, because the next call writes the buffers while this graph may still be alive.
        return left.to(matrix, copy=True), right.to(matrix, copy=True)

    def _device(self) -> torch.device:
        every = [p for _, p, _ in self._matrices] + self._biases + self._gains
        return every[0].device


def _turned(image: Tensor, before: Tensor) -> Tensor:
    length = image.norm(dim=1, keepdim=True)
    # A zero matrix sends every vector to zero; keep the old one until there is a new one.
    return torch.where(length > 0, image / length, before.to(image))


def _length(bias: Tensor) -> Tensor:
    wide = bias if bias.dtype == torch.float64 else bias.float()
    return wide.square().sum()


def _weights(model: nn.Module) -> list[tuple[str, nn.Parameter, str]]:
    found: dict[int, tuple[str, nn.Parameter, str]] = {}
    for prefix, module in model.named_modules():
        kind = _kind(module)
        for name, p in module.named_parameters(recurse=False):
            role = "fused" if name == "in_proj_weight" else kind
            if kind == "gain" and "bias" in name:
                role = "bias"
            if role and p.requires_grad:
                # A tied weight counts once.
                found.setdefault(id(p), (f"{prefix}.{name}" if prefix else name, p, role))
    return list(found.values())


def _kind(module: nn.Module) -> str:
    layers = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    if isinstance(module, layers):
        return "matrix"
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return "gain" if isinstance(module, norms) else ""


def _blocks(weight: Tensor, kind: str) -> Tensor:
    # (blocks, rows, columns): one matrix a layer, three for fused attention weights.
    flat = weight.flatten(1)
    return flat.view(3, -1, flat.shape[1]) if kind == "fused" else flat[None]
