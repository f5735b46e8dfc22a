"""A small transformer that predicts the next character."""

import math
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.checks import check_at_least
from lossatlas.errors import ArgumentError


class CharGPT(nn.Module):
    """A pre-norm transformer decoder with learned positions and GELU.

    Args:
        vocabulary: number of characters.
        block: maximum length of an input.
        layers: number of transformer blocks.
        width: width of the residual stream; a multiple of `heads`.
        heads: number of attention heads.
        tied: whether the last layer shares the weights of the embedding.

    Raises:
        ArgumentError: a size is below 1, or `width` is not a multiple of `heads`.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        block: int,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        tied: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"block": block, "layers": layers, "width": width, "heads": heads}
        for name, size in sizes.items():
            check_at_least(name, size, 1)
        if width % heads:
            raise ArgumentError(f"`width` must be a multiple of heads={heads}; got {width}.")
        self.block = block
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        initialize(self, layers)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next character at every position."""
        time = x.shape[1]
        if time > self.block:
            raise ArgumentError(
                f"`x` has {time} characters but the model takes at most {self.block}; "
                "cut it, or build the model with a larger `block`."
            )
        h = self.tokens(x) + self.positions.weight[:time]
        for block in self.blocks:
            h = block(h)
        return cast(Tensor, self.head(self.norm(h)))


def initialize(model: nn.Module, layers: int) -> None:
    """Initialize the weights of a transformer."""
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        # Each layer adds twice to the residual stream; this keeps the sum's size.
        shrink = math.sqrt(2 * layers) if name.endswith("out.weight") else 1.0
        nn.init.normal_(value, std=0.02 / shrink)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class TransformerBlock(nn.Module):
    """Attention and two dense layers, each with a residual connection.

    Args:
        width: of the residual stream.
        heads: of the attention.
        causal: whether a position attends only to earlier ones.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.norm2, self.hidden = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = x + self.attention(self.norm1(x))
        return cast(Tensor, x + self.out(F.gelu(self.hidden(self.norm2(x)))))


class Attention(nn.Module):
    """Self-attention.

    Args:
        width: of the residual stream.
        heads: how many.
        causal: whether a position attends only to earlier ones.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inputs, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply self-attention."""
        batch, time, width = x.shape
        parts = self.inputs(x).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return cast(Tensor, self.out(mixed.transpose(1, 2).reshape(batch, time, width)))
