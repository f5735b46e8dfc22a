"""Small networks of many kinds, for what is said about any model."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la

VOCABULARY = 11


def tokens(batches=2, examples=4, length=6):
    draw = torch.Generator().manual_seed(1)
    shape = (examples, length)
    return [
        tuple(torch.randint(0, VOCABULARY, shape, generator=draw) for _ in range(2))
        for _ in range(batches)
    ]


def pictures(batches=2, examples=6, side=10, classes=5):
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(examples, 1, side, side, generator=draw),
            torch.randint(0, classes, (examples,), generator=draw),
        )
        for _ in range(batches)
    ]


def token_loss(model, batch):
    inputs, targets = batch
    flat = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape).mean(1)


class Attention(nn.Module):
    """A transformer block with one fused projection, taken apart in one of three ways."""

    def __init__(self, way, heads=4, width=16):
        super().__init__()
        self.way, self.heads = way, heads
        self.embed, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(6, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.inner = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        stream = self.embed(x) + self.places(torch.arange(x.shape[1]))
        query, key, value = self._apart(self.qkv(self.norms[0](stream)))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        return self.head(stream + self.inner(self.norms[1](stream)))

    def _apart(self, fused):
        examples, length, _ = fused.shape
        if self.way == "split":
            parts = fused.split(fused.shape[-1] // 3, -1)
            return [p.view(examples, length, self.heads, -1).transpose(1, 2) for p in parts]
        shaped = fused.view(examples, length, 3, self.heads, -1)
        if self.way == "unbind":
            return shaped.permute(2, 0, 3, 1, 4).unbind(0)
        return [shaped[:, :, k].transpose(1, 2) for k in range(3)]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(VOCABULARY, 8), kind(8, 12, 2, batch_first=True)
        self.head = nn.Linear(12, VOCABULARY)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x))[0])


class Grouped(nn.Module):
    """Depthwise and grouped convolutions, group norm, in-place activations."""

    def __init__(self):
        super().__init__()
        self.first, self.depth = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 12, 3, groups=12)
        self.norm, self.groups = nn.GroupNorm(3, 12), nn.Conv2d(12, 24, 1, groups=3)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = F.relu_(self.norm(self.depth(F.relu_(self.first(x)))))
        return self.head(F.relu(self.groups(x)).mean((2, 3)))


class Gated(nn.Module):
    """Concatenation, gates, a parametrized weight and parameters outside of modules."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(100, 6), nn.Linear(100, 10)
        self.gate = nn.utils.parametrizations.weight_norm(nn.Linear(16, 7))
        self.value = nn.Linear(16, 7)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 7))
        self.head = nn.Linear(7, 5)

    def forward(self, x):
        x = x.flatten(1)
        both = torch.tanh(torch.cat([self.left(x), self.right(x)], dim=-1))
        return self.head(self.scale * torch.sigmoid(self.gate(both)) * self.value(both))


class ZeroPadded(nn.Module):
    """A residual network whose shortcuts pad channels with zeros, as ResNet-20's do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.one, self.two = nn.Conv2d(4, 8, 3, 2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = F.relu(short + self.norm(self.two(F.relu(self.one(x)))))
        return self.head(x.mean((2, 3)))


class SmallUNet(nn.Module):
    """A skip connection that is concatenated, under a norm whose groups cut across it."""

    def __init__(self):
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.GroupNorm(2, 12)])
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.last, self.head = nn.Conv2d(12, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        skip = F.relu(self.first(x))
        x = self.down(skip)
        rows = self.norms[0](x.flatten(2)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            *(layer(rows)[:, None] for layer in (self.query, self.key, self.value))
        )
        x = x + self.out(mixed[:, 0]).transpose(1, 2).reshape(x.shape)
        both = torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1)
        return self.head(F.relu(self.last(self.norms[1](both))).mean((2, 3)))


class Experts(nn.Module):
    """Two experts chosen by the data; of the third, no batch ever makes use."""

    def __init__(self):
        super().__init__()
        self.route = nn.Linear(100, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(100, 9), nn.ReLU(), nn.Linear(9, 5)) for _ in range(3)
        )

    def forward(self, x):
        x = x.flatten(1)
        chosen = self.route(x).argmax(1)
        out = x.new_zeros(len(x), 5)
        for k in range(2):
            rows = (chosen == k).nonzero().squeeze(1)
            out = out.index_add(0, rows, self.experts[k](x[rows]))
        return out


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(100, 12),
        nn.ReLU(),
        nn.Linear(12, 8),
        nn.Tanh(),
        nn.Linear(8, 5),
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def encoder():
    layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True)
    return nn.Sequential(
        nn.Embedding(VOCABULARY, 16),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.Linear(16, VOCABULARY),
    )


PICTURES: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp, "cnn": cnn, "grouped": Grouped, "gated": Gated, "zero padded": ZeroPadded,
    "experts": Experts, "u-net": SmallUNet,
}  # fmt: skip
TOKENS: dict[str, Callable[[], nn.Module]] = {
    "split heads": lambda: Attention("split"),
    "unbound heads": lambda: Attention("unbind"),
    "selected heads": lambda: Attention("select"),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "encoder": encoder,
}  # fmt: skip
NAMES = (*PICTURES, *TOKENS)


def network(name, seed=0):
    """A network with biases, gains and statistics that are not those of its start."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (PICTURES | TOKENS)[name]()
    with torch.no_grad():
        for value in (p for p in model.parameters() if p.ndim < 2):
            value.add_(0.3 * torch.randn(value.shape, generator=draw))
        for key, value in model.named_buffers():
            if key.endswith("running_mean"):
                value.add_(0.3 * torch.randn(value.shape, generator=draw))
            if key.endswith("running_var"):
                value.mul_(0.5 + torch.rand(value.shape, generator=draw))
    return model


def objective(name, seed=0, **options):
    if name in PICTURES:
        loss, batches = la.supervised(F.cross_entropy), pictures()
    else:
        loss, batches = token_loss, tokens()
    return la.Objective(network(name, seed), loss, batches, **options)
