"""Symmetries and alignment: the cost of tracing, and planted permutations that come back.

Networks have random biases, gains and statistics, so that every wrong move shows. A planted
element is a random one of the whole group; the copy gets noise of 1 % of each tensor's spread.
"""

import copy

import align_memory
import harness
import torch
from harness import Row, interleaved, once
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.training import build_model, load_dataset
from lossatlas.training.chargpt import CharGPT
from lossatlas.training.resnet import resnet20
from lossatlas.weights import align, symmetries
from lossatlas.weights.symmetries import find

PLANTED = 4 if harness.QUICK else 100
NOISE = 0.01
PEER = "rebasin 0.0.47"


def rows() -> list[Row]:
    """CPU time, one thread."""
    made = {name: make() for name, make in _NETWORKS.items()}
    traced = made | ({} if harness.QUICK else {"char-GPT, 10.8M parameters": _large()})
    return [
        *(row for name, objective in traced.items() for row in _traced(name, objective)),
        *align_memory.rows(),
        *(_recovered(name, objective) for name, objective in made.items()),
        *_kept(made),
    ]


class Recurrent(nn.Module):
    """A classifier that reads pictures row by row."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x):
        return self.head(self.rnn(x.flatten(1).view(len(x), 8, 8))[0][:, -1])


def _randomized(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim < 2:
                value.add_(0.3 * torch.randn(value.shape, generator=draw))
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.mul_(0.5 + torch.rand(value.shape, generator=draw))
    return model


def _digits(spec: str | nn.Module) -> la.Objective:
    data = load_dataset("digits")
    model = build_model(spec, data, seed=0) if isinstance(spec, str) else spec
    loss = la.supervised(F.cross_entropy)
    return la.Objective(_randomized(model), loss, data.take(256).batches(128))


def _resnet() -> la.Objective:
    draw = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(32, 3, 32, 32, generator=draw), torch.arange(32) % 10) for _ in range(2)
    ]
    torch.manual_seed(0)
    return la.Objective(_randomized(resnet20()), la.supervised(F.cross_entropy), batches)


def _chargpt() -> la.Objective:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 65, (2, 16, 64), generator=draw)
    torch.manual_seed(0)
    model = CharGPT(vocabulary=65, block=64, layers=2, heads=4, width=64)
    batches = [(x, x.roll(-1, 1)) for x in tokens]
    return la.Objective(_randomized(model), _next_token, batches)


def _large() -> la.Objective:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 65, (1, 16, 128), generator=draw)
    torch.manual_seed(0)
    model = CharGPT(vocabulary=65, block=128, layers=6, heads=8, width=384)
    return la.Objective(model, _next_token, [(x, x.roll(-1, 1)) for x in tokens], check=False)


def _next_token(model, batch):
    return F.cross_entropy(model(batch[0]).mT, batch[1], reduction="none").mean(1)


_NETWORKS = {
    "MLP 64-64-64-10": lambda: _digits("mlp(64, 64)"),
    "CNN 16-32, convolution then flatten": lambda: _digits("cnn(16, 32)"),
    "ResNet-20": _resnet,
    "char-GPT, 2 layers of width 64": _chargpt,
    "LSTM of width 48": lambda: _digits(Recurrent()),
}


def _traced(name: str, objective: la.Objective) -> list[Row]:
    """Forwards that the trace takes, alone and with its proof, which makes two of its own."""
    batch = objective.first_batch()

    def forward():
        with torch.no_grad():
            objective.with_params(None, lambda: objective.batch_loss(batch))

    part = objective.part([batch])
    jobs = {
        "forward": forward,
        "trace": lambda: find(part, verify=False),
        "trace and proof": lambda: find(part),
    }
    taken = interleaved(jobs)
    return [
        Row(
            f"{name}: symmetries, {what}", "forwards of one batch",
            taken[what].median / taken["forward"].median,
            unit="forwards", goal="<= 5 forwards", note=f"{taken[what].ms:.1f} ms",
        )
        for what in ("trace", "trace and proof")
    ]  # fmt: skip


def _recovered(name: str, objective: la.Objective) -> Row:
    found = symmetries(objective)
    start = {n: v.clone() for n, v in objective.model.state_dict().items()}
    chosen = 0

    def run():
        nonlocal chosen
        for seed in range(PLANTED):
            draw = torch.Generator().manual_seed(seed)
            copy = {
                n: v + NOISE * v.std(correction=0) * torch.randn(v.shape, generator=draw)
                if v.ndim > 1
                else v
                for n, v in found.apply(start, found.random(seed)).items()
            }
            aligned = align(objective, start, copy, starts=1, seed=seed)
            scale = sum(float(v.square().sum()) for v in start.values()) ** 0.5
            chosen += aligned.distance[1] < 3 * NOISE * scale

    _, seconds = once(run)
    return Row(
        f"{name}: planted elements that come back, of {PLANTED}", "", 100 * chosen / PLANTED,
        unit="%", goal=">= 95 %", note=f"{seconds / PLANTED:.2f} s each",
    )  # fmt: skip


def _kept(made: dict[str, la.Objective]) -> list[Row]:
    """Largest change of a loss by aligning to other weights, by the largest loss."""
    listed = []
    for name, objective in made.items():
        what = f"{name}: change of the function by alignment"
        goal = "<= 1e-05"
        if not harness.installed("rebasin"):
            listed.append(harness.not_installed(Row(what, PEER, unit="", goal=goal)))
            continue
        other = {n: torch.randn_like(v) * v.std() for n, v in objective.params.items()}
        ours = align(objective, other, objective.params, by="weights", starts=1).error
        theirs, note = _peer_change(objective, other)
        listed.append(Row(what, PEER, ours, theirs, unit="", goal=goal, note=note))
    return listed


def _peer_change(objective: la.Objective, other: dict) -> tuple[float | None, str]:
    from rebasin import PermutationCoordinateDescent

    first, moved = copy.deepcopy(objective.model), copy.deepcopy(objective.model)
    first.load_state_dict(other, strict=False)
    inputs = objective.first_batch()[0]
    before = objective.example_losses()
    try:
        with harness.silence():
            PermutationCoordinateDescent(first.eval(), moved.eval(), inputs).rebasin()
    except Exception as error:
        return None, f"the peer fails: {type(error).__name__}"
    named = dict(moved.named_parameters()) | dict(moved.named_buffers())
    after = objective.example_losses({n: v.detach() for n, v in named.items()})
    return float((after - before).abs().max() / before.abs().max()), ""
