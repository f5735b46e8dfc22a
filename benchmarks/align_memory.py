"""Aligning two GPT-2 of 124M parameters: memory and time, beside what is said beforehand.

`python benchmarks/align_memory.py [best|weights] [LAYERS] [STARTS]` prints JSON; needs
transformers. The second network is the first one moved by a random element of its symmetries,
with noise.
"""

import json
import sys
import time

import harness
import resident
import torch
from harness import Row

import lossatlas as la
from lossatlas.weights import align, alignment_cost, symmetries

NOISE = 0.01


def rows() -> list[Row]:
    """Copies of the weights beyond model and networks, and CPU minutes."""
    whats = ("memory of aligning two GPT-2 (124M)", "time of aligning two GPT-2 (124M)")
    if not (resident.KNOWN and harness.installed("transformers")):
        return [Row(what, note="not measured: needs transformers and /proc") for what in whats]
    found = resident.measured(__file__, "best")
    memory, seconds = found["above"] / found["copy"], found["seconds"]
    said = f"said beforehand: {found['said'] / found['copy']:.0f} copies, "
    said += f"{found['said_seconds'] / 60:.1f} CPU min"
    return [
        Row(whats[0], "", memory, None, "copies", "<= 3 copies", said),
        Row(whats[1], "", seconds / 60, None, "CPU min", "<= 10 CPU min", said),
    ]


def _probe(by: str = "best", layers: str = "12", starts: str = "3") -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Libraries that are loaded on first use do not count.
    _aligned(by, 1, n_layer=1, n_embd=32, n_head=2, vocab_size=100)
    return _aligned(by, int(starts), n_layer=int(layers))


def _loss(model, batch):
    logits = model(batch).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(batch), -1).mean(1)


def _aligned(by: str, starts: int, **sizes: int) -> dict[str, float]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(**sizes, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)
    model = GPT2LMHeadModel(config).eval()
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.vocab_size, (2, 32), generator=draw)
    objective = la.Objective(model, _loss, [tokens], check=False)
    reference = {name: value.detach().clone() for name, value in objective.params.items()}
    found = symmetries(objective, verify=False)
    other = found.apply(reference, found.random(1))
    for value in other.values():
        noise = torch.randn(value.shape, generator=draw)
        value.add_(noise, alpha=NOISE * float(value.std(correction=0)))
    said = alignment_cost(objective, by=by, starts=starts)
    before, began = resident.start_watching(), time.process_time()
    aligned = align(objective, reference, other, by=by, starts=starts)
    seconds = time.process_time() - began
    scale = sum(float(v.double().square().sum()) for v in reference.values()) ** 0.5
    return {
        "above": resident.status("VmHWM") - before,
        "copy": sum(value.nbytes for value in reference.values()),
        "said": said.memory,
        "said_seconds": said.seconds,
        "seconds": seconds,
        "distance": aligned.distance[1] / scale,
        "before": aligned.distance[0] / scale,
        "error": aligned.error,
        "way": aligned.way,
    }


if __name__ == "__main__":
    print(json.dumps(_probe(*sys.argv[1:])))
