"""A small vision transformer."""

from typing import cast

from torch import Tensor, nn

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError
from lossatlas.training.chargpt import TransformerBlock, initialize


class ViT(nn.Module):
    """Vision transformer: patches, transformer blocks, and a linear head on their mean.

    Args:
        channels: image channels.
        height: image height; a multiple of `patch`.
        width: image width; a multiple of `patch`.
        outputs: number of outputs.
        patch: side of a patch in pixels.
        layers: number of transformer blocks.
        dim: width of the residual stream; a multiple of `heads`.
        heads: number of attention heads.

    Raises:
        ArgumentError: a size is below 1, `patch` does not divide the image size, or `dim` is
            not a multiple of `heads`.

    Source: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; mean instead of a class token:
        Beyer et al., 2022, arXiv:2205.01580.
    """

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        patch: int = 4,
        layers: int = 2,
        dim: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__()
        sizes = {"patch": patch, "layers": layers, "dim": dim, "heads": heads}
        for name, size in sizes.items():
            check_at_least(name, size, 1)
        if height % patch or width % patch:
            raise ArgumentError(
                f"`patch` must divide the pictures' {height} x {width} pixels; got {patch}."
            )
        if dim % heads:
            raise ArgumentError(f"`dim` must be a multiple of heads={heads}; got {dim}.")
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.positions = nn.Embedding((height // patch) * (width // patch), dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads, causal=False) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)
        initialize(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images, shape (batch, outputs)."""
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions.weight
        for block in self.blocks:
            h = block(h)
        return cast(Tensor, self.head(self.norm(h).mean(1)))
