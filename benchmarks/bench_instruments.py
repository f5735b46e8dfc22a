"""CPU time of instruments of checkpoints: spectra of a file, effective parameters, choosing.

The network has 27,562 parameters (1,797 digits, at 28 x 28 by repetition of pixels). The file
has the names and shapes of GPT-2 (124M parameters, random weights), and is read in a process of
its own. More of the learning coefficient: bench_learning_coefficient.py.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import harness
import resident
import torch
from harness import Row, once
from safetensors.torch import save_file
from torch import nn, optim
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import effective_parameters, learning_coefficient
from lossatlas.recipes import transfer_check
from lossatlas.training import load_dataset
from lossatlas.weights import choose, weight_spectra

LAYERS = 1 if harness.QUICK else 12
WORDS = 500 if harness.QUICK else 50_257


def rows() -> list[Row]:
    """CPU seconds on one thread."""
    objective, checkpoints = _trained()
    return [*_spectra(), *_of_network(objective, checkpoints), _linear(), _transfer()]


def _spectra() -> list[Row]:
    if not resident.KNOWN:
        return [Row("weight_spectra of a file of GPT-2's shapes", note="needs Linux")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(_gpt2(), file)
        size = file.stat().st_size
        found = resident.measured(__file__, str(file))
    what, note = "weight_spectra of a file of GPT-2's shapes", f"{size / 2**20:.0f} MiB"
    return [
        Row(f"{what}: CPU s", ours=found["seconds"], unit="s", goal="<= 60 s", note=note),
        Row(
            f"{what}: memory in sizes of the file",
            ours=found["peak"] / size,
            unit="files",
            goal="<= 1.2 files",
            note=f"{found['peak'] / 2**20:.0f} MiB beyond Python and torch",
        ),
    ]


def _gpt2() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"wte.weight": (WORDS, 768), "wpe.weight": (1024, 768)}
    for k in range(LAYERS):
        shapes |= {
            f"h.{k}.attn.c_attn.weight": (768, 2304),
            f"h.{k}.attn.c_proj.weight": (768, 768),
            f"h.{k}.mlp.c_fc.weight": (768, 3072),
            f"h.{k}.mlp.c_proj.weight": (3072, 768),
        }
    return {n: 0.02 * torch.randn(shape, generator=draw) for n, shape in shapes.items()}


def _trained() -> tuple[la.Objective, list[dict[str, torch.Tensor]]]:
    data = load_dataset("digits")
    inputs = F.interpolate(data.inputs, size=(28, 28)).flatten(1)
    model = _network()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    draw, kept = torch.Generator().manual_seed(0), []
    for _ in range(20):
        for part in torch.randperm(len(inputs), generator=draw).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[part]), data.targets[part]).backward()
            optimizer.step()
        kept.append({n: p.detach().clone() for n, p in model.named_parameters()})
    loss = la.supervised(F.cross_entropy)
    return la.Objective(model, loss, [(inputs, data.targets)], check=False), kept[-10:]


def _network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
            nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip


def _of_network(objective, checkpoints) -> list[Row]:
    of = "MLP of 27,562 parameters"
    jobs = {
        "learning_coefficient, localization 1,000": lambda: (
            learning_coefficient(objective, localization=1000.0, curvature="gauss_newton").value
        ),
        "learning_coefficient, localization 1,000, step 1": lambda: (
            learning_coefficient(
                objective, localization=1000.0, step=1.0, curvature="gauss_newton"
            ).value
        ),
        "effective_parameters": lambda: effective_parameters(objective, 1.0).effective,
        "effective_parameters, last layer": lambda: (
            effective_parameters(objective, 1.0, names="last").effective
        ),
        f"choose, {len(checkpoints)} checkpoints and their means": lambda: (
            choose(objective, *checkpoints, sharpness=False).best
        ),
        f"choose with sharpness, {len(checkpoints)} checkpoints": lambda: (
            choose(objective, *checkpoints).best
        ),
    }
    return [_row(f"{of}: {what}", job) for what, job in jobs.items()]


def _row(what, job) -> Row:
    found, seconds = once(job)
    return Row(f"{what}, CPU s", ours=seconds, unit="s", note=str(found))


def _linear() -> Row:
    # Evidence of a linear model, exact: 2,000 parameters, 400 examples.
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 2000, generator=draw).double() * torch.logspace(-2, 1, 2000)
    model = nn.Linear(2000, 1, bias=False).double()
    loss = lambda m, b: (m(b[0]) - b[1]).square().sum(1) / 2  # noqa: E731
    objective = la.Objective(model, loss, [(inputs, inputs[:, :1])], check=False)
    values = torch.linalg.eigvalsh(inputs @ inputs.T)
    exact = float((values / (values + 2)).sum())
    found, seconds = once(lambda: effective_parameters(objective, 2.0).effective)
    off = abs(found.value / exact - 1)
    note = f"{found}, exact {exact:.4g}, off by {100 * off:.2g} %"
    return Row("linear model of 2,000 parameters: effective_parameters, CPU s", ours=seconds,
               unit="s", note=note)  # fmt: skip


def _transfer() -> Row:
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(64, 8, generator=draw), torch.randn(64, 1, generator=draw)

    def factory(width, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(
                nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                nn.Linear(width, 1),
            )  # fmt: skip
        objective = la.Objective(model, la.supervised(F.mse_loss), [batch], check=False)
        return objective, optim.Adam(model.parameters(), lr=1e-3)

    widths = (32, 64) if harness.QUICK else (32, 64, 128, 256)
    what = f"transfer_check of an MLP, widths {widths[0]} to {widths[-1]}"
    return _row(what, lambda: f"broken: {', '.join(transfer_check(factory, widths).broken)}")


def _measured(file: str) -> None:
    torch.set_num_threads(1)
    # Libraries that are loaded on first use do not count.
    weight_spectra({"w": torch.eye(60)})
    before, began = resident.start_watching(), time.process_time()
    weight_spectra(file)
    seconds = time.process_time() - began
    peak = resident.status("VmHWM") - before
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak}) + "\n")


if __name__ == "__main__":
    _measured(sys.argv[1])
