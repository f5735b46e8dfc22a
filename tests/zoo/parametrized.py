"""Weights that are made of others, shared, wrapped, or of another kind than float32."""

import os
import tempfile

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import lossatlas as la
from zoo.derivatives import CE, plain_ce
from zoo.losses import Words, labeled, network
from zoo.member import Case, mean_over, refused, right


@right("weights")
def weight_norm():
    model = network()
    parametrizations.weight_norm(model[0])
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("weights")
def weight_norm_of_old():
    """By a hook that computes the weight before forward and keeps it as an attribute."""
    model = network()
    torch.nn.utils.weight_norm(model[0])
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("weights")
def spectral_norm():
    model = network()
    parametrizations.spectral_norm(model[2], n_power_iterations=5)
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("weights")
def orthogonal():
    model = network()
    parametrizations.orthogonal(model[2], orthogonal_map="matrix_exp")
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("weights")
def tied_head():
    model = Words()
    model.embed = nn.Embedding(9, 6)
    model.head = nn.Linear(6, 9, bias=False)
    model.head.weight = model.embed.weight

    def plain(model, batch):
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return losses.mean(1).sum(), len(batch[0])

    batches = [(torch.randint(0, 9, (n, 7)), torch.randint(0, 9, (n, 7))) for n in (4, 3)]
    return Case(model, CE, batches, plain)


@right("weights")
def transposed_tie():
    """An autoencoder whose decoder reads the encoder's weight transposed."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.bias = nn.Linear(6, 3), nn.Parameter(torch.zeros(6))

        def forward(self, x):
            return F.linear(torch.tanh(self.encode(x)), self.encode.weight.T, self.bias)

    def plain(model, batch):
        return (model(batch[0]) - batch[1]).square().mean(1).sum(), len(batch[0])

    batches = [(x, x) for x, _ in labeled(6, 4)]
    return Case(Tied(), la.supervised(F.mse_loss), batches, plain)


@right("weights")
def low_rank_with_a_zero_factor():
    """LoRA by hand: only the factors move, one of them is zero."""

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(6, 3).requires_grad_(False)
            self.down = nn.Parameter(torch.randn(2, 6))
            self.up = nn.Parameter(torch.zeros(3, 2))

        def forward(self, x):
            return self.base(x) + x @ self.down.T @ self.up.T

    return Case(Adapted(), CE, labeled(7, 4), plain_ce)


@right("weights")
def hypernetwork():
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.code = nn.Parameter(torch.randn(4))
            self.make = nn.Linear(4, 6 * 3 + 3)

        def forward(self, x):
            made = self.make(torch.tanh(self.code))
            return F.linear(x, made[:18].view(3, 6), made[18:])

    return Case(Hyper(), CE, labeled(7, 4), plain_ce)


@right("weights")
def lists_and_dicts_of_parameters():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ParameterList([torch.randn(6, 6) / 3 for _ in range(2)])
            self.heads = nn.ParameterDict({"a": torch.randn(6, 3), "b": torch.randn(6, 3)})

        def forward(self, x):
            for weight in self.layers:
                x = torch.tanh(x @ weight)
            return x @ self.heads["a"] + x @ self.heads["b"]

    return Case(Many(), CE, labeled(7, 4), plain_ce)


@right("weights")
def ensemble_by_vmap():
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.randn(4, 3, 6) / 2),
                nn.Parameter(torch.zeros(4, 3)),
            )

        def forward(self, x):
            each = torch.vmap(F.linear, in_dims=(None, 0, 0))
            return each(x, self.weight, self.bias).log_softmax(2).mean(0)

    return Case(Ensemble(), CE, labeled(7, 4), plain_ce)


class Spectral(nn.Module):
    """A Fourier layer: its weights are complex."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=8)))


@refused("weights", "construction", "(?s)'weight' is complex.*view_as_complex")
def complex_weights():
    return Case(Spectral(), CE, labeled(7, 4, inputs=8), plain_ce)


@right("weights")
def bfloat16():
    x = labeled(40, 24)
    batches = [(a.bfloat16(), y) for a, y in x]
    return Case(network().bfloat16(), CE, batches, plain_ce)


@right("weights")
def half_precision():
    batches = [(a.half(), y) for a, y in labeled(40, 24)]
    return Case(network().half(), CE, batches, plain_ce)


@right("weights", tolerances=(5e-3, 5e-2, 0.3))
def mixed_precision_by_autocast():
    """float32 weights under autocast: the loss is a float32 number of bfloat16 outputs."""

    def loss(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            out = model(batch[0])
        return F.cross_entropy(out.float(), batch[1], reduction="none")

    return Case(network(), loss, labeled(40, 24), plain_ce)


@right("weights")
def double_precision():
    batches = [(a.double(), y) for a, y in labeled(7, 4)]
    return Case(network().double(), CE, batches, plain_ce)


@right("weights")
def frozen_half():
    model = network()
    model[0].requires_grad_(False)
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("weights")
def chosen_by_pattern():
    return Case(network(), CE, labeled(7, 4), plain_ce, {"params": "2.*"})


@right("weights", unused=("experts.2.weight", "experts.2.bias"))
def experts_that_get_no_example():
    """A mixture of experts by top-1: one expert is never chosen."""

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(6, 3)
            self.experts = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))
            with torch.no_grad():
                self.gate.bias[2] = -50.0

        def forward(self, x):
            share, chosen = self.gate(x).softmax(1).max(1)
            out = torch.zeros(len(x), 3, dtype=x.dtype)
            for index, expert in enumerate(self.experts):
                rows = chosen == index
                if rows.any():
                    out = out.index_put((rows.nonzero()[:, 0],), expert(x[rows]))
            return out * share[:, None]

    return Case(Mixture(), CE, labeled(9, 6), plain_ce)


@right("wrapped")
def compiled():
    return Case(torch.compile(network(), backend="eager"), CE, labeled(7, 4), plain_ce)


@right("wrapped")
def traced_by_fx():
    return Case(torch.fx.symbolic_trace(network()), CE, labeled(7, 4), plain_ce)


@right("wrapped")
def scripted():
    return Case(torch.jit.script(network()), CE, labeled(7, 4), plain_ce)


@refused("wrapped", "construction", "(?s)quantized \\(int8.*before it is quantized")
def quantized():
    import torch.ao.quantization as quantization

    model = quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("wrapped")
def quantized_beside_float():
    """Weight-only int8 under a float head: the codes are no parameters that can move."""

    class Coded(nn.Module):
        def __init__(self):
            super().__init__()
            weight = torch.randn(8, 6)
            self.scale = weight.abs().amax() / 127
            codes = (weight / self.scale).round().to(torch.int8)
            self.weight = nn.Parameter(codes, requires_grad=False)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.tanh(F.linear(x, self.weight.to(x) * self.scale.to(x))))

    return Case(Coded(), CE, labeled(7, 4), plain_ce, {"params": "*"})


def in_a_group(wrap):
    """Inside a process group of one, which the test ends."""
    if not torch.distributed.is_initialized():
        handle, path = tempfile.mkstemp()
        os.close(handle)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{path}", rank=0, world_size=1
        )
    return wrap(network())


@right("wrapped")
def data_parallel():
    def wrap(model):
        return nn.parallel.DistributedDataParallel(model)

    return Case(in_a_group(wrap), CE, labeled(7, 4), plain_ce)


@right("wrapped")
def fully_sharded():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    bare = network()

    def wrap(model):
        model.load_state_dict(bare.state_dict())
        return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))

    return Case(in_a_group(wrap), CE, labeled(7, 4), plain_ce, bare=bare)


@right("wrapped")
def averaged_by_swa():
    model = torch.optim.swa_utils.AveragedModel(network())
    model.requires_grad_(True)
    return Case(model, CE, labeled(7, 4), plain_ce)


@right("wrapped")
def mean_of_batches():
    """Only one number a batch, and unequal batches."""

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    return Case(network(), loss, labeled(9, 2), mean_over(lambda b: len(b[0]), loss))
